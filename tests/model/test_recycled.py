"""Memory that is used again: only when nothing refers to it, whoever that was."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import nn

from limoe.model import streamed
from limoe.model.recycled import Recycled


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_it_is_as_empty_like(dtype: torch.dtype) -> None:
    like = torch.zeros(3, 5, 7, dtype=dtype).transpose(0, 2)
    made = Recycled(least=1).empty_like(like)
    assert (made.shape, made.dtype, made.device) == (like.shape, dtype, like.device)
    assert made.is_contiguous()
    made.copy_(torch.arange(105, dtype=dtype).view(7, 5, 3))
    assert made[6, 4, 2] == 104


def test_memory_is_used_again_when_its_last_view_is_gone_and_not_before() -> None:
    recycled, like = Recycled(least=1), torch.zeros(64)
    first = recycled.empty_like(like).fill_(1)
    place = first.data_ptr()
    view = first[3:].detach()
    del first
    second = recycled.empty_like(like).fill_(2)
    assert second.data_ptr() != place
    assert view.tolist() == [1.0] * 61
    del view
    gc.collect()
    assert recycled.empty_like(like).data_ptr() == place
    for count in (72, 60):  # there is an eighth to spare, and a little smaller fits, too
        assert recycled.empty_like(torch.zeros(count)).data_ptr() == place
    for count in (73, 50):  # too large, and so small that most of it would lie idle
        assert recycled.empty_like(torch.zeros(count)).data_ptr() != place


def test_small_tensors_are_torchs_own() -> None:
    recycled = Recycled(least=1000)
    recycled.empty_like(torch.zeros(10))
    assert not recycled._free


def test_a_gradient_that_is_kept_stays_what_it_is_and_one_that_is_dropped_lends_its_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streamed, "RECYCLED", Recycled(least=1))
    generator = torch.Generator().manual_seed(0)
    x_TD, gate_TK = torch.randn(6, 4, generator=generator), torch.rand(6, 1, generator=generator)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in ((2, 4, 8), (2, 8), (2, 8, 4), (2, 4))]
    slots = streamed.Slots(torch.arange(6), [3, 3], [3, 3])

    def step(scale: float) -> None:
        for weight in weights:
            weight.grad = None
        streamed.streamed_experts(scale * x_TD, gate_TK, slots, *weights).square().sum().backward()

    step(1.0)
    kept = [weight.grad for weight in weights]
    copies = [gradient.clone() for gradient in kept if gradient is not None]
    step(2.0)
    assert all(torch.equal(gradient, copy) for gradient, copy in zip(kept, copies, strict=True))
    places = {weight.grad.data_ptr() for weight in weights if weight.grad is not None}
    places |= {gradient.data_ptr() for gradient in kept if gradient is not None}
    kept.clear()
    step(1.0)
    for weight, copy in zip(weights, copies, strict=True):
        assert weight.grad is not None
        assert torch.equal(weight.grad, copy)
        assert weight.grad.data_ptr() in places
