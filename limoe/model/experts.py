"""The experts' MLPs: Linear, GELU, Linear, each expert with its own weights.

Axes: S placed choices sorted by expert, C places of an expert, T rows of the stream, K choices, E experts, D width, F hidden
width.

Four kernels. `loop` is the specification; the others must equal it, gradients included. `grouped` is torch's grouped_mm over the
sorted choices. `slots` is a batched product over all places of all experts, empty ones included: its shapes do not depend on what
the router decided, so it can be compiled without graph breaks, and captured. `streamed` is the loop with a backward pass of its
own (limoe/model/streamed.py), for processors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.config import MoeParams
from limoe.model.across import across_ranks
from limoe.model.choices import Choices
from limoe.model.router import Routing
from limoe.model.rows import combine_rows, dispatch_rows
from limoe.model.streamed import Slots, streamed_experts
from limoe.world import ALONE, World

SortedKernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
GROUPED_ALIGNMENT_BYTES = 16  # grouped_mm wants strides in multiples of it
SMALL_EXPERT = 2**15  # weights of one of its matrices
CPU_ROWS = 32  # oneDNN compiles a kernel for each number of bf16 rows, in about a millisecond: experts' numbers must recur


def loop_experts(x_SD: Tensor, counts_E: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor) -> Tensor:
    """One expert after the other: the plain version.

    The stacks are unbound once: indexing them inside the loop would make each expert's backward pass allocate the whole stack.
    """
    pieces = torch.split(x_SD, counts_E.tolist())
    weights = zip(w1_EDF.unbind(), b1_EF.unbind(), w2_EFD.unbind(), b2_ED.unbind(), strict=True)
    return torch.cat(
        [torch.addmm(b2, F.gelu(torch.addmm(b1, x, w1)), w2) for x, (w1, b1, w2, b2) in zip(pieces, weights, strict=True)]
    )


class _BiasRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, b_EF: Tensor, expert_S: Tensor, offsets_E: Tensor) -> Tensor:
        ctx.save_for_backward(offsets_E)
        return b_EF.index_select(0, expert_S)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (offsets_E,) = ctx.saved_tensors
        ones_S8 = grads[0].new_ones(len(grads[0]), 8)  # 8 columns where one would do: strides of 16 bytes
        return F.grouped_mm(ones_S8.T, grads[0].contiguous(), offs=offsets_E)[:, 0], None, None


def bias_rows(b_EF: Tensor, expert_S: Tensor, offsets_E: Tensor) -> Tensor:
    """`b_EF[expert_S]`, whose gradient is summed by a matrix product.

    Autograd would add row after row to a sum in the tensor's own dtype, which in bf16 stops growing after some hundred rows.
    offsets_E: int32, the end of each expert's rows; rows after the last count for nothing.
    """
    out: Tensor = _BiasRows.apply(b_EF, expert_S, offsets_E)
    return out


def grouped_experts(x_SD: Tensor, counts_E: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor) -> Tensor:
    """All experts in two grouped matrix products; needs float32, bfloat16 or float16 and aligned widths.

    Rows after the last expert's come out as zeros: grouped_mm leaves them, and their gradients, as it finds them.
    """
    ends_E = counts_E.cumsum(0)
    offsets_E = ends_E.to(torch.int32)
    place_S = torch.arange(len(x_SD), device=x_SD.device)
    expert_S = torch.searchsorted(ends_E, place_S, right=True).clamp(max=len(counts_E) - 1)
    inside_S1 = (place_S < ends_E[-1])[:, None]
    before_SF = torch.where(inside_S1, F.grouped_mm(x_SD, w1_EDF, offs=offsets_E) + bias_rows(b1_EF, expert_S, offsets_E), 0)
    y_SD = F.grouped_mm(F.gelu(before_SF), w2_EFD, offs=offsets_E) + bias_rows(b2_ED, expert_S, offsets_E)
    return torch.where(inside_S1, y_SD, 0)


def slot_experts(x_ECD: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor) -> Tensor:
    """All experts in two batched matrix products over their places: (E, C, D) -> (E, C, D)."""
    hidden_ECF = F.gelu(torch.baddbmm(b1_EF[:, None], x_ECD, w1_EDF))
    return torch.baddbmm(b2_ED[:, None], hidden_ECF, w2_EFD)


def choose_kernel(name: str, x_TD: Tensor, hidden: int, slots: int | None) -> str:
    """The kernel for these rows: what `name` asks for, or with `auto` the fastest that was measured (README, LOG.md).

    On a GPU that is `grouped`, for two-byte dtypes and aligned widths, else `slots`. On a processor it is
    `slots` for small experts, where a loop's own cost shows, else `streamed`. Without bounded places (evaluation) there are no
    slots: what asks for them gets `loop`, or `streamed` from `auto`.
    """
    if name == "auto":
        aligned = all(size * x_TD.element_size() % GROUPED_ALIGNMENT_BYTES == 0 for size in (x_TD.shape[1], hidden))
        on_gpu = "grouped" if x_TD.element_size() == 2 and aligned else "slots"
        small = slots is not None and x_TD.shape[1] * hidden <= SMALL_EXPERT
        name = ("slots" if small else "streamed") if x_TD.device.type == "cpu" else on_gpu
    return "loop" if name == "slots" and slots is None else name


class Experts(nn.Module):
    """E MLPs, stacked: matrices N(0, 1 / inputs), biases 0; each drawn by itself, or all copies of one (`moe.init`).

    owners: the ranks among whom the experts are divided (`divide`); alone, this one has them all.
    """

    owners = ALONE

    def __init__(self, experts: int, width: int, hidden: int, moe: MoeParams) -> None:
        super().__init__()
        self.kernel = moe.kernel
        drawn = 1 if moe.init == "identical" else experts
        self.w1_EDF = nn.Parameter((torch.randn(drawn, width, hidden) * width**-0.5).repeat(experts // drawn, 1, 1))
        self.b1_EF = nn.Parameter(torch.zeros(experts, hidden))
        self.w2_EFD = nn.Parameter((torch.randn(drawn, hidden, width) * hidden**-0.5).repeat(experts // drawn, 1, 1))
        self.b2_ED = nn.Parameter(torch.zeros(experts, width))

    def divide(self, owners: World) -> None:
        """Keep of the stacks the experts of this rank: equally many for each of the owners, in their order."""
        self.owners = owners
        for stack in self.parameters():
            stack.data = stack.data.chunk(owners.size)[owners.rank].clone()

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """(T, D): the sum over a row's placed choices of gate times expert output; zero for a row that was dropped."""
        device = x_TD.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x_TD.dtype
        x_TD, choices = x_TD.to(dtype), Choices.of(routing)
        if self.owners.size == 1:
            return self._compute(x_TD, choices)
        return across_ranks(x_TD, choices, len(self.w1_EDF) * self.owners.size, self.owners, self._compute)

    def _compute(self, x_TD: Tensor, choices: Choices) -> Tensor:
        """The same for rows that choose among the experts that are here."""
        weights: Sequence[Tensor] = (self.w1_EDF, self.b1_EF, self.w2_EFD, self.b2_ED)
        experts, _, hidden = self.w1_EDF.shape
        kernel = choose_kernel(self.kernel, x_TD, hidden, choices.slots)
        if kernel == "streamed":
            multiple = CPU_ROWS if x_TD.device.type == "cpu" and x_TD.element_size() < 4 else 1
            _, choice_S, counts_E, placed_E = choices.sorted(experts, multiple)
            slots = Slots(choice_S[: int(counts_E.sum())], counts_E.tolist(), placed_E.tolist())
            return streamed_experts(x_TD, choices.gate_TK, slots, *weights)
        weights = [weight.to(x_TD.dtype) for weight in weights]
        if kernel == "slots":
            assert choices.slots is not None
            slot_TK, choice_S = choices.slotted(experts, choices.slots)
            x_SD = dispatch_rows(x_TD, choices.row_of(choice_S), slot_TK, choices.placed_TK)
            y_SD = slot_experts(x_SD.view(experts, choices.slots, -1), *weights).flatten(0, 1)
        else:
            slot_TK, choice_S, counts_E, _ = choices.sorted(experts)
            if kernel != "grouped":  # which takes the empty rows at the end, and so shapes that no decision changes
                choice_S = choice_S[: int(counts_E.sum())]
            x_SD = dispatch_rows(x_TD, choices.row_of(choice_S), slot_TK, choices.placed_TK)
            y_SD = SORTED_KERNELS[kernel](x_SD, counts_E, *weights)
        return combine_rows(y_SD, choices.gate_TK, slot_TK, choice_S)


SORTED_KERNELS: dict[str, SortedKernel] = {"loop": loop_experts, "grouped": grouped_experts}
