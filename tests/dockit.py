"""Pages of Markdown taken apart: tables, fenced blocks, code, headings; and what the settings' own types say of each key."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from limoe.config import CONTESTANTS, Params

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [page for page in (*sorted(DOCS.glob("*.md")), ROOT / "README.md") if page.exists()]
FENCED = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
BOUNDS = {"Ge": ("ge", "≥"), "Gt": ("gt", ">"), "Le": ("le", "≤"), "Lt": ("lt", "<")}  # of annotated_types


class Row(NamedTuple):
    """A row of the tables of docs/config.md."""

    key: str
    meaning: str
    unit: str
    allowed: str
    reruns: str


def read(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def table(page: Path, head: str) -> list[list[str]]:
    """The rows of every table of the page whose first column is called `head`; code marks taken off the first cell."""
    found, inside = [], False
    for line in read(page).splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not cells or set(cells[0]) == {"-"}:
            inside = inside and bool(cells)
        elif not inside and cells[0] == head:
            inside = True
        elif inside:
            found.append([cells[0].strip("`"), *cells[1:]])
    return found


def blocks(page: Path) -> list[tuple[str, str]]:
    """(language, text) of every fenced block."""
    return FENCED.findall(read(page))


def code(page: Path) -> list[str]:
    """Every line of a shell or Python block, and every span in backticks outside of blocks."""
    lines = [line for language, block in blocks(page) if language in ("bash", "python") for line in block.splitlines()]
    return [line.strip() for line in lines] + re.findall(r"`([^`\n]+)`", FENCED.sub("", read(page)))


def words(page: Path) -> Iterator[str]:
    """What may be a path: the words of the page's code, without the punctuation around them."""
    for span in code(page):
        yield from (word.strip("\"',;()[]<>") for word in span.split())


def commands(page: Path, program: str) -> Iterator[list[str]]:
    """The arguments of every command of this program."""
    for span in code(page):
        if span.startswith(f"{program} "):
            yield shlex.split(span, comments=True)[1:]


def values_of(option: str, arguments: list[str]) -> list[str]:
    """The value behind each occurrence of an option."""
    return [value for name, value in pairwise(arguments) if name == option]


def anchors(page: Path) -> set[str]:
    """What links into the page may name: its headings, as GitHub makes anchors of them."""
    titles = re.findall(r"^#+ (.*)$", FENCED.sub("", read(page)), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def settings(model: type[BaseModel] = Params, prefix: str = "") -> dict[str, FieldInfo]:
    """Dotted name -> field of every setting that is no section."""
    found: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found |= settings(kind, f"{prefix}{name}.")
        else:
            found[prefix + name] = field
    return found


def allowed(field: FieldInfo) -> str:
    """What the field's type and bounds allow, as the table says it; empty for texts, lists and mappings."""
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in kinds)
    if kinds == [bool]:
        return "`true`, `false`"
    if kinds not in ([int], [float]):
        return ""
    limits: dict[str, Any] = {type(bound).__name__: bound for bound in field.metadata}
    told = [f"{sign} {getattr(limits[name], at):.12g}" for name, (at, sign) in BOUNDS.items() if name in limits]
    null = ["or `null`"] if type(None) in get_args(field.annotation) else []
    return ", ".join(["whole" if kinds == [int] else "number", *told, *null])


def readers(key: str) -> set[str]:
    """The stages of dvc.yaml whose params name the key, a section that holds it, or a part of it."""
    found = set()
    for name, stage in yaml.safe_load(read(ROOT / "dvc.yaml"))["stages"].items():
        cases = stage.get("foreach", {"": {"section": ""}})
        cases = [""] if isinstance(cases, str) else cases  # as many as a setting names: told as the stage itself
        for case in cases:
            section = cases[case]["section"] if isinstance(cases, dict) else case
            wanted = stage.get("do", stage)["params"]
            named = [param.replace("${key}", case).replace("${item.section}", section).rstrip(".") for param in wanted]
            if any(key == param or key.startswith(f"{param}.") or param.startswith(f"{key}.") for param in named):
                found.add(f"{name}@{case}" if case else name)
    return found


def stages(cell: str) -> set[str]:
    """The stages that a cell names; `train` and `evaluate` stand for those of all contestants, of further ones too."""
    found: set[str] = set()
    for name in re.findall(r"`([\w@-]+)`", cell):
        found |= {f"{name}@{contestant}" for contestant in CONTESTANTS} if name in ("train", "evaluate") else {name}
        found |= {"evaluate-model", "evaluate-fetched"} if name == "evaluate" else set()
    return found


def outs() -> set[str]:
    """The outs of dvc.yaml, contestants filled in."""
    declared = [
        out for stage in yaml.safe_load(read(ROOT / "dvc.yaml"))["stages"].values() for out in stage.get("do", stage)["outs"]
    ]
    names = [out if isinstance(out, str) else next(iter(out)) for out in declared]
    return {re.sub(r"\$\{\w+\}", contestant, name) for name in names for contestant in CONTESTANTS}
