"""A trained model opened and scored: what its scores belong to, which evaluators a split gets, which scores to look at first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Protocol

import torch

from limoe.config import SELECTION_SPLITS, EvalSetParams, EvaluateParams, ProbeParams
from limoe.data.prepared import TOKENIZER, Prepared
from limoe.data.schema import TEST_SPLITS, TRAIN
from limoe.errors import UserError
from limoe.evals.directory import CONFIG, PREPROCESS, open_directory
from limoe.evals.encoder import Encoder, Track
from limoe.evals.external import open_set
from limoe.evals.metrics import is_probe
from limoe.evals.probe import Probe
from limoe.evals.retrieval import Retrieval
from limoe.evals.sets import COLUMNS, VIEWS, EvalSet, Outcome
from limoe.evals.shots import trimmed, with_training
from limoe.evals.store import Store, environment
from limoe.evals.zeroshot import ZeroShot
from limoe.files import sha256_file, sha256_json
from limoe.model.io import read_config
from limoe.model.shards import weights_hash
from limoe.provenance import code_hash

RETRIEVAL = ("i2t_r1", "t2i_r1")
MOST_KEYS = 12


class Evaluator(Protocol):
    """Constructed once, run on any number of models."""

    name: str

    def run(self, encoder: Encoder) -> Outcome:
        """Score one model."""


def provenance(prepared: Prepared, folder: Path, params: EvaluateParams, external: Sequence[EvalSet] = ()) -> dict[str, Any]:
    """Hashes of the prepared set, of the external ones and of the weights, and the settings.

    UserError if the model and the prepared set do not belong together: a model whose tokenizer is not the set's would be scored
    on captions that it was not trained on.
    """
    config = read_config(folder)
    tokenizer = sha256_file(folder / TOKENIZER)
    if tokenizer != sha256_file(prepared.root / TOKENIZER):
        raise UserError(f"{folder}: its tokenizer is not that of {prepared.root}; train it again on this prepared set")
    return {
        "data": prepared.hash,
        "sets": content_hashes(external),
        "weights": weights_hash(folder),
        "tokenizer": tokenizer,
        "kind": config.kind,
        "evaluate": params.model_dump(mode="json"),
    }


def content_hashes(external: Sequence[EvalSet]) -> dict[str, str]:
    """Of the external sets, and of the training pictures that their probes look at, each by its name."""
    return {part.name: part.hash for data in external for part in (data, data.train) if part is not None}


def open_external(params: EvaluateParams, project: Path, splits: Sequence[str] = ()) -> list[EvalSet]:
    """The user's own sets, in their order; UserError if one is not as it has to be, or has the name of a split."""
    if taken := [name for name in params.sets if name in {*splits, *SELECTION_SPLITS, TRAIN}]:
        raise UserError(f"evaluate.sets.{taken[0]}: a split of the prepared set has this name; choose another")
    return [_open_trimmed(name, given, project, params.probe) for name, given in params.sets.items()]


def _open_trimmed(name: str, given: EvalSetParams, project: Path, probe: ProbeParams) -> EvalSet:
    """The set with the training pictures that its probes look at; UserError if they are too few for all that are asked for."""
    data = open_set(name, given, project)
    kept = trimmed(data, probe)
    if data.train is not None and kept.train is None and (probe.shots or probe.full_l2):
        label, count = min(Counter(data.train.labels).items(), key=lambda told: told[1])
        raise UserError(
            f"evaluate.sets.{name}.train: the class {label!r} has {count} pictures, too few for every probe of evaluate.probe; "
            "lower shots or add pictures"
        )
    return kept


def open_encoder(
    folder: Path, params: EvaluateParams, device: torch.device, track: Track | None = None, kept: Path | None = None
) -> Encoder:
    """The model of a model directory, with the tokenizer, text length and preprocessing that it was trained with.

    kept: the folder in which all models' embeddings are kept, if they are.
    """
    config, model, preprocess, tokenizer = open_directory(folder, device)
    length = config.tower.text_length
    store = None if kept is None else Store(kept / _model_key(folder, params.batch, device))
    return Encoder(model, lambda texts: tokenizer(list(texts), length), preprocess, params.batch, device, track, store)


