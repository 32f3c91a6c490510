"""`limoe inspect PATH`: what a set of pictures is, ten samples of it, and what to write into params.yaml."""

from __future__ import annotations

import json
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from limoe import files
from limoe.config import SetParams
from limoe.config.sets import IN_TARS, PACKAGED, check_names
from limoe.data.addresses import is_remote
from limoe.data.sheet import Card, contact_sheet
from limoe.data.survey import LOOKED_AT, Picture, Survey, survey
from limoe.errors import UserError
from limoe.paramsfile import explain, read_yaml

SHEETS = Path("runs/inspect")
WATCHED = "data/raw"
PARAMS = Path("params.yaml")  # what dvc reads
CODE = re.compile(r"\d+|n\d{8}")  # a number, or one of WordNet's ids
STAYING = "to train from uncompressed tars without a copy of their pictures, add in_place: true (docs/data.md)"
COMMON = {"data", "raw", "images", "captions", "annotations", "train", "shards", "metadata"}  # no names for a set


def show(given: Mapping[str, Any], name: str | None, samples: int, out: Path | None, as_json: bool, file: Path) -> str:
    """Print what is found and write the contact sheet; the next command. UserError as sources have.

    given: keys of SetParams. file: the parameters that the set is to be added to; paths begin beside it.
    """
    root = file.parent
    params = _portable(_params(given), root)
    name = name or name_of(params.path)
    _check(name, params)
    mixed = _mixed(file)
    found = survey(name, params, root, _watched, samples)
    if not found.pictures and not found.facts["rejected"]:
        raise UserError(f"{params.path}: read as {found.params.kind}, and there is nothing in it")
    sheet = None
    if found.pictures:
        sheet = out or SHEETS / f"{name}.png"
        files.write_bytes(sheet, contact_sheet([_card(one) for one in found.samples]))
    section = to_paste(name, found.params, mixed)
    if as_json:
        print(json.dumps({"name": name, **found.facts, "sheet": sheet and str(sheet), "params": section}, indent=2, default=str))
    else:
        print("\n".join(told(name, found)))
        print(f"samples: {sheet}" if sheet else "samples: none, every input that was looked at is rejected")
        for note in filter(None, (unwatched(path, root) for path in _paths(params).values())):
            print(note)
        if found.params.kind in IN_TARS:
            print(STAYING)
        print(f"to be merged into {file}, or for a file of your own and `limoe params --overlay FILE`:\n")
        for path in filter(os.path.isabs, _paths(params).values()):
            print(f"# {path} is an absolute path: it will not be there on another machine")
        print(yaml.safe_dump(section, sort_keys=False, allow_unicode=True))
    with_section = "--overlay FILE, with the section above in it; then"
    if file == PARAMS:
        return f"limoe params {with_section} dvc repro prepare"
    named = shlex.quote(f"--params={file}")
    return f"limoe params {named} {with_section} limoe prepare {named}"


def read_columns(given: Sequence[str]) -> dict[str, Any]:
    """The key `columns`, from `image=photo`; a column that is named twice is a list, and `label=false` leaves labels alone."""
    found: dict[str, Any] = {}
    for one in given:
        what, equals, name = one.partition("=")
        if not equals:
            raise UserError(f"--column {one}: must look like caption=NAME")
        found.setdefault(what, []).append(name if name != "false" else False)
    return {what: names[0] if len(names) == 1 else names for what, names in found.items()}


def name_of(path: str) -> str:
    """A name for the set, of the last part of its path that says something.

    >>> [name_of(path) for path in ("data/raw/Pets/captions.csv", "s3://b/LAION 400m/{000..010}.tar", "data/raw", "x/val.tar")]
    ['pets', 'laion-400m', 'mine', 'val']
    """
    for part in reversed(path.split("/")):
        name = re.sub(r"[^a-z0-9._-]+", "-", part.split(".")[0].lower()).strip("-._")
        if name and name not in COMMON and not re.search(r"[*?{\[:]", part) and not name.isdecimal():
            return name
    return "mine"


def to_paste(name: str, params: SetParams, mixed: Iterable[str]) -> dict[str, Any]:
    """The overlay that trains on this set alone. mixed: what the mixture holds so far; mappings merge."""
    said = params.model_dump(mode="json", exclude_defaults=True, exclude_none=True)
    return {
        "prepare": {"sources": [name], "sets": {name: {"path": params.path, "kind": params.kind, **said}}},
        "train": {"mixture": {**dict.fromkeys(mixed, 0), name: 1}},
    }


