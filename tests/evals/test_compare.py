"""Bootstrap, McNemar, Holm and verdicts against scipy, known coverage and hand numbers."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest
from torchmetrics.functional.classification import multiclass_calibration_error

from limoe.evals.compare import (
    Interval,
    Paired,
    Resampler,
    adjust,
    calibration_error,
    calibration_interval,
    holm,
    mcnemar,
    mean_intervals,
    paired,
)


def resampler(count, resamples=2000, seed=0, name="s", groups=None):
    return Resampler(groups or [str(number) for number in range(count)], resamples, seed, name)


def hits(pattern):
    return np.array([float(letter) for letter in pattern])


def test_intervals_of_a_binomial_cover_its_share_about_95_times_in_100():
    generator = np.random.default_rng(0)
    share, count, trials = 0.3, 200, 300
    samples = (generator.random((count, trials)) < share).astype(float)
    covered = sum(interval.low <= share <= interval.high for interval in mean_intervals(samples, resampler(count)))
    assert 0.91 * trials <= covered <= 0.98 * trials


def test_the_interval_of_a_mean_has_the_normal_width():
    values = hits("0" * 300 + "1" * 100)[:, None]
    (interval,) = mean_intervals(values, resampler(400))
    half = 1.96 * np.sqrt(0.25 * 0.75 / 400)
    assert interval.low == pytest.approx(0.25 - half, abs=0.006)
    assert interval.high == pytest.approx(0.25 + half, abs=0.006)


def test_items_of_a_group_are_resampled_together():
    """A hundred groups of four equal items know as much as a hundred items: the interval is twice as wide as for 400."""
    values = np.repeat(hits("01" * 50), 4)[:, None]
    (alone,) = mean_intervals(values, resampler(400))
    (grouped,) = mean_intervals(values, resampler(400, groups=[str(number // 4) for number in range(400)]))
    assert (grouped.high - grouped.low) / (alone.high - alone.low) == pytest.approx(2, rel=0.1)


def test_groups_of_unequal_size_count_by_their_items():
    sums, counts = resampler(3, groups=["a", "a", "b"]).sums(np.array([[1.0], [2.0], [10.0]]))
    assert {(float(total), float(count)) for total, count in zip(sums[:, 0], counts, strict=True)} == {(6, 4), (13, 3), (20, 2)}


@pytest.mark.parametrize("value, low, high", [(0.0, 0.0, beta.ppf(0.975, 1, 50)), (1.0, beta.ppf(0.025, 50, 1), 1.0)])
def test_no_hit_or_no_miss_gives_the_exact_bound(value, low, high):
    (interval,) = mean_intervals(np.full((50, 1), value), resampler(50))
    assert interval.low == pytest.approx(low)
    assert interval.high == pytest.approx(high)


def test_resamples_follow_from_seed_and_name_alone():
    values = np.random.default_rng(0).random((30, 2))
    first = resampler(30).means(values)
    np.testing.assert_array_equal(first, resampler(30).means(values))
    np.testing.assert_array_equal(first[:, :1], resampler(30).means(values[:, :1]))
    assert not np.array_equal(first, resampler(30, seed=1).means(values))
    assert not np.array_equal(first, resampler(30, name="other").means(values))


def test_resampling_in_blocks_gives_as_many_resamples(monkeypatch):
    monkeypatch.setattr("limoe.evals.compare.BLOCK_VALUES", 100)
    means = resampler(30, resamples=101).means(np.ones((30, 1)))
    assert means.shape == (101, 1)
    assert (means == 1).all()


def test_mcnemar_by_hand():
    assert mcnemar(0, 0) == 1
    assert mcnemar(5, 0) == 2 / 32
    assert mcnemar(1, 5) == mcnemar(5, 1) == 2 * (1 + 6) / 64
    assert mcnemar(3, 3) == 1


@given(st.integers(0, 400), st.integers(0, 400))
def test_mcnemar_equals_scipys_binomial_test(wins, losses):
    if wins + losses:
        assert mcnemar(wins, losses) == pytest.approx(binomtest(wins, wins + losses).pvalue, rel=1e-9)


def test_mcnemar_of_thousands_of_items():
    assert mcnemar(3000, 3200) == pytest.approx(binomtest(3000, 6200).pvalue, rel=1e-9)
    assert mcnemar(0, 5000) == 0.0  # below the smallest float


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_holm_keeps_the_order_and_lies_between_none_and_bonferroni(p_values):
    adjusted = holm(p_values)
    for p, q in zip(p_values, adjusted, strict=True):
        assert p <= q <= min(1, p * len(p_values)) + 1e-12 or q == max(adjusted)
    order = np.argsort(p_values, kind="stable")
    assert (np.diff(np.array(adjusted)[order]) >= 0).all()


def test_paired_counts_what_only_one_model_hits():
    first, second = hits("1110001111"), hits("1000001110")
    found = paired(first, second, resampler(10))
    assert (found.wins, found.losses, found.n) == (3, 0, 10)
    assert found.difference == pytest.approx(0.3)
    assert found.p == found.p_holm == 2 / 8
    assert found.interval.low >= 0
    assert found.verdict == "no difference shown"


def test_a_clear_difference_is_named_in_either_direction():
    first, second = hits("1" * 30 + "0" * 30), hits("0" * 25 + "1" * 5 + "0" * 30)
    assert paired(first, second, resampler(60)).verdict == "better"
    assert paired(second, first, resampler(60)).verdict == "worse"
    assert paired(first, first, resampler(60)).verdict == "no difference shown"


def test_items_that_fall_together_are_not_many_witnesses():
    """Twenty wins in one group of skin tones: McNemar alone would call it, the grouped interval does not."""
    first, second = hits("1" * 20 + "01" * 20), hits("0" * 20 + "01" * 20)
    groups = ["same"] * 20 + [f"own-{number}" for number in range(40)]
    found = paired(first, second, resampler(60, groups=groups))
    assert found.p < 1e-5
    assert found.verdict == "no difference shown"


def test_a_family_of_tests_is_held_to_the_level_as_a_whole():
    test = Paired(0.1, Interval(0.01, 0.2), 10, 2, 60, 0.03, 0.03)
    assert test.verdict == "better"
    assert [found.verdict for found in adjust([test, test])] == ["no difference shown"] * 2
    assert [found.p_holm for found in adjust([test, test])] == [0.06, 0.06]


def calibration_case(count, seed=0):
    generator = np.random.default_rng(seed)
    confidence = generator.random(count) * 0.98 + 0.01
    return confidence, (generator.random(count) < confidence**2).astype(float)


def test_calibration_error_equals_torchmetrics():
    confidence, hit = calibration_case(500)
    confidence = np.maximum(confidence, 0.51)  # above a tie of the two classes
    probabilities = torch.tensor(np.column_stack([1 - confidence, confidence]))
    expected = multiclass_calibration_error(probabilities, torch.tensor(hit).long(), num_classes=2, n_bins=15)
    assert calibration_error(confidence, hit, 15) == pytest.approx(float(expected), abs=1e-6)


def test_the_interval_of_the_calibration_error_is_not_moved_up_by_noise():
    """True error of confidence c with c^2 hits, c uniform: the mean of c - c^2 = 1/6."""
    intervals = [calibration_interval(*calibration_case(300, seed), 15, resampler(300, 400)) for seed in range(60)]
    errors = [calibration_error(*calibration_case(300, seed), 15) for seed in range(60)]
    assert all(interval.low <= error <= interval.high for interval, error in zip(intervals, errors, strict=True))
    assert sum(interval.low <= 1 / 6 <= interval.high for interval in intervals) >= 50


def test_a_perfectly_calibrated_model_may_have_no_error():
    confidence = np.full(400, 0.5)
    interval = calibration_interval(confidence, hits("01" * 200), 10, resampler(400))
    assert interval.low == 0
    assert interval.high < 0.05
