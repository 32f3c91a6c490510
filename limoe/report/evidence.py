"""What `train` and `evaluate` left of each contestant, read and checked to be comparable."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from limoe.config import SHARED, Contestant
from limoe.errors import UserError
from limoe.evals.metrics import WEIGHTS
from limoe.evals.routing.stored import Analysis
from limoe.evals.seen import Leakage
from limoe.evals.sets import Items
from limoe.files import read_json
from limoe.model.shards import weights_hash
from limoe.paths import Paths
from limoe.report.budget import Budget
from limoe.report.names import WHAT_THEY_ARE

SCORED_ON = {"data": "prepared sets", "sets": "sets of evaluate.sets", "evaluate": "evaluate settings"}


@dataclass(frozen=True)
class Evidence:
    """One contestant. form: what it is. scores: by (set, metric), with n. averaged: those of its averaged weights, none without
    `train.ema`. items: by (set, metric). curve: rows of metrics.jsonl. routing: rows of routing.parquet, none for a model without
    experts. settings: params.json. rollbacks: those of health.json. These four are empty for one that was not trained here.
    leakage: of each set, what the training has seen. routed: how it routes validation pairs, if that was recorded. seed: of its
    training, if it is known. provenance: what the scores belong to."""

    name: str
    form: str
    scores: dict[tuple[str, str], tuple[float, int]]
    averaged: dict[tuple[str, str], tuple[float, int]]
    items: dict[tuple[str, str], Items]
    provenance: dict[str, Any]
    budget: Budget
    seed: int | None
    settings: dict[str, Any]
    rollbacks: list[dict[str, Any]]
    curve: list[dict[str, Any]]
    routing: pa.Table
    leakage: list[Leakage]
    routed: Analysis | None = None

    def values(self, name: str, metric: str) -> NDArray[np.float64]:
        """float64 (N,): the items' values of one metric on one set."""
        return self.items[name, metric].values[metric]

    def weights(self, name: str, metric: str) -> NDArray[np.float64]:
        """float64 (N,): what each item counts in the mean of one metric on one set, 1 on average."""
        weighted = WEIGHTS.get(metric)
        if weighted is not None and (name, weighted) in self.items:
            return self.values(name, weighted)
        return np.ones(len(self.items[name, metric].keys))


def load_evidence(
    paths: Paths, contestants: Sequence[Contestant], tuning: Mapping[str, int] = MappingProxyType({})
) -> list[Evidence]:
    """The evidence of contestants that are trained here; UserError if one is missing or stale, or was trained or scored otherwise
    than the first. tuning: trials behind a contestant's settings."""
    found = [_load(paths, name, tuning.get(name)) for name in contestants]
    for one in found:
        _check_current(paths, one)
    for other in found[1:]:
        check_scored_alike(paths, found[0], other)
        for key in SHARED:
            if other.settings["train"][key] != found[0].settings["train"][key]:
                raise UserError(
                    f"{paths.train(other.name)} and {paths.train(found[0].name)} are not comparable: they were trained with "
                    f"different train.{key}; run `limoe train` and `limoe evaluate` for both again"
                )
    return found


def load_other(paths: Paths, name: str, tuning: int | None) -> Evidence:
    """The evidence of a contestant that is not trained here, evaluated as it is; UserError if it was not."""
    folder = paths.evaluate(name)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; run `limoe evaluate {name}` first")
    about = read_json(folder / "about.json")
    sizes = (about["params_total"], about["params_active"], about["flops"])
    return Evidence(
        name=name,
        form=about["form"],
        scores=_scores(folder),
        averaged={},
        items=_items(_table(folder / "items.parquet")),
        provenance=read_json(folder / "provenance.json"),
        budget=Budget(*sizes, about["samples"], about["data"], tuning),
        seed=about["seed"],
        settings={},
        rollbacks=[],
        curve=[],
        routing=pa.table({}),
        leakage=_leakage(folder),
    )


