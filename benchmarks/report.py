"""What a benchmark prints and writes: the machine, its rows, and what was skipped and why."""

from __future__ import annotations

import json
import os
import platform
import sys
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from benchmarks.harness import Row

UNITS = {"s": (1e3, "ms"), "MiB": (1.0, "MiB")}  # as stored: what it is multiplied by for people, and called then


def cpu_name() -> str:
    """The processor's model as the kernel names it, or the architecture where it does not."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures depend on: processor, cores, threads, which low precisions it multiplies in, GPU, versions."""
    return {
        "device": device.type,
        "cpu": cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "avx512_bf16": torch.cpu._is_avx512_bf16_supported(),
        "amx": torch.cpu._is_amx_tile_supported(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "system": platform.system(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


@dataclass
class Report:
    """Figures as they come. benchmark: the module's name. settings: what it was asked. skipped: what could not be measured."""

    benchmark: str
    device: torch.device
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)

    def add(self, rows: list[Row]) -> None:
        """Keep the rows and print them as a table of their own; they are of one case."""
        self.rows.extend(rows)
        _print_rows(rows)

    def note(self, sentence: str) -> None:
        """Keep and print what a reader of the figures must know."""
        self.notes.append(sentence)
        print(sentence)

    def skip(self, name: str, reason: str) -> None:
        """Keep and print that something was not measured, and why."""
        self.skipped[name] = reason
        print(f"skipped {name}: {reason}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-able, all of it."""
        return {
            "benchmark": self.benchmark,
            "date": datetime.now(UTC).date().isoformat(),
            "machine": machine(self.device),
            "settings": self.settings,
            "rows": [asdict(row) for row in self.rows],
            "notes": self.notes,
            "skipped": self.skipped,
        }

    def start(self) -> None:
        """Say what is measured where."""
        here = machine(self.device)
        print(f"benchmarks.{self.benchmark}: {here['gpu'] or here['cpu']}, {here['threads']} threads, torch {here['torch']}")

    def finish(self, path: Path | None) -> None:
        """Write the JSON if it was asked for, and say what the bars say and what to do next."""
        judged = [row for row in self.rows if row.met is not None]
        print(f"{sum(bool(row.met) for row in judged)} of {len(judged)} bars met")
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
            print(f"next: {path} holds every figure; docs/benchmarks.md says how to read them")
        else:
            print(
                f"next: python -m benchmarks.{self.benchmark} --json FILE keeps the figures; docs/benchmarks.md: how to read them"
            )


def _print_rows(rows: list[Row]) -> None:
    from rich.console import Console
    from rich.table import Table

    factor, unit = UNITS[rows[0].unit]
    table = Table("", unit, "quartiles", "ratio", "quartiles", "to", "bar", "", title=rows[0].case, title_justify="left")
    for row in rows:
        verdict = {None: "", True: "met", False: "missed"}[row.met]
        low, high = (factor * value for value in row.quartiles)
        table.add_row(
            row.name + (f" ({row.note})" if row.note else ""),
            f"{factor * row.median:.1f}",
            f"{low:.1f} to {high:.1f}",
            f"{row.ratio:.3f}",
            "{:.3f} to {:.3f}".format(*row.ratio_quartiles),
            row.base,
            "" if row.bar is None else f"{row.bar:.2f}",
            verdict,
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print(table)
    console.print(f"n = {rows[0].n} rounds")
