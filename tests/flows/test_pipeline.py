"""The flow's parts one by one, and its GPU slot on a real server: who holds it, and that SIGKILL gives it back.

The whole flow runs for real in tests/pipeline.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from flowkit import server

from flows import pipeline
from flows.pipeline import StageFailed, failure, first_table, stream, worth_a_retry
from limoe.config import CompareParams, Params
from limoe.files import write_bytes, write_json, write_text
from limoe.paths import Paths

HOLD = """
import sys, time
from flows import pipeline
pipeline.gpus = lambda: 1
with pipeline.gpu_slot():
    print("held", flush=True)
    sys.stdin.read()
"""


class State:
    """What Prefect hands to a retry condition."""

    def __init__(self, result: Any) -> None:
        self._result = result

    def result(self, raise_on_failure: bool) -> Any:
        assert raise_on_failure is False
        return self._result


def test_the_flow_has_the_stages_of_dvc_yaml_in_an_order_that_they_allow(project: Path, params: Params) -> None:
    models, fetched = {"mine": {"path": "m"}, "yours": {"path": "y"}}, {"big": {"architecture": "ViT-B-32", "tag": "openai"}}
    further = {"compare.models": models, "compare.fetched": fetched}
    written = yaml.safe_load((project / "dvc.yaml").read_text())["stages"]
    names = [
        name if "foreach" not in stage else f"{name}@{who}"
        for name, stage in written.items()
        for who in further.get(str(stage.get("foreach", [""])).strip("${}"), stage.get("foreach", [""]))
    ]
    compare = CompareParams.model_validate(params.compare.model_dump() | {"models": models, "fetched": fetched})
    assert list(pipeline.stages(params.model_copy(update={"compare": compare}))) == names
    assert pipeline.stages(params) == tuple(name for name in names if not name.startswith("evaluate-"))


@pytest.mark.parametrize(
    "override,order",
    [
        ("contestants.limoe.start_from=runs/train/dense/model", ["dense", "clip", "limoe"]),
        ("contestants.limoe.start_from=./runs/train/dense/ema", ["dense", "clip", "limoe"]),
        ("contestants.limoe.start_from=runs/train/limoe/model", ["limoe", "dense", "clip"]),
        ("contestants.limoe.start_from=elsewhere/dense/model", ["limoe", "dense", "clip"]),
        ("train.start_from=runs/train/dense/model", ["dense", "limoe", "clip"]),
    ],
)
def test_who_starts_from_another_contestant_is_trained_after_it(project: Path, override: str, order: list[str]) -> None:
    stages = pipeline.stages(Params.load(project / "params.yaml", (override,)))
    assert [stage for stage in stages if stage.startswith("train@")] == [f"train@{name}" for name in order]


@pytest.mark.parametrize("kind,again", [("machine", True), ("user", False), ("bug", False)])
def test_only_the_machines_faults_are_tried_again(kind: str, again: bool) -> None:
    assert worth_a_retry(None, None, State(StageFailed("prepare", kind, "sentence"))) is again
    assert worth_a_retry(None, None, State(ValueError("other"))) is False


def test_a_failure_carries_the_stages_own_sentence(tmp_path: Path) -> None:
    file = tmp_path / "error.json"
    write_json(file, {"kind": "user", "sentence": "train.lr = -1 is not allowed"})
    told = failure("train@limoe", 255, file)
    assert (told.kind, str(told)) == ("user", "train@limoe: train.lr = -1 is not allowed")
    killed = failure("train@limoe", 137, tmp_path / "none.json")
    assert (killed.kind, "137" in str(killed)) == ("machine", True)


def test_output_is_told_line_by_line_while_it_comes() -> None:
    script = "import sys; print('one'); print('two', file=sys.stderr); print(); sys.stdout.write('a\\rb'); sys.exit(3)"
    lines: list[str] = []
    assert stream([sys.executable, "-c", script], lines.append) == 3
    assert sorted(lines) == ["a", "b", "one", "two"]
    told: list[str] = []

    def stop(line: str) -> None:
        told.append(line)
        raise InterruptedError

    endless = "import time\nprint('first')\nwhile True: time.sleep(60)"
    with pytest.raises(InterruptedError):
        stream([sys.executable, "-c", endless], stop)
    assert told == ["first"]


def test_whoever_ends_the_flow_ends_the_stage_and_its_children(tmp_path: Path) -> None:
    child = "import time, os; print(os.getpid(), flush=True)\nwhile True: time.sleep(60)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    pids: list[int] = []

    def interrupt(line: str) -> None:
        pids.append(int(line))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream([sys.executable, "-c", parent], interrupt)
    assert gone(pids[0])


def test_the_environments_own_commands_are_found() -> None:
    lines: list[str] = []
    assert stream(["sh", "-c", "command -v python"], lines.append) == 0
    assert Path(lines[0]).parent == Path(sys.executable).parent


def test_the_first_table_of_a_report() -> None:
    assert first_table("# Title\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n| other |\n") == "| a | b |\n|---|---|\n| 1 | 2 |"
    assert first_table("no table") == ""


def test_an_artifacts_key_has_the_letters_that_prefect_allows() -> None:
    names = ["lr", "lr.v1", "lr.v2", "Kapazität.png", "runs", "plots", "a/b", ".5"]
    keys = [pipeline.artifact_key(Path("sweep", name)) for name in names]
    assert all(re.fullmatch(r"[a-z0-9-]+", key) for key in keys)
    assert keys[:3] == ["sweep-lr", "sweep-lr-v1", "sweep-lr-v2"]
    assert len(set(keys)) == len(names)


def test_the_table_and_every_picture_have_a_key_of_their_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = ("runs/train/limoe/plots/curves.png", "runs/balance/caption_lengths.png", "runs/sweeps/lr.v1/plots/roc.png")
    for name in pictures:
        write_bytes(tmp_path / name, b"picture")
    report = Paths(tmp_path).report
    write_text(report / "report.md", "| a |\n|---|\n")
    write_text(report / "report.html", "")
    monkeypatch.chdir(tmp_path)
    published: dict[str, str] = {}
    for form in ("image", "link", "markdown"):
        name = f"create_{form}_artifact"
        monkeypatch.setattr(pipeline, name, lambda content, key, **_: published.update({key: content}))
    pipeline.publish.fn()
    assert set(published) == {"comparison", "report", "train-limoe-curves", "balance-caption-lengths", "sweeps-lr-v1-roc"}
    assert published["comparison"] == "| a |\n|---|"


def test_without_a_server_no_slot_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "ensure_limit", lambda _: pytest.fail("asked a server that lives for this run alone"))
    monkeypatch.setattr(pipeline, "gpus", lambda: 1)
    with pipeline.gpu_slot():
        pass


def gone(pid: int, seconds: float = 10) -> bool:
    """Whether the process ends within that time (a zombie has ended)."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        stat = Path(f"/proc/{pid}/stat")
        if not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] == "Z":
            return True
        time.sleep(0.02)
    return False


def holder(env: dict[str, str], project: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HOLD], cwd=project, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def let_leases_run_out(home: Path) -> int:
    """Put the end of every lease into the past, as if its 60 seconds had gone by; how many there were."""
    folder = home / "concurrency_leases"
    leases = [path for path in folder.glob("*.json") if path.name != "expirations.json"]
    past = (datetime.now().astimezone() - timedelta(seconds=1)).isoformat()
    for path in leases:
        path.write_text(json.dumps({**json.loads(path.read_text()), "expiration": past}))
    (folder / "expirations.json").write_text(json.dumps({path.stem: past for path in leases}))
    return len(leases)


def test_a_killed_training_gives_its_slot_back_even_if_the_server_died_with_it(tmp_path: Path, project: Path) -> None:
    with server(tmp_path, project) as (env, process):
        first = holder(env, project)
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        first.kill()
        process.send_signal(signal.SIGKILL)
        first.communicate()
    with server(tmp_path, project) as (env, _):
        assert let_leases_run_out(tmp_path) == 1
        second = holder(env, project)
        assert second.stdout is not None
        assert second.stdout.readline() == "held\n"
        second.communicate("")
