"""The layers under the clock: the sparse MLP as training runs it, a dense MLP of equal active FLOPs, and what memory alone costs.

Axes: T rows of the stream, D width, E experts, B pairs.

Balanced input, so that what is timed is the layer and not the luck of a router: router rows are orthonormal, so that rows of
standard normal numbers have independent standard normal logits; in each row the largest logit is swapped to the expert whose turn
it is in a random order, so that every expert wins T / E rows (plus or minus one). The router's noise then moves a few of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.harness import Subject
from limoe.config import MoeParams, Params
from limoe.model.encoder import Mlp, MoeMlp
from limoe.model.router import NoiseKey, Routing
from limoe.model.tokens import Layout
from limoe.train.meter import RoutingMeter, count, routing_rows

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"
# Tokens of 20 captions, evenly spaced among the sorted ones of the default training mixture (data/prepared: mean 8.7, at most 24)
CAPTION_QUANTILES = (2, 2, 3, 3, 4, 4, 5, 6, 6, 7, 7, 8, 10, 11, 12, 13, 15, 17, 19, 21)
LAYER = 1  # the block that the layer says it is in
MAX_DROPPED = 0.01  # share of choices: with more, the sparse layer would be timed doing less than the dense one


@dataclass(frozen=True)
class Shape:
    """Channels of the stream and of an expert, experts, tokens (images with their captions), patches an image."""

    width: int
    hidden: int
    experts: int
    tokens: int
    patches: int = 36

    def __str__(self) -> str:
        return f"width {self.width}, hidden {self.hidden}, E {self.experts}, {self.tokens:,} tokens"

    @classmethod
    def parse(cls, text: str) -> Shape:
        """WIDTHxHIDDENxEXPERTSxTOKENS.

        >>> str(Shape.parse("384x1536x8x8192"))
        'width 384, hidden 1536, E 8, 8,192 tokens'
        """
        width, hidden, experts, tokens = (int(part) for part in text.split("x"))
        return cls(width, hidden, experts, tokens)


def caption_lengths(pairs: int, tokens: int | None = None) -> Tensor:
    """int64 (B,): caption lengths spread as in the default data; the same is added to each (or taken) to make `tokens` in all.

    >>> caption_lengths(3).tolist(), caption_lengths(3, 30).tolist()
    ([3, 15, 7], [4, 17, 9])
    """
    lengths_B = torch.tensor([CAPTION_QUANTILES[(i * 13 + 3) % len(CAPTION_QUANTILES)] for i in range(pairs)])
    missing = 0 if tokens is None else tokens - int(lengths_B.sum())
    shares_B = (torch.arange(1, pairs + 1) * missing) // pairs
    return (lengths_B + shares_B.diff(prepend=shares_B.new_zeros(1))).clamp(min=1)


def layout_of(shape: Shape, device: torch.device) -> Layout:
    """Images and captions as they come in training, one routing group, exactly `tokens` rows."""
    mean = sum(CAPTION_QUANTILES) / len(CAPTION_QUANTILES)
    pairs = round(shape.tokens / (shape.patches + mean))
    lengths_B = caption_lengths(pairs, shape.tokens - pairs * shape.patches)
    return Layout.of(pairs, shape.patches, lengths_B, device, group_pairs=pairs)


def balanced_rows(router_ED: Tensor, tokens: int) -> Tensor:
    """float32 (T, D) of standard normal numbers whose largest logits under the orthonormal `router_ED` are spread evenly."""
    x_TD = torch.randn(tokens, router_ED.shape[1], device=router_ED.device)
    logits_TE = x_TD @ router_ED.T
    wanted_T1 = (torch.randperm(tokens, device=x_TD.device) % len(router_ED))[:, None]
    largest_T1, winner_T1 = logits_TE.max(1, keepdim=True)
    swapped_TE = logits_TE.scatter(1, winner_T1, logits_TE.gather(1, wanted_T1)).scatter(1, wanted_T1, largest_T1)
    return x_TD + (swapped_TE - logits_TE) @ router_ED


def orthonormal(experts: int, width: int, device: torch.device) -> Tensor:
    """(E, D) with orthonormal rows; E must not exceed D."""
    return torch.linalg.qr(torch.randn(width, experts)).Q.T.contiguous().to(device)


@dataclass(frozen=True)
class Input:
    """A stream that all subjects of a case share: rows (a leaf that wants a gradient), their layout, the router, the gradient."""

    shape: Shape
    precision: torch.dtype
    x_TD: Tensor
    layout: Layout
    router_ED: Tensor
    gradient_TD: dict[torch.dtype, Tensor]

    @classmethod
    def of(cls, shape: Shape, precision: torch.dtype, device: torch.device) -> Input:
        """Drawn anew. The gradient comes in the dtype of whatever output it meets."""
        router_ED = orthonormal(shape.experts, shape.width, device)
        x_TD = balanced_rows(router_ED, shape.tokens).requires_grad_()
        gradient_TD = torch.randn(shape.tokens, shape.width, device=device)
        gradients = {dtype: gradient_TD.to(dtype) for dtype in (torch.float32, torch.bfloat16)}
        return cls(shape, precision, x_TD, layout_of(shape, device), router_ED, gradients)

    def both_ways(self, forward: Callable[[], Tensor]) -> None:
        """Forward, in the precision of the case, and backward to the rows and all weights."""
        device = self.x_TD.device.type
        with torch.autocast(device, self.precision, enabled=self.precision != torch.float32):
            y_TD = forward()
        y_TD.backward(self.gradient_TD[y_TD.dtype].view(y_TD.shape))  # type: ignore[no-untyped-call]

    def subject(self, name: str, module: nn.Module, run: Callable[[], None]) -> Subject:
        """Times `run`; gradients of the module and the rows are set to None in between, as in training."""

        def free() -> None:
            module.zero_grad(set_to_none=True)
            self.x_TD.grad = None

        return Subject(name, run, free)


class Sparse:
    """The sparse layer as the training runs it: noise, router, softmax, BPR, dispatch, experts, combine, and the statistics.

    seed: of the noise. Layers that take turns need seeds of their own: on the same noise experts get the same numbers of rows,
    and a later layer would find the kernels that an earlier one had a library compile for them.
    """

    def __init__(self, given: Input, kernel: str, seed: int = 0) -> None:
        shape = given.shape
        self.given, self.seed = given, seed
        moe = moe_params(shape.experts, given.layout.images, kernel)
        self.layer = MoeMlp(shape.width, shape.hidden, moe, LAYER).to(given.x_TD.device).train()
        with torch.no_grad():
            self.layer.router.weight.copy_(given.router_ED)
        self.meter = RoutingMeter(given.x_TD.device)
        self.step = 0

    def run(self) -> None:
        """One step of the layer."""
        router, layout = self.layer.router, self.given.layout
        routings: dict[int, Routing] = {}

        def forward() -> Tensor:
            draws = NoiseKey(self.seed, self.step).draw(layout, LAYER, self.given.shape.experts)
            y_TD, routings[LAYER] = self.layer(self.given.x_TD, layout, draws)
            return y_TD

        self.given.both_ways(forward)
        self.meter.add(count(routings, layout))
        router.adjust(router.observe(routings[LAYER], layout))
        self.step += 1

    def dropped(self) -> float:
        """Share of all choices so far that found no place; RuntimeError above 1%, which no figure would be worth."""
        rows = routing_rows(self.meter.totals, self.step)
        share = 1 - sum(row["placed"] for row in rows) / sum(row["assigned"] for row in rows)
        if share > MAX_DROPPED:
            raise RuntimeError(f"{share:.1%} of the choices were dropped, more than {MAX_DROPPED:.0%}: the input is not balanced")
        return share


def moe_params(experts: int, group_pairs: int, kernel: str) -> MoeParams:
    """The paper's recipe for one routing group: top-1, BPR, capacity factor 1.05, noise 1 / E."""
    paper = {"router": "top-k", "k": 1, "priority": "bpr", "capacity_factor": 1.05, "noise": 1.0, "renormalise": False}
    given = {"experts": experts, "group_pairs": group_pairs, "kernel": kernel}
    return MoeParams.model_validate({**Params.load(PARAMS).model.moe.model_dump(), **paper, **given})


