"""What every benchmark's JSON must say, recomputed from its own medians."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch


def checked(path: Path) -> dict[str, Any]:
    """The file's content, once machine, rows and arithmetic have been found right."""
    report = json.loads(path.read_text())
    assert {"device", "cpu", "cores", "threads", "avx512_bf16", "amx", "gpu", "torch", "python"} <= report["machine"].keys()
    assert report["machine"]["torch"] == torch.__version__
    assert report["machine"]["threads"] == torch.get_num_threads() == 1
    assert len(report["date"]) == len("2026-01-31")
    rows = report["rows"]
    own = {(row["case"], row["name"]): row["median"] / row["work"] for row in rows}
    for row in rows:
        ratio = row["median"] / row["work"] / own[row["case"], row["base"]]
        assert row["ratio"] == pytest.approx(ratio)
        assert row["quartiles"][0] <= row["median"] <= row["quartiles"][1]
        assert row["ratio_quartiles"][0] <= row["ratio_quartiles"][1]
        assert row["n"] >= 1
        reached = min(row["ratio"], row["ratio_quartiles"][0]) if row["noise"] else row["ratio"]
        assert row["met"] == (None if row["bar"] is None else reached <= row["bar"])
    return report


def ratios(report: dict[str, Any], case: str) -> dict[tuple[str, str], float]:
    """(name, base) -> ratio of the rows whose case begins like this."""
    return {(row["name"], row["base"]): row["ratio"] for row in report["rows"] if row["case"].startswith(case)}
