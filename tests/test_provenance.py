"""Where a result comes from: the code that is truly imported, and the commit."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from limoe import provenance

STAGES = ("prepare", "balance", "train", "evaluate", "compare")
LOADED = """
import importlib, json, sys
found = {}
for stage in sys.argv[1:]:
    importlib.import_module(f"limoe.stages.{stage}")
    ours = [name for name in sys.modules if name.split(".")[0] == "limoe"]
    found[stage] = [sys.modules.pop(name).__file__ for name in ours]  # so that the next stage imports them anew
print(json.dumps(found))
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A tiny `limoe`: a imports b at the top and c in a function; d is imported by nobody."""
    sources = {
        "__init__.py": "",
        "a.py": "import json\nfrom limoe.b import thing\ndef f():\n    from limoe.deep import c\n",
        "b.py": "import limoe.deep.e\n",
        "d.py": "",
        "deep/__init__.py": "",
        "deep/c.py": "from limoe import a\n",
        "deep/e.py": "",
    }
    for name, text in sources.items():
        path = tmp_path / "limoe" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(provenance, "PACKAGE_ROOT", tmp_path)
    provenance.code_hash.cache_clear()
    yield tmp_path
    provenance.code_hash.cache_clear()


def test_imports_are_followed_wherever_they_stand(package: Path) -> None:
    names = ["__init__", "a", "b", "deep/__init__", "deep/c", "deep/e"]
    assert provenance.code_files("limoe.a") == [f"limoe/{name}.py" for name in names]
    assert provenance.code_files("limoe.d") == ["limoe/__init__.py", "limoe/d.py"]


def test_the_hash_changes_with_what_is_imported_and_nothing_else(package: Path) -> None:
    def digest() -> str:
        provenance.code_hash.cache_clear()
        return provenance.code_hash("limoe.a")

    before = digest()
    (package / "limoe" / "d.py").write_text("x = 1")
    assert digest() == before
    (package / "limoe" / "deep" / "e.py").write_text("x = 1")
    assert digest() != before


def test_it_finds_every_module_that_importing_a_stage_loads(project: Path) -> None:
    """Python's own account of what was imported is the independent truth; imports inside functions come on top of it."""
    answer = subprocess.run([sys.executable, "-c", LOADED, *STAGES], capture_output=True, text=True, check=True, cwd=project)
    for stage, files in json.loads(answer.stdout).items():
        found = provenance.code_files(f"limoe.stages.{stage}")
        assert {Path(name).relative_to(project).as_posix() for name in files} <= set(found)
        assert "limoe/cli.py" not in found
        own = {"limoe/stages/__init__.py", f"limoe/stages/{stage}.py"} | (
            {"limoe/stages/launch.py"} if stage == "train" else set()
        )
        assert {name for name in found if "/stages/" in name} == own


def test_the_commit_tells_whether_tracked_files_differ(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert provenance.git_commit() == "unknown"
    subprocess.run(["git", "init", "-q"], check=True)
    (tmp_path / "a").write_text("1")
    subprocess.run(["git", "add", "a"], check=True)
    subprocess.run(["git", "commit", "-qm", "first"], check=True)
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    (tmp_path / "untracked").touch()
    assert provenance.git_commit() == commit
    (tmp_path / "a").write_text("2")
    assert provenance.git_commit() == commit + "+"
