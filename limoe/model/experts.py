"""The experts' MLPs over tokens sorted by expert: Linear, GELU, Linear, each expert with its own weights.

Axes: S placed choices sorted by expert, T rows of the stream, K choices, E experts, D width, F hidden width.

`loop` is the specification; `grouped` (torch.nn.functional.grouped_mm) must equal it, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limoe.model.router import Routing
from limoe.model.rows import gather_rows

Kernel = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
GROUPED_ALIGNMENT_BYTES = 16  # grouped_mm wants strides in multiples of it


def loop_experts(x_SD: Tensor, counts_E: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor) -> Tensor:
    """One expert after the other: the plain version.

    The stacks are unbound once: indexing them inside the loop would make each expert's backward pass allocate the whole stack.
    """
    pieces = torch.split(x_SD, counts_E.tolist())
    weights = zip(w1_EDF.unbind(), b1_EF.unbind(), w2_EFD.unbind(), b2_ED.unbind(), strict=True)
    return torch.cat(
        [torch.addmm(b2, F.gelu(torch.addmm(b1, x, w1)), w2) for x, (w1, b1, w2, b2) in zip(pieces, weights, strict=True)]
    )


def grouped_experts(x_SD: Tensor, counts_E: Tensor, w1_EDF: Tensor, b1_EF: Tensor, w2_EFD: Tensor, b2_ED: Tensor) -> Tensor:
    """All experts in two grouped matrix products; needs float32, bfloat16 or float16 and aligned widths."""
    ends_E = counts_E.cumsum(0).to(torch.int32)
    expert_S = torch.repeat_interleave(torch.arange(len(counts_E), device=x_SD.device), counts_E)
    hidden_SF = F.gelu(F.grouped_mm(x_SD, w1_EDF, offs=ends_E) + b1_EF.index_select(0, expert_S))
    return F.grouped_mm(hidden_SF, w2_EFD, offs=ends_E) + b2_ED.index_select(0, expert_S)


def choose_kernel(name: str, x_SD: Tensor, hidden: int) -> Kernel:
    """The kernel that `name` asks for; `auto` takes `grouped` on a GPU where dtype and widths allow it, else `loop`.

    On two CPU cores `loop` was faster at width 128, `grouped` at width 64: the default names it (LOG.md, 2026-11-24).
    """
    if name == "auto":
        aligned = all(size * x_SD.element_size() % GROUPED_ALIGNMENT_BYTES == 0 for size in (x_SD.shape[1], hidden))
        name = "grouped" if x_SD.is_cuda and x_SD.element_size() <= 4 and aligned else "loop"
    return grouped_experts if name == "grouped" else loop_experts


class Experts(nn.Module):
    """E independent MLPs, stacked, each drawn by itself: matrices N(0, 1 / inputs), biases 0."""

    def __init__(self, experts: int, width: int, hidden: int, kernel: str) -> None:
        super().__init__()
        self.kernel = kernel
        self.w1_EDF = nn.Parameter(torch.randn(experts, width, hidden) * width**-0.5)
        self.b1_EF = nn.Parameter(torch.zeros(experts, hidden))
        self.w2_EFD = nn.Parameter(torch.randn(experts, hidden, width) * hidden**-0.5)
        self.b2_ED = nn.Parameter(torch.zeros(experts, width))

    def forward(self, x_TD: Tensor, routing: Routing) -> Tensor:
        """(T, D): the sum over a row's placed choices of gate times expert output; zero for a row that was dropped."""
        rows, choices = routing.expert_TK.shape
        experts = len(self.w1_EDF)
        bin_N = torch.where(routing.placed_TK, routing.expert_TK, experts).flatten()
        choice_S = bin_N.argsort(stable=True)[: int(routing.placed_TK.sum())]
        place_N = torch.full_like(bin_N, len(choice_S))
        place_N[choice_S] = torch.arange(len(choice_S), device=bin_N.device)
        dtype = torch.get_autocast_dtype(x_TD.device.type) if torch.is_autocast_enabled(x_TD.device.type) else x_TD.dtype
        x_SD = gather_rows(x_TD.to(dtype), choice_S // choices, place_N.view(rows, choices))
        kernel = choose_kernel(self.kernel, x_SD, self.w1_EDF.shape[2])
        counts_E = torch.bincount(bin_N, minlength=experts + 1)[:experts]
        weights = (weight.to(dtype) for weight in (self.w1_EDF, self.b1_EF, self.w2_EFD, self.b2_ED))
        y_SD = kernel(x_SD, counts_E, *weights)
        y_ND = gather_rows(y_SD, place_N, choice_S[:, None])
        y_TKD = y_ND.view(rows, choices, -1) * routing.gate_TK[:, :, None]
        return y_TKD[:, 0] if choices == 1 else y_TKD.sum(1)
