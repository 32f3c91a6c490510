"""What the comparison found, in sentences that say no more than was shown: a win is a win, a loss a loss, the rest is open."""

from __future__ import annotations

from collections.abc import Sequence

from limoe.evals.metrics import UNCAPTIONED
from limoe.report.evidence import Evidence
from limoe.report.names import METRICS, in_sentence
from limoe.report.scores import Duel, Measured, has_tests, reported_sets

LISTED = 3  # differences that a sentence names; the table has them all


def tally(duels: Sequence[Duel]) -> tuple[int, int]:
    """(tests in which LIMoE was better, tests in which it was worse), or its score higher and lower at another budget."""
    verdicts = [duel.paired.verdict for duel in duels]
    return verdicts.count("better"), verdicts.count("worse")


def by_baseline(duels: Sequence[Duel]) -> dict[str, list[Duel]]:
    """The duels with each baseline, in their order."""
    found: dict[str, list[Duel]] = {}
    for duel in duels:
        found.setdefault(duel.baseline, []).append(duel)
    return found


def headline(duels: Sequence[Duel], has_tests: bool = True) -> str:
    """One sentence: whether LIMoE beat each baseline of equal budget, and in how many of the tests. has_tests: whether these are
    on test sets."""
    equal = by_baseline([duel for duel in duels if not duel.unequal])
    if not equal:
        return "No contestant had LIMoE's budget, so that none is called better: scores are shown against what they cost."
    clauses = [_clause(in_sentence(baseline), mine) for baseline, mine in equal.items()]
    where = "" if has_tests else "On validation sets only, since there is no test set, "
    return f"{where}LIMoE {'; it '.join(clauses)}."


def _clause(name: str, duels: Sequence[Duel]) -> str:
    (won, lost), tests = tally(duels), f"{len(duels)} test{'s' if len(duels) > 1 else ''}"
    if won and lost:
        return f"beat {name} in {won} of {tests} and lost to it in {lost}"
    if won:
        return f"beat {name} in {won} of {tests} and lost none"
    if lost:
        return f"lost to {name} in {lost} of {tests} and won none"
    return f"was not told apart from {name} in any of {tests}"


def against(baseline: str, duels: Sequence[Duel]) -> tuple[str, list[str]]:
    """In how many tests LIMoE was better, worse or neither than one baseline; and where and by how much, the largest first. At
    another budget its score was higher or lower, and what that cost is said."""
    (won, lost), unequal = tally(duels), duels[0].unequal
    better, worse = ("higher score", "lower score") if unequal else ("better", "worse")
    told = (
        f"**Against {in_sentence(baseline)}**, in {len(duels)} paired tests: {better} in {won}, {worse} in {lost}, "
        f"no difference shown in {len(duels) - won - lost}."
    )
    if unequal:
        told += f" The budgets are not equal ({unequal}): see [quality against cost](#pareto)."
    lines = []
    for verdict in (better, worse):
        chosen = sorted((duel for duel in duels if duel.verdict == verdict), key=lambda duel: -abs(duel.paired.difference))
        lines += [f"{verdict}: {_difference(duel)}" for duel in chosen[:LISTED]]
        if len(chosen) > LISTED:
            lines.append(f"{verdict} in {len(chosen) - LISTED} more, [below](#paired-tests)")
    return told, lines


def main_test(measured: Sequence[Measured], evidence: Sequence[Evidence]) -> str:
    """Everyone's score on the first reported set, with chance where it is known."""
    first = next(one for one in measured if one.set == reported_sets(evidence)[0])
    scores = [one for one in measured if (one.set, one.metric) == (first.set, first.metric)]
    chance, classes = evidence[0].scores.get((first.set, "chance"), (None, 0))
    setting = f" (chance among {classes:,} names is {percent(chance, 2)})" if chance is not None else f" (among {first.n:,})"
    told = "; ".join(f"{in_sentence(one.model)} {percent(one.value)} ({span(one.low, one.high)})" for one in scores)
    what = "the main test" if has_tests(evidence) else "the first validation set"
    return f"**On {what}**, `{first.set}`, {METRICS[first.metric]}{setting}: {told}."


def uncaptioned(evidence: Sequence[Evidence]) -> list[str]:
    """A sentence for each reported set that has pictures which retrieval leaves out."""
    left = {name: evidence[0].scores[name, UNCAPTIONED] for name, metric in evidence[0].scores if metric == UNCAPTIONED}
    return [
        f"{round(share * pictures):,} of the {pictures:,} pictures of {name} have no caption, and no part in retrieval."
        for name, (share, pictures) in left.items()
        if name in reported_sets(evidence)
    ]


def price(evidence: Sequence[Evidence], timing: str) -> str:
    """What LIMoE holds and computes beside the first baseline. timing: name of the file that has the seconds."""
    ours, theirs = evidence[0].budget, evidence[1].budget
    return (
        f"**The price**: LIMoE holds {ours.params_total / theirs.params_total:.1f} times as many parameters as "
        f"{in_sentence(evidence[1].name)} ({count(ours.params_total)} against {count(theirs.params_total)}), and needs "
        f"{ours.params_active / theirs.params_active:.2f} times as many for one token and "
        f"{ours.forward / theirs.forward:.2f} times the FLOPs for a pair. "
        f"Its steps take longer than its FLOPs say, since tokens must be sent to experts: [{timing}]({timing})."
    )


def percent(share: float, digits: int = 1) -> str:
    """A share as a percentage.

    >>> percent(0.0841)
    '8.4%'
    """
    return f"{100 * share:.{digits}f}%"


def span(low: float, high: float) -> str:
    """An interval of shares, in per cent.

    >>> span(0.063, 0.107)
    '6.3 to 10.7'
    """
    return f"{100 * low:.1f} to {100 * high:.1f}"


def points(difference: float) -> str:
    """A difference of shares in percentage points, with its sign.

    >>> points(-0.051), points(-0.0001)
    ('−5.1', '0.0')
    """
    rounded = round(100 * difference, 1)
    return f"{rounded:+.1f}".replace("-", "−") if rounded else "0.0"


def count(number: float) -> str:
    """A large number in three digits; its unit stays on the same line.

    >>> count(12_345_678)
    '12.3\\xa0M'
    """
    for size, letter in ((1e21, "Z"), (1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g}\N{NO-BREAK SPACE}{letter}"
    return f"{number:.3g}"


def _difference(duel: Duel) -> str:
    low, high = points(duel.paired.interval.low), points(duel.paired.interval.high)
    return (
        f"`{duel.set}`, {METRICS[duel.metric]}: {percent(duel.ours)} against {percent(duel.theirs)}, "
        f"a difference of **{points(duel.paired.difference)} points** ({low} to {high})"
    )
