"""Preparation that is killed, anywhere, comes to the same bytes and does nothing twice; so it does with any number of workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from killkit import Kill, Killed
from layoutkit import tar
from preparekit import ROOT, ListedSource, candidate, ingested, params_with, picture

from limoe import files
from limoe.config import SetParams
from limoe.data import shards
from limoe.data.ingest import ingest
from limoe.data.parts import Plan, Workshop
from limoe.data.prepared import Prepared
from limoe.data.sources import Candidate, Part, Rejected, build
from limoe.data.sources.listing import Picture
from limoe.data.sources.scenes import ScenesSource
from limoe.data.sources.table import Table
from limoe.data.workers import Here, Workers, open_workers
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.stages import prepare as stage

SMALL = ("prepare.tokenizer.vocab_size=200", "prepare.shard_rows=4")
SHAPES = (
    "prepare.sources=[scenes]",
    "prepare.scenes.pictures=shapes",
    "prepare.scenes.train=40",
    "prepare.scenes.val=6",
    "prepare.scenes.test=6",
    "prepare.shard_rows=15",
    "prepare.tokenizer.vocab_size=200",
    "train.mixture={scenes: 1}",
)


class Counted(ListedSource):
    """Counts how often each part is read, and how many candidates are alive at a time."""

    def __init__(self, items: list[Candidate | Rejected]) -> None:
        super().__init__(items)
        self.read: Counter[int] = Counter()
        self.alive = self.most = 0

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        self.read[part.start] += 1
        for found in super().candidates(part):
            fresh = replace(found)
            self.alive += 1
            self.most = max(self.most, self.alive)
            weakref.finalize(fresh, self._gone)
            yield fresh
            del fresh

    def _gone(self) -> None:
        self.alive -= 1


def some_items() -> list[Candidate | Rejected]:
    """Three parts of three, two splits, every kind of rejection."""
    items: list[Candidate | Rejected] = [candidate(str(n), picture(n), split="val" if n == 4 else "train") for n in range(6)]
    return [*items, candidate("2", picture(9)), candidate("bad", b"no"), Rejected("gone", "listed", "missing-file")]


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def prepare(root: Path, source: Counted, kill_at: int | None = None, settings: Sequence[str] = SMALL) -> int:
    """Prepare into root / "out" as the stage does; the number of durable writes."""
    shop = Workshop(Plan.of(params_with(*settings).prepare, root, root / "work"), {"listed": source})
    with Kill(kill_at) as kill, files.atomic_directory(root / "out") as out:
        ingest(shop, Here(), {}, out)
    return kill.writes


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, bytes], int]:
    """What an undisturbed run leaves, and its number of durable writes."""
    root = tmp_path_factory.mktemp("unbroken")
    writes = prepare(root, Counted(some_items()))
    return content(root / "out"), writes


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_killed_at_any_write_it_goes_on(
    data: st.DataObject, unbroken: tuple[dict[str, bytes], int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    wanted, writes = unbroken
    root = tmp_path_factory.mktemp("killed")
    done: set[int] = set()
    for at in data.draw(st.lists(st.integers(0, writes - 1), min_size=1, max_size=3, unique=True)):
        source = Counted(some_items())
        with suppress(Killed):  # or so much was done before that it comes to its end
            prepare(root, source, at)
        assert not (root / "out").exists() or content(root / "out") == wanted
        assert not done & source.read.keys()
        done = {3 * int(path.parent.name) for path in (root / "work" / "parts").glob("[0-9]*/part.json")}
    source = Counted(some_items())
    prepare(root, source)
    assert content(root / "out") == wanted
    assert not done & source.read.keys()
    assert done | source.read.keys() == {0, 3, 6}


LATER = (  # settings that no part depends on
    SMALL,
    ("prepare.tokenizer.vocab_size=150", "prepare.shard_rows=2"),
    ("prepare.tokenizer.kind=unigram", "prepare.tokenizer.vocab_size=100", "prepare.duplicates.drop=leaked"),
    ("prepare.tokenizer.vocab_size=200", "prepare.shard_rows=4", "prepare.duplicates.drop=all"),
)

SOME = st.sampled_from(LATER)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(killed=st.lists(st.tuples(SOME, st.integers(0, 60)), min_size=1, max_size=3), last=SOME)
def test_killed_under_other_settings_it_goes_on_with_the_parts(
    killed: list[tuple[tuple[str, ...], int]], last: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory
) -> None:
    items = [*some_items(), *(candidate(f"again {n}", picture(n), split="test" if n == 3 else "train") for n in range(5))]
    fresh, root = tmp_path_factory.mktemp("fresh"), tmp_path_factory.mktemp("changed")
    prepare(fresh, Counted(items), settings=last)
    done: set[int] = set()
    for changes, at in [*killed, (last, None)]:
        source = Counted(items)
        with suppress(Killed):
            prepare(root, source, at, changes)
        assert not done & source.read.keys()
        done = {3 * int(path.parent.name) for path in (root / "work" / "parts").glob("[0-9]*/part.json")}
    assert content(root / "out") == content(fresh / "out")


def test_what_is_done_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare(tmp_path, Counted(some_items()))
    before = content(tmp_path / "out")
    monkeypatch.setattr(shards, "record_writer", None)  # whoever would write a shard would call it
    source = Counted(some_items())
    prepare(tmp_path, source)
    assert content(tmp_path / "out") == before
    assert source.read == {}


def test_what_is_said_of_a_shard_is_gone_before_the_shard_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed behind one shard and before its note, and then asked for the one that was there: it is written again."""
    prepare(tmp_path, Counted(some_items()))
    records = next((tmp_path / "work" / "parts").glob("*/records.parquet"))
    first, second = (shards.Shard("train", 0, [(records, "content", np.array(rows))]) for rows in ([0], [1]))
    written = first.write(tmp_path)
    with monkeypatch.context() as killed, pytest.raises(Killed):
        killed.setattr(files, "write_json", dies)
        second.write(tmp_path)
    assert first.write(tmp_path) == written
    assert files.sha256_file(tmp_path / written.file) == written.sha256