def dense_subject(given: Input) -> tuple[Subject, Mlp]:
    """Linear, GELU, Linear of an expert's hidden width: the active FLOPs of one expert a token."""
    mlp = Mlp(given.shape.width, given.shape.hidden).to(given.x_TD.device)
    return given.subject("dense", mlp, lambda: given.both_ways(lambda: mlp(given.x_TD))), mlp


def compiled_dense(given: Input, mlp: Mlp) -> Subject:
    """The same compiled by torch.compile; raises what the compiler raises, here and not under the clock."""
    compiled = torch.compile(mlp)
    subject = given.subject("dense, compiled", mlp, lambda: given.both_ways(lambda: compiled(given.x_TD)))
    subject.run()
    subject.reset()
    return subject


def memory_floor(given: Input) -> Subject:
    """What no sparse layer can avoid: reading all experts' weights twice, and writing their gradients once, over the last step's.

    The weights are float32. In bf16 each expert's are cast as they are read, which stays in the cache; gradients are float32.
    """
    shape = given.shape
    sizes = (shape.experts, shape.width, shape.hidden), (shape.experts, shape.hidden, shape.width)
    weights = [torch.randn(size, device=given.x_TD.device) for size in sizes]

    def read(matrix: Tensor) -> Tensor:
        return matrix.sum() if given.precision == torch.float32 else matrix.to(given.precision)

    gradients = [torch.zeros_like(weight) for weight in weights]

    def touch() -> list[Tensor]:
        for _ in range(2):
            for weight in weights:
                for matrix in weight:
                    read(matrix)
        return [gradient.fill_(0) for gradient in gradients]

    return Subject("memory floor", touch)