def unwatched(path: str, root: Path) -> str | None:
    """A sentence, if DVC would not notice that the set changes."""
    if is_remote(path):
        return f"DVC does not see {path}: after a change there run dvc repro --force prepare"
    given, watched = (Path(os.path.abspath(root / one)) for one in (path, WATCHED))  # not resolved: a set there may be a link
    if not given.is_relative_to(watched):
        return f"DVC watches {WATCHED} alone: move {path} there, or add it to the deps of prepare in dvc.yaml"
    return None


def told(name: str, found: Survey) -> Iterator[str]:
    """Lines for a person."""
    facts = found.facts
    size = f", {facts['bytes'] / 1e6:,.1f} MB" if facts.get("bytes") else ""
    files_or_number = facts.get("files")
    count = files_or_number if isinstance(files_or_number, int) else len(files_or_number or ())
    of_files = f", {count:,} {'file' if count == 1 else 'files'}{size}" if count else ""
    items = f", {facts['items']:,} inputs" if facts["items"] is not None else ""
    yield f"{name}: read as {found.params.kind}{of_files}{items}; {facts['looked_at']:,} looked at"
    if aside := facts.get("left_aside"):
        others = ", ".join(aside[:3]) + (f" and {len(aside) - 3:,} more" if len(aside) > 3 else "")
        yield f"left aside: {others}, since {next(iter(facts['files']))} has the captions; to read a table, name it as the path"
    if columns := facts["columns"]:
        yield f"columns: {', '.join(f'{what} {_names(which)}' for what, which in columns.items() if which)}"
    if facts["captions_a_picture"]:
        each, words = facts["captions_a_picture"], facts["words_a_caption"]
        yield f"captions: {_range(each)} a picture, of {_range(words)} words; {facts['different_captions']:.0%} differ"
        formats = ", ".join(f"{number:,} {form}" for form, number in facts["formats"].items())
        yield f"pictures: {formats}; {_range(facts['width'])} px wide, {_range(facts['height'])} px high"
        yield f"splits: {', '.join(f'{number:,} {split}' for split, number in facts['splits'].items())} of those looked at"
    if labels := facts["labels"]:
        yield f"labels: {labels['different']:,}, such as {', '.join(labels['commonest'])}"
        if all(CODE.fullmatch(label) for label in labels["commonest"]):
            yield "labels: these are no words, and make no captions; name them in a YAML file (the set's key classes)"
    for reason, rows in facts["rejected"].items():
        yield f"rejected: {rows['count']:,} {reason} (first {rows['first']})"


def _params(given: Mapping[str, Any]) -> SetParams:
    try:
        return SetParams.model_validate({key: value for key, value in given.items() if value})
    except ValidationError as error:
        raise UserError(explain(error, SetParams)) from None


def _mixed(file: Path) -> list[str]:
    """The sources in the mixture of the params; the packaged ones where dvc's file is missing. UserError if another one is."""
    if file == PARAMS and not file.is_file():
        return list(PACKAGED)
    train = read_yaml(file).get("train")
    mixture = train.get("mixture") if isinstance(train, dict) else None
    return list(mixture) if isinstance(mixture, dict) else []


def _paths(params: SetParams) -> dict[str, str]:
    """Those keys of the set that name a file or folder."""
    named = {key: getattr(params, key) for key in ("path", "images", "classes")}
    return {key: path for key, path in named.items() if path}


def _portable(params: SetParams, root: Path) -> SetParams:
    """Absolute paths below the project as paths from there, which hold on other machines, too."""
    project = os.path.abspath(root)
    below = {key: path for key, path in _paths(params).items() if os.path.isabs(path) and Path(path).is_relative_to(project)}
    return params.model_copy(update={key: os.path.relpath(path, project) for key, path in below.items()})


def _check(name: str, params: SetParams) -> None:
    try:
        check_names({name: params})
    except ValueError as error:
        raise UserError(f"--name: {error}") from None


def _card(one: Picture) -> Card:
    text = " / ".join(one.candidate.captions)
    return Card(one.candidate.image, text, (f"{one.candidate.split}, {one.width} x {one.height} px", one.candidate.key))


def _watched(inputs: Iterator[Any]) -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import track

    return iter(track(inputs, "looking", total=LOOKED_AT, console=Console(file=sys.stderr), transient=True))


def _range(spread: Mapping[str, float]) -> str:
    least, most = spread["least"], spread["most"]
    return f"{least:,g}" if least == most else f"{least:,g} to {most:,g} (median {spread['median']:,g})"


def _names(which: Any) -> str:
    return which if isinstance(which, str) else " and ".join(which)