def dies(*_: object) -> None:
    raise Killed


def test_a_part_whose_files_have_changed_is_read_again_and_its_shards_written_again(tmp_path: Path) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number in range(6):
        (images / f"{number}.png").write_bytes(picture(number))
    rows = [f"{number}.png,number {number},train" for number in range(6)]
    (tmp_path / "captions.csv").write_text("image,caption,split\n" + "\n".join(rows))
    params = params_with(*SMALL).prepare

    def run(name: str) -> tuple[list[str], list[str]]:
        """Pictures read from the disk, and those in the set."""
        read: list[str] = []

        class Watched(Table):
            def image(self, picture: Picture) -> bytes:
                read.append(picture.path)
                return super().image(picture)

            @property
            def parts(self) -> list[Part]:
                return Part.split("pictures", 6, 2)

        ingested(
            {"mine": Watched("mine", SetParams(path="captions.csv", images="images"), tmp_path)},
            params,
            tmp_path / name,
            tmp_path / "work",
        )
        return read, Prepared(tmp_path / name).table("train", ["sha256"])["sha256"].to_pylist()

    everything = [f"{number}.png" for number in range(6)]
    assert run("one")[0] == everything
    assert run("two")[0] == []
    (images / "3.png").write_bytes(picture(33))
    os.utime(images / "3.png", (1, 1))
    read, found = run("three")
    assert read == ["2.png", "3.png"]
    shutil.rmtree(tmp_path / "work")
    assert run("four") == (everything, found)


@pytest.fixture(params=["processes", "dask"])
def several(request: pytest.FixtureRequest) -> Iterator[Workers]:
    """Two processes of this machine, and a cluster of two."""
    dask = request.getfixturevalue("dask") if request.param == "dask" else "null"
    with open_workers(params_with(f"machine.dask={dask}", "machine.prepare_workers=2").machine) as workers:
        yield workers


def test_any_workers_write_the_same_bytes(several: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.sources.scenes.PART_SCENES", 7)  # the workers do as the tasks say
    params = params_with(*SHAPES).prepare
    ingested(build(params, tmp_path), params, tmp_path / "here")
    ingested(build(params, tmp_path), params, tmp_path / "there", workers=several)
    assert content(tmp_path / "there") == content(tmp_path / "here")
    assert len(content(tmp_path / "here")) == 3 + 1 + 1 + 3  # shards, and three files beside them


KILLED = """
import os, signal, sys
from multiprocessing import active_children
from pathlib import Path
from limoe.config import Params
from limoe.data import workers
from limoe.data.sources import scenes
from limoe.paths import Paths
from limoe.stages import prepare

def run(self, function, tasks, real=workers.Processes.run):
    for number, result in enumerate(real(self, function, tasks)):
        if number == 2:
            print(*(process.pid for process in active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield result

if __name__ == "__main__":
    scenes.PART_SCENES = 7
    workers.Processes.run = run
    prepare.run(Params.load(Path(sys.argv[1]), tuple(sys.argv[3:])), Paths(Path(sys.argv[2])))
"""


def test_a_killed_stage_leaves_no_process_and_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    command = [sys.executable, str(script), str(ROOT / "params.yaml"), str(tmp_path), *SHAPES, "machine.prepare_workers=2"]
    told = tmp_path / "told"  # no pipe: whoever was left would hold it open
    with told.open("w") as output:
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        killed = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environment, check=False)
    assert killed.returncode == -signal.SIGKILL, told.read_text()
    orphans = [int(pid) for pid in told.read_text().split()]
    assert len(orphans) == 2
    assert gone(orphans)
    assert not (tmp_path / "data" / "prepared").exists()
    done = len(list((tmp_path / ".limoe" / "work").glob("prepare-*/parts/[0-9]*/part.json")))
    assert done >= 3

    read = []
    monkeypatch.setattr("limoe.data.sources.scenes.PART_SCENES", 7)
    real = ScenesSource.candidates
    monkeypatch.setattr(ScenesSource, "candidates", lambda self, part: read.append(part) or real(self, part))
    stage.run(params_with(*SHAPES, "machine.prepare_workers=1"), Paths(tmp_path))
    assert len(read) == 8 - done
    params = params_with(*SHAPES).prepare
    ingested(build(params, tmp_path), params, tmp_path / "unbroken")
    assert content(tmp_path / "data" / "prepared") == content(tmp_path / "unbroken")
    assert not list((tmp_path / ".limoe" / "work").glob("prepare-*"))


