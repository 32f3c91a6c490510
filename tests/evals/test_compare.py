"""Bootstrap, sign flips, Holm and verdicts against scipy, known coverage and hand numbers."""

from itertools import combinations, product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest
from torchmetrics.functional.classification import multiclass_calibration_error

from limoe.evals.compare import (
    MCNEMAR,
    SIGN_FLIPS,
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


def class_weights(classes):
    """Each item's weight in a mean per class, which is 1 on average."""
    counts = np.bincount(classes)
    return len(classes) / (len(counts) * counts[classes])


def slow_intervals(classes, hits_NC, groups, seed, resamples=3000):
    """Resample by resample: of each class the share of its pictures that are drawn and hit, over the share that is drawn."""
    generator, names = np.random.default_rng(seed), sorted(set(groups))
    members = {name: [row for row, group in enumerate(groups) if group == name] for name in names}
    sizes, found = np.bincount(classes), []
    for _ in range(resamples):
        drawn = [row for place in generator.integers(len(names), size=len(names)) for row in members[names[place]]]
        of_class = [[row for row in drawn if classes[row] == one] for one in range(len(sizes))]
        whole = sum(len(mine) / size for mine, size in zip(of_class, sizes, strict=True))
        hit = sum(hits_NC[mine].sum(0) / size for mine, size in zip(of_class, sizes, strict=True))
        found.append(hit / whole)
    return np.quantile(found, [0.025, 0.975], axis=0).T


UNBALANCED = {
    "a hundred and five": np.repeat([0, 1], [100, 5]),
    "one or two each": np.repeat(np.arange(40), [1, 2] * 20),
    "a long tail": np.repeat(np.arange(8), [64, 32, 16, 8, 4, 4, 2, 2]),
}


@pytest.mark.parametrize("together", [1, 3], ids=["alone", "in groups"])
@pytest.mark.parametrize("classes", UNBALANCED.values(), ids=UNBALANCED)
def test_the_interval_of_a_mean_per_class_is_that_of_a_slow_count_and_lies_in_0_to_1(classes, together):
    hits_NC = (np.random.default_rng(1).random((len(classes), 3)) < [0.5, 0.9, 0.97]).astype(float)
    hits_NC[-1] = [1, 0, 1]
    groups = [f"{number // together:03d}" for number in range(len(classes))]
    weights_NC = np.tile(class_weights(classes)[:, None], 3)
    found = mean_intervals(hits_NC * weights_NC, resampler(len(classes), 10_000, groups=groups), weights_NC)
    assert all(0 <= interval.low < interval.high <= 1 for interval in found)
    slow = slow_intervals(classes, hits_NC, groups, seed=2)
    np.testing.assert_allclose([(one.low, one.high) for one in found], slow, atol=0.025)


@pytest.mark.parametrize("value, low, high", [(0.0, 0.0, beta.ppf(0.975, 1, 100)), (1.0, beta.ppf(0.025, 100, 1), 1.0)])
def test_classes_of_95_and_5_pictures_without_a_hit_or_a_miss_have_the_exact_bound(value, low, high):
    weights = class_weights(np.repeat([0, 1], [95, 5]))[:, None]
    (interval,) = mean_intervals(value * weights, resampler(100), weights)
    assert (interval.low, interval.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize("sizes", [[1] * 200, [60, 30, 20, 15, 12, 10, 10, 8, 8, 8, 5, 5, 5, 4]], ids=["one each", "a long tail"])
def test_intervals_of_a_mean_per_class_cover_it_about_95_times_in_100_or_more(sizes):
    classes, generator, trials = np.repeat(np.arange(len(sizes)), sizes), np.random.default_rng(0), 300
    shares = np.full(len(sizes), 0.4) if len(set(sizes)) == 1 else np.linspace(0.3, 0.9, len(sizes))
    hits_NC = (generator.random((len(classes), trials)) < shares[classes][:, None]).astype(float)
    weights_NC = np.tile(class_weights(classes)[:, None], trials)
    found = mean_intervals(hits_NC * weights_NC, resampler(len(classes)), weights_NC)
    assert sum(interval.low <= shares.mean() <= interval.high for interval in found) >= 0.91 * trials


def test_resamples_follow_from_seed_and_name_alone():
    values = np.random.default_rng(0).random((30, 2))
    first = resampler(30).means(values)
    np.testing.assert_array_equal(first, resampler(30).means(values))
    np.testing.assert_allclose(first[:, :1], resampler(30).means(values[:, :1]), rtol=1e-12)
    assert not np.array_equal(first, resampler(30, seed=1).means(values))
    assert not np.array_equal(first, resampler(30, name="other").means(values))


def test_resampling_in_blocks_gives_as_many_resamples(monkeypatch):
    monkeypatch.setattr("limoe.evals.compare.BLOCK_VALUES", 100)
    means = resampler(30, resamples=101).means(np.ones((30, 1)))
    assert means.shape == (101, 1)
    assert (means == 1).all()


@pytest.mark.parametrize("wins, losses", [(5, 0), (1, 5), (5, 1), (3, 3), (12, 30), (40, 18), (300, 340)])
def test_sign_flips_of_single_items_are_mcnemars_test(wins, losses):
    """With a group an item, p is the share of coin sequences at least as lopsided: McNemar's exact p."""
    difference = hits("1" * wins + "0" * (losses + 50)) - hits("0" * wins + "1" * losses + "0" * 50)
    exact = binomtest(wins, wins + losses).pvalue
    assert resampler(len(difference), 20_000).sign_flip(difference) == pytest.approx(exact, abs=0.012)


@pytest.mark.parametrize("wins, losses", [(0, 0), (1, 0), (5, 1), (3, 3), (0, 60), (700, 640), (30_000, 29_000)])
def test_mcnemars_test_is_that_of_scipys_binomial(wins, losses):
    expected = binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert mcnemar(wins, losses) == pytest.approx(expected, rel=1e-9)
    assert mcnemar(losses, wins) == mcnemar(wins, losses)


def test_sign_flips_of_groups_by_hand():
    """Sums of the groups 3, 1, 1 (and a group without difference): of 8 sign patterns only the two equal ones reach 5."""
    groups = ["a"] * 3 + ["b", "c", "d", "d"]
    assert resampler(7, 20_000, groups=groups).sign_flip(hits("1111110") - hits("0000001")) == pytest.approx(2 / 8, abs=0.012)


def test_no_difference_and_a_difference_in_one_group_show_nothing():
    assert resampler(4).sign_flip(np.zeros(4)) == 1
    assert resampler(4, groups=["a"] * 4).sign_flip(np.ones(4)) == 1


def test_sign_flips_follow_from_seed_and_name_and_not_from_blocks_being_cut(monkeypatch):
    difference = hits("1" * 20 + "0" * 12) - hits("0" * 20 + "1" * 12)
    whole = resampler(32).sign_flip(difference)
    assert whole == resampler(32).sign_flip(difference)
    assert whole != resampler(32, seed=1).sign_flip(difference) or whole != resampler(32, seed=2).sign_flip(difference)
    monkeypatch.setattr("limoe.evals.compare.BLOCK_VALUES", 100)
    assert resampler(32).sign_flip(difference) == pytest.approx(whole, abs=0.05)
    assert resampler(32).sign_flip(np.ones(32)) == 1 / 2001


def test_a_test_errs_no_more_than_its_level_where_groups_fall_together():
    """Two equal models on 80 groups of five items, each group hit as a whole: an item-wise test would err six times as often."""
    generator, trials = np.random.default_rng(0), 300
    wrong = item_wise = 0
    for trial in range(trials):
        first, second = (np.repeat((generator.random(80) < 0.4).astype(float), 5) for _ in range(2))
        wins, losses = int((first > second).sum()), int((first < second).sum())
        groups = [str(number // 5) for number in range(400)]
        wrong += paired(first, second, resampler(400, 400, seed=trial, groups=groups)).p < 0.05
        item_wise += binomtest(wins, wins + losses).pvalue < 0.05
    assert wrong <= 0.09 * trials
    assert item_wise >= 0.25 * trials


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1) | st.sampled_from([0.0, 0.01, 0.02, 0.5]), min_size=1, max_size=7))
def test_holm_is_bonferroni_of_every_subset_that_holds_the_test(p_values):
    """The closure principle, by brute force: a test's adjusted p is the largest Bonferroni p of all the families it is in."""
    places = range(len(p_values))
    subsets = [subset for size in range(1, len(p_values) + 1) for subset in combinations(places, size)]
    expected = [
        max(min(1.0, len(subset) * min(p_values[other] for other in subset)) for subset in subsets if place in subset)
        for place in places
    ]
    assert holm(p_values) == pytest.approx(expected, abs=1e-12)


def test_paired_counts_what_only_one_model_hits():
    first, second = hits("1110001111"), hits("1000001110")
    found = paired(first, second, resampler(10))
    assert (found.wins, found.losses, found.n) == (3, 0, 10)
    assert found.difference == pytest.approx(0.3)
    assert found.p == found.p_holm == 2 / 8
    assert found.test == MCNEMAR
    assert found.interval.low >= 0
    assert found.verdict == "no difference shown"


@pytest.mark.parametrize("classes", UNBALANCED.values(), ids=UNBALANCED)
def test_the_interval_of_a_difference_per_class_is_that_of_a_slow_count(classes):
    generator, weights = np.random.default_rng(3), class_weights(classes)
    first, second = ((generator.random(len(classes)) < share).astype(float) for share in (0.9, 0.4))
    found = paired(first * weights, second * weights, resampler(len(classes), 10_000), weights)
    per_class = [(first - second)[classes == one].mean() for one in range(classes.max() + 1)]
    assert found.difference == pytest.approx(np.mean(per_class))
    groups = [f"{number:03d}" for number in range(len(classes))]
    ((low, high),) = slow_intervals(classes, (first - second)[:, None], groups, seed=4)
    assert (found.interval.low, found.interval.high) == (pytest.approx(low, abs=0.03), pytest.approx(high, abs=0.03))
    assert -1 <= found.interval.low < found.interval.high <= 1


def test_a_test_per_class_flips_weighted_groups():
    """Of all sign patterns, written out: the share whose difference of means per class is at least as large."""
    classes = np.repeat([0, 1], [9, 3])
    first, second, weights = hits("111111000110"), hits("000001110000"), class_weights(classes)
    found = paired(first * weights, second * weights, resampler(12, 20_000), weights)
    patterns = np.array(list(product([-1, 1], repeat=12))) * (first - second)
    differences = [[row[classes == one].mean() for one in (0, 1)] for row in patterns]
    means = np.abs(np.mean(differences, axis=1))
    assert found.test == SIGN_FLIPS
    assert found.p == pytest.approx(np.mean(means >= abs(found.difference) - 1e-9), abs=0.012)
    assert (found.wins, found.losses) == (7, 2)


def test_a_model_that_alone_hits_everything_is_better_by_one_in_every_class():
    weights = class_weights(UNBALANCED["a long tail"])
    found = paired(weights, 0 * weights, resampler(len(weights)), weights)
    assert (found.interval.low, found.interval.high, found.verdict) == (pytest.approx(1), pytest.approx(1), "better")


def test_a_clear_difference_is_named_in_either_direction():
    first, second = hits("1" * 30 + "0" * 30), hits("0" * 25 + "1" * 5 + "0" * 30)
    assert paired(first, second, resampler(60)).verdict == "better"
    assert paired(second, first, resampler(60)).verdict == "worse"
    assert paired(first, first, resampler(60)).verdict == "no difference shown"


def test_items_that_fall_together_are_not_many_witnesses():
    """Twenty wins in one group of skin tones: one witness, which neither the test nor the interval believes."""
    first, second = hits("1" * 20 + "01" * 20), hits("0" * 20 + "01" * 20)
    groups = ["same"] * 20 + [f"own-{number}" for number in range(40)]
    found = paired(first, second, resampler(60, groups=groups))
    assert (found.wins, found.losses, found.p, found.test) == (20, 0, 1, SIGN_FLIPS)
    assert mcnemar(20, 0) < 1e-5
    assert found.verdict == "no difference shown"


def test_a_family_of_tests_is_held_to_the_level_as_a_whole():
    test = Paired(0.1, Interval(0.01, 0.2), 10, 2, 60, 0.03, 0.03, MCNEMAR)
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
