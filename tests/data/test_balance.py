"""The balance analysis against hand arithmetic and simulation."""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from limoe.config import ModelParams, Params
from limoe.data.advice import caption_warnings, kind_warnings, negatives_warnings, routing_warnings, worst_warnings
from limoe.data.balance import BATCH, BalanceReport, analyse
from limoe.data.needs import Needs, WorstCase, group_sizes, round_up, suggested
from limoe.data.negatives import Negatives
from limoe.data.prepared import Prepared
from limoe.data.scripts import Kind
from limoe.data.statistics import Lengths, equal_pairs, quantile
from limoe.data.tokenizer import Tokenizer
from limoe.errors import UserError
from limoe.paramsfile import read_yaml

DEFAULTS = read_yaml(Path(__file__).parents[2] / "params.yaml")
MIXTURE = {"emoji": 1.0, "scenes": 3.0}


def model(**moe: Any) -> ModelParams:
    tower = DEFAULTS["model"]["tower"] | {"image_size": 48, "patch_size": 8, "text_length": 4}
    return ModelParams.model_validate(DEFAULTS["model"] | {"tower": tower, "moe": DEFAULTS["model"]["moe"] | moe})


def asking(mixture: dict[str, float], **moe: Any) -> Params:
    """The default parameters with this mixture, the tower above and a batch of 8."""
    tower = DEFAULTS["model"]["tower"] | {"image_size": 48, "patch_size": 8, "text_length": 4}
    moe = DEFAULTS["model"]["moe"] | {"group_pairs": 256} | moe
    batch = max(8, moe["group_pairs"])
    prepare = DEFAULTS["prepare"] | {"sources": ["emoji", "scenes", "folder"]}
    values = {"model": DEFAULTS["model"] | {"tower": tower, "moe": moe}, "prepare": prepare}
    return Params.parse(DEFAULTS | values | {"train": DEFAULTS["train"] | {"mixture": mixture, "batch": batch}}, "test")


def quietly(steps: Sequence[int], what: str) -> Iterable[int]:
    return steps


@pytest.fixture
def report(make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]) -> BalanceReport:
    """Three emoji rows (two equal captions, two equal pictures), two scenes, two validation rows; the test shard is gone.

    A row of a source that the mixture leaves out must count for nothing.
    """
    rows = [
        make_row("emoji", 0, ["cat", "tom cat"]),
        make_row("emoji", 1, ["CAT "]),
        make_row("emoji", 2, ["dog"]),
        make_row("scenes", 10, ["cat dog cat dog cat"]),
        make_row("scenes", 11, ["dog cat dog"]),
        make_row("emoji", 20, ["cat"], split="val"),
        make_row("emoji", 21, ["cat ☃ dog"], split="val"),
        make_row("emoji", 30, ["dog"], split="unseen-style"),
        make_row("folder", 40, ["cat dog cat dog cat"]),
    ]
    for one, other in ((1, 0), (5, 2)):
        rows[one] |= {"image": rows[other]["image"], "sha256": rows[other]["sha256"]}
    root = make_prepared(rows)
    (root / "unseen-style-00000.parquet").unlink()
    return analyse(Prepared(root), asking(MIXTURE | {"folder": 0.0}), quietly)


def test_lengths_by_hand() -> None:
    weights = np.array([0.5, 0.5])
    lengths = Lengths.of([[[1] * 2, [1] * 6], [[1] * 3]], weights, text_length=4)  # weights: a quarter, a quarter, a half
    assert lengths.mean == pytest.approx(0.25 * 2 + 0.25 * 4 + 0.5 * 3)
    assert (lengths.p50, lengths.p95, lengths.longest) == (3, 4, 6)
    assert lengths.truncated == 0.25
    assert lengths.lost == pytest.approx(0.5 / 3.5)
    assert lengths.shares == (0, 0, 0.25, 0.5, 0, 0, 0.25)


