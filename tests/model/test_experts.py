"""Kernels against the slow loop, gradients included, for any decisions; a dropped token keeps only its residual."""

from __future__ import annotations

import weakref

import numpy as np
import pytest
import reference_routing as slow
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from modelkit import moe, tower
from routekit import KERNELS, decisions, make_experts

from limoe.model import streamed
from limoe.model.encoder import Block
from limoe.model.experts import Experts, bias_rows, choose_kernel
from limoe.model.router import NoiseKey, Routing
from limoe.model.tokens import Layout

every_kernel = pytest.mark.parametrize("kernel", KERNELS)
WEIGHTS = ("w1_EDF", "b1_EF", "w2_EFD", "b2_ED")


@every_kernel
@settings(max_examples=30)
@given(
    rows=st.integers(1, 20),
    experts=st.integers(2, 5),
    k=st.integers(1, 2),
    drop=st.sampled_from([0.0, 0.4, 1.0]),
    seed=st.integers(0, 9999),
)
def test_experts_equal_the_slow_loop(kernel, rows, experts, k, drop, seed):
    dtype = KERNELS[kernel]
    module, route = make_experts(experts, kernel, seed), decisions(rows, experts, k, drop, seed, dtype)
    x = torch.randn(rows, 8, dtype=dtype)
    weights = [getattr(module, name).detach().double().numpy() for name in WEIGHTS]
    gates = route.gate_TK.double().numpy()
    expected = slow.moe(x.double().numpy(), route.expert_TK.tolist(), gates, route.placed_TK.tolist(), *weights)
    tolerance = 1e-9 if dtype == torch.float64 else 1e-4
    np.testing.assert_allclose(module(x, route).detach().numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kernel", ["loop", "slots", "streamed"])
@pytest.mark.parametrize("drop", [0.0, 0.4, 1.0])
def test_gradients_equal_finite_differences(kernel, drop):
    module, route = make_experts(3, kernel, 0), decisions(7, 3, 2, drop, 1)

    def run(x, gates, *weights):
        routing = Routing(**{**vars(route), "gate_TK": gates})
        return torch.func.functional_call(module, dict(zip(WEIGHTS, weights, strict=True)), (x, routing))

    weights = [getattr(module, name).detach().clone().requires_grad_() for name in WEIGHTS]
    x = torch.randn(7, 8, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(run, (x, route.gate_TK.clone().requires_grad_(), *weights), fast_mode=True)


@pytest.mark.parametrize("kernel", ["slots", "streamed", "grouped"])
@pytest.mark.parametrize("drop", [0.0, 0.4, 1.0])
def test_kernels_have_the_loops_gradients(kernel, drop):
    results = []
    for each in ("loop", kernel):
        module = make_experts(4, each, 0).float()
        route, x = decisions(12, 4, 2, drop, 1, torch.float32), torch.randn(12, 8).requires_grad_()
        gate_TK = route.gate_TK.clone().requires_grad_()
        out = module(x, Routing(**{**vars(route), "gate_TK": gate_TK}))
        (out * torch.linspace(-1, 1, 96).view(12, 8)).sum().backward()
        results.append([out, x.grad, gate_TK.grad, *(weight.grad for weight in module.parameters())])
    for loop, fast in zip(*results, strict=True):
        torch.testing.assert_close(fast, loop, rtol=1e-4, atol=1e-4)


@every_kernel
def test_bfloat16_is_near_and_leaves_float32_gradients(kernel):
    """Under autocast: products in bfloat16 (8 bits: relative errors of 1%), gates, output and weights' gradients in float32."""
    results = []
    for each, low in (("loop", False), (kernel, True)):
        module, x = (
            make_experts(4, each, 0).float(),
            torch.randn(12, 8, generator=torch.Generator().manual_seed(0)).requires_grad_(),
        )
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = module(x, decisions(12, 4, 2, 0.4, 1, torch.float32))
        (out * torch.linspace(-1, 1, 96).view(12, 8)).sum().backward()
        results.append([out.detach(), x.grad, *(weight.grad for weight in module.parameters())])
    for exact, near in zip(*results, strict=True):
        assert near.dtype == torch.float32
        assert (near - exact).norm() < 0.02 * exact.norm()


def test_the_gradient_of_a_bias_does_not_stagnate_in_bfloat16():
    """A sum of 3,000 ones that is rounded to 8 bits after every row stops at 256; an empty expert; rows after the last."""
    b_EF = torch.zeros(3, 8, dtype=torch.bfloat16, requires_grad=True)
    ends_E = torch.tensor([3000, 3000, 4000], dtype=torch.int32)
    rows_SF = bias_rows(b_EF, torch.tensor([0] * 3000 + [2] * 1100), ends_E)
    rows_SF.backward(torch.ones_like(rows_SF))
    assert b_EF.grad[:, 0].tolist() == pytest.approx([3000, 0, 1000], rel=2**-8)


@every_kernel
def test_an_expert_without_tokens_gets_a_gradient_of_zero(kernel):
    module, route = make_experts(4, kernel, 0), decisions(6, 4, 1, 0.0, 1, KERNELS[kernel])
    route = Routing(**{**vars(route), "expert_TK": torch.full((6, 1), 2), "slot_TK": torch.arange(6)[:, None]})
    out = module(torch.randn(6, 8, dtype=KERNELS[kernel]), route)
    (out * torch.randn_like(out)).sum().backward()
    for name in WEIGHTS:
        gradient = getattr(module, name).grad.flatten(1).abs().sum(1)
        assert (gradient > 0).tolist() == [False, False, True, False], name


@pytest.mark.parametrize("learns", [True, False])
def test_streamed_keeps_hidden_layers_for_a_backward_pass_alone(monkeypatch, learns):
    alive, hidden = [], streamed._hidden

    def noted(*arguments):
        rows = hidden(*arguments)
        alive.extend(map(weakref.ref, rows))
        return rows

    monkeypatch.setattr(streamed, "_hidden", noted)
    with torch.set_grad_enabled(learns):
        out = make_experts(4, "streamed", 0)(torch.randn(12, 8, dtype=torch.float64), decisions(12, 4, 2, 0.0, 1))
    assert len(alive) == 2 * 4  # of each expert, before and after its activation
    assert sum(one() is not None for one in alive) == (8 if learns else 0)
    assert out.requires_grad == learns


def test_experts_start_as_copies_or_each_by_itself():
    identical, independent = (Experts(4, 8, 16, moe(init=init)) for init in ("identical", "independent"))
    for name in ("w1_EDF", "w2_EFD"):
        assert (getattr(identical, name) == getattr(identical, name)[0]).all()
        assert not (getattr(independent, name)[1:] == getattr(independent, name)[0]).any()
    assert independent.w1_EDF.std().item() == pytest.approx(8**-0.5, rel=0.15)


@pytest.mark.parametrize("name,slots,kernel", [("slots", 9, "slots"), ("slots", None, "loop"), ("streamed", None, "streamed")])
def test_slots_need_bounded_places(name, slots, kernel):
    assert choose_kernel(name, torch.zeros(1, 16), 32, slots) == kernel


@every_kernel
def test_a_dropped_token_keeps_only_its_residual(kernel):
    torch.manual_seed(0)
    block = Block(tower(), moe(capacity_factor=0.5, kernel=kernel), layer=1).train()
    layout = Layout.of(6, 4, torch.tensor([2, 3, 1, 2, 4, 1]), torch.device("cpu"))
    x = torch.randn(len(layout.group_T), 16)
    out, route = block(x, layout, NoiseKey(0, 0).draw(layout, 1, 4))
    residual = x + block.attention(block.norm1(x), layout)
    dropped = ~route.placed_TK[:, 0]
    assert dropped.any()
    assert not dropped.all()
    torch.testing.assert_close(out[dropped], residual[dropped], rtol=0, atol=0)
    assert ((out - residual)[~dropped].abs().amax(1) > 1e-4).all()
