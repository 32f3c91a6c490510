"""What this machine has, and what is missing: one finding a line, for people and for programs."""

from __future__ import annotations

import base64
import configparser
import http.client
import importlib.metadata
import os
import platform
import re
import shutil
import sys
import urllib.parse
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from limoe.errors import UserError
from limoe.tracking import database, store_uri

if TYPE_CHECKING:
    from rich.table import Table

FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
NEEDED_MEMORY_GB = 4
NEEDED_DISK_GB = 2
PATIENCE_SECONDS = 3


@dataclass(frozen=True)
class Finding:
    """One thing looked at. ok: True or False for what is required, None for what is only good to know."""

    topic: str
    name: str
    value: str
    ok: bool | None = None


def examine(root: Path) -> list[Finding]:
    """Every finding about this machine and the project in `root`. Takes seconds (torch, hashes of the data)."""
    looks: tuple[Callable[[Path], list[Finding]], ...] = (_system, _torch, _packages, _stores, _data)
    return [finding for look in looks for finding in look(root)]


def as_table(findings: list[Finding]) -> Table:
    """The findings as a table for the terminal."""
    from rich.table import Table

    table = Table("", "topic", "what", "found", box=None)
    for finding in findings:
        table.add_row({True: "ok", False: "MISSING", None: ""}[finding.ok], finding.topic, finding.name, finding.value)
    return table


def processor_features(cpuinfo: str) -> list[str]:
    """Which of FEATURES the text of /proc/cpuinfo lists (bf16 training is fast with avx512_bf16 or amx_bf16)."""
    words = set(cpuinfo.split())
    return [name for name in FEATURES if name in words]


def requirement_name(requirement: str) -> str:
    """The distribution in a requirement: "torch>=2.11" -> "torch"."""
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]


def pinned_versions(constraints: str) -> dict[str, str]:
    """Distribution (lower case, dashes) -> version, as constraints.txt pins them."""
    pins = (line.split("==") for line in constraints.split() if "==" in line)
    return {canonical(name): version for name, version in pins}


def canonical(name: str) -> str:
    """A distribution's name as the index compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def _system(root: Path) -> list[Finding]:
    info = Path("/proc/cpuinfo")
    text = info.read_text(encoding="utf-8") if info.is_file() else ""
    model = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    free = shutil.disk_usage(root).free / 1e9
    version = sys.version_info
    return [
        Finding("system", "Python 3.11 to 3.13", platform.python_version(), (3, 11) <= version < (3, 14)),
        Finding("system", "git", shutil.which("git") or "not on PATH", shutil.which("git") is not None),
        Finding("system", "processor", f"{model.group(1) if model else platform.processor()}, {cores} cores"),
        Finding("system", "processor features", ", ".join(processor_features(text)) or "none of those that matter here"),
        Finding("system", f"memory, {NEEDED_MEMORY_GB} GB", f"{memory:.1f} GB", memory >= NEEDED_MEMORY_GB),
        Finding("system", f"free disk, {NEEDED_DISK_GB} GB", f"{free:.1f} GB", free >= NEEDED_DISK_GB),
    ]


def _torch(_root: Path) -> list[Finding]:
    try:
        import torch
    except ImportError as error:
        return [Finding("torch", "torch", str(error), False)]
    capability = torch.backends.cpu.get_cpu_capability()
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "processors only"
    gpus = [torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())]
    names = ", ".join(f"{gpu.name} ({gpu.total_memory / 1e9:.0f} GB)" for gpu in gpus)
    return [
        Finding("torch", "build", f"{torch.__version__}, for {built_for}; processor code for {capability}"),
        Finding("torch", "GPU", names or "none: training runs on the processor"),
    ]


def _packages(root: Path) -> list[Finding]:
    """The project's own requirements, and how far the environment is from constraints.txt."""
    try:
        wanted = [requirement_name(line) for line in importlib.metadata.requires("limoe") or [] if "extra ==" not in line]
    except importlib.metadata.PackageNotFoundError:
        return [Finding("packages", "limoe", "not installed: pip install -c constraints.txt -e .", False)]
    installed = {canonical(found.name): found.version for found in importlib.metadata.distributions() if found.name}
    findings = [
        Finding("packages", name, installed.get(canonical(name), "not installed"), canonical(name) in installed)
        for name in wanted
    ]
    constraints = root / "constraints.txt"
    pins = pinned_versions(constraints.read_text(encoding="utf-8")) if constraints.is_file() else {}
    others = [f"{name} {installed[name]}, not {pin}" for name, pin in sorted(pins.items()) if installed.get(name, pin) != pin]
    return [*findings, Finding("packages", "other than constraints.txt", "; ".join(others) or "none")]


