"""The code that each stage in dvc.yaml depends on: what it imports, so that an edit reruns what it touches and no more."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from limoe.files import write_text
from limoe.overlay import dump_document, load_document
from limoe.provenance import code_files

CODE = "limoe/"
SUBCOMMAND = re.compile(r"\blimoe (\w+)")


def stale_stages(dvc_yaml: Path, write: bool = False) -> list[str]:
    """The stages whose code deps are not what the module of their subcommand (`limoe evaluate ...`: limoe/stages/evaluate.py)
    imports; with `write`, the file is put right."""
    document = load_document(dvc_yaml)
    stale = []
    for name, stage in document["stages"].items():
        deps = stage.get("do", stage)["deps"]
        code = code_files(stage_module(stage.get("do", stage)["cmd"]))
        if list(deps) != [*(dep for dep in deps if not is_code(dep)), *code]:
            stale.append(str(name))
            for place in reversed([place for place, dep in enumerate(deps) if is_code(dep)]):
                del deps[place]  # one by one: the others keep their comments
            deps.extend(code)
    if stale and write:
        write_text(dvc_yaml, dump_document(document))
    return stale


def stage_module(command: str) -> str:
    """The module that a stage's command runs.

    >>> stage_module("exec limoe evaluate ${key}")
    'limoe.stages.evaluate'
    """
    found = SUBCOMMAND.search(command)
    assert found is not None, command
    return f"limoe.stages.{found[1]}"


def is_code(dep: Any) -> bool:
    """Whether a dep of dvc.yaml is a file of this package."""
    return str(dep).startswith(CODE)