@pytest.mark.parametrize("q, expected", [(0.25, 1), (0.5, 2), (0.75, 3), (0.76, 4), (1.0, 4)])
def test_quantile_by_hand(q: float, expected: int) -> None:
    assert quantile(np.array([0.0, 0.25, 0.25, 0.25, 0.25]), q) == expected


def test_equal_pairs_against_enumeration_and_simulation() -> None:
    rows = [["a"], ["a"], ["a", "b"], ["b", "c"], ["c", "c", "d"], ["e"]]
    chances = [{c: row.count(c) / len(row) for c in row} for row in rows]
    pairs = list(itertools.combinations(range(len(rows)), 2))
    whole = sum(sum(chances[i].get(c, 0) * p for c, p in chances[j].items()) for i, j in pairs)
    assert equal_pairs([rows], [6]) == pytest.approx(whole)
    rng, counts = random.Random(0), []
    for _ in range(8000):
        drawn = [rng.choice(row) for row in rng.sample(rows, 4)]
        counts.append(sum(a == b for a, b in itertools.combinations(drawn, 2)))
    assert equal_pairs([rows], [4]) == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / 8000**0.5)
    assert equal_pairs([[["a"]]], [1]) == 0


def test_equal_pairs_of_a_mixture_against_simulation() -> None:
    one, other = [["a"], ["a"], ["b"], ["c", "a"]], [["a", "b"], ["b"], ["d"]]
    rng, counts = random.Random(0), []
    for _ in range(8000):
        drawn = [rng.choice(row) for row in (*rng.sample(one, 3), *rng.sample(other, 2))]
        counts.append(sum(a == b for a, b in itertools.combinations(drawn, 2)))
    assert equal_pairs([one, other], [3, 2]) == pytest.approx(np.mean(counts), abs=4 * np.std(counts) / 8000**0.5)
    assert equal_pairs([one, other], [4, 0]) == equal_pairs([one], [4])


def test_scopes_count_tokens_by_source(report: BalanceReport) -> None:
    assert [scope.name for scope in report.scopes] == [BATCH, "emoji", "scenes"]
    batch, emoji, scenes = report.scopes
    assert [scope.rows for scope in report.scopes] == [5, 3, 2]
    tokens = [scope.lengths.mean for scope in report.scopes]
    assert tokens[0] == pytest.approx(0.25 * tokens[1] + 0.75 * tokens[2])  # by share, not by rows
    assert batch.lengths.truncated == pytest.approx(0.25 * emoji.lengths.truncated + 0.75 * scenes.lengths.truncated)
    assert sum(batch.lengths.shares) == pytest.approx(1)
    assert batch.routing.text_tokens == round(256 * tokens[0])
    assert report.mixture == {"emoji": 0.25, "scenes": 0.75}
    assert batch.image_tokens == 36
    assert emoji.ratio == pytest.approx(36 / tokens[1])
    assert scenes.lengths.truncated > emoji.lengths.truncated


def test_token_lengths_are_the_tokenizer_s(make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]) -> None:
    captions = ["cat", "cat dog", "cat dog bird cat dog bird"]
    root = make_prepared([make_row("emoji", i, [caption]) for i, caption in enumerate(captions)])
    tokenizer = Tokenizer.load(root / "tokenizer.json")
    lengths = [len(ids) for ids in tokenizer.encode(captions, 1000)]
    found = analyse(Prepared(root), asking({"emoji": 1.0}), quietly)
    assert [scope.name for scope in found.scopes] == [BATCH]
    assert found.scopes[0].lengths.mean == pytest.approx(np.mean(np.minimum(lengths, 4)))
    assert found.scopes[0].lengths.longest == max(lengths)


