"""The names that a sweep may vary: what of `model` and `train` a contestant reads."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from limoe.config import Contestant, ModelParams, Params, TrainParams
from limoe.errors import UserError

READS: dict[Contestant, tuple[str, ...]] = {
    "limoe": ("model.tower", "model.moe", "train"),
    "dense": ("model.tower", "train"),
    "clip": ("model.tower", "model.clip", "train"),
}
ELSEWHERE = {
    "prepare": "belongs to a stage before the training, whose data all trials share",
    "balance": "belongs to a stage before the training, whose data all trials share",
    "evaluate": "belongs to a stage after the training, and only it opens test sets",
    "compare": "belongs to a stage after the training",
    "machine": "belongs to this machine, not to the experiment",
    "contestants": "is merged into train for every trial: sweep train's own name",
    "sweep": "is the space itself",
}
FIXED = {
    "train.seed": "is not searched: the sweep repeats each point over seeds of its own",
    "train.threads": "is not searched: every trial gets the same share of the machine",
    "train.health": "is not searched: by it trials are told to have failed",
    "train.select_without": "is not searched: by it trials are judged",
    "train.export": "is not searched: trials are measured on the weights of the last step, whichever are kept",
    "train.ema": "is not searched: trials are measured on the weights as they are, which it does not change",
}


def leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    """(dotted name, type) of every setting below `model`, whose own name is `prefix`."""
    for name, field in model.model_fields.items():
        annotation = field.annotation
        if isinstance(annotation, type) and issubclass(annotation, BaseModel):
            yield from leaves(annotation, f"{prefix}.{name}")
        else:
            yield f"{prefix}.{name}", annotation


def settings(params: Params) -> dict[str, Any]:
    """Type of every setting under `model` and `train`; of a mixture each share that `params` names."""
    known = dict(leaves(ModelParams, "model")) | dict(leaves(TrainParams, "train"))
    del known["train.mixture"]
    return known | {f"train.mixture.{source}": float for source in params.train.mixture}


def searchable(params: Params, contestant: Contestant | None) -> list[str]:
    """The names that a sweep of this contestant (None: of any) may vary, sorted."""
    reads = READS[contestant] if contestant else ("model", "train")
    return sorted(name for name in settings(params) if under(name, reads) and not under(name, tuple(FIXED)))


def readable(document: Mapping[str, Any], params: Params, contestant: Contestant) -> dict[str, Any]:
    """What of a space that was written for all contestants concerns this one: without the names that only others read."""
    others = set(searchable(params, None)) - set(searchable(params, contestant))
    return {name: spec for name, spec in document.items() if name not in others}


def under(name: str, sections: tuple[str, ...]) -> bool:
    """Whether `name` is one of `sections` or lies below one."""
    return any(name == section or name.startswith(f"{section}.") for section in sections)


def check_name(name: str, params: Params, contestant: Contestant) -> None:
    """UserError, with the nearest name, if a sweep of this contestant cannot vary `name`."""
    allowed = searchable(params, contestant)
    if name in allowed:
        return
    section = name.split(".")[0]
    reads = " and ".join(READS[contestant])
    if section in ELSEWHERE:
        why = f"{ELSEWHERE[section]}; a sweep varies names under {reads}"
    elif fixed := [why for prefix, why in FIXED.items() if under(name, (prefix,))]:
        why = fixed[0]
    elif below := [one for one in allowed if one.startswith(f"{name}.")]:
        raise UserError(f"{name} is a section, not a setting: name one of its own, such as {below[0]}")
    elif name in settings(params):
        why = f"{contestant} does not read it, but {reads}"
    else:
        why = f"there is no such setting under {reads}"
    raise UserError(f"{name}: {why}{nearest(name, allowed)}")


def nearest(name: str, known: list[str]) -> str:
    """'; did you mean X?' for the known name most like `name`, as a whole or in its last part; empty without one."""
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        last = {one.rsplit(".", 1)[-1]: one for one in reversed(known)}
        close = [last[found] for found in difflib.get_close_matches(name.rsplit(".", 1)[-1], list(last), n=1, cutoff=0.6)]
    return f"; did you mean {close[0]}?" if close else ""
