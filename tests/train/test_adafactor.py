"""Adafactor against its formulas written out, against torch's where both agree, and expert by expert."""

from __future__ import annotations

import math

import pytest
import torch

from limoe.train.adafactor import Adafactor

ROWS, COLUMNS = 40, 33


def gradients(shape, steps=3, dtype=torch.float64):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) * 10.0**-step for step in range(steps)]


def moved(start, gradients, lr=0.01, betas=(0.9, 0.98), weight_decay=0.0, factored=True):
    """The parameter after these gradients, and its state."""
    weight = torch.nn.Parameter(start.clone())
    optimizer = Adafactor([{"params": [weight], "weight_decay": weight_decay, "factored": factored}], lr, betas)
    for gradient in gradients:
        weight.grad = gradient.clone()
        optimizer.step()
    return weight.detach(), optimizer.state[weight]


def written_out(start, gradients, lr, betas, weight_decay, factored):
    """The module's formulas with whole matrices of squares; the mean is rounded as it is stored."""
    weight, squares, mean = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    for step, gradient in enumerate(gradients, 1):
        beta = min(betas[1], 1 - step**-0.8)
        squares = beta * squares + (1 - beta) * (gradient**2 + 1e-30)
        estimate = squares
        if factored:
            estimate = squares.mean(1, keepdim=True) * squares.mean(0, keepdim=True) / squares.mean()
        mean = betas[0] * mean + (1 - betas[0]) * gradient / estimate.sqrt()
        weight = weight - lr * weight_decay * weight - lr * mean
        mean = mean.to(torch.bfloat16).double()
    return weight


@pytest.mark.parametrize("factored", [True, False])
def test_three_steps_equal_the_formulas(factored):
    start, pulls = torch.randn(ROWS, COLUMNS, dtype=torch.float64), gradients((ROWS, COLUMNS))
    settings = {"lr": 0.01, "betas": (0.9, 0.5), "weight_decay": 0.1, "factored": factored}  # beta2 binds from the third step on
    found, state = moved(start, pulls, **settings)
    torch.testing.assert_close(found, written_out(start, pulls, **settings), rtol=1e-12, atol=1e-12)
    kept = {"row": (ROWS,), "column": (COLUMNS,)} if factored else {"square": (ROWS, COLUMNS)}
    assert {name: tuple(value.shape) for name, value in state.items()} == {"step": (), "mean": (ROWS, COLUMNS)} | kept
    assert state["mean"].dtype == torch.bfloat16


def test_the_first_step_of_a_vector_by_hand():
    # Step 1: the squares are those of the gradient, so that u = sign(g), and the mean takes a tenth of it.
    found, _ = moved(torch.tensor([1.0, -2.0]), [torch.tensor([0.003, -70.0])], lr=0.5, weight_decay=0.2)
    torch.testing.assert_close(found, torch.tensor([1.0 * 0.9 - 0.05, -2.0 * 0.9 + 0.05]))


def test_the_direction_is_torchs_without_what_torch_adds():
    # torch scales a step by the weights' RMS and clips it (not with d so large); no mean of steps, and no bound on beta2 there.
    start, pulls = torch.randn(ROWS, COLUMNS, dtype=torch.float64), gradients((ROWS, COLUMNS))
    theirs = torch.nn.Parameter(start.clone())
    optimizer = torch.optim.Adafactor([theirs], lr=0.01, d=1e9)
    ours = start
    for number, pull in enumerate(pulls, 1):
        before, size = theirs.detach().clone(), float(theirs.detach().square().mean().sqrt())
        theirs.grad = pull.clone()
        optimizer.step()
        after, _ = moved(start, pulls[:number], lr=1.0, betas=(0.0, 1.0))
        torch.testing.assert_close((theirs.detach() - before) / (0.01 * size), after - ours, rtol=1e-7, atol=1e-7)
        ours = after


def test_each_expert_moves_as_a_matrix_of_its_own():
    start, pulls = torch.randn(3, ROWS, COLUMNS), gradients((3, ROWS, COLUMNS), dtype=torch.float32)
    for pull in pulls:
        pull *= torch.tensor([1e-4, 1.0, 1e4])[:, None, None]  # what one expert sees must not reach another
    together, state = moved(start, pulls, weight_decay=0.1)
    assert tuple(state["row"].shape) == (3, ROWS)
    assert tuple(state["column"].shape) == (3, COLUMNS)
    for expert in range(3):
        alone, _ = moved(start[expert], [pull[expert] for pull in pulls], weight_decay=0.1)
        torch.testing.assert_close(together[expert], alone, rtol=1e-6, atol=1e-7)


def test_an_expert_without_tokens_only_follows_what_it_had():
    pulls = gradients((2, ROWS, COLUMNS), steps=200, dtype=torch.float32)
    for pull in pulls:
        pull.copy_(torch.randn(2, ROWS, COLUMNS))
        pull[1] = 0.0
    found, state = moved(torch.ones(2, ROWS, COLUMNS), pulls)
    assert torch.equal(found[1], torch.ones(ROWS, COLUMNS))
    assert torch.isfinite(found).all()
    assert all(torch.isfinite(value).all() for value in state.values())


@pytest.mark.parametrize("shape,factored", [((31, 500), False), ((500, 31), False), ((32, 32), True), ((64,), False)])
def test_small_matrices_and_vectors_are_not_factored(shape, factored):
    _, state = moved(torch.zeros(shape), [torch.ones(shape)])
    assert ("row" in state) == factored
    assert ("square" in state) != factored


def test_what_it_holds_is_little_more_than_two_bytes_a_weight():
    _, state = moved(torch.zeros(4, 256, 512), [torch.ones(4, 256, 512)])
    held = sum(value.numel() * value.element_size() for value in state.values())
    assert held == 2 * 4 * 256 * 512 + 4 * 4 * (256 + 512) + 4
    assert math.isclose(held / (4 * 256 * 512), 2, rel_tol=0.02)
