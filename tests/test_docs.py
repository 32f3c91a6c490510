"""The pages in docs/ and the README say what is true: every key, range, path, command, link and count in them is checked."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from dockit import (
    DOCS,
    PAGES,
    ROOT,
    Row,
    allowed,
    anchors,
    blocks,
    code,
    commands,
    outs,
    read,
    readers,
    settings,
    stages,
    table,
    values_of,
    words,
)

from limoe import cli
from limoe.config import CONTESTANTS, Params
from limoe.data.sources.emoji import STYLES, concepts
from limoe.errors import UserError
from limoe.evals.sets import VIEWS
from limoe.overlay import load_document, merge
from limoe.report.published import NOTICE, ROWS

DATA = ROOT / "limoe" / "data"
TOP = ("limoe", "flows", "tests", "docs", "data", "overlays", "benchmarks", "runs", "report", ".limoe", ".dvc", ".ci")
WRITTEN = ("runs/balance/suggestion.yaml", "runs/sweeps/seeds/compare.yaml")
USERS = ("data/raw/", "own.yaml", *WRITTEN)  # what examples take for the reader's own, or written
FILE_NAME = re.compile(r"[\w.-]+\.(json|jsonl|parquet|safetensors|toml|yaml|md|db|html)")
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def documented() -> dict[str, Row]:
    return {cells[0]: Row(*cells) for cells in table(DOCS / "config.md", "key")}


def test_the_tables_have_every_key_and_no_other() -> None:
    assert list(documented()) == list(settings())


@pytest.mark.parametrize("key", settings())
def test_a_key_is_described_as_the_code_has_it(key: str) -> None:
    row = documented()[key]
    assert row.meaning
    assert row.allowed
    assert row.allowed.startswith(allowed(settings()[key]))
    if key.startswith("machine."):
        assert (row.reruns, readers(key)) == ("nothing", set())
    else:
        assert stages(row.reruns) == readers(key)


def test_every_key_has_a_comment_on_its_line() -> None:
    document = load_document(ROOT / "params.yaml")
    lines = read(ROOT / "params.yaml").splitlines()
    for key in settings():
        *sections, last = key.split(".")
        node: Any = document
        for section in sections:
            node = node[section]
        assert re.match(rf" *{last}:.* # \w", lines[node.lc.key(last)[0]]), key


@every_page
def test_a_page_begins_with_the_question_that_it_answers(page: Path) -> None:
    title, paragraph = read(page).split("\n\n")[:2]
    assert title.startswith("# ")
    assert paragraph.endswith("?") or page.parent != DOCS


@every_page
def test_every_path_that_is_named_exists_or_is_made(page: Path) -> None:
    named = {word.split(":")[0].rstrip("/.") for word in words(page) if "/" in word and word.split("/")[0] in TOP}
    absent = sorted(name for name in named - outs() if not (ROOT / name).exists() and not name.startswith(USERS))
    asked = [form for name in absent for form in (name, f"{name}/")]  # a pattern for folders matches what ends in a slash
    told = subprocess.run(["git", "check-ignore", "--stdin"], input="\n".join(asked), cwd=ROOT, capture_output=True, text=True)
    assert [name for name in absent if name not in {line.rstrip("/") for line in told.stdout.splitlines()}] == []


@every_page
def test_every_file_that_is_named_alone_is_known(page: Path) -> None:
    folders = (ROOT / name for name in ("limoe", "flows", "benchmarks"))
    sources = [ROOT / "Makefile", *(path for folder in folders for path in folder.rglob("*.*") if path.suffix in (".py", ".sh"))]
    text = "\n".join(read(path) for path in sources)
    known = {path.name for path in ROOT.iterdir()} | {"dvc.lock", "train-00000.parquet", "pets.dvc", *USERS}
    alone = {word for word in words(page) if FILE_NAME.fullmatch(word)}
    assert [name for name in sorted(alone - known) if name not in text] == []


@every_page
def test_every_function_that_is_named_is_in_its_file(page: Path) -> None:
    for path, name in re.findall(r"`([\w/]+\.py):(\w+)`", read(page)):
        assert re.search(rf"^ *(def|class) {name}\b|^{name}\b.* = ", read(ROOT / path), re.MULTILINE), f"{path}:{name}"


@every_page
def test_every_command_of_limoe_exists(page: Path) -> None:
    known = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, *rest in commands(page, "limoe"):
        if name != "--help":
            assert name in known, name
            options = {option for parameter in known[name].params for option in parameter.opts}
            assert {word for word in rest if word.startswith("--")} <= options | {"--help"}
            assert name not in ("train", "evaluate") or not rest or rest[0] in (*CONTESTANTS, "CONTESTANT", "--help")
            Params.load(ROOT / "params.yaml", tuple(values_of("--set", rest)))
            assert all(value in USERS or (ROOT / value).is_file() for value in values_of("--overlay", rest))


@every_page
def test_every_target_stage_and_experiment_that_is_named_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", read(ROOT / "Makefile"), re.MULTILINE))
    assert {target for target, *_ in commands(page, "make")} <= targets
    known = {*yaml.safe_load(read(ROOT / "dvc.yaml"))["stages"], "STAGE"}
    for command, *rest in commands(page, "dvc"):
        if command in ("repro", "commit"):
            assert {word.split("@")[0] for word in rest if not word.startswith("-")} <= known
        Params.load(ROOT / "params.yaml", tuple(change.lstrip("+") for change in values_of("-S", rest)))


@every_page
def test_every_example_of_settings_is_valid(page: Path) -> None:
    for language, block in blocks(page):
        if language == "yaml" and set(changes := yaml.safe_load(block)) <= set(Params.model_fields):
            document = load_document(ROOT / "params.yaml")
            merge(document, changes)
            Params.parse(document, page.name)


@every_page
def test_every_example_in_python_is_python(page: Path) -> None:
    for language, block in blocks(page):
        if language == "python":
            ast.parse(block)


@every_page
def test_every_relative_link_resolves(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", read(page)):
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert "://" in target or file.exists(), target
        assert not anchor or "://" in target or anchor in anchors(file), target


@pytest.mark.parametrize(
    "overrides",
    [("train.warmpu=3",), ("train.schedule=cosin",), ("train.lr=0",), ("model.moe.experts=8", "model.moe.k=9")],
    ids=lambda overrides: overrides[-1],
)
def test_sentences_are_quoted_as_they_are(overrides: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        Params.load(ROOT / "params.yaml", overrides)
    assert str(caught.value).split("params.yaml: ")[1] in [cells[1] for cells in table(DOCS / "config.md", "typed")]


def test_the_splits_are_counted_right(params: Params) -> None:
    found = concepts(params.prepare.emoji)
    told = {
        (split, style): int(number)
        for split, _, *numbers in table(DOCS / "data.md", "split")
        for style, number in zip(STYLES, numbers, strict=True)
    }
    counts = Counter((concept.split(style), style) for concept in found for style in STYLES)
    assert {place: number for place, number in told.items() if number} == counts
    assert f"{2 * len(found):,} pictures: {len(found):,} concepts" in read(DOCS / "data.md")
    assert f"{len({concept.group for concept in found}):,} groups" in read(DOCS / "data.md")


def test_the_evaluation_sets_are_counted_right(params: Params) -> None:
    found = concepts(params.prepare.emoji)
    pictures = [(one.split(style), f"emoji/{style}/{one.key}", one.label) for one in found for style in STYLES]
    told = {name: (int(count), int(names)) for name, count, names, _ in table(DOCS / "data.md", "set") if count.isdigit()}
    views = {f"{split}/{view.name}": view for split, views in VIEWS.items() for view in views}
    assert set(told) == {split for split, *_ in pictures if split != "train"} | set(views)
    for name, counts in told.items():
        mine = [picture for picture in pictures if picture[0] == name.split("/")[0]]
        labels = [label for _, key, label in mine if name not in views or views[name].keep(key)]
        assert counts == (len(labels), len(set(labels))), name


def test_every_reason_of_rejection_is_told_and_no_other() -> None:
    given = {
        node.value
        for file in [
            *(
                DATA / name
                for name in ("verify.py", "checks.py", "captions.py", "pictures.py", "rows.py", "groups.py", "repeats.py")
            ),
            *sorted((DATA / "sources").glob("*.py")),
        ]
        if file.name not in ("emoji.py", "scenes.py", "packages.py")  # these reject nothing
        for node in ast.walk(ast.parse(read(file)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if re.fullmatch(r"[a-z]+(-[a-z]+)+|truncated|undecodable|unreadable", node.value)
    }
    assert {cells[0] for cells in table(DOCS / "data.md", "reason")} == given


def test_published_figures_are_those_of_the_report_and_marked() -> None:
    told = [tuple(cells) for cells in table(DOCS / "recipe.md", "model")]
    assert told == [(row.model, row.imagenet or "", row.coco_i2t or "", row.coco_t2i or "", row.source) for row in ROWS]
    assert NOTICE.lower() in read(DOCS / "recipe.md").lower()


def test_the_pages_hold_code_at_all() -> None:
    assert {page.name for page in PAGES} >= {"config.md", "data.md", "operations.md", "recipe.md", "routing.md"}
    assert all(code(page) for page in PAGES)
