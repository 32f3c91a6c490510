"""What a model drops before it has learnt anything: forward passes of fresh weights over training batches.

Axes: T rows of the stream, K choices a token, E experts, M modalities (text, image).

Tokens of a fresh network resemble each other, so that a few experts get most of them: it drops far more than uniform routing
would. A pass is what training does in its first step, router noise and capacity included. There is one pass for each priority
rule, since what a block drops changes what the next one sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import NamedTuple

import torch
from torch import Tensor

from limoe.config import PRIORITIES, MoeParams, Params
from limoe.data.loader import PairLoader
from limoe.data.prefetch import Prefetched
from limoe.data.prepared import Prepared
from limoe.dist import pick_device, pick_precision
from limoe.losses.entropy_bias import EntropyBias, entropy_bias
from limoe.model.io import build_model
from limoe.model.limoe import Limoe, Output
from limoe.model.router import Router
from limoe.model.router.places import capacities
from limoe.model.tokens import IMAGE, MODALITIES, TEXT, Layout, PairBatch
from limoe.train.contestants import model_config
from limoe.train.meter import LOST, LayerCounts, count
from limoe.train.step import ContrastiveTask

RULED = ("top-k", "loss-free")  # the routers that ask for a rule
MOST_DROPPED = 0.5  # share of a modality from which it is worth a word
OTHER_SEEDS = 1_000_003  # from here on: no training should have the seeds that it is predicted with
Track = Callable[[Sequence[int], str], Iterable[int]]


class Spread(NamedTuple):
    """Mean over weight seeds, and their standard deviation (0 of a single one)."""

    mean: float
    deviation: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of one value a seed."""
        return cls(fmean(values), stdev(values) if len(values) > 1 else 0.0)


class Drops(NamedTuple):
    """Of one modality, means over the sparse blocks. dropped: share of its choices without a place, with K = 1 of its tokens.
    lost: share of its tokens without any place. places: share of all the experts' places that it holds."""

    dropped: float
    lost: float
    places: float

    @classmethod
    def of(cls, layers: Sequence[LayerCounts], modality: int, places: int) -> Drops:
        """From counts of some batches; `places` that the experts of a block have in all of them together."""
        placed = [int(layer.placed_ME[modality].sum()) for layer in layers]
        asked = [max(1, int(layer.assigned_ME[modality].sum())) for layer in layers]
        return cls(
            dropped=1 - fmean(p / a for p, a in zip(placed, asked, strict=True)),
            lost=fmean(float(layer.sums_MC[modality, LOST] / layer.tokens_M[modality].clamp(min=1)) for layer in layers),
            places=fmean(placed) / places,
        )


@dataclass(frozen=True)
class Rule:
    """What one priority rule does, over the seeds; each figure of text, then of images: see Drops."""

    name: str
    dropped: tuple[Spread, Spread]
    lost: tuple[Spread, Spread]
    places: tuple[Spread, Spread]

    @classmethod
    def of(cls, name: str, drops: Sequence[tuple[Drops, Drops]]) -> Rule:
        """Of one (text, image) a seed."""
        spreads = [
            tuple(Spread.of([getattr(seed[m], figure) for seed in drops]) for m in (TEXT, IMAGE)) for figure in Drops._fields
        ]
        return cls(name, *spreads)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Untrained:
    """seeds: of weights. pairs: that each of them saw. rules: all that the router can be told, or the name of one that has its
    own. chosen: the one that training will use. entropy: of the mean probabilities of text and of images, means over seeds and
    blocks, its bias that of a routing group. start: what a training begins with instead, if `train.start_from` names it."""

    seeds: int
    pairs: int
    rules: tuple[Rule, ...]
    chosen: str
    entropy: tuple[EntropyBias, EntropyBias]
    start: str | None = None

    @property
    def own(self) -> Rule:
        """The row of the rule that training will use."""
        return next(rule for rule in self.rules if rule.name == self.chosen)

    def metrics(self) -> dict[str, float]:
        """What DVC shows of it, rounded."""
        text, image = self.own.dropped
        return {"dropped_text": round(text.mean, 4), "dropped_image": round(image.mean, 4)}


def warnings(fresh: Untrained | None) -> Iterator[str]:
    """What the untrained model gives reason to say: that no training begins with it, or a modality that it hardly sees."""
    if fresh is None:
        return
    if fresh.start is not None:
        yield (
            f"a training begins with the model of train.start_from ({fresh.start}), and not with an untrained one: what is said "
            "of the first step is not true of it; limoe rehearse begins with that model"
        )
    for modality, name in enumerate(MODALITIES):
        dropped = fresh.own.dropped[modality]
        if dropped.mean > MOST_DROPPED:
            best = min(fresh.rules, key=lambda rule: rule.dropped[modality].mean)
            other = f" ({best.dropped[modality].mean:.0%} under {best.name})" if best.name != fresh.chosen else ""
            yield (
                f"under {fresh.chosen} an untrained model drops {dropped.mean:.0%} of {name}, "
                f"{100 * dropped.deviation:.0f} points more or less by the luck of its "
                f"weights{other}: limoe rehearse tells how long that lasts"
            )