def check_scored_alike(paths: Paths, first: Evidence, other: Evidence) -> None:
    """UserError unless both were scored on the same items of the same prepared set, by the same settings."""
    for what, told in SCORED_ON.items():
        if other.provenance[what] != first.provenance[what]:
            raise UserError(
                f"{paths.evaluate(other.name)} and {paths.evaluate(first.name)} are not comparable: they were scored with "
                f"different {told}; run `limoe evaluate` for both again"
            )
    if {key: items.keys for key, items in other.items.items()} != {key: items.keys for key, items in first.items.items()}:
        raise UserError(f"{paths.evaluate(other.name)} scored other items than {paths.evaluate(first.name)}")


def _check_current(paths: Paths, one: Evidence) -> None:
    """UserError if the scores belong to other weights, or the weights to another prepared set, than those that lie there."""
    averaged = paths.averaged(one.name)
    try:
        there = [weights_hash(paths.model(one.name)), weights_hash(averaged) if averaged.is_dir() else None]
    except UserError as error:
        raise UserError(f"{error}; run `limoe train {one.name}` first") from None
    scored = read_json(paths.evaluate_averaged(one.name) / "provenance.json")["weights"] if one.averaged else None
    if there != [one.provenance["weights"], scored]:
        raise UserError(
            f"{paths.evaluate(one.name)}: the weights that it scored are not those of {paths.train(one.name)}; "
            f"run `limoe evaluate {one.name}` again"
        )
    if one.settings["data"] != one.provenance["data"]:
        raise UserError(
            f"{paths.train(one.name)}: it was trained on another prepared set than {paths.evaluate(one.name)} was scored on; "
            f"run `limoe train {one.name}` and then `limoe evaluate {one.name}` again"
        )


def _load(paths: Paths, name: Contestant, tuning: int | None) -> Evidence:
    evaluated, trained = paths.evaluate(name), paths.train(name)
    for folder, stage in ((evaluated, "evaluate"), (trained, "train")):
        if not folder.is_dir():
            raise UserError(f"{folder}: no such folder; run `limoe {stage} {name}` first")
    averaged = paths.evaluate_averaged(name)
    cost, settings = read_json(trained / "cost.json"), read_json(trained / "params.json")
    sizes = (cost["params_total"], cost["params_active"], cost["flops_per_pair_forward"])
    return Evidence(
        name=name,
        form=WHAT_THEY_ARE[name],
        scores=_scores(evaluated),
        averaged=_scores(averaged) if averaged.is_dir() else {},
        items=_items(_table(evaluated / "items.parquet")),
        provenance=read_json(evaluated / "provenance.json"),
        budget=Budget(*sizes, cost["samples_seen"], settings["data"], tuning),
        seed=settings["train"]["seed"],
        settings=settings,
        rollbacks=read_json(trained / "health.json")["rollbacks"],
        curve=_json_lines(trained / "metrics.jsonl"),
        routing=_table(trained / "routing.parquet"),
        leakage=_leakage(evaluated),
        routed=Analysis.load(evaluated / "routing") if (evaluated / "routing").is_dir() else None,
    )


def _scores(folder: Path) -> dict[tuple[str, str], tuple[float, int]]:
    return {(row["set"], row["metric"]): (row["value"], row["n"]) for row in read_json(folder / "results.json")}


def _leakage(folder: Path) -> list[Leakage]:
    return [Leakage.of(row) for row in read_json(folder / "leakage.json")]


def _table(path: Path) -> pa.Table:
    try:
        return pq.read_table(path, partitioning=None)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a Parquet file, or a damaged one ({error})") from None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not JSON lines ({error})") from None


def _items(table: pa.Table) -> dict[tuple[str, str], Items]:
    """By (set, metric), in the file's order, which has each metric of a set in one run of rows."""
    names, metrics = table["set"].to_pylist(), table["metric"].to_pylist()
    keys, groups = table["key"].to_pylist(), table["group"].to_pylist()
    values = table["value"].to_numpy()
    found: dict[tuple[str, str], Items] = {}
    start = 0
    for end in range(1, len(names) + 1):
        if end == len(names) or (names[end], metrics[end]) != (names[start], metrics[start]):
            metric = metrics[start]
            found[names[start], metric] = Items(tuple(keys[start:end]), tuple(groups[start:end]), {metric: values[start:end]})
            start = end
    return found
