"""What the report says of test pictures that the training has seen."""

from __future__ import annotations

import numpy as np
import pytest
from evalkit import tiny_params
from reportkit import LEAKAGE, plant

from limoe.config import CONTESTANTS
from limoe.report.evidence import Evidence, load_evidence
from limoe.report.leakage import leakage_section, warnings


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> list[Evidence]:
    zero = {"limoe": 0.3, "dense": 0.2, "clip": 0.4}
    return load_evidence(plant(tmp_path_factory.mktemp("planted"), tiny_params(), zero), CONTESTANTS)


def test_a_sentence_for_each_test_set_that_leaks(evidence: list[Evidence]) -> None:
    (told,) = warnings(evidence)
    assert "10 of the 200 pictures of unseen-style are training pictures or resemble one (4 byte for byte, 6 nearly)" in told.text


def test_scores_without_leaked_pictures_are_those_of_the_others(evidence: list[Evidence]) -> None:
    table, _ = leakage_section(evidence).blocks
    assert [row[0].text for row in table.rows] == [one.set for one in LEAKAGE]
    assert [cell.text for cell in table.rows[0][:7]] == ["unseen-style", "200", "4", "6", "7", "0", "top-1"]
    for one, cell in zip(evidence, table.rows[0][7:], strict=True):
        values = one.values("unseen-style", "top1")
        assert cell.sort == pytest.approx(np.mean(values[10:]))
        assert cell.note == f"with them {100 * np.mean(values):.1f}%"
    assert table.rows[2][6].text == "picture to caption, R@1"
    assert [cell.note for row in table.rows[1:] for cell in row] == [""] * 30
