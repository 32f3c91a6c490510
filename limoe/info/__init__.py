"""`limoe info`: models by name or by a file of parameters, printed for people and for programs."""

from __future__ import annotations

import json
from typing import Any

import yaml
from rich.console import Console

from limoe.errors import UserError
from limoe.info.facts import PAIRS, YAML, describe, find_model, schedule_of
from limoe.info.tables import as_list, as_table
from limoe.model.presets import PRESETS


def show(
    name: str | None,
    batch: int | None,
    training: dict[str, Any],
    overrides: tuple[str, ...] = (),
    as_json: bool = False,
    as_yaml: bool = False,
) -> str:
    """Print one model, or all presets if `name` is None; returns what to do next. UserError for what does not exist or fit.

    batch: pairs a device holds, None for the model's own. training: samples, gpus, mfu and tflops, None where not given. as_json:
    the facts for programs. as_yaml: the model as an overlay of params.yaml.
    """
    schedule = schedule_of(**training)
    if name is None:
        if overrides or as_yaml:
            raise UserError(
                f"{'--yaml' if as_yaml else '--set'} needs a model: limoe info NAME, with a preset or a file (*.yaml)"
            )
        models = [describe(preset, PAIRS if batch is None else batch, schedule) for preset in PRESETS.values()]
        if as_json:
            print(json.dumps(models, indent=2))
        else:
            Console().print(as_list(models))
        return "limoe info PRESET"
    preset, pairs = find_model(name, overrides)
    if as_yaml:
        print(yaml.safe_dump(preset.overlay(), sort_keys=False), end="")
        return "keep this in a file, own.yaml say; then limoe params --overlay own.yaml"
    facts = describe(preset, pairs if batch is None else batch, schedule)
    if as_json:
        print(json.dumps(facts, indent=2))
    else:
        Console().print(as_table(facts))
    return "dvc repro" if name.endswith(YAML) else f"limoe info {name} --yaml > own.yaml; limoe params --overlay own.yaml"
