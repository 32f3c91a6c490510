"""The sparse layer against its slow twin, forward and backward, for every router, order of claims and kernel.

Kernels are compared in float64 but for grouped, which has float32 alone. The slow layer is given the decisions, which
test_router_properties.py proves, and is float64 always.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import reference_routing as slow
import torch
from hypothesis import given, settings
from routekit import ROUTERS, Case, Slow, cases, slow_layer, state

from limoe.model.encoder import MoeMlp
from limoe.model.router import Routing

DTYPES = {"loop": torch.float64, "slots": torch.float64, "streamed": torch.float64, "grouped": torch.float32}
every_kernel = pytest.mark.parametrize("kernel", DTYPES)
every_router = pytest.mark.parametrize("router,priority", ROUTERS)
few = settings(max_examples=12)


def run(case: Case, router: str, priority: str, kernel: str, training: bool = True) -> tuple[MoeMlp, torch.Tensor, Slow, Routing]:
    """The layer's output, with what losses look at, and the rows it was given."""
    module = case.layer(router, priority, kernel, DTYPES[kernel]).train(training)
    layout, x_TD = case.layout(), case.x_TD(DTYPES[kernel]).requires_grad_()
    out_TD, routing = module(x_TD, layout, case.draws(layout) if training else None)
    return module, x_TD, Slow(out_TD, routing.logits_TE, routing.noisy_TE, routing.probs_TE), routing


def gradients(results: Slow, inputs: list[torch.Tensor], real_T: torch.Tensor, seed: int) -> tuple[torch.Tensor, ...]:
    """Of a random linear function of all results on real rows; zero where an input was not used."""
    generator = torch.Generator().manual_seed(seed)
    loss = torch.zeros((), dtype=torch.float64)
    for result in results:
        target = torch.randn(result.shape, generator=generator, dtype=torch.float64) * real_T[:, None]
        loss = loss + (result.double() * target).sum()
    return torch.autograd.grad(loss, inputs, materialize_grads=True)


def equals_slow(case: Case, router: str, priority: str, kernel: str, training: bool) -> None:
    module, x_TD, fast, routing = run(case, router, priority, kernel, training)
    parameters = [module.router.weight, *module.experts.parameters()]
    real_T = case.layout().real_T
    copies = [tensor.detach().double().requires_grad_() for tensor in (x_TD, *parameters)]
    noise_TE = case.draws(case.layout()).noise_TE.double() * case.noise / case.experts if training else torch.zeros(1)
    truth = slow_layer(copies[0], noise_TE, routing, copies[1:], case.renormalise)
    close = {"rtol": 1e-4, "atol": 1e-3} if kernel == "grouped" else {"rtol": 1e-9, "atol": 1e-9}
    for mine, expected in zip(fast, truth, strict=True):
        torch.testing.assert_close(mine[real_T].double(), expected[real_T], **close)
    ours = gradients(fast, [x_TD, *parameters], real_T, case.seed)
    theirs = gradients(truth, copies, real_T, case.seed)
    for mine, expected in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), expected, **close)


@every_kernel
@every_router
@few
@given(case=cases())
def test_training_equals_the_slow_layer_gradients_included(router, priority, kernel, case):
    equals_slow(case, router, priority, kernel, training=True)


@every_kernel
@pytest.mark.parametrize("router", ["top-k", "loss-free", "expert-choice", "uniform"])
@few
@given(case=cases())
def test_evaluation_equals_the_slow_layer_gradients_included(router, kernel, case):
    equals_slow(case, router, "bpr", kernel, training=False)


@every_router
@few
@given(case=cases(ties=False))
def test_the_whole_layer_equals_the_reference_in_python(router, priority, case):
    """Nothing of the layer's own goes in but its weights and the noise."""
    case = replace(case, noise=3.0)
    module, x_TD, fast, _ = run(case, router, priority, "slots")
    draws, (groups, modality, _) = case.draws(case.layout()), case.rows()
    weights = [w.detach().numpy() for w in module.experts.parameters()]
    noise_TE = draws.noise_TE.double().numpy() * 3.0 / case.experts
    rules = case.rules(router, priority, training=True)
    router_ED, x_TD = module.router.weight.detach().numpy(), x_TD.detach().numpy()
    expected = slow.moe_layer(
        x_TD, router_ED, noise_TE, groups, modality, rules, state(module.router), weights, draws.order_T.tolist()
    )
    real_T = case.layout().real_T.numpy()
    np.testing.assert_allclose(fast.out_TD.detach().numpy()[real_T], expected[real_T], rtol=1e-9, atol=1e-9)


@every_kernel
@every_router
@few
@given(case=cases())
def test_dropped_means_exactly_nothing(router, priority, kernel, case):
    _, x_TD, fast, routing = run(case, router, priority, kernel)
    dropped = ~routing.placed_TK.any(1)
    assert dropped[~case.layout().real_T].all()
    assert (fast.out_TD[dropped] == 0).all()
    (grad_TD,) = torch.autograd.grad(fast.out_TD.square().sum(), x_TD, materialize_grads=True)
    assert (grad_TD[dropped] == 0).all()


@pytest.mark.parametrize("kernel", ["loop", "slots", "streamed"])
@pytest.mark.parametrize("router", ["top-k", "loss-free", "expert-choice", "uniform"])
@pytest.mark.parametrize("renormalise", [False, True])
def test_gradients_equal_finite_differences(router, kernel, renormalise):
    """Of the output, with decisions that small steps do not change."""
    case = Case(3, 2, 2, 1, 2, "mixed", 0.7, 1, 1.0, False, renormalise, 0)
    module, layout = case.layer(router, "bpr", kernel, torch.float64).train(), case.layout()
    draws = case.draws(layout)

    def output(x_TD, *weights):
        names = [name for name, _ in module.named_parameters()]
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x_TD, layout, draws))[0]

    inputs = [case.x_TD(torch.float64), *module.parameters()]
    assert torch.autograd.gradcheck(output, [each.detach().requires_grad_() for each in inputs], fast_mode=True)
