"""For the tests of the report: what three contestants' trainings and evaluations leave, planted with known winners."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from evalkit import with_others

from limoe.config import CONTESTANTS, Params
from limoe.evals.seen import Leakage, Seen
from limoe.evals.sets import Items, Outcome, Score, item_table, result_rows
from limoe.files import read_json, sha256_file, write_bytes, write_json, write_text
from limoe.paths import Paths

PICTURES, SCENES, SAMPLES = 200, 150, 153_600
SHARES = {"limoe": 0.30, "dense": 0.30, "clip": 0.30}
LEAKAGE = [  # ten pictures of the main test, four of them byte for byte
    Leakage(
        "unseen-style", PICTURES, 7, tuple(Seen(f"unseen-style-{number}", f"train-{number}", number < 4) for number in range(10))
    ),
    *(Leakage(name, count, 0, ()) for name, count in (("unseen-concept", PICTURES), ("test-scenes", SCENES), ("val", PICTURES))),
]
COSTS = {"limoe": (4_000_000, 1_000_000, 2.1e8), "dense": (1_000_000, 1_000_000, 2.0e8), "clip": (1_200_000, 1_200_000, 2.05e8)}


def nested_hits(share: float, count: int, metrics: tuple[str, ...], offset: int) -> dict[str, np.ndarray]:
    """Hits at growing depth; a model with a larger share hits all that one with a smaller share does."""
    order = np.random.default_rng(offset).permutation(count)
    shares = (share, min(1.0, 1.5 * share), min(1.0, 2 * share))
    return {metric: (order < round(part * count)).astype(float) for metric, part in zip(metrics, shares, strict=True)}


def zero_shot(name: str, share: float, count: int, offset: int) -> Outcome:
    values = nested_hits(share, count, ("top1", "top5", "per_class"), offset)
    values["per_class"] = values["top1"]
    values["confidence"] = np.full(count, 0.25)
    keys = tuple(f"{name}-{number}" for number in range(count))
    items = Items(keys, tuple(f"{name}-group-{number // 2}" for number in range(count)), values)
    return Outcome(name, (items,), (Score("calibration", abs(share - 0.25), count), Score("chance", 1 / count, count)))


def retrieval(name: str, share: float, count: int, offset: int) -> Outcome:
    keys = tuple(f"{name}-{number}" for number in range(count))
    i2t = nested_hits(share, count, ("i2t_r1", "i2t_r5", "i2t_r10"), offset)
    t2i = nested_hits(share, count, ("t2i_r1", "t2i_r5", "t2i_r10"), offset + 1)
    return Outcome(name, (Items(keys, keys, i2t), Items(keys, keys, t2i)))


def plant(
    root: Path,
    params: Params,
    zero: Mapping[str, float] = SHARES,
    scenes: Mapping[str, float] = SHARES,
    pictures: int = PICTURES,
    count: int = SCENES,
) -> Paths:
    """Evidence in which each contestant hits these shares of the test pictures and scenes."""
    paths = Paths(root)
    for name in CONTESTANTS:
        outcomes = [
            zero_shot("unseen-style", zero[name], pictures, 1),
            zero_shot("unseen-style/no-skin-tones", zero[name], pictures // 2, 2),
            zero_shot("unseen-concept", 0.02, pictures, 3),
            retrieval("test-scenes", scenes[name], count, 4),
            zero_shot("val", zero[name], pictures, 5),
            retrieval("val", zero[name], pictures, 6),
        ]
        evaluated = paths.evaluate(name)
        evaluated.mkdir(parents=True)
        write_json(evaluated / "results.json", result_rows(outcomes))
        write_json(evaluated / "leakage.json", [one.row() for one in LEAKAGE])
        pq.write_table(item_table(outcomes), evaluated / "items.parquet")
        weights = paths.model(name) / "model.safetensors"
        write_bytes(weights, name.encode())
        source = {"data": "d" * 64, "sets": {}, "weights": sha256_file(weights), "tokenizer": "e" * 64, "kind": name}
        write_json(evaluated / "provenance.json", source | {"evaluate": params.evaluate.model_dump(mode="json")})
        _plant_training(paths, name, params)
    return paths


def plant_averaged(paths: Paths, name: str, share: float) -> None:
    """Averaged weights of this contestant, and their scores: this share of the main test's pictures."""
    write_bytes(paths.averaged(name) / "model.safetensors", f"averaged {name}".encode())
    folder, source = paths.evaluate_averaged(name), read_json(paths.evaluate(name) / "provenance.json")
    write_json(folder / "results.json", result_rows([zero_shot("unseen-style", share, PICTURES, 1)]))
    weights = sha256_file(paths.averaged(name) / "model.safetensors")
    write_json(folder / "provenance.json", source | {"weights": weights})


