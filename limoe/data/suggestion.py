"""`model.moe.router: auto`: what the balance stage suggests, written down by it and looked up by training."""

from __future__ import annotations

from typing import Any

from limoe.config import ModelParams, Params
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.files import read_json
from limoe.paths import Paths

AUTO = "auto"
FILE = "suggestion.json"
OVERLAY = "suggestion.yaml"


def basis(model: ModelParams, mixture: dict[str, float], data: str) -> dict[str, Any]:
    """All that a suggestion follows from, beside balance.target_placed: another value of any of these may ask for another one.

    data: hash of the prepared set. JSON-able.
    """
    tower, moe = model.tower, model.moe
    return {
        "model.tower.image_size": tower.image_size,
        "model.tower.patch_size": tower.patch_size,
        "model.tower.text_length": tower.text_length,
        "model.moe.experts": moe.experts,
        "model.moe.k": moe.k,
        "model.moe.capacity_factor": moe.capacity_factor,
        "model.moe.group_pairs": moe.group_pairs,
        "train.mixture": dict(mixture),
        "the hash of data/prepared": data,
    }


def suggestion(values: dict[str, Any], params: Params, data: str) -> dict[str, Any]:
    """What `suggestion.json` holds: values by name under model.moe, and what they were found for."""
    return {"model.moe": values, "basis": basis(params.model, params.train.mixture, data)}


def overlay(values: dict[str, Any]) -> str:
    """The same values as YAML to merge into params.yaml."""
    head = "# What limoe balance suggests: limoe params --overlay merges it into params.yaml."
    return "\n".join([head, "model:", "  moe:", *(f"    {name}: {value}" for name, value in values.items()), ""])


def with_suggestion(params: Params, paths: Paths) -> Params:
    """`params` with the suggested values in place of the router `auto`; as they are if it is another one.

    UserError if there is no suggestion, or one for other settings or other data than those prepared now.
    """
    moe = params.model.moe
    if moe.router != AUTO:
        return params
    path = paths.balance / FILE
    if not path.exists():
        raise UserError(f"{path}: no such file, and model.moe.router is {AUTO}; run `limoe balance` first")
    found = read_json(path)
    for name, value in basis(params.model, params.train.mixture, Prepared(paths.prepared).hash).items():
        if (then := found["basis"].get(name)) != value:
            raise UserError(f"{path}: was made when {name} was {then}, and now it is {value}; run `limoe balance` again")
    return with_values(params, found["model.moe"])


def with_values(params: Params, values: dict[str, Any]) -> Params:
    """`params` with these values under model.moe."""
    model = params.model.model_copy(update={"moe": params.model.moe.model_copy(update=values)})
    return params.model_copy(update={"model": model})
