"""`model.moe.tau_* = balance`: the thresholds that the balance stage suggests, written down by it and looked up by training."""

from __future__ import annotations

from typing import Any

from limoe.config import ModelParams, Params
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.files import read_json
from limoe.paths import Paths

FILE = "thresholds.json"


def basis(model: ModelParams, mixture: dict[str, float], data: str) -> dict[str, Any]:
    """All that a suggestion follows from, beside balance.target_placed: another value of any of these may ask for another tau.

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


def suggestion(tau_text: float, tau_image: float, params: Params, data: str) -> dict[str, Any]:
    """What `thresholds.json` holds: both thresholds (nats), and what they were found for."""
    return {"tau_text": tau_text, "tau_image": tau_image, "basis": basis(params.model, params.train.mixture, data)}


def with_thresholds(params: Params, paths: Paths) -> Params:
    """`params` with `balance` replaced by the suggested numbers; as they are if nothing asks for it.

    UserError if there is no suggestion, or one for other settings or other data than those prepared now.
    """
    moe = params.model.moe
    if "balance" not in (moe.tau_text, moe.tau_image):
        return params
    path = paths.balance / FILE
    if not path.exists():
        raise UserError(f"{path}: no such file, and model.moe.tau_text or tau_image is `balance`; run `limoe balance` first")
    found = read_json(path)
    for name, value in basis(params.model, params.train.mixture, Prepared(paths.prepared).hash).items():
        if (then := found["basis"].get(name)) != value:
            raise UserError(f"{path}: was made when {name} was {then}, and now it is {value}; run `limoe balance` again")
    model = params.model.model_copy(update={"moe": moe.suggested(found["tau_text"], found["tau_image"])})
    return params.model_copy(update={"model": model})