def rules_of(moe: MoeParams) -> tuple[str, ...]:
    """The rules that can be tried on a router."""
    return PRIORITIES if moe.router in RULED else (moe.router,)


def untrained(params: Params, prepared: Prepared, track: Track) -> Untrained | None:
    """Passes of `balance.seeds` fresh models over `balance.batches` training batches each; None for no seeds.

    Sets this process's number of threads, as a training does. UserError where a training would raise one for its data.
    """
    train = params.train_for("limoe").model_copy(update={"seed": OTHER_SEEDS})
    if not params.balance.seeds:
        return None
    torch.set_num_threads(train.threads)
    loader = Prefetched(PairLoader(prepared, params.model.tower, train, params.machine), pick_device(params.machine.device))
    drops: list[dict[str, tuple[Drops, Drops]]] = []
    biases: list[tuple[EntropyBias, EntropyBias]] = []
    try:
        for seed in track(range(params.balance.seeds), "untrained models"):
            task = fresh_task(params, prepared, OTHER_SEEDS + seed)
            batches = [next(loader) for _ in range(params.balance.batches)]
            outputs = {rule: passes(task, batches, rule) for rule in rules_of(params.model.moe)}
            drops.append({rule: drops_of(found, params.model.moe) for rule, found in outputs.items()})
            biases += [_biases(output, params.model.moe) for output in next(iter(outputs.values()))]
    finally:
        loader.close()
    rules = tuple(Rule.of(name, [one[name] for one in drops]) for name in drops[0])
    chosen = params.model.moe.priority if len(rules) > 1 else rules[0].name
    entropy = tuple(EntropyBias(*map(fmean, zip(*of_modality, strict=True))) for of_modality in zip(*biases, strict=True))
    pairs = params.balance.batches * train.batch
    return Untrained(params.balance.seeds, pairs, rules, chosen, entropy, train.start_from)  # type: ignore[arg-type]


def fresh_task(params: Params, prepared: Prepared, seed: int) -> ContrastiveTask:
    """The contestant limoe at the start of a training with this seed."""
    train = params.train_for("limoe").model_copy(update={"seed": seed})
    device = pick_device(params.machine.device)
    torch.manual_seed(seed)
    model = build_model(model_config(params, "limoe", prepared, lengths=[]))
    assert isinstance(model, Limoe)
    model.bucket = train.bucket
    return ContrastiveTask(model.to(device).train(), params.model.moe, train, pick_precision(train.precision, device))


@torch.no_grad()
def passes(task: ContrastiveTask, batches: Sequence[PairBatch], rule: str) -> list[Output]:
    """One forward pass for each batch, as training's first steps but without learning, under a priority rule."""
    assert task.moe is not None
    for module in task.model.modules():
        if isinstance(module, Router):
            module.moe = task.moe.model_copy(update={"priority": rule} if rule in PRIORITIES else {})
    return [task.embed(batch, step) for step, batch in enumerate(batches)]


def drops_of(outputs: Sequence[Output], moe: MoeParams) -> tuple[Drops, Drops]:
    """Of text and of images, in all these batches."""
    found = [(output.routings, output.layout) for output in outputs if output.layout is not None]
    counts = [count(routings, layout) for routings, layout in found]
    layers = [LayerCounts.of(torch.stack([batch[layer] for batch in counts]).sum(0)) for layer in counts[0]]
    places = sum(int(capacities(layout.tokens_G, moe.k, moe.capacity_factor, moe.experts).sum()) for _, layout in found)
    return Drops.of(layers, TEXT, places * moe.experts), Drops.of(layers, IMAGE, places * moe.experts)


def _biases(output: Output, moe: MoeParams) -> tuple[EntropyBias, EntropyBias]:
    """Of text and of images, means over the blocks."""
    assert output.layout is not None
    pair_T = _pairs(output.layout)
    means = []
    for modality in (TEXT, IMAGE):
        member_T = (output.layout.modality_T == modality) & output.layout.real_T
        each = [
            entropy_bias(routing.probs_TE[member_T], pair_T[member_T], moe.group_pairs) for routing in output.routings.values()
        ]
        means.append(EntropyBias(*map(fmean, zip(*each, strict=True))))
    return means[0], means[1]


def _pairs(layout: Layout) -> Tensor:
    """int64 (T,): each row's pair."""
    assert layout.text is not None
    image_T = torch.arange(layout.images, device=layout.group_T.device).repeat_interleave(layout.patches)
    return torch.cat([image_T, layout.text.pair_N])