def test_duplicates_are_counted(report: BalanceReport) -> None:
    batch, emoji, scenes = (scope.duplicates for scope in report.scopes)
    assert (emoji.captions, emoji.pictures) == (2, 1)
    assert (scenes.captions, scenes.pictures) == (0, 0)
    assert (batch.captions, batch.pictures) == (2, 1)
    assert emoji.equal_pairs == pytest.approx(0.5)  # "cat" is drawn from the first row one half of the time


def test_validation_beside_training_and_no_test_split_is_opened(report: BalanceReport) -> None:
    (val,) = report.validation
    assert (val.split, val.rows, val.known_pictures, val.known_captions) == ("val", 2, 1, 0.5)
    assert 0 < val.unknown < 0.5
    assert val.unseen >= val.unknown
    assert report.vocabulary.unknown == 0


def test_routing_of_the_default_shape_by_hand() -> None:
    routing = Needs.of(36, 9.0, model(experts=16, group_pairs=256, capacity_factor=1.05).moe, 0.95)
    assert (routing.image_tokens, routing.text_tokens, routing.fair_share, routing.capacity) == (9216, 2304, 720, 756)
    assert routing.one_expert_priority_text == pytest.approx(756 / 2304)
    assert routing.one_expert_first_come_text == pytest.approx((756 - 576) / 2304)
    assert routing.experts_text == 5  # ceil(9 * 16 / 32) = 5 is more than the 3 that 95% of 2,304 tokens fill
    assert routing.experts_image == 12  # 95% of 9,216 tokens fill 11.6; ceil(20 * 16 / 32) = 10 is less
    assert (routing.tau_text, routing.tau_image) == (1.61, 2.49)  # log 5 = 1.609, log 12 = 2.485: never less
    assert routing.factor_first_come == 1.41  # (9216 / 16 + 0.95 * 2304 / 5) / 720 = 1.408
    assert routing.text_placed[0] == (1, routing.one_expert_first_come_text, routing.one_expert_priority_text)
    assert routing.text_placed[-1] == (16, 1.0, 1.0)
    text, image = routing.random_dropped["first-come"]
    assert 0.03 > text > 1 - routing.random_placed > image > 0


def test_many_text_tokens_raise_the_suggested_threshold() -> None:
    routing = Needs.of(4, 9.0, model(experts=16).moe, 0.95)
    assert routing.experts_text == math.ceil(0.95 * 2304 / 219) == 10  # 219 = ceil(3,328 * 1.05 / 16)


def test_warnings_name_figures_and_keys(report: BalanceReport) -> None:
    scopes, vocabulary = report.scopes, replace(report.vocabulary, unknown=0.02, used=0.3)
    text = "\n".join(caption_warnings(scopes, vocabulary, report.validation, 4))
    assert "scenes: 50.0% of the captions are longer than model.tower.text_length = 4 tokens" in text
    assert "emoji: 1 of 3 pictures repeat another one byte for byte" in text
    assert "2.00% of the tokens of training captions are unknown" in text
    assert "use only 30% of the" in text
    assert "1 of the 2 pictures of val are training pictures" in text


def test_routing_warnings_speak_of_the_minority_and_of_small_groups() -> None:
    few_text = model(experts=32, group_pairs=256).moe
    text = "\n".join(routing_warnings(Needs.of(196, 10.0, few_text, 0.95), few_text, 0.95))
    assert "only 4.9% of the tokens are text, the fair share of 1.6 experts" in text
    assert "tau_image" not in text
    low = model(experts=16, tau_text=0.5, group_pairs=2).moe
    text = "\n".join(routing_warnings(Needs.of(36, 9.0, low, 0.95), low, 0.95))
    assert "model.moe.tau_text = 0.50 lets text tokens gather on 1.6 experts; 5 are needed" in text
    assert "loads scatter in groups of 2 pairs: raise model.moe.capacity_factor to" in text
    good = model(experts=16).moe
    assert list(routing_warnings(Needs.of(36, 9.0, good, 0.95), good, 0.95)) == []