def _stores(root: Path) -> list[Finding]:
    uri = store_uri(root)
    findings = [_server("MLflow", uri, uri.rstrip("/") + "/health") if uri.startswith("http") else _mlflow_store(uri)]
    findings.append(_remotes(root))
    api = os.environ.get("PREFECT_API_URL")
    if api:
        findings.append(_server("Prefect", api, api.rstrip("/") + "/health"))
    else:
        findings.append(Finding("stores", "Prefect", "no server named by PREFECT_API_URL: a flow starts its own"))
    return findings


def _remotes(root: Path) -> Finding:
    try:
        remotes = dvc_remotes(root)
    except (configparser.Error, UnicodeDecodeError) as error:
        return Finding("stores", "DVC remote", f".dvc/config cannot be read ({' '.join(str(error).split())})", False)
    where = "; ".join(f"{name}: {_nameless(url)}" for name, url in remotes.items())
    return Finding("stores", "DVC remote", where or "none: dvc remote add -d NAME WHERE, to share data and results")


def dvc_remotes(root: Path) -> dict[str, str]:
    """Name -> place of the remotes in .dvc/config and .dvc/config.local."""
    parser = configparser.ConfigParser(interpolation=None)
    parser.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    sections = {re.sub(r"^'?remote \"|\"'?$", "", name): parser[name] for name in parser.sections() if "remote" in name}
    return {name: section.get("url", "no url") for name, section in sections.items()}


def _mlflow_store(uri: str) -> Finding:
    if (file := database(uri)) is None:
        return Finding("stores", "MLflow", f"{uri}: a store that is not looked into here")
    state = f"{file}" if file.is_file() else f"{file}, made by the first training"
    return Finding("stores", "MLflow", state, os.access(file if file.is_file() else file.parent, os.W_OK))


def _data(root: Path) -> list[Finding]:
    """Whether the packaged pictures and names are those that data/sources.yaml describes."""
    from limoe.config import Params
    from limoe.data.sources import check_sources
    from limoe.paths import Paths

    try:
        params = Params.load(root / "params.yaml").prepare
        packages = check_sources(params, Paths(root))
    except UserError as error:
        return [Finding("data", "data/sources.yaml", str(error), False)]
    return [Finding("data", name, f"{facts['version']}, as recorded", True) for name, facts in packages.items()]


def _server(name: str, address: str, health: str) -> Finding:
    user = urllib.parse.unquote(urllib.parse.urlsplit(health).netloc.rpartition("@")[0])
    known = {"Authorization": f"Basic {base64.b64encode(user.encode()).decode()}"} if user else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(_nameless(health), headers=known), timeout=PATIENCE_SECONDS):
            return Finding("stores", name, _nameless(address), True)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Finding("stores", name, f"{_nameless(address)} does not answer ({error})", False)


def _nameless(address: str) -> str:
    """Without the user and the password before its host, which nobody else is to read.

    >>> _nameless("https://me:secret@host/x"), _nameless("s3://bucket/a")
    ('https://host/x', 's3://bucket/a')
    """
    return re.sub(r"(?<=://)[^/]*@", "", address)
