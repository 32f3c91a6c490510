"""What every test gets: one thread, fixed seeds, no reports home, no store, server or identity of whoever runs it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

for foreign in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL", "PREFECT_API_KEY", "PYTHONPATH"):
    os.environ.pop(foreign, None)
os.environ |= {
    "OMP_NUM_THREADS": "1",  # before torch is imported: two threads wait for each other where test workers share the cores
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.invalid",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.invalid",
}

import pytest  # noqa: E402
import torch  # noqa: E402
from hypothesis import settings  # noqa: E402
from unitkit import Units, place  # noqa: E402

from limoe.config import Params  # noqa: E402
from limoe.overlay import load_document, merge  # noqa: E402
from limoe.paramsfile import read_yaml  # noqa: E402

settings.register_profile("here", deadline=None, derandomize=True, database=None)
settings.load_profile("here")
ROOT = Path(__file__).resolve().parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=place)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Units:
    config.option.loadscopereorder = False  # the order is ours
    return Units(config, log)


@pytest.fixture(autouse=True)
def same_weights() -> None:
    """Models are drawn from torch's own generator: every test starts it afresh, whatever ran before on its worker."""
    torch.manual_seed(0)


@pytest.fixture
def python_handlers() -> Iterator[None]:
    """Those that Python starts with, though whoever runs the tests may ignore signals; they must be the same at the end."""
    wanted = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in wanted.items()}
    yield
    assert {number: signal.getsignal(number) for number in wanted} == wanted
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def project() -> Path:
    """The checkout's folder."""
    return ROOT


@pytest.fixture(scope="session")
def params() -> Params:
    """params.yaml as it is checked in."""
    return Params.load(ROOT / "params.yaml")


@pytest.fixture(scope="session")
def debug_params() -> Params:
    """params.yaml with overlays/debug.yaml merged in."""
    document = load_document(ROOT / "params.yaml")
    merge(document, read_yaml(ROOT / "overlays" / "debug.yaml"))
    return Params.parse(document, "debug")
