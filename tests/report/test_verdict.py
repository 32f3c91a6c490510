"""The sentences: a win is called a win, a loss a loss, and what was not shown is left open."""

import pytest

from limoe.evals.compare import MCNEMAR, Interval, Paired
from limoe.report.scores import Duel
from limoe.report.verdict import against, count, headline, points


def duel(baseline="dense", difference=0.1, p=0.001, name="test-scenes", metric="i2t_r1", unequal=""):
    test = Paired(difference, Interval(difference - 0.02, difference + 0.02), 30, 5, 100, p, p, MCNEMAR)
    return Duel(name, metric, baseline, 0.5 + difference, 0.5, test, unequal)


def test_a_win_says_in_how_many_tests():
    assert headline([duel(), duel(p=0.5)]) == "LIMoE beat the dense tower in 1 of 2 tests and lost none."


def test_a_loss_is_a_loss():
    assert headline([duel(difference=-0.1)]) == "LIMoE lost to the dense tower in 1 of 1 test and won none."


def test_both_ways_is_said_both_ways():
    found = headline([duel(), duel(difference=-0.1), duel(baseline="clip", p=0.06)])
    assert found == (
        "LIMoE beat the dense tower in 1 of 2 tests and lost to it in 1; it was not told apart from CLIP in any of 1 test."
    )


def test_a_difference_that_is_not_significant_is_no_win_however_large():
    found = headline([duel(difference=0.4, p=0.051)])
    assert "beat" not in found
    assert "not told apart" in found


def test_validation_sets_are_called_so_in_the_headline():
    found = headline([duel()], has_tests=False)
    assert (
        found == "On validation sets only, since there is no test set, LIMoE beat the dense tower in 1 of 1 test and lost none."
    )


def test_against_names_where_and_by_how_much_the_largest_first():
    told, lines = against("dense", [duel(difference=0.05), duel(difference=0.2), duel(difference=-0.3), duel(p=1.0)])
    assert told == "**Against the dense tower**, in 4 paired tests: better in 2, worse in 1, no difference shown in 1."
    assert [line.split(":")[0] for line in lines] == ["better", "better", "worse"]
    assert "70.0% against 50.0%, a difference of **+20.0 points** (+18.0 to +22.0)" in lines[0]
    assert "20.0% against 50.0%, a difference of **−30.0 points**" in lines[2]


def test_at_another_budget_no_model_is_better_and_the_headline_leaves_it_out():
    far = [duel("mine", unequal="40 × the pairs"), duel("mine", difference=-0.2, unequal="40 × the pairs")]
    assert headline([duel(), *far]) == "LIMoE beat the dense tower in 1 of 1 test and lost none."
    assert headline(far).startswith("No contestant had LIMoE's budget")
    assert [one.verdict for one in far] == ["higher score", "lower score"]
    told, lines = against("mine", far)
    assert told.startswith("**Against mine**, in 2 paired tests: higher score in 1, lower score in 1, no difference shown in 0.")
    assert "not equal (40 × the pairs): see [quality against cost](#pareto)" in told
    assert [line.split(":")[0] for line in lines] == ["higher score", "lower score"]
    assert duel("mine", p=0.2, unequal="40 × the pairs").verdict == "no difference shown"


def test_a_long_list_of_wins_points_to_the_table():
    _, lines = against("clip", [duel("clip", 0.1 + place / 100) for place in range(6)])
    assert lines[3:] == ["better in 3 more, [below](#paired-tests)"]


@pytest.mark.parametrize(
    "number, text",
    [
        (12_345_678, "12.3 M"),
        (999, "999"),
        (153_600, "154 k"),
        (2.1e8, "210 M"),
        (6e13, "60 T"),
        (3.78e15, "3.78 P"),
        (0.5, "0.5"),
    ],
)
def test_large_numbers_have_three_digits(number, text):
    assert count(number).replace("\N{NO-BREAK SPACE}", " ") == text


def test_a_difference_that_rounds_to_nothing_has_no_sign():
    assert (points(-0.0004), points(0.0006), points(-0.0006)) == ("0.0", "+0.1", "−0.1")
