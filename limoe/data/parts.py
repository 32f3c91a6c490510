"""From a part of a source to a folder of checked records: what one process does at a time, and loses if it is killed.

The folder is whole or absent, so one that is there is never made again, unless the files that it was read from have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from limoe import files
from limoe.config import PrepareParams
from limoe.data.captions import CaptionCheck
from limoe.data.checks import Checks, Opens, Scorer
from limoe.data.duplicates import hash_encoded
from limoe.data.groups import Tie, tie, write_ties
from limoe.data.schema import Record
from limoe.data.shards import REJECTED_SCHEMA, RowWriter, Shard, Written, record_writer
from limoe.data.sources import Part, Rejected, Source, build
from limoe.data.sources.states import state
from limoe.errors import UserError
from limoe.provenance import code_hash

RECORDS, TIES, REFUSED = "records.parquet", "ties.parquet", "rejected.parquet"
HASHES, DONE = "hashes.parquet", "part.json"
LATER = {"shard_rows", "tokenizer", "duplicates"}  # settings of what is made of the parts
REFUSED_SCHEMA = REJECTED_SCHEMA.append(pa.field("position", pa.int64(), nullable=False))  # among the part's candidates


@dataclass(frozen=True)
class PartTask:
    """A part to be read. number: its place among all parts of all sources."""

    number: int
    source: str
    part: Part

    def __str__(self) -> str:
        stop = "" if self.part.stop is None else self.part.stop
        return f"{self.source}, part {self.part.name}[{self.part.start}:{stop}]"


@dataclass(frozen=True)
class Made:
    """What came of a part. rows: its records. rejected: its other candidates, by reason. captions: those left out of records, by
    reason. content: SHA-256 of the records' file. inputs: of names and states of the files that it was read from."""

    rows: int
    rejected: dict[str, int]
    captions: dict[str, int]
    content: str
    inputs: str


@dataclass(frozen=True)
class Plan:
    """What sources, checks and folders are made from, in whichever process. settings: PrepareParams as JSON. root: what their
    paths are relative to. folder: where parts and shards lie until all are there. opens: the model that scores captions, if one
    does. code: hash of the code that may work on it."""

    settings: str
    root: Path
    folder: Path
    opens: Opens | None
    code: str

    @classmethod
    def of(cls, params: PrepareParams, root: Path, folder: Path, opens: Opens | None = None) -> Plan:
        """For this process's code."""
        return cls(params.model_dump_json(), root.resolve(), folder.resolve(), opens, _code(opens))


def part_settings(params: PrepareParams) -> dict[str, Any]:
    """What parts depend on of the settings: all but LATER, and whether they hold perceptual hashes."""
    return params.model_dump(mode="json", exclude=LATER) | {"hashed": _hashed(params)}


class Workshop:
    """What does the plan's tasks. Sent to another process it is only its plan, from which all else is made there, once.

    UserError if the settings name a language that nobody knows.
    """

    def __init__(self, plan: Plan, sources: Mapping[str, Source] | None = None) -> None:
        self.plan = plan
        self.params = PrepareParams.model_validate_json(plan.settings)
        self._words = CaptionCheck(self.params.captions)
        self._sources = sources

    def __reduce__(self) -> tuple[Any, ...]:
        return _workshop, (self.plan,)

    @property
    def sources(self) -> Mapping[str, Source]:
        """By name; UserError if this process has been running since before the code was changed."""
        if self._sources is None:
            if _code(self.plan.opens) != self.plan.code:
                raise UserError("this worker has other code of limoe than the process that sends the tasks: start it again")
            self._sources = build(self.params, self.plan.root)
        return self._sources

    @cached_property
    def scorer(self) -> Scorer | None:
        """The model that scores captions, if there is one."""
        return None if self.plan.opens is None else self.plan.opens()

    def tasks(self) -> list[PartTask]:
        """All parts of all sources, in the order of the set."""
        parts = [(name, part) for name, source in self.sources.items() for part in source.parts]
        return [PartTask(number, name, part) for number, (name, part) in enumerate(parts)]

    def part(self, number: int) -> Path:
        """The folder of a part."""
        return self.plan.folder / "parts" / f"{number:06d}"

    @property
    def shards(self) -> Path:
        """The folder of the shards."""
        return self.plan.folder / "shards"

    def make(self, task: PartTask) -> tuple[PartTask, Made]:
        """Read the part, unless that has been done."""
        source, folder = self.sources[task.source], self.part(task.number)
        inputs = _state(source, task.part)
        made = Made(**files.read_json(folder / DONE)) if (folder / DONE).is_file() else None
        if made is None or made.inputs != inputs:
            with files.atomic_directory(folder) as new:
                checks = Checks(self.params, self._words, self.scorer)
                found = checks.run(source.candidates(task.part))
                rows, rejected = _write(found, new, _hashed(self.params))
                dropped = dict(sorted(checks.dropped.items()))
                made = Made(rows, rejected, dropped, files.sha256_file(new / RECORDS), inputs)
                files.write_json(new / DONE, asdict(made))
        return task, made

    def write(self, shard: Shard) -> Written:
        """See Shard.write."""
        return shard.write(self.shards)


def _write(found: Iterable[Record | Rejected], folder: Path, hashed: bool) -> tuple[int, dict[str, int]]:
    """Write the records, what ties them to others, perceptual hashes of their pictures if `hashed`, and what was rejected; number
    of the ones, and of the others by reason."""
    ties, reasons, hashes = list[Tie](), Counter[str](), list[int]()
    with record_writer(folder / RECORDS) as records, RowWriter(folder / REFUSED, REFUSED_SCHEMA) as refused:
        for position, one in enumerate(found):
            if isinstance(one, Record):
                records.add(one.row())
                ties.append(tie(one))
                if hashed:
                    hashes.append(hash_encoded(one.image))
            else:
                refused.add({**asdict(one), "position": position})
                reasons[one.reason] += 1
    write_ties(folder / TIES, ties)
    if hashed:
        pq.write_table(pa.table({"hash": pa.array(hashes, pa.uint64())}), folder / HASHES)
    return len(ties), dict(sorted(reasons.items()))


def _hashed(params: PrepareParams) -> bool:
    return params.duplicates.radius is not None


def _code(opens: Opens | None) -> str:
    """The hash of this process's code of what it will do."""
    return code_hash(__name__) + ("" if opens is None else code_hash(type(opens).__module__))


def _state(source: Source, part: Part) -> str:
    """Changes with any of the files that the part is read from."""
    return files.sha256_json([[ascii(address), state(address)] for address in source.inputs(part)])


@lru_cache(maxsize=1)  # a worker of a cluster outlives many a plan, and holds the sources of the last one
def _workshop(plan: Plan) -> Workshop:
    return Workshop(plan)
