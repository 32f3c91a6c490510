"""Muon against torch.optim.Muon, matrix by matrix; and what it does to singular values and to experts without tokens."""

from __future__ import annotations

import pytest
import torch

from limoe.train.muon import Muon, orthogonal

LR, DECAY = 0.02, 0.1


def pulls(shape, steps=4):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) for _ in range(steps)]


def moved(start, gradients, optimizer):
    weight = torch.nn.Parameter(start.clone())
    moving = optimizer(weight)
    for gradient in gradients:
        weight.grad = None if gradient is None else gradient.clone()
        moving.step()
    return weight.detach()


def ours(weight):
    return Muon([{"params": [weight], "weight_decay": DECAY}], LR)


def theirs(weight):
    return torch.optim.Muon([weight], lr=LR, weight_decay=DECAY, adjust_lr_fn="match_rms_adamw")


def assert_same_steps(found, expected, start):
    """Equal to the rounding of bfloat16, in which both iterate: steps have entries of some hundredths."""
    torch.testing.assert_close(found - start, expected - start, rtol=2e-2, atol=2e-4)


@pytest.mark.parametrize("shape", [(24, 40), (40, 24), (16, 16)])
def test_a_matrix_moves_as_torchs_muon_moves_it(shape):
    start, gradients = torch.randn(shape), pulls(shape)
    assert_same_steps(moved(start, gradients, ours), moved(start, gradients, theirs), start)


@pytest.mark.parametrize("shape", [(3, 24, 40), (3, 40, 24)])
def test_each_expert_moves_as_torchs_muon_moves_a_matrix(shape):
    start, gradients = torch.randn(shape), pulls(shape)
    for gradient in gradients:
        gradient *= torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    together = moved(start, gradients, ours)
    for expert in range(3):
        alone = moved(start[expert], [gradient[expert] for gradient in gradients], theirs)
        assert_same_steps(together[expert], alone, start[expert])


def test_an_expert_that_no_token_reached_stays_as_torch_leaves_a_matrix_without_gradient():
    start, gradients = torch.randn(2, 24, 40), pulls((2, 24, 40), steps=5)
    for step in (1, 2):
        gradients[step][1] = 0.0
    together = moved(start, gradients, ours)
    alone = moved(start[1], [None if step in (1, 2) else gradients[step][1] for step in range(5)], theirs)
    assert_same_steps(together[1], alone, start[1])
    assert_same_steps(together[0], moved(start[0], [gradient[0] for gradient in gradients], theirs), start[0])


def test_singular_values_come_near_one_and_vectors_stay():
    generator = torch.Generator().manual_seed(0)
    u, v = (torch.linalg.qr(torch.randn(5, 32, 32, generator=generator))[0] for _ in range(2))
    matrices = u @ torch.diag(torch.logspace(-1, 1, 32)) @ v.mT
    found = orthogonal(matrices)
    assert found.dtype == torch.bfloat16
    between = u.mT @ found.float() @ v  # diagonal, if the singular vectors are the same
    values = between.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.5
    assert values.max() < 1.3
    assert (between - torch.diag_embed(values)).abs().max() < 0.05


def test_a_step_is_about_as_large_as_adams():
    start = torch.zeros(64, 256)
    step = moved(start, pulls((64, 256), steps=1), lambda weight: Muon([{"params": [weight]}], 1.0))
    assert float(step.square().mean().sqrt()) == pytest.approx(0.2, rel=0.2)  # arXiv 2502.16982: AdamW's are 0.2 to 0.4