@pytest.mark.parametrize("value, expected", [(1.61, 1.61), (1.1, 1.1), (2.4849, 2.49), (1.0, 1.0), (1.0001, 1.01)])
def test_advice_is_rounded_up(value: float, expected: float) -> None:
    assert round_up(value) == expected


@pytest.mark.parametrize("tokens, group_pairs, text", [(36, 256, 9.0), (4, 256, 9.0), (9, 8, 9.0), (36, 3, 30.0), (16, 64, 20.0)])
def test_following_the_advice_ends_the_warning(tokens: int, group_pairs: int, text: float) -> None:
    low = model(experts=16, tau_text=0.5, tau_image=0.5, capacity_factor=1.0, group_pairs=group_pairs).moe
    for _ in range(2):  # another capacity asks for other thresholds
        found = Needs.of(tokens, text, low, 0.95)
        factor = max(low.capacity_factor, found.factor_random)
        changes = {"capacity_factor": factor, "tau_text": found.tau_text, "tau_image": found.tau_image}
        warnings = "\n".join(routing_warnings(found, low, 0.95))
        for key in ("tau_text", "tau_image"):
            assert f"model.moe.{key} = " not in warnings or f"set it to {changes[key]:.2f}" in warnings
        low = low.model_copy(update={key: float(f"{value:.2f}") for key, value in changes.items()})
    left = "\n".join(routing_warnings(Needs.of(tokens, text, low, 0.95), low, 0.95))
    assert "set it to" not in left
    assert "raise model.moe.capacity_factor" not in left


def test_report_is_json_and_metrics_are_few(report: BalanceReport) -> None:
    assert json.loads(json.dumps(report.to_dict(), allow_nan=False))["scopes"][0]["rows"] == 5
    leaves = [value for section in report.metrics().values() for value in section.values()]
    assert len(leaves) <= 10  # the untrained model adds two
    assert all(isinstance(value, int | float) for value in leaves)