def plant_further(paths: Paths, params: Params) -> tuple[Paths, Params]:
    """Beside the three: `big` (a better model of forty times the pairs), `odd` (of unknown cost), two more seeds of LIMoE and of
    the dense tower, and `far`, which could not be fetched; and the parameters that name them."""
    plant_other(paths, "big", 0.6, like="clip", samples=40 * SAMPLES, data=None, form="A checkpoint of open_clip's ViT-B-32")
    plant_other(paths, "odd", 0.2, like="clip", samples=None, data=None)
    for seed in (1, 2):
        plant_other(paths, f"limoe-{seed}", 0.30 + 0.02 * seed, like="limoe", seed=seed)
        plant_other(paths, f"dense-{seed}", 0.20 + 0.02 * seed, like="dense", seed=seed)
    write_json(paths.evaluate("far") / "unavailable.json", {"sentence": "its weights could not be fetched"})
    seeds = {f"{name}-{seed}": {"path": "m", "seed_of": name} for name in ("limoe", "dense") for seed in (1, 2)}
    models = {"big": {"path": "m"}, "odd": {"path": "m"}, **seeds}
    fetched = {"far": {"architecture": "ViT-B-32", "tag": "openai"}}
    return paths, with_others(params, models=models, fetched=fetched, tuning={"limoe": 60})


def plant_other(paths: Paths, name: str, share: float, like: str, **about: Any) -> None:
    """A further contestant, evaluated: it hits this share of the main test's pictures, and else what `like` hits."""
    folder, source = paths.evaluate(name), paths.evaluate(like)
    folder.mkdir(parents=True)
    own = zero_shot("unseen-style", share, PICTURES, 1)
    kept = [row for row in read_json(source / "results.json") if row["set"] != own.set]
    write_json(folder / "results.json", [*result_rows([own]), *kept])
    shutil.copy(source / "leakage.json", folder)
    table = pq.read_table(source / "items.parquet")
    rest = table.filter(pc.not_equal(table["set"], own.set))
    pq.write_table(pa.concat_tables([item_table([own]), rest]), folder / "items.parquet")
    weights = {"weights": name[0] * 64, "tokenizer": None}
    write_json(folder / "provenance.json", read_json(source / "provenance.json") | weights)
    total, active, flops = COSTS[like]
    facts = {"form": f"A model, {name}", "params_total": total, "params_active": active, "flops": flops, "samples": SAMPLES}
    write_json(folder / "about.json", facts | {"weights": name[0] * 64, "data": "d" * 64, "seed": None} | about)


def only_validation(paths: Paths) -> Paths:
    """The same evidence without its test sets."""
    for name in CONTESTANTS:
        path = paths.evaluate(name) / "results.json"
        write_json(path, [row for row in read_json(path) if row["set"] == "val"])
    return paths


def _plant_training(paths: Paths, name: str, params: Params) -> None:
    folder = paths.train(name)
    total, active, flops = COSTS[name]
    cost = {"params_total": total, "params_active": active, "flops_per_pair_forward": flops, "samples_seen": SAMPLES}
    write_json(folder / "cost.json", cost)
    tower = params.model.tower.model_dump(mode="json")
    train = params.train.model_dump(mode="json") | {"lr": 0.002, "steps": 600}
    settings: dict[str, Any] = {"data": "d" * 64, "model": {"kind": name, "tower": tower, "clip": None}, "train": train}
    write_json(folder / "params.json", settings)
    write_json(folder / "metrics.json", {"contrastive": 1.0})
    write_json(folder / "health.json", {"alarms": [], "rollbacks": []})
    rate = {"limoe": 200, "dense": 240, "clip": 300}[name]
    curve = [
        {"step": step, "contrastive": 5.5 * float(np.exp(-step / rate)) + 0.3, "loss": 1.0, "lr": 0.002}
        for step in range(10, 601, 10)
    ]
    write_text(folder / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in curve))
    pq.write_table(routing_rows() if name == "limoe" else routing_rows()[:0], folder / "routing.parquet")


def routing_rows(experts: int = 4, layers: tuple[int, ...] = (1, 3), steps: range = range(10, 601, 10)) -> pa.Table:
    """Text goes to the last expert and a little everywhere; images avoid it. Text is placed ever better."""
    rows = []
    for step in steps:
        for layer in layers:
            for modality, tokens in (("text", 1000), ("image", 9000)):
                share = np.ones(experts)
                share[-1] = experts if modality == "text" else 0.1
                assigned = np.round(tokens * share / share.sum()).astype(int)
                kept = 1 - 0.5 * np.exp(-step / 100) if modality == "text" else 0.99
                rows += [
                    {
                        "step": step,
                        "layer": layer,
                        "modality": modality,
                        "expert": expert,
                        "assigned": int(assigned[expert]),
                        "placed": int(kept * assigned[expert]),
                        "tokens": tokens,
                        "confidence": 0.4 if modality == "text" else 0.2,
                    }
                    for expert in range(experts)
                ]
    return pa.Table.from_pylist(rows)
