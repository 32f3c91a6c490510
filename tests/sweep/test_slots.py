"""Cores are never oversubscribed, and a GPU is lent to one trial at a time, whatever becomes of its holder."""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
from sweepkit import wait_for

from limoe.errors import UserError
from limoe.sweep import slots


def test_threads_fit_the_cores(monkeypatch):
    monkeypatch.setattr(slots, "usable_cores", lambda: 4)
    slots.check_threads(4, 1)
    slots.check_threads(2, 2)
    slots.check_threads(1, 3)
    with pytest.raises(UserError, match=r"3 trials at a time of 2 threads each need 6 cores, and 4 .* concurrency to 2 .* to 1$"):
        slots.check_threads(3, 2)
    with pytest.raises(UserError, match="must be at least 1"):
        slots.check_threads(0, 1)


def test_gpus_that_are_visible(tmp_path, monkeypatch):
    monkeypatch.setattr(slots, "DEVICES", tmp_path)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert slots.visible_gpus() == []
    for name in ("nvidia10", "nvidia2", "nvidiactl", "nvidia0-caps", "null"):
        (tmp_path / name).touch()
    assert slots.visible_gpus() == ["2", "10"]
    for given, gpus in {"3, 1": ["3", "1"], "": [], "-1": [], "GPU-8ad2": ["GPU-8ad2"]}.items():
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", given)
        assert slots.visible_gpus() == gpus


def test_without_a_gpu_there_is_no_lease(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with slots.gpu_lease(tmp_path) as gpu, slots.gpu_lease(tmp_path) as other:
        assert gpu is None
        assert other is None


def test_a_gpu_is_lent_to_one_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr(slots, "POLL_SECONDS", 0.01)

    def third() -> int | None:
        with slots.gpu_lease(tmp_path / "leases") as gpu:
            return gpu

    with ThreadPoolExecutor() as pool, slots.gpu_lease(tmp_path / "leases") as first:
        with slots.gpu_lease(tmp_path / "leases") as second:
            assert (first, second) == (0, 1), "places among the visible ones"
            waiting = pool.submit(third)
            assert not waiting.done()
        assert waiting.result(timeout=10) == 1, "the first one is still out"


def test_a_lease_ends_with_its_holder(tmp_path, monkeypatch):
    """SIGKILL: no code of the holder's runs, the system frees the lock."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    holder = (
        "import sys, pathlib; from limoe.sweep.slots import gpu_lease\n"
        "with gpu_lease(pathlib.Path(sys.argv[1])) as gpu:\n"
        "    print(gpu, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "0\n"
        monkeypatch.setattr(slots, "POLL_SECONDS", 0.01)
        with ThreadPoolExecutor() as pool:
            lease = slots.gpu_lease(tmp_path)
            waiting = pool.submit(lease.__enter__)
            assert not waiting.done()
            process.send_signal(signal.SIGKILL)
            wait_for("the lease", waiting.done)
            assert waiting.result() == 0
            pool.submit(lease.__exit__, None, None, None).result()


def test_memory_is_limited_for_a_while():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with slots.limited_memory(64):
        bytes(8 << 20)
        with pytest.raises(MemoryError):
            bytes(512 << 20)
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    bytes(512 << 20)
    with slots.limited_memory(None):
        assert resource.getrlimit(resource.RLIMIT_AS) == before
