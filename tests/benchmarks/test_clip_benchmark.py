"""Our scores are CLIP_benchmark's on data without ties; skipped where that package is not installed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from benchmarks import clip_benchmark


def test_ties_are_with_the_best_that_is_sought() -> None:
    scores = torch.tensor([[0.3, 0.1, 0.3, 0.2], [0.1, 0.2, 0.2, 0.4], [0.5, 0.5, 0.1, 0.0]], dtype=torch.float64)
    sought = torch.tensor([[1, 0, 0, 0], [0, 1, 0, 1], [1, 1, 0, 0]], dtype=torch.bool)
    assert clip_benchmark.ties(scores, sought) == 1


def test_zero_shot_and_retrieval_agree_to_a_millionth(tmp_path: Path) -> None:
    pytest.importorskip("clip_benchmark", reason="CLIP_benchmark is in the bench extra: pip install -e '.[bench]'")
    data = clip_benchmark.drawn_set(60, captions=2, seed=1)
    figures, tied = clip_benchmark.compare(data, clip_benchmark.small_model(tmp_path))
    assert tied == 0
    assert len(figures) == 9
    assert 0 < figures["top5"][0] < 1
    for metric, (ours, theirs) in figures.items():
        assert ours == pytest.approx(theirs, abs=clip_benchmark.AGREE), metric
