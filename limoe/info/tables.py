"""Models' facts as tables for the terminal."""

from __future__ import annotations

from typing import Any

from rich.table import Table

from limoe.info.facts import H100_TFLOPS
from limoe.model.costs import TRAINING_PER_FORWARD

PARTS = ("weights", "gradients", "moments", "copies", "activations")
Line = tuple[str, str, str]
ASSUMED = (
    "The memory is that of one device that holds the whole model: bfloat16 autocast over float32 master weights, AdamW, fused "
    "attention, no activation checkpointing; without the contrastive loss's chunk of similarities and temporary tensors."
)


def as_list(models: list[dict[str, Any]]) -> Table:
    """All models as a table for the terminal, a row each."""
    trained = models[0].get("training")
    days = f" days: of a training on {scaled(trained['samples'])} pairs, on {_speed(trained)}." if trained else ""
    meaning = (
        "tower: depth/width/mlp/heads. img:txt: tokens of a pair. all, active: parameters. FLOPs: forward, a pair. "
        f"memory: of a training step of {models[0]['batch']} pairs.{days}"
    )
    table = Table(box=None, caption=meaning, caption_justify="left")
    for head in ("preset", "tower"):
        table.add_column(head, no_wrap=True)
    for head in ("img:txt", "all", "active", "FLOPs", "memory", *(["days"] if trained else [])):
        table.add_column(head, justify="right", no_wrap=True)
    for facts in models:
        row = [facts["name"], _shape(facts), _ratio(facts), scaled(facts["params_total"]), scaled(facts["params_active"])]
        row += [scaled(facts["flops_per_pair_forward"]), scaled(facts["memory_bytes"]["total"], "B")]
        table.add_row(*row, *([_days(facts["training"])] if trained else []))
    return table


def as_table(facts: dict[str, Any]) -> Table:
    """One model as a table for the terminal, a fact a line, with what the figures assume."""
    table = Table("what", facts["name"], "which means", box=None, caption=ASSUMED, caption_justify="left")
    for line in (*_shape_lines(facts), *_cost_lines(facts), *_told_lines(facts)):
        table.add_row(*line)
    return table


def _shape_lines(facts: dict[str, Any]) -> list[Line]:
    blocks = ", ".join(str(block) for block in facts["moe_blocks"])
    image = f"{facts['image_tokens']} of the image ({facts['image_size']} px in patches of {facts['patch_size']})"
    tokens = f"{image} and {facts['text_tokens']} of the longest caption"
    return [
        ("tower", _shape(facts), "depth/width/mlp/heads"),
        ("experts", _experts(facts), f"in {len(facts['moe_blocks'])} of {facts['depth']} blocks, counted from 0: {blocks}"),
        ("tokens a pair", str(facts["tokens_per_pair"]), tokens),
        ("image:text tokens", _ratio(facts), "text is the minority that routing must not lose"),
        ("parameters, total", scaled(facts["params_total"]), f"{facts['vocab_size']:,} token embeddings among them"),
        ("parameters, active", scaled(facts["params_active"]), "what one token uses, embeddings included"),
    ]


def _cost_lines(facts: dict[str, Any]) -> list[Line]:
    against = f"{facts['flops_against_dense']:.3f} x the dense tower of this shape; matrix products alone"
    memory = {name: scaled(value, "B") for name, value in facts["memory_bytes"].items()}
    parts = ", ".join(f"{name} {memory[name]}" for name in PARTS)
    lines = [
        ("forward FLOPs a pair", scaled(facts["flops_per_pair_forward"]), against),
        ("training FLOPs a pair", scaled(facts["flops_per_pair_training"]), f"{TRAINING_PER_FORWARD} x forward"),
        (f"training memory, {facts['batch']} pairs", memory["total"], parts),
    ]
    if training := facts.get("training"):
        lines += [
            (f"training, {scaled(training['samples'])} pairs", f"{training['flops']:.3g} FLOPs", "forward and backward"),
            ("", f"{_days(training)} days", _speed(training)),
        ]
    return lines


def _told_lines(facts: dict[str, Any]) -> list[Line]:
    published = facts["published_imagenet_top1"]
    lines = [("peak learning rate", f"{facts['lr']:g}", "")]
    if published:
        lines.append(("ImageNet top-1", published, "published, zero-shot, on other data; not measured here"))
    told = (("hardware", "hardware"), ("measured time", "time"), ("measured score", "score"))
    return lines + [(title, "", facts[name]) for title, name in told if facts[name]]


def _speed(training: dict[str, Any]) -> str:
    gpus = f"{training['gpus']} GPU{'s' if training['gpus'] > 1 else ''}"
    named = " (H100 SXM, bfloat16, dense)" if training["tflops"] == H100_TFLOPS else ""
    return f"{gpus} at {training['mfu']:.0%} of {training['tflops']:g} TFLOP/s{named}"


def _days(training: dict[str, Any]) -> str:
    return f"{training['days']:.3g}" if training["days"] >= 0.01 else "< 0.01"


def _shape(facts: dict[str, Any]) -> str:
    return "/".join(str(facts[name]) for name in ("depth", "width", "hidden", "heads"))


def _experts(facts: dict[str, Any]) -> str:
    return f"{facts['k']} of {facts['experts']}"


def _ratio(facts: dict[str, Any]) -> str:
    return f"{facts['image_tokens_per_text_token']:.3g}:1"


def scaled(number: float, unit: str = "") -> str:
    """A number with three digits and a decimal prefix: 991741442 -> "992 M", with the unit behind it."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * factor:
            return f"{number / factor:.3g} {prefix}{unit}"
    return f"{number:.3g} {unit}".strip()
