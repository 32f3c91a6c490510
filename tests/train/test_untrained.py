"""What an untrained model drops, against places given out one by one from the router's own probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reference_routing import place, top_k
from trainkit import prepare_shapes, recipe

from limoe.config import PRIORITIES, Params
from limoe.data.loader import PairLoader
from limoe.data.prepared import Prepared
from limoe.losses.entropy_bias import EntropyBias
from limoe.model.limoe import Output
from limoe.model.router import NoiseKey
from limoe.model.tokens import IMAGE, TEXT
from limoe.train.gradients import Gradients
from limoe.train.meter import LayerCounts
from limoe.train.untrained import (
    OTHER_SEEDS,
    Drops,
    Rule,
    Spread,
    Untrained,
    drops_of,
    fresh_task,
    passes,
    rules_of,
    untrained,
    warnings,
)

SETTINGS = ("balance.seeds=2", "balance.batches=2", "train.batch=32", "model.moe.group_pairs=16", "train.mixture={scenes: 1}")


def quietly(steps: Any, what: str) -> Any:
    return steps


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    return Prepared(prepare_shapes(tmp_path_factory.mktemp("untrained")).prepared)


def asked(*overrides: str) -> Params:
    return recipe(*SETTINGS, *overrides)


def batches_of(params: Params, prepared: Prepared, count: int) -> list[Any]:
    train = params.train.model_copy(update={"seed": OTHER_SEEDS})
    loader = PairLoader(prepared, params.model.tower, train, params.machine)
    try:
        return [next(loader).finished() for _ in range(count)]
    finally:
        loader.close()


def by_hand(output: Output, params: Params, rule: str, seed: int, step: int) -> tuple[list[float], list[float], list[float]]:
    """(dropped, lost, places) of text and of images, means over the blocks."""
    moe, layout = params.model.moe, output.layout
    assert layout is not None
    groups, modality = layout.group_T.tolist(), layout.modality_T.tolist()
    groups = [group if real else None for group, real in zip(groups, layout.real_T.tolist(), strict=True)]
    found = []
    for layer, routing in output.routings.items():
        probs = routing.noisy_TE.softmax(1).tolist()
        choices = [top_k(row, moe.k) for row in probs]
        largest = [max(row) for row in probs]
        shuffle = NoiseKey(seed, step).draw(layout, layer, moe.experts).order_T.tolist()
        placed = place(choices, largest, groups, moe.k, moe.capacity_factor, moe.experts, rule, modality, shuffle)
        places = sum(-(-n * moe.k * 105 // (100 * moe.experts)) for n in layout.tokens_G.tolist()) * moe.experts
        for m in (TEXT, IMAGE):
            mine = [row for row, of, group in zip(placed, modality, groups, strict=True) if of == m and group is not None]
            held = sum(map(sum, mine))
            found.append((1 - held / (len(mine) * moe.k), sum(not any(row) for row in mine) / len(mine), held / places))
    blocks = len(output.routings)
    means = [[sum(found[m::2][layer][column] for layer in range(blocks)) / blocks for m in (TEXT, IMAGE)] for column in range(3)]
    return means[0], means[1], means[2]


@pytest.mark.parametrize("rule", PRIORITIES)
@pytest.mark.parametrize("k", [1, 2])
def test_drops_are_what_giving_out_places_one_by_one_leaves(prepared: Prepared, rule: str, k: int) -> None:
    params = asked(f"model.moe.k={k}", "model.moe.blocks=last-2")
    (batch,) = batches_of(params, prepared, 1)
    (output,) = passes(fresh_task(params, prepared, 7), [batch], rule)
    text, image = drops_of([output], params.model.moe)
    dropped, lost, places = by_hand(output, params, rule, 7, 0)
    assert [text.dropped, image.dropped] == pytest.approx(dropped)
    assert [text.lost, image.lost] == pytest.approx(lost)
    assert [text.places, image.places] == pytest.approx(places)
    assert sum(dropped) > 0.05, "nothing to count"


def test_a_pass_is_the_first_step_of_a_training(prepared: Prepared) -> None:
    params = asked("model.moe.priority=text-first")
    batches = batches_of(params, prepared, 1)
    task = fresh_task(params, prepared, 3)
    trained = [LayerCounts.of(counts) for counts in Gradients(task)(batches[0], 0).counts.values()]
    text, image = drops_of(passes(fresh_task(params, prepared, 3), batches, "text-first"), params.model.moe)
    for modality, drops in ((TEXT, text), (IMAGE, image)):
        assert drops.dropped == pytest.approx(1 - int(trained[0].placed_ME[modality].sum()) / int(trained[0].tokens_M[modality]))


def test_seeds_and_batches_are_counted_and_averaged(prepared: Prepared) -> None:
    params = asked()
    found = untrained(params, prepared, quietly)
    assert found is not None
    assert (found.seeds, found.pairs, found.chosen) == (2, 64, "bpr")
    assert tuple(rule.name for rule in found.rules) == PRIORITIES
    batches = batches_of(params, prepared, 4)
    each = [drops_of(passes(fresh_task(params, prepared, OTHER_SEEDS), batches[:2], "bpr"), params.model.moe)]
    each += [drops_of(passes(fresh_task(params, prepared, OTHER_SEEDS + 1), batches[2:], "bpr"), params.model.moe)]
    assert found.own == Rule.of("bpr", each)
    assert found.own.dropped[TEXT].mean == pytest.approx((each[0][TEXT].dropped + each[1][TEXT].dropped) / 2)
    assert found.own.dropped[TEXT].deviation == pytest.approx(abs(each[0][TEXT].dropped - each[1][TEXT].dropped) / 2**0.5)
    assert found.metrics() == {
        "dropped_text": round(found.own.dropped[TEXT].mean, 4),
        "dropped_image": round(found.own.dropped[IMAGE].mean, 4),
    }
    for entropy in found.entropy:
        assert entropy.bias < entropy.independent < 0 < entropy.entropy
    assert untrained(params, prepared, quietly) == found


def test_who_goes_first_drops_least(prepared: Prepared) -> None:
    found = untrained(asked("balance.seeds=3"), prepared, quietly)
    assert found is not None
    dropped = {rule.name: [one.mean for one in rule.dropped] for rule in found.rules}
    assert dropped["text-first"][TEXT] < dropped["shuffled"][TEXT] < dropped["image-first"][TEXT]
    assert dropped["text-first"][IMAGE] > dropped["shuffled"][IMAGE] > dropped["image-first"][IMAGE]
    assert dropped["image-first"] == dropped["first-come"], "images stand first in the array"


@pytest.mark.parametrize("router", ["expert-choice", "uniform"])
def test_routers_with_a_rule_of_their_own(prepared: Prepared, router: str) -> None:
    params = asked(f"model.moe.router={router}", "model.moe.aux_weights.load=0")
    assert rules_of(params.model.moe) == (router,)
    found = untrained(params, prepared, quietly)
    assert found is not None
    assert [rule.name for rule in found.rules] == [found.chosen] == [router]


def test_no_seeds_no_passes(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text('{"version": 2}')
    assert untrained(asked("balance.seeds=0"), Prepared(tmp_path), quietly) is None


def test_spread_by_hand() -> None:
    assert Spread.of([0.1, 0.3]) == (pytest.approx(0.2), pytest.approx(0.02**0.5))
    assert Spread.of([0.4]) == (0.4, 0.0)


def test_a_modality_that_is_hardly_seen_is_worth_a_word() -> None:
    def rule(name: str, text: float, image: float) -> Rule:
        return Rule.of(name, [(Drops(text, text, 0.1), Drops(image, image, 0.8))] * 2)

    entropy = (EntropyBias(1.0, -0.1, -0.01),) * 2
    poor = Untrained(2, 64, (rule("bpr", 0.3, 0.2), rule("first-come", 0.7, 0.1)), "first-come", entropy)
    (told,) = warnings(poor)
    assert told.startswith("under first-come an untrained model drops 70% of text, 0 points more or less")
    assert "(30% under bpr)" in told
    assert list(warnings(replace(poor, chosen="bpr"))) == list(warnings(None)) == []
    (told,) = warnings(replace(poor, chosen="bpr", start="runs/train/dense"))
    assert told.startswith(
        "a training begins with the model of train.start_from (runs/train/dense), and not with an untrained one"
    )


def test_what_a_training_begins_with_instead_is_kept(prepared: Prepared) -> None:
    for overrides, start in (((), None), (("contestants.limoe.start_from=runs/train/dense",), "runs/train/dense")):
        found = untrained(asked("balance.seeds=1", "balance.batches=1", *overrides), prepared, quietly)
        assert found is not None
        assert found.start == start