def test_a_set_without_training_rows_is_refused(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    rows = [make_row("emoji", i, ["cat"]) for i in range(2)]
    root = make_prepared(rows)
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["splits"]["val"] = manifest["splits"].pop("train")
    (root / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no split 'train'"):
        analyse(Prepared(root), asking({"emoji": 1.0}), quietly)


def test_a_mixture_of_a_source_that_is_not_there_is_refused(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    root = make_prepared([make_row("emoji", i, ["cat"]) for i in range(2)])
    with pytest.raises(UserError, match=r"train\.mixture\.scenes: the prepared set has no training rows of that source"):
        analyse(Prepared(root), asking(MIXTURE), quietly)


def test_a_script_that_is_cut_or_unknown_is_named() -> None:
    kinds = [Kind("a", "Latin", 90, 0.9, 5.0, 0.0, 0.0, 40), Kind("a", "Arabic", 10, 0.1, 30.0, 0.5, 0.02, 9)]
    cut, unknown = kind_warnings(kinds)
    assert cut == "a: of its 10 captions in Arabic script 50.0% are cut"
    assert unknown == "a: 2.00% of the tokens of its captions in Arabic script are unknown to the tokenizer"
    assert list(kind_warnings(kinds[1:])) == [], "what is said of the source as a whole is enough"


def test_false_negatives_are_named_from_one_for_ten_pairs() -> None:
    (told,) = negatives_warnings(Negatives(batch=100, equal=3.0, alike=12.4, error=0.5))
    assert "a batch of 100 pairs holds about 12 pairs of captions that differ but share 80% of their tokens" in told
    assert list(negatives_warnings(Negatives(batch=100, equal=30.0, alike=9.9, error=0.5))) == []


def test_the_worst_case_of_a_small_batch_by_hand() -> None:
    """4 experts; of a pair 6 image tokens and 2 of text: 8 pairs are 64 tokens, 17 places at 1.05, and need 16 for all text."""
    worst = WorstCase.of(6, 2.0, model(experts=4, k=1, capacity_factor=1.05).moe, 1.0, (1, 8))
    one, eight = worst.sizes
    assert (one.pairs, eight.pairs) == (1, 8)
    assert (eight.factor_priority, eight.kept_priority) == (1.0, 1.0)
    assert one.kept_priority == 1.0  # 3 places for 2 tokens
    assert one.kept_first_come < 1 > eight.kept_first_come
    assert (worst.smallest_priority, worst.smallest_first_come) == (1, None)


def test_nothing_against_the_worst_case_is_worth_a_word() -> None:
    free = model(experts=16, aux_weights=DEFAULTS["model"]["moe"]["aux_weights"] | {"global_text": 0.0}).moe
    worst = WorstCase.of(36, 9.0, free, 0.95, (128, 256))
    (told,) = worst_warnings(worst, free)
    assert f"at best {756 / 2304:.0%} of it would be placed" in told
    assert f"model.moe.capacity_factor to {worst.sizes[1].factor_priority:.2f}" in told
    assert worst.sizes[1].factor_priority == math.ceil(100 * math.ceil(0.95 * 2304) / 720) / 100
    assert list(worst_warnings(worst, model(experts=16).moe)) == []


def test_the_suggestion_raises_capacity_where_groups_are_small() -> None:
    low = model(experts=16, group_pairs=2, capacity_factor=1.0).moe
    values = suggested(36, 9.0, low, 0.95)
    assert values["capacity_factor"] == Needs.of(36, 9.0, low, 0.95).factor_random > 1
    assert values["tau_text"] == Needs.of(36, 9.0, low.model_copy(update=values), 0.95).tau_text
    assert suggested(36, 9.0, model(experts=16).moe, 0.95)["capacity_factor"] == 1.05
    again = low.model_copy(update=values)
    assert suggested(36, 9.0, again, 0.95) == values, "whoever follows it is not advised again"


def test_auto_is_judged_by_what_it_stands_for(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]]
) -> None:
    """Groups of two pairs ask for more capacity than 1.05: auto has it already, and need not be told."""
    prepared = Prepared(make_prepared([make_row("emoji", i, [f"cat {i}"]) for i in range(4)]))
    asked = (asking({"emoji": 1.0}, group_pairs=2, router=router) for router in ("top-k", "auto"))
    plain, auto = (analyse(prepared, params, quietly) for params in asked)
    assert any("raise model.moe.capacity_factor" in warning for warning in plain.warnings)
    assert not any("raise model.moe.capacity_factor" in warning for warning in auto.warnings)
    assert auto.suggestion == plain.suggestion
    assert auto.scopes[0].routing.capacity > plain.scopes[0].routing.capacity


def test_group_sizes_have_the_one_in_use() -> None:
    assert group_sizes(96, 96) == [3, 6, 12, 24, 48, 96]
    assert group_sizes(96, 32) == [3, 6, 12, 24, 32, 48, 96]


def test_other_pictures_and_text_lengths_by_hand(report: BalanceReport) -> None:
    used, *others = report.settings
    assert used.in_use
    assert not any(other.in_use for other in others)
    assert (used.image_tokens, used.text_tokens) == (36, pytest.approx(report.scopes[0].lengths.mean))
    shown = {(row.image_size, row.patch_size, row.text_length): row for row in others}
    assert {size for size, *_ in shown} == {48, 224, 336}
    assert shown[48, 4, 4].image_tokens == 144
    assert shown[336, 14, 4].image_tokens == 576
    long = shown[48, 8, 77]
    lengths = report.scopes[0].lengths
    assert long.text_tokens == pytest.approx(sum(length * share for length, share in enumerate(lengths.shares)))
    assert (long.truncated, used.truncated) == (0, pytest.approx(lengths.truncated))
    assert used.bias_text == pytest.approx(-15 / (2 * report.scopes[0].routing.text_tokens))
