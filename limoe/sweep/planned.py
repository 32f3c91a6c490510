"""A study whose trials are known beforehand, in the order in which they run: what ablations and further seeds share.

As in a sweep the trials' directories are the truth: opened again, a study runs what has no outcome.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from limoe.config import Contestant, Params
from limoe.sweep.directories import Directories
from limoe.sweep.outcome import Outcome
from limoe.sweep.role import Role, write_role
from limoe.sweep.variants import with_values
from limoe.sweep.work import Work


class Listed(NamedTuple):
    """A trial of the plan. directories: those that it belongs to. group: what of the study it is a training of."""

    directories: Directories
    work: Work
    group: str


class Planned:
    """The plan, worked off; of the shape of a Sweep: it says which trial runs next and hears how trials ended."""

    def __init__(self, listed: Sequence[Listed]) -> None:
        self._listed = {one.work.folder: one for one in listed}

    def next(self) -> Work | None:
        """A trial to start now; None if all others have ended or run."""
        one = next((one for one in self._listed.values() if one.directories.ready(one.work)), None)
        if one is None:
            return None
        write_role(one.work.folder, Role(one.work.number, one.work.phase, one.group))
        return one.directories.begin(one.work)

    def watch(self, running: list[Work]) -> None:
        """Nothing to do: no trial is stopped early."""

    def finish(self, work: Work, outcome: Outcome) -> None:
        """Take in how a trial ended; a killed one, and one with an error, is handed out once more."""
        self._listed[work.folder].directories.end(work, outcome)
        self.outcome(work)

    def retry(self, work: Work) -> None:
        """Whoever ran the trial has gone: hand it out again unless it left an outcome."""
        self._listed[work.folder].directories.end(work, None)

    def outcome(self, work: Work) -> Outcome | None:
        """How the trial ended; None if it has not."""
        return self._listed[work.folder].directories.outcome(work)

    @property
    def works(self) -> list[Work]:
        """All trials, in the order in which they run."""
        return [one.work for one in self._listed.values()]

    @property
    def done(self) -> bool:
        """Whether every trial has ended."""
        return self.ended == self.planned

    @property
    def ended(self) -> int:
        """Trials that have ended."""
        return sum(self.outcome(work) is not None for work in self.works)

    @property
    def planned(self) -> int:
        """Trials in all."""
        return len(self._listed)

    def group_of(self, work: Work) -> str:
        """What of the study the trial is a training of."""
        return self._listed[work.folder].group


class ByName:
    """Makes parameters of values by their dotted names (a directories.Resolver)."""

    def resolve(self, params: Params, values: Mapping[str, Any], seed: int, contestant: Contestant) -> Params:
        """The parameters with these values and this seed, validated, whatever the contestant; UserError if they do not fit."""
        del contestant
        return with_values(params, {**values, "train.seed": seed})
