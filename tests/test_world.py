"""What ranks do together, on two of them over gloo."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rankcases import everything
from rankkit import together

from limoe.world import ALONE


@pytest.fixture(scope="module")
def ranks() -> list[dict[str, Any]]:
    return together(2, everything)


def test_rows_are_gathered_and_their_gradients_come_back_summed(ranks):
    for found in ranks:
        assert found["gathered"].tolist() == [[1, 2], [2, 4]]
    assert [found["grad"].tolist() for found in ranks] == [[[3, 30]], [[300, 3000]]]  # 1 + 2 times the weights of its row


def test_sums_are_those_of_all_ranks_in_buckets_of_any_size(ranks):
    for found in ranks:
        assert [tensor.tolist() for tensor in found["sums"]] == [[3, 3, 3], 1, [2, 2], [[2, 2], [2, 2]], [2]]


def test_numbers_are_agreed_on_and_words_are_told(ranks):
    for found in ranks:
        assert found["tops"].tolist() == [1, 0]
        assert found["agreed"] == [1, 0, 0, 1]
        assert found["told"] == [{"rank": 0, "name": "ö"}, {"rank": 1, "name": "öö"}]


def test_alone_nothing_is_communicated():
    x_RV = torch.ones(2, 3, requires_grad=True)
    assert ALONE.gather(x_RV) is x_RV
    ALONE.sum_([x_RV])
    ALONE.max_(x_RV)
    ALONE.barrier()
    assert x_RV.eq(1).all()
    assert (ALONE.most(3), ALONE.agree(3), ALONE.collect("x"), ALONE.is_main) == (3, 3, ["x"], True)
    assert not torch.distributed.is_initialized()