def gone(pids: list[int], patience: float = 20.0) -> bool:
    """Whether these processes have ended within so many seconds."""
    until = time.monotonic() + patience
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < until:
        time.sleep(0.02)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_other_params_do_not_go_on_from_it(tmp_path: Path) -> None:
    stale = tmp_path / ".limoe" / "work" / "prepare-0123456789abcdef"
    stale.mkdir(parents=True)
    stage.run(params_with(*SHAPES, "machine.prepare_workers=1"), Paths(tmp_path))
    assert not stale.exists()


@pytest.mark.parametrize(
    "change, kept",
    [
        ("prepare.tokenizer={kind: unigram, vocab_size: 150}", True),
        ("prepare.shard_rows=7", True),
        ("prepare.duplicates.drop=all", True),
        ("prepare.duplicates={drop: all, radius: 4, against: []}", False),  # parts hold the hashes that this needs
        ("prepare.pictures.encode=webp", False),
        ("prepare.captions.max_chars=60", False),
        ("prepare.scenes.val=5", False),
    ],
)
def test_changed_settings_cost_the_parts_that_depend_on_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str, kept: bool
) -> None:
    """Killed when all parts and shards were done, and started again with another setting."""
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("limoe.data.ingest.Tokenizer.train", interrupted)
        stage.run(params_with(*SHAPES, "machine.prepare_workers=1"), Paths(tmp_path))
    read = []
    real = ScenesSource.candidates
    monkeypatch.setattr(ScenesSource, "candidates", lambda self, part: read.append(part) or real(self, part))
    params = params_with(*SHAPES, "machine.prepare_workers=1", change)
    stage.run(params, Paths(tmp_path))
    assert bool(read) != kept
    ingested(build(params.prepare, tmp_path), params.prepare, tmp_path / "fresh")
    assert content(tmp_path / "data" / "prepared") == content(tmp_path / "fresh")


@pytest.mark.parametrize("new", ["a", "b"])
def test_other_files_elsewhere_do_not_go_on_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, new: str) -> None:
    """As many as before under other names, or of the same name and size but written anew."""
    import fsspec

    memory = fsspec.filesystem("memory")
    params = params_with(
        "prepare.sources=[mine]",
        "prepare.sets={mine: {path: 'memory://elsewhere/*.tar', val_fraction: 0, test_fraction: 0}}",
        "prepare.tokenizer.vocab_size=200",
        "train.mixture={mine: 1}",
        "machine.prepare_workers=1",
    )
    for name in "ab":
        tar(tmp_path, {name: {"png": picture(), "txt": b"x"}}, name=name)
    memory.pipe("/elsewhere/a.tar", (tmp_path / "a.tar").read_bytes())
    with monkeypatch.context() as killed, pytest.raises(KeyboardInterrupt):
        killed.setattr("limoe.data.ingest._write", interrupted)
        stage.run(params, Paths(tmp_path))
    memory.rm("/elsewhere/a.tar")
    memory.pipe(f"/elsewhere/{new}.tar", (tmp_path / "b.tar").read_bytes())
    stage.run(params, Paths(tmp_path))
    assert Prepared(tmp_path / "data" / "prepared").table("train", ["key"])["key"].to_pylist() == [f"mine/{new}/b"]
    memory.rm("/elsewhere", recursive=True)


def interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_two_do_not_prepare_at_a_time(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    with (
        files.exclusive_lock(paths.work(stage.LOCK), "prepare"),
        pytest.raises(UserError, match=rf"prepare is already running: process {os.getpid()} holds"),
    ):
        stage.run(params_with(*SHAPES), paths)


def test_a_worker_with_other_code_refuses(tmp_path: Path) -> None:
    plan = Plan.of(params_with(*SHAPES).prepare, tmp_path, tmp_path / "work")
    with pytest.raises(UserError, match="this worker has other code of limoe"):
        Workshop(replace(plan, code="other")).tasks()


def test_neither_pictures_nor_candidates_pile_up(tmp_path: Path) -> None:
    source = Counted([candidate(str(number), picture(number)) for number in range(60)])
    source.parts = Part.split("items", 60, 60)
    prepare(tmp_path, source)
    assert source.read == {0: 1}
    assert source.most <= 2
