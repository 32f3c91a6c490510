"""Contestants with several seeds: what each reached on average, how much that varies, and LIMoE against each, seeds paired."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from limoe.evals.compare import holm, verdict
from limoe.evals.seeds import PairedSeeds, Spread, paired_seeds
from limoe.report.document import Block, Cell, Prose, Section, Table
from limoe.report.evidence import Evidence
from limoe.report.names import METRICS, title
from limoe.report.scores import AT_ANOTHER_BUDGET, TESTED, reported_sets
from limoe.report.tables import p_value, verdict_cell
from limoe.report.verdict import percent, points

Seeds = Mapping[str, Sequence[Evidence]]


@dataclass(frozen=True)
class SeedDuel:
    """LIMoE against one baseline on one set and metric, over the seeds that both have."""

    set: str
    metric: str
    baseline: str
    test: PairedSeeds
    p_holm: float
    unequal: str

    @property
    def verdict(self) -> str:
        """As of a duel on items: a model is better only at an equal budget."""
        found = verdict(self.test.difference, self.test.interval, self.p_holm)
        return AT_ANOTHER_BUDGET[found] if self.unequal else found


def seed_duels(seeds: Seeds) -> list[SeedDuel]:
    """The first contestant against each other that shares two seeds with it, on each reported set; adjusted as one family."""
    mine, *others = seeds.values()
    bare = [
        SeedDuel(name, metric, theirs[0].name, paired_seeds(*scores), 1.0, mine[0].budget.difference(theirs[0].budget))
        for theirs in others
        for name, metric in _tests(mine[0])
        if len((scores := _shared(mine, theirs, name, metric))[0]) > 1
    ]
    return [replace(duel, p_holm=p) for duel, p in zip(bare, holm([duel.test.p for duel in bare]), strict=True)]


def seeds_section(seeds: Seeds) -> list[Section]:
    """The tables, none where every contestant was trained once."""
    if all(len(trainings) == 1 for trainings in seeds.values()):
        return []
    blocks: list[Block] = [_spreads(seeds)]
    if duels := seed_duels(seeds):
        blocks.append(_duels(duels))
    else:
        blocks.append(Prose("No other contestant shares two seeds with LIMoE, so that none is tested over seeds.", "quiet"))
    return [Section("seeds", "Over seeds", blocks)]


def _tests(one: Evidence) -> list[tuple[str, str]]:
    return [(name, metric) for name in reported_sets([one]) for metric in TESTED if (name, metric) in one.items]


def _shared(mine: Sequence[Evidence], theirs: Sequence[Evidence], name: str, metric: str) -> tuple[list[float], list[float]]:
    """Both contestants' scores at the seeds that both have, in the order of the first one's."""
    ours, other = ({one.seed: one.scores[name, metric][0] for one in each if one.seed is not None} for each in (mine, theirs))
    both = [seed for seed in ours if seed in other]
    return [ours[seed] for seed in both], [other[seed] for seed in both]


def _spreads(seeds: Seeds) -> Table:
    rows = [
        [Cell(name, METRICS[metric]), *(_spread([one.scores[name, metric][0] for one in each]) for each in seeds.values())]
        for name, metric in _tests(next(iter(seeds.values()))[0])
    ]
    columns = ["Set", *(title(name) for name in seeds)]
    return Table("Mean over trainings, and their standard deviation", columns, rows, frozenset(range(1, len(columns))))


def _spread(scores: Sequence[float]) -> Cell:
    spread = Spread.of(scores)
    note = "one seed" if spread.deviation is None else f"sd {100 * spread.deviation:.1f}, {spread.n} seeds"
    return Cell(percent(spread.mean), note, spread.mean)


def _duels(duels: Sequence[SeedDuel]) -> Table:
    rows = [
        [
            Cell(duel.set, METRICS[duel.metric]),
            Cell(title(duel.baseline), duel.unequal or "equal budget"),
            Cell(str(duel.test.n), sort=duel.test.n),
            Cell(points(duel.test.difference), _between(duel.test), duel.test.difference),
            Cell(p_value(duel.p_holm), "paired t", duel.p_holm),
            verdict_cell(duel.verdict),
        ]
        for duel in duels
    ]
    columns = ["Test", "Against", "Seeds", "Difference, points", "p (Holm)", "Verdict"]
    return Table("LIMoE against each baseline, trainings of equal seed paired", columns, rows, frozenset({2, 3, 4}))


def _between(test: PairedSeeds) -> str:
    if test.interval.high == float("inf"):
        return "no spread"
    return f"{points(test.interval.low)} to {points(test.interval.high)}"
