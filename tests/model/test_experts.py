"""Kernels against the slow loop and each other, gradients included; a dropped token keeps only its residual."""

from __future__ import annotations

import numpy as np
import pytest
import reference_routing as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelkit import moe, tower

from limoe.model.encoder import Block
from limoe.model.experts import Experts, choose_kernel, grouped_experts, loop_experts
from limoe.model.router import NoiseKey, Routing
from limoe.model.tokens import Layout


def routing(rows: int, experts: int, k: int, drop: float, seed: int) -> Routing:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, experts, generator=generator, dtype=torch.float64)
    gate_TK, expert_TK = logits.softmax(1).topk(k, dim=1)
    placed = torch.rand(rows, k, generator=generator) >= drop
    return Routing(logits, logits, logits.softmax(1), expert_TK, gate_TK, placed, 0.0)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 20),
    experts=st.integers(2, 5),
    k=st.integers(1, 2),
    drop=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 9999),
)
def test_experts_equal_the_slow_loop(rows, experts, k, drop, seed):
    torch.manual_seed(seed)
    module = Experts(experts, 6, 10, "loop").double()
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    route = routing(rows, experts, k, drop, seed)
    x = torch.randn(rows, 6, dtype=torch.float64)
    weights = [w.detach().numpy() for w in (module.w1_EDF, module.b1_EF, module.w2_EFD, module.b2_ED)]
    expected = slow.moe(x.numpy(), route.expert_TK.tolist(), route.gate_TK.numpy(), route.placed_TK.tolist(), *weights)
    np.testing.assert_allclose(module(x, route).detach().numpy(), expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("drop", [0.0, 0.4])
def test_gradients_are_right(drop):
    torch.manual_seed(0)
    module = Experts(3, 4, 5, "loop").double()
    for weight in module.parameters():
        torch.nn.init.normal_(weight)
    route = routing(7, 3, 2, drop, 1)

    def run(x, gates, *weights):
        named = dict(zip(("w1_EDF", "b1_EF", "w2_EFD", "b2_ED"), weights, strict=True))
        return torch.func.functional_call(module, named, (x, Routing(**{**vars(route), "gate_TK": gates})))

    weights = [w.detach().clone().requires_grad_() for w in module.parameters()]
    x = torch.randn(7, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, route.gate_TK.clone().requires_grad_(), *weights))


@pytest.mark.parametrize("counts", [[3, 0, 5, 0], [8, 0, 0, 0], [2, 2, 2, 2]])
def test_grouped_equals_loop_gradients_included(counts):
    generator = torch.Generator().manual_seed(0)
    shapes = [(8, 16), (4, 16, 32), (4, 32), (4, 32, 16), (4, 16)]
    target = torch.randn(8, 16, generator=generator)
    results = []
    for kernel in (loop_experts, grouped_experts):
        fresh = torch.Generator().manual_seed(1)
        inputs = [torch.randn(shape, generator=fresh).requires_grad_() for shape in shapes]
        out = kernel(inputs[0], torch.tensor(counts), *inputs[1:])
        (out * target).sum().backward()
        results.append([out, *(tensor.grad for tensor in inputs)])
    for loop, grouped in zip(*results, strict=True):
        torch.testing.assert_close(grouped, loop, rtol=1e-4, atol=1e-4)


def test_auto_takes_grouped_only_where_it_runs():
    assert choose_kernel("auto", torch.zeros(1, 16), 32) is loop_experts  # measured faster on CPU
    assert choose_kernel("grouped", torch.zeros(1, 16), 32) is grouped_experts


def test_a_dropped_token_keeps_only_its_residual():
    torch.manual_seed(0)
    block = Block(tower(), moe(capacity_factor=0.5), layer=1).train()
    layout = Layout.of(6, 4, torch.tensor([2, 3, 1, 2, 4, 1]), torch.device("cpu"))
    x = torch.randn(len(layout.group_T), 16)
    out, route = block(x, layout, NoiseKey(0, 0))
    residual = x + block.attention(block.norm1(x), layout)
    dropped = ~route.placed_TK[:, 0]
    assert dropped.any()
    assert not dropped.all()
    torch.testing.assert_close(out[dropped], residual[dropped], rtol=0, atol=0)
    assert ((out - residual)[~dropped].abs().amax(1) > 1e-4).all()
