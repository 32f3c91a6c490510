"""The data of a sweep: all of its trials train on one prepared set, made with the settings that they ask for."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

from limoe.config import Params
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.files import flatten


def prepared_for(params: Params, folder: Path) -> Prepared:
    """The prepared set in `folder`; UserError if there is none yet, or if it was prepared with other settings."""
    if not folder.exists():
        raise UserError(f"{folder}: no prepared data to train on; run dvc repro prepare (or limoe prepare) first")
    prepared = Prepared(folder)
    had, asked = flatten(prepared.manifest["params"]), flatten(params.prepare.model_dump(mode="json"))
    if changed := [f"prepare.{name}={json.dumps(value)}" for name, value in asked.items() if had.get(name) != value]:
        raise UserError(
            f"{folder} was prepared with other settings than these trials ask for; first run limoe prepare "
            + " ".join(f"--set {shlex.quote(one)}" for one in changed)
        )
    return prepared
