"""The pipeline, run once by `dvc repro` on the debug overlay; whoever changes anything works in a copy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pipelinekit import Workspace, copy_of, new_workspace


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes minutes can be left out by a person: `-m "not pipeline"`."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.pipeline)


@pytest.fixture(scope="session")
def finished(project: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A workspace in which `dvc repro` has run. Only read it."""
    workspace = new_workspace(project, tmp_path_factory.mktemp("finished") / "home")
    workspace.run("dvc", "repro")
    return workspace


@pytest.fixture
def copy(finished: Workspace, tmp_path: Path) -> Callable[[], Workspace]:
    """Makes a finished workspace of one's own."""
    return lambda: copy_of(finished, tmp_path / "home")
