"""Labels by hand, and intervals that hold the truth as often as they promise."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats
from tablekit import AXES, LR, ONE, fails_with, row, trials

from limoe.sweep.axes import Axis
from limoe.sweep.findings import Share
from limoe.sweep.recommend import recommend_rows
from limoe.sweep.rows import Row
from limoe.sweep.success import count, curve, failures, find_reference, label, labelled_points, pair, reference_of, share


def curved(unit: float) -> float:
    """P(success), steep in the middle."""
    return 1 / (1 + math.exp(-8 * (unit - 0.5)))


def test_success_is_within_a_tenth_of_the_reference_and_without_alarm() -> None:
    limit = 3.3
    for kind, loss, expected in (
        ("ok", 3.3, True),
        ("ok", 3.31, False),
        ("collapsed", 3.0, False),
        ("unhealthy", 3.0, False),
        ("diverged", None, False),
        ("oom", None, False),
        ("pruned", 2.0, None),
        ("killed", None, None),
        ("error", None, None),
    ):
        assert label(row(0, kind, loss), limit) is expected


def test_the_reference_is_the_mean_over_the_seeds_of_the_robust_recipe() -> None:
    rows = [row(0, loss=3.0), row(0, loss=3.2, seed=1), row(1, "diverged", None, lr=9e-3)]
    reference = find_reference(rows, [LR])
    assert reference is not None
    assert (reference.loss, reference.seeds, reference.values) == (pytest.approx(3.1), 2, {"train.lr": 1e-3})
    assert reference.limit == pytest.approx(3.41)
    assert reference_of([]) is None


def test_recipes_are_counted_once_however_many_seeds_they_have() -> None:
    rows = [row(0, loss=3.0), row(0, loss=3.1, seed=1), row(0, loss=4.0, seed=2), row(1, loss=4.0), row(2, loss=4.0)]
    counted = count([*rows, row(3, "killed", None)], 3.3)
    assert (counted.successes, counted.labelled) == (2, 5)
    assert (counted.recipes.hits, counted.recipes.n) == (pytest.approx(2 / 3), 3)


def test_fresh_seeds_decide_between_the_finalists_and_give_the_reference() -> None:
    rows = [row(0, loss=2.8), row(1, loss=2.9, lr=2e-3), row(2, loss=3.6, lr=5e-3)]

    def again(first: tuple[float | None, ...], second: tuple[float, ...]) -> list[Row]:
        runs = [(0, 1e-3, first), (1, 2e-3, second)]
        ended = [(point, lr, seed, loss) for point, lr, losses in runs for seed, loss in enumerate(losses)]
        return [
            row(point, "ok" if loss is not None else "diverged", loss, seed=1000 + seed, lr=lr, phase="final")
            for point, lr, seed, loss in ended
        ]

    def found(finals: list[Row]) -> tuple[float, dict[str, float]]:
        reference = find_reference(rows, [LR], finals)
        assert reference is not None
        return reference.loss, reference.values

    assert found([]) == (2.8, {"train.lr": 1e-3})
    assert found(again((3.4, 3.2), (3.0, 3.1))) == (pytest.approx(3.05), {"train.lr": 2e-3})
    assert found(again((2.9, 3.0), (3.0, 3.1))) == (pytest.approx(2.95), {"train.lr": 1e-3})
    assert found(again((2.0, None), (3.0, 3.1))) == (pytest.approx(3.05), {"train.lr": 2e-3})  # a failure is worth chance
    best = recommend_rows(rows, [LR], finals=again((3.4, 3.2), (3.0, 3.1)))
    assert best is not None
    assert best.runner_up is not None
    assert (best.robust.point, best.robust.fresh, best.runner_up.point) == (1, pytest.approx(3.05), 0)


def test_counts_say_what_was_left_out() -> None:
    kinds = ["ok", "ok", "pruned", "killed", "error", "oom", "collapsed"]
    counted = count([row(i, kind, 3.0 + i) for i, kind in enumerate(kinds)], 3.3)
    assert (counted.trials, counted.points, counted.labelled, counted.successes) == (7, 7, 4, 1)
    assert (counted.pruned, counted.excluded) == (1, 2)
    assert counted.by_kind == {"collapsed": 1, "error": 1, "killed": 1, "ok": 2, "oom": 1, "pruned": 1}


def test_a_point_counts_once_with_the_share_of_its_seeds() -> None:
    rows = [row(0), row(0, seed=1), row(0, "collapsed", seed=2), row(0, "pruned", seed=3), row(1, "oom", None)]
    assert labelled_points(rows, 3.3) == [({"train.lr": 1e-3}, pytest.approx(2 / 3)), ({"train.lr": 1e-3}, 0.0)]


def test_the_failure_map_names_kind_modality_and_layer_and_what_fell_behind() -> None:
    rows = [row(0), row(1, "collapsed", modality="text", layer=3, evidence="why"), row(2, loss=4.0), row(3, "pruned")]
    first, second = failures(rows, 3.3)
    assert (first.kind, first.modality, first.layer, first.evidence) == ("collapsed", "text", 3, "why")
    assert (second.kind, second.loss, second.point) == ("behind", 4.0, 2)


def test_shares_have_jeffreys_intervals() -> None:
    assert share(0, 0) == Share(0, 0, None, 0, 1)
    one = share(3, 10)
    assert one.probability == pytest.approx(0.3)
    assert stats.beta.cdf(one.lower, 3.5, 7.5) == pytest.approx(0.025)
    assert stats.beta.cdf(one.upper, 3.5, 7.5) == pytest.approx(0.975)
    assert (share(0, 4).lower, share(4, 4).upper) == (0, 1)


def test_bins_are_choices_or_quantiles_that_hold_every_point_once() -> None:
    experts = AXES[1]
    points = [({"train.lr": 10 ** (-4 + i / 16), "model.moe.experts": (8, 16)[i % 2]}, float(i >= 16)) for i in range(32)]
    by_choice = curve(experts, points)
    assert [(one.choice, one.share.n) for one in by_choice.bins] == [(8, 16), (16, 16), (32, 0)]
    assert by_choice.smooth == []
    by_range = curve(LR, points)
    assert [one.share.n for one in by_range.bins] == [8, 8, 8, 8]
    assert [one.share.probability for one in by_range.bins] == [0, 0, 1, 1]
    assert by_range.smooth[0].x == pytest.approx(1e-4)
    assert by_range.smooth[-1].x == pytest.approx(1e-2)


def test_a_smooth_curve_is_the_kernel_mean() -> None:
    points = [({"train.lr": LR.value(0.5)}, 1.0), ({"train.lr": LR.value(0.6)}, 0.0)]
    near = curve(LR, points).smooth[20].share  # at 0.5, where the weights are 1 and exp(-(0.1 / 0.08)^2 / 2)
    weight = math.exp(-0.5 * (0.1 / 0.08) ** 2)
    assert near.probability == pytest.approx(1 / (1 + weight))
    assert near.n == pytest.approx((1 + weight) ** 2 / (1 + weight**2))
    far = curve(LR, points).smooth[0].share
    assert (far.lower, far.upper) == (pytest.approx(0, abs=0.01), pytest.approx(1, abs=0.01))


def test_pairs_count_every_point_in_one_cell() -> None:
    rows = trials(60, fails_with(lambda u: float(u[0] > 0.5 and u[2] > 0.5)))
    points = labelled_points(rows, 3.3)
    grid = pair(AXES[0], AXES[2], points)
    assert sum(cell.n for line in grid.cells for cell in line) == 60
    assert [sum(cell.n for cell in line) for line in grid.cells] == [one.share.n for one in grid.first_bins] == [20, 20, 20]
    assert grid.cells[0][0].probability == 1
    assert grid.cells[2][2].probability == 0


def test_points_without_a_value_are_left_out_of_its_curve() -> None:
    points = [({"train.lr": 1e-3}, 1.0), ({}, 0.0)]
    assert sum(one.share.n for one in curve(LR, points).bins) == 1
    assert curve(LR, []).bins == curve(LR, []).smooth == []
    assert sum(cell.n for line in pair(LR, AXES[1], points).cells for cell in line) == 0


def test_one_point_and_equal_points_make_a_bin() -> None:
    assert [one.share.n for one in curve(LR, [({"train.lr": 1e-3}, 1.0)] * 3).bins] == [3]
    assert curve(Axis("x", choices=("a",)), [({"x": "a"}, 1.0)]).bins[0].share.n == 1


def test_intervals_hold_the_truth_as_often_as_they_promise() -> None:
    held_bins, held_smooth = [], []
    for luck in range(60):
        rows = trials(96, fails_with(lambda u: 1 - curved(u[0])), space=ONE, luck=luck)
        found = curve(LR, labelled_points(rows, 3.3))
        for one in found.bins:
            assert one.low is not None
            assert one.high is not None
            inside = np.linspace(LR.unit(one.low), LR.unit(one.high), 50)
            held_bins.append(one.share.lower <= np.mean([curved(u) for u in inside]) <= one.share.upper)
        held_smooth += [one.share.lower <= curved(LR.unit(one.x)) <= one.share.upper for one in found.smooth]
    assert np.mean(held_bins) > 0.92  # 360 intervals: 0.95 less three standard errors, which are 0.011
    assert np.mean(held_smooth) > 0.90  # smoothing bends the steep part a little


def test_more_seeds_for_promising_points_do_not_make_success_likelier() -> None:
    rows = [row(i, "collapsed" if i % 2 else "ok", lr=LR.value(i / 40)) for i in range(40)]
    rows += [row(i, lr=LR.value(i / 40), seed=seed) for i in range(0, 40, 2) for seed in (1, 2)]
    shares = [one.share.probability for one in curve(LR, labelled_points(rows, 3.3)).bins]
    assert shares == [0.5] * 5
