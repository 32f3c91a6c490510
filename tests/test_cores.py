"""Cores that a process may keep busy: by its affinity and by its control group."""

from __future__ import annotations

from pathlib import Path

import pytest

from limoe import cores


def cgroup(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        path = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs_", "cpu.cfs_")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return folder


@pytest.mark.parametrize(
    "files,quota",
    [
        ({"cpu_max": "150000 100000\n"}, 1.5),
        ({"cpu_max": "max 100000\n"}, None),
        ({"cpu__cfs_quota_us": "400000\n", "cpu__cfs_period_us": "100000\n"}, 4.0),
        ({"cpu__cfs_quota_us": "-1\n", "cpu__cfs_period_us": "100000\n"}, None),
        ({"cpu_max": "nonsense"}, None),
        ({}, None),
    ],
)
def test_quota_of_a_control_group(tmp_path, files, quota):
    assert cores.cpu_quota(cgroup(tmp_path, **files)) == quota


@pytest.mark.parametrize("quota,usable", [("max", 6), ("350000", 3), ("50000", 1), ("900000", 6)])
def test_usable_cores(tmp_path, monkeypatch, quota, usable):
    monkeypatch.setattr(cores, "CGROUP", cgroup(tmp_path, cpu_max=f"{quota} 100000"))
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(6)), raising=False)
    assert cores.usable_cores() == usable
