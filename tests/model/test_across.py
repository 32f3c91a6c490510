"""Experts divided over ranks equal experts in one process: outputs, gradients of rows, gates and weights, in float64."""

from __future__ import annotations

import pytest
import torch
from acrosskit import CASES, EXPERTS, Found, inputs, on_a_rank, run
from rankkit import together
from routekit import KERNELS, WIDTH, make_experts

from limoe.mesh import Mesh
from limoe.model.choices import Choices
from limoe.world import ALONE, World


@pytest.fixture(scope="module")
def ranks() -> dict[tuple[int, int], list[list[Found]]]:
    """By (ranks, owners): of each rank, of each case."""
    return {shape: together(shape[0], on_a_rank, shape[1]) for shape in ((2, 2), (4, 2))}


@pytest.mark.parametrize("shape", [(2, 2), (4, 2)])
@pytest.mark.parametrize("case", range(len(CASES)), ids=str)
def test_ranks_come_to_what_one_process_does(ranks, shape, case):
    drop, skewed, _ = CASES[case]
    expected = run([inputs(rank, drop, skewed) for rank in range(shape[0])], Mesh(), "loop")
    for rank, wanted in enumerate(expected):
        found = ranks[shape][rank][case]
        for name, value in wanted.items():
            torch.testing.assert_close(found[name], value, rtol=1e-12, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")
        assert (wanted["x"].abs().sum() > 0) == (drop != "all")


def test_rows_and_columns_must_fit():
    with pytest.raises(ValueError, match="4 ranks cannot stand in rows of 3"):
        Mesh.of(World(0, 4), 3)
    assert Mesh.of(ALONE, 1) == Mesh()


@pytest.mark.parametrize("kernel", KERNELS)
def test_an_owner_may_have_nothing_to_do(kernel):
    module, x_RD = make_experts(EXPERTS, kernel, 0), torch.zeros(0, WIDTH, dtype=KERNELS[kernel], requires_grad=True)
    out_RD = module._compute(x_RD, Choices.sure(torch.zeros(0, dtype=torch.int64), x_RD.dtype))
    out_RD.backward(torch.zeros_like(out_RD))
    assert (out_RD.shape, x_RD.grad.shape) == ((0, WIDTH), (0, WIDTH))
    assert not any(weight.grad.any() for weight in module.parameters())
