"""`limoe deps --write`: code deps are put right, and what people have written into dvc.yaml stays."""

from pathlib import Path

from limoe.deps import stale_stages

DVC = """stages:
  # a stage
  compare:
    cmd: exec limoe compare # the last one
    deps:
      - limoe/gone.py
      - runs/evaluate # of every contestant
      - limoe/stages/compare.py
    outs:
      - report
"""


def test_comments_on_other_deps_stay(tmp_path: Path) -> None:
    file = tmp_path / "dvc.yaml"
    file.write_text(DVC)
    assert stale_stages(file, write=True) == ["compare"]
    lines = file.read_text().splitlines()
    deps = lines[lines.index("    deps:") + 1 : lines.index("    outs:")]
    assert deps[0] == "      - runs/evaluate # of every contestant"
    assert "      - limoe/stages/compare.py" in deps
    assert "      - limoe/gone.py" not in deps
    assert "  # a stage" in lines
    assert stale_stages(file) == []
