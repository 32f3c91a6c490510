"""Auxiliary terms over the whole batch equal those of one group that holds it, however it is cut over micro-batches and ranks."""

from __future__ import annotations

import math

import pytest
import torch
from losskit import GROUP, PAIRS, routing_of
from modelkit import moe
from rankkit import together
from scopekit import ALL_TERMS, share

from limoe.losses.auxiliary import auxiliary_loss
from limoe.losses.batchwide import batch_sums, loss_of_sums
from limoe.model.tokens import Layout
from limoe.world import ALONE

TIGHT = {"rtol": 1e-9, "atol": 1e-12}


@pytest.mark.parametrize("layers", ["mean", "sum"])
@pytest.mark.parametrize("rule", ["average", "fixed"])
def test_it_is_the_loss_of_one_group_that_holds_the_batch(layers, rule):
    generator = torch.Generator().manual_seed(0)
    lengths_B = torch.randint(1, 4, (6,), generator=generator)
    few, one = (Layout.of(6, 3, lengths_B, torch.device("cpu"), group_pairs=pairs, text_shape=(7, 1)) for pairs in (2, 6))
    logits_TE, noise_TE = torch.randn(2, len(few.group_T), 4, generator=generator, dtype=torch.float64)
    routings = {1: routing_of(logits_TE, noise_TE, k=2), 3: routing_of(2 * logits_TE, noise_TE, k=2)}
    params = moe(k=2, layers=layers, aux_rule=rule, aux_scope="global", tau_text=1.5, tau_image=1.4, aux_weights=ALL_TERMS)
    wanted, each = auxiliary_loss(routings, one, params)
    found, parts = loss_of_sums(batch_sums(routings, few, params), params)
    torch.testing.assert_close(found, wanted, **TIGHT)
    torch.testing.assert_close(parts, each, **TIGHT)
    assert all(value > 1e-3 for value in parts.values())
    by_group, _ = auxiliary_loss(routings, few, params)
    assert abs(by_group - wanted) > 1e-3


def test_a_modality_that_no_token_has_says_nothing():
    pictures = Layout.of(2, 3, None, torch.device("cpu"))
    params = moe(experts=2, aux_weights=ALL_TERMS, tau_image=math.log(2), tau_text=1.0)
    _, each = loss_of_sums(batch_sums({1: routing_of(torch.tensor([[3.0, 0.0]] * 6))}, pictures, params), params)
    assert (each["global_text"].item(), each["local_text"].item()) == (0, 0)
    assert each["global_image"].item() > 0.1


def test_without_terms_there_is_nothing():
    layout, routings = Layout.of(2, 3, None, torch.device("cpu")), {1: routing_of(torch.zeros(6, 4))}
    for params in (moe(aux_coefficient=0.0), moe(aux_weights=dict.fromkeys(ALL_TERMS, 0.0))):
        total, each = loss_of_sums(batch_sums(routings, layout, params), params)
        assert (total.item(), each) == (0, {})


@pytest.fixture(scope="module")
def whole() -> dict[str, torch.Tensor]:
    """One batch at once, in one process."""
    return share(ALONE, 1)


def test_micro_batches_equal_the_whole_batch(whole):
    torch.testing.assert_close(share(ALONE, PAIRS // GROUP), whole, **TIGHT)
    assert whole["gradient/encoder.blocks.3.mlp.router.weight"].abs().sum() > 1e-3


@pytest.mark.parametrize("ranks, micro", [(2, 2), (4, 1)])
def test_ranks_add_up_to_the_whole_batch(whole, ranks, micro):
    for found in together(ranks, share, micro):
        torch.testing.assert_close(found, whole, **TIGHT)
