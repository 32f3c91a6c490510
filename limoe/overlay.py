"""Edit a YAML file as a person would: the values change, every comment and the order stay."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import YAMLError

from limoe.config import Params
from limoe.errors import UserError
from limoe.files import write_text
from limoe.paramsfile import number_like, read_yaml

NEVER_WRAP = 10_000


def merge_overlay(params: Path, overlay: Path) -> None:
    """Merge `overlay` into the file `params`: its values win, mappings merge key by key, lists are replaced whole.

    The result is validated first: UserError leaves `params` as it was.
    """
    changes = read_yaml(overlay)
    document = load_document(params)
    merge(document, changes)
    text = dump_document(document)
    Params.parse(_plain(document), f"{params} with {overlay}")
    write_text(params, text)


def merge(target: CommentedMap, changes: Mapping[str, Any]) -> None:
    """Apply `changes` to `target` in place; a list that is replaced keeps its comment and its style."""
    for key, value in changes.items():
        old = target.get(key)
        if isinstance(old, CommentedMap) and isinstance(value, Mapping):
            merge(old, value)
        elif isinstance(old, CommentedSeq) and isinstance(value, list):
            old.clear()
            old.extend(value)
        else:
            target[key] = number_like(value)


def load_document(path: Path) -> CommentedMap:
    """The mapping in the YAML file with its comments; UserError if there is none."""
    read_yaml(path)  # says in one sentence what is wrong with a file that is missing, broken or no mapping
    try:
        document = _yaml().load(path.read_text(encoding="utf-8"))
    except YAMLError as error:
        raise UserError(f"{path}: not valid YAML 1.2 ({' '.join(str(error).split())})") from None
    assert isinstance(document, CommentedMap)
    return document


def dump_document(document: CommentedMap) -> str:
    """The text of the document, comments included."""
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def _yaml() -> YAML:
    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = NEVER_WRAP
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.representer.add_representer(type(None), lambda writer, _: writer.represent_scalar("tag:yaml.org,2002:null", "null"))
    return yaml


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
