"""Everyone who is compared: the contestants trained here, further ones, other seeds of either, and who had to be left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from limoe.config import CONTESTANTS, CompareParams
from limoe.errors import UserError
from limoe.files import read_json
from limoe.paths import Paths
from limoe.report.evidence import Evidence, check_scored_alike, load_evidence, load_other


@dataclass(frozen=True)
class Lineup:
    """evidence: of each contestant, LIMoE first. seeds: by contestant, all of its trainings, the one in `evidence` first. absent:
    why a contestant is left out, by its name."""

    evidence: Sequence[Evidence]
    seeds: dict[str, list[Evidence]]
    absent: dict[str, str]


def load_lineup(paths: Paths, compare: CompareParams) -> Lineup:
    """Everyone's evidence; UserError if a contestant was not evaluated, or otherwise than the first."""
    evidence: list[Evidence] = load_evidence(paths, CONTESTANTS, compare.tuning)
    again: list[Evidence] = []
    absent: dict[str, str] = {}
    for name, other in compare.others.items():
        if (note := paths.evaluate(name) / "unavailable.json").is_file():
            absent[name] = read_json(note)["sentence"]
            continue
        one = load_other(paths, name, compare.tuning.get(name))
        check_scored_alike(paths, evidence[0], one)
        (evidence if other.seed_of is None else again).append(one)
    seeds = {one.name: [one] for one in evidence}
    for one in again:
        first = str(compare.others[one.name].seed_of)
        if first not in absent:
            _check_seed(seeds[first], one)
            seeds[first].append(one)
    return Lineup(evidence, seeds, absent)


def _check_seed(known: Sequence[Evidence], one: Evidence) -> None:
    """UserError unless `one` is another training of the first: of its size, budget and data, with a seed of its own."""
    first = known[0]
    unlike = first.budget.difference(one.budget)
    if unlike or one.budget.params_total != first.budget.params_total:
        raise UserError(f"compare.models.{one.name} is no other seed of {first.name}: {unlike or 'another number of parameters'}")
    if one.seed is None or one.seed in [other.seed for other in known]:
        told = "its seed is unknown" if one.seed is None else f"seed {one.seed} is there already"
        raise UserError(f"compare.models.{one.name}: {told}; seed_of takes trainings that differ in their seed alone")
