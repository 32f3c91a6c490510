"""A training in two processes, as people start it: a signal, a rank that dies, a start by torchrun itself; and what is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from trainkit import prepare_shapes, recipe

from benchmarks.faults import rank_of
from limoe.cli import diagnose
from limoe.config import Params
from limoe.errors import UserError
from limoe.files import write_json
from limoe.paths import Paths
from limoe.stages import train
from limoe.stages.launch import ERROR, failure

STEPS = 60
LIMOE = ("-m", "limoe", "train", "limoe", "--params")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    root = tmp_path_factory.mktemp("processes")
    prepare_shapes(root)
    settings = recipe(f"train.steps={STEPS}", "train.ema=0.9", "machine.processes=2").model_dump(mode="json")
    (root / "params.yaml").write_text(yaml.safe_dump(settings))
    return Paths(root)


def start(project: Path, paths: Paths, *command: str) -> subprocess.Popen[str]:
    started = [sys.executable, *command, str(paths.root / "params.yaml")]
    return subprocess.Popen(started, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def checkpoints(paths: Paths) -> list[str]:
    return sorted(path.name for path in paths.work("").glob("train-limoe-*/checkpoints/step-*"))


def await_checkpoint(paths: Paths, process: subprocess.Popen[str], after: list[str]) -> None:
    """Until there is a newer one than those."""
    while not set(checkpoints(paths)) - set(after):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


def test_two_processes_end_together_go_on_together_and_one_writes(project: Path, paths: Paths) -> None:
    process = start(project, paths, *LIMOE)
    await_checkpoint(paths, process, [])
    process.send_signal(signal.SIGTERM)
    _, said = process.communicate()
    assert (process.returncode, said.count("\n")) == (143, 1), said
    assert said.startswith("interrupted by SIGTERM: ")

    saved = checkpoints(paths)
    process = start(project, paths, *LIMOE)
    await_checkpoint(paths, process, saved)
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    out, said = process.communicate()
    assert f"continuing from step {int(saved[-1].removeprefix('step-'))} of {STEPS}" in out
    assert (process.returncode, said.count("\n")) == (1, 1), said
    assert said.startswith("error: process 1 of 2 was ended by SIGKILL, and so were the others: ")
    assert json.loads(paths.error("train-limoe").read_text())["kind"] == "machine"
    assert not paths.train("limoe").exists()

    saved = checkpoints(paths)
    process = start(project, paths, *TORCHRUN, *LIMOE)
    out, said = process.communicate()
    assert process.returncode == 0, said
    assert f"continuing from step {int(saved[-1].removeprefix('step-'))} of {STEPS}" in out
    rows = [json.loads(line) for line in (paths.train("limoe") / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(2, STEPS + 1, 2))
    assert paths.averaged("limoe").exists()
    timing = json.loads(paths.timing("train-limoe").read_text())
    assert (timing["processes"], timing["micro_batch"]) == (2, 8)
    assert checkpoints(paths) == [], "resumable state is deleted when the stage completes"


def failed(*exits: tuple[int, int, int]) -> dict[int, Any]:
    """(rank, exit code, second in which the agent saw it) of each."""
    return {rank: SimpleNamespace(exitcode=code, timestamp=second) for rank, code, second in exits}


def word(folder: Path, rank: int, sentence: str, second: int) -> None:
    path = folder / ERROR.format(rank=rank)
    write_json(path, {"kind": "user", "sentence": sentence, "traceback": f"File {sentence}"})
    os.utime(path, (second, second))


def test_a_kill_is_told_before_what_it_made_of_the_others(tmp_path: Path) -> None:
    word(tmp_path, 0, "connection lost", 1)
    kind, sentence = diagnose(failure(failed((0, 2, 100), (1, -9, 100), (2, -15, 100)), 2, tmp_path))
    assert kind == "machine"
    assert sentence.startswith("process 1 of 2 was ended by SIGKILL, and so were the others: everything already written is valid")


def test_of_several_words_the_first_is_told(tmp_path: Path) -> None:
    word(tmp_path, 0, "connection lost", 20)
    word(tmp_path, 2, "the set is unreadable", 10)
    told = failure(failed((0, 1, 100), (1, 1, 100), (2, 2, 100), (3, -15, 101), (4, -9, 131)), 3, tmp_path)
    assert diagnose(told) == ("user", "the set is unreadable")
    assert told.__notes__ == ["File the set is unreadable"]


def test_a_death_without_a_word_is_told_too(tmp_path: Path) -> None:
    kind, sentence = diagnose(failure(failed((1, 3, 100), (0, -15, 100)), 2, tmp_path))
    assert (kind, sentence.partition(":")[0]) == ("machine", "process 1 of 2 ended with exit code 3")


@pytest.mark.parametrize(
    "contestant, processes, sentence",
    [
        (
            "limoe",
            4,
            "train.batch = 16 cannot be shared evenly by 4 processes, in whole routing groups of model.moe.group_pairs = 8",
        ),
        ("dense", 3, "train.batch = 16 cannot be shared evenly by 3 processes"),
    ],
)
def test_a_batch_that_cannot_be_shared_is_refused_before_anything_starts(tmp_path, contestant, processes, sentence) -> None:
    with pytest.raises(UserError) as told:
        train.run(recipe(f"machine.processes={processes}"), Paths(tmp_path), contestant)
    assert str(told.value) == sentence
    assert train.own_pairs(recipe(), "dense", 4) == 4


def test_one_gpu_cannot_be_named_for_several_processes(project: Path) -> None:
    with pytest.raises(UserError, match=r"device = cuda:1 is one GPU, and processes = 2: use auto, cpu or cuda"):
        Params.load(project / "params.yaml", ("machine.device=cuda:1", "machine.processes=2"))
