"""A copy of the project in which the real `dvc repro` runs on the debug overlay, cut off from every network but loopback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from limoe.overlay import dump_document, load_document, merge, merge_overlay

# Python runs this in every process that inherits PYTHONPATH, before anything else: what is not loopback is noted and refused.
SITECUSTOMIZE = """
import ipaddress
import os
import socket
import sys

NOTES = os.environ["LIMOE_NETWORK_NOTES"]
ADDRESSED = ("socket.connect", "socket.bind", "socket.sendto", "socket.sendmsg")
NAMED = ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr")


def is_here(host):
    name = host.decode() if isinstance(host, bytes) else host
    if name is None or name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def refuse(event, args):
    if event in NAMED:
        host = args[0]
    elif event in ADDRESSED and args[0].family in (socket.AF_INET, socket.AF_INET6) and args[1]:
        host = args[1][0]
    else:
        return
    if not is_here(host):
        with open(NOTES, "a") as notes:
            notes.write(f"{event} {host!r} by {sys.argv}\\n")
        raise ConnectionRefusedError(f"only loopback exists here: {event} {host!r}")


sys.addaudithook(refuse)
"""


@dataclass(frozen=True)
class Workspace:
    """A project folder. home: what lies beside it for all of its tools (settings, hook, notes)."""

    root: Path
    home: Path

    @property
    def notes(self) -> Path:
        """Every attempt to reach beyond loopback, a line each."""
        return self.home / "network-notes"

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command here: this Python's tools, this copy's code, the hook, no settings from outside."""
        return {
            **os.environ,
            "SHELL": "/bin/sh",  # dvc's choice where it is unset (CI, cron); often dash, which stays beside its last command
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{self.home / 'hook'}{os.pathsep}{self.root}",
            "LIMOE_NETWORK_NOTES": str(self.notes),
            "DVC_GLOBAL_CONFIG_DIR": str(self.home / "dvc-global"),
            "DVC_SYSTEM_CONFIG_DIR": str(self.home / "dvc-system"),
            "DVC_SITE_CACHE_DIR": str(self.home / "dvc-site"),
        }

    def run(self, *command: str, code: int | None = 0) -> str:
        """Run a command to its end; its output, errors included. `code`: what it must return, None for any but 0."""
        done = subprocess.run(
            command, cwd=self.root, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        assert (done.returncode != 0) if code is None else (done.returncode == code), (
            f"{command}: {done.returncode}\n{done.stdout}"
        )
        return done.stdout

    def start(self, log: Path, *command: str) -> subprocess.Popen[bytes]:
        """Start a command and leave it running; what it and its children say goes to `log`."""
        env = {**self.env, "PYTHONUNBUFFERED": "1"}
        with log.open("wb") as handle:
            return subprocess.Popen(command, cwd=self.root, env=env, stdout=handle, stderr=handle)

    def commit(self, message: str) -> None:
        """Commit everything that git does not ignore."""
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def change(self, changes: dict[str, Any]) -> None:
        """Merge changes into params.yaml, valid or not."""
        document = load_document(self.root / "params.yaml")
        merge(document, changes)
        (self.root / "params.yaml").write_text(dump_document(document))

    def locked(self) -> dict[str, dict[str, str]]:
        """What dvc.lock says of each stage: its outs and their MD5."""
        stages = yaml.safe_load((self.root / "dvc.lock").read_text())["stages"]
        return {name: {out["path"]: out["md5"] for out in stage["outs"]} for name, stage in stages.items()}

    def timing(self, stage: str) -> dict[str, Any]:
        """The figures of a stage's last run."""
        return dict(json.loads((self.root / ".limoe" / "timing" / f"{stage}.json").read_text()))


def new_workspace(project: Path, folder: Path) -> Workspace:
    """A repository of its own in `folder`, from the project's files as they are now, with the debug overlay merged in."""
    workspace = Workspace(folder / "project", folder)
    (folder / "hook").mkdir(parents=True)
    (folder / "hook" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    ours = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=project, capture_output=True, text=True, check=True
    ).stdout
    for name in filter(None, ours.split("\0")):
        if (project / name).is_file():
            (workspace.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(project / name, workspace.root / name)
    (workspace.root / "dvc.lock").unlink(missing_ok=True)
    merge_overlay(workspace.root / "params.yaml", workspace.root / "overlays" / "debug.yaml")
    workspace.run("git", "init", "-q")
    workspace.commit("the project as it is")
    return workspace


def copy_of(workspace: Workspace, folder: Path) -> Workspace:
    """A second workspace in the same state: results, cache and stores included."""
    shutil.copytree(workspace.home, folder, symlinks=True, ignore=shutil.ignore_patterns("network-notes", "dvc-site"))
    return Workspace(folder / "project", folder)
