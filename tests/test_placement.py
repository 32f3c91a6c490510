"""Which blocks hold experts, and which placements are refused, with which sentence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from limoe.config import Params
from limoe.errors import UserError
from limoe.placement import moe_layers


@pytest.mark.parametrize(
    "depth,blocks,layers",
    [
        (2, "every-second", [1]),
        (7, "every-second", [1, 3, 5]),
        (8, "every-second", [1, 3, 5, 7]),
        (8, "last-1", [7]),
        (8, "last-3", [5, 6, 7]),
        (3, "last-3", [0, 1, 2]),
        (4, (3, 0), [0, 3]),
        (4, [2], [2]),
    ],
)
def test_blocks_are_counted_from_zero_and_come_in_order(depth: int, blocks: str | list[int], layers: list[int]) -> None:
    assert moe_layers(depth, blocks) == layers


@given(st.integers(2, 40).flatmap(lambda depth: st.tuples(st.just(depth), st.integers(1, depth))))
def test_the_last_n_are_n_and_end_with_the_last(case: tuple[int, int]) -> None:
    depth, last = case
    layers = moe_layers(depth, f"last-{last}")
    assert (len(layers), layers[-1]) == (last, depth - 1)
    assert layers == moe_layers(depth, layers[::-1])


@pytest.mark.parametrize(
    "blocks,sentence",
    [
        ("last-5", "moe.blocks: last-5 asks for more blocks than the tower's depth (4)"),
        ("[1, 4]", "moe.blocks: block 4 does not exist: a tower of depth 4 has the blocks 0 to 3"),
        ("[-1]", "moe.blocks: block -1 does not exist: a tower of depth 4 has the blocks 0 to 3"),
        ("[3, 1, 3]", "moe.blocks: block 3 is named twice"),
        ("[]", "moe.blocks: the list of blocks is empty; name a block"),
        ("last-0", "model.moe.blocks: 'last-0' is no placement; allowed are every-second, last-N, or a list of blocks"),
        ("last-two", "model.moe.blocks: 'last-two' is no placement"),
        ("every-other", "model.moe.blocks: 'every-other' is no placement"),
        ("[1.5]", "model.moe.blocks: [1.5] is no placement"),
        ("[true]", "model.moe.blocks: [True] is no placement"),
        ("3", "model.moe.blocks: 3 is no placement"),
        ("null", "model.moe.blocks: None is no placement"),
    ],
)
def test_what_no_tower_can_have_is_refused_with_one_sentence(project: Path, blocks: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        Params.load(project / "params.yaml", ("model.tower.depth=4", f"model.moe.blocks={blocks}"))
    assert sentence in str(caught.value)
    assert "more)" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("blocks", ["last-4", "[0, 3]", "[2]", "every-second"])
def test_what_fits_is_kept_as_written(project: Path, blocks: str) -> None:
    params = Params.load(project / "params.yaml", ("model.tower.depth=4", f"model.moe.blocks={blocks}"))
    assert str(list(params.model.moe.blocks) if isinstance(params.model.moe.blocks, tuple) else params.model.moe.blocks) == blocks
    assert Params.parse(params.model_dump(mode="json"), "again") == params


def test_text_that_is_no_placement_is_refused_below_the_settings_too() -> None:
    with pytest.raises(ValueError, match="'first-2' is no placement"):
        moe_layers(4, "first-2")