def _model_key(folder: Path, batch: int, device: torch.device) -> str:
    """Sixteen hex digits that name all that an embedding's bits follow from but what is embedded."""
    model = {name: sha256_file(folder / name) for name in (CONFIG, TOKENIZER, PREPROCESS)} | {"weights": weights_hash(folder)}
    code = [code_hash(module) for module in ("limoe.model.io", "limoe.data.transforms", "limoe.evals.encoder")]
    return sha256_json({"model": model, "code": code, "batch": batch, "environment": environment(device)})[:16]


def score(encoder: Encoder, prepared: Prepared, params: EvaluateParams, external: Sequence[EvalSet] = ()) -> list[Outcome]:
    """Every evaluator of the external sets and of every split but the training one; UserError if there is nothing to score."""
    splits = (trimmed(with_training(data, prepared), params.probe) for data in open_splits(prepared))
    outcomes = [evaluator.run(encoder) for data in chain(external, splits) for evaluator in evaluators(data, params)]
    if not outcomes:
        raise UserError(
            f"{prepared.root}: nothing to evaluate on: no split but train has two pictures; splits: {prepared.splits}"
        )
    return outcomes


def open_splits(prepared: Prepared) -> Iterator[EvalSet]:
    """The splits that are evaluated, one in memory at a time."""
    for split in evaluation_splits(prepared.splits):
        yield EvalSet.of(split, prepared.table(split, COLUMNS))


def evaluation_splits(splits: Sequence[str]) -> list[str]:
    """Every split but the training one: test sets first, then those that settings are chosen on, then any other by its name."""
    known = [*TEST_SPLITS, *SELECTION_SPLITS]
    return sorted(set(splits) - {TRAIN}, key=lambda split: (known.index(split) if split in known else len(known), split))


def evaluators(data: EvalSet, params: EvaluateParams) -> list[Evaluator]:
    """Zero-shot classification where two labels or more are known, with each ensemble of prompts and on the split's views;
    retrieval, unless captions are nothing but class names, where it would repeat classification; and linear probes, where there
    are training pictures."""
    found: list[Evaluator] = []
    asked = [(prompts, data.labelled, templates) for prompts, templates in (data.prompts or {"": params.templates}).items()]
    for view in VIEWS.get(data.name, ()):
        asked.append((view.name, [row for row in data.labelled if view.keep(data.keys[row])], params.templates))
    for part, rows, templates in asked:
        if len({data.labels[row] for row in rows}) >= 2:
            name = f"{data.name}/{part}" if part else data.name
            found.append(ZeroShot(name, data, templates, params.calibration_bins, params.chunk, rows))
    if data.captioned and len(data) >= 2:
        found.append(Retrieval(data.name, data, params.chunk))
    if data.train is not None and len(data.candidates) >= 2:
        found.append(Probe(data, data.train, params.probe, params.chunk))
    return found


def headline_metrics(rows: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """At most MOST_KEYS scores as {set: {metric: value}}, what DVC shows: of every set its top-1, or its R@1 both ways if it
    has no classes, and then top-5 and at last probes as far as there is room, all in the order of the rows."""
    classified = {row["set"] for row in rows if row["metric"] == "top1"}
    first = [row for row in rows if row["metric"] == "top1" or (row["metric"] in RETRIEVAL and row["set"] not in classified)]
    second = [row for row in rows if row["metric"] == "top5"]
    third = [row for row in rows if is_probe(row["metric"])]
    nested: dict[str, dict[str, float]] = {}
    for row in [*first, *second, *third][:MOST_KEYS]:
        nested.setdefault(row["set"], {})[row["metric"]] = row["value"]
    return nested
