"""docs/sensitivity.md is what the committed tables say; the builder itself, on tables of its own."""

import re

import pytest
from studykit import SPACE, rows

from limoe.errors import UserError
from limoe.sweep import study_page
from limoe.sweep import table as tables
from limoe.sweep.rows import to_table
from limoe.sweep.sensitivity import analyse

NUMBER = re.compile(r"(?<![\w.])-?\d+(?:\.\d+)?(?:e-?\d+)?")


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / study_page.FOLDER
    place.mkdir(parents=True)
    tables.write(to_table(rows(40), SPACE), place / "paper.parquet")
    tables.write(to_table(rows(30), SPACE), place / "classic.parquet")
    return place


def test_the_committed_page_is_what_the_committed_tables_say(project):
    page, place = project / study_page.PAGE, project / study_page.FOLDER
    if not list(place.glob("*.parquet")):
        assert not page.exists()
        return
    text, pictures = study_page.build(place)
    committed = page.read_text(encoding="utf-8")
    assert NUMBER.sub("#", committed) == NUMBER.sub("#", text)
    for old, new in zip(NUMBER.findall(committed), NUMBER.findall(text), strict=True):
        assert float(old) == pytest.approx(float(new), rel=0.02, abs=0.011)  # another processor may round otherwise
    assert {path.name for path in place.glob("*.png")} == set(pictures)


def test_all_tables_are_told_and_every_picture_is_there(folder, tmp_path):
    written = study_page.write(tmp_path)
    text = (tmp_path / study_page.PAGE).read_text()
    assert text.index("## classic") < text.index("## paper") < text.index("## What the words mean")
    linked = {part.split(")")[0] for part in text.split("](sensitivity/")[1:]}
    assert linked == {path.name for path in folder.glob("*.png")}
    assert {"paper-success.png", "paper-pair.png", "paper-importances.png", "paper-failures.png", "paper-roc.png"} <= linked
    assert set(written) == {tmp_path / study_page.PAGE, *folder.glob("*.png")}
    assert "<" not in text.replace("< 0.001", "")


def test_equal_tables_give_an_equal_page_and_old_pictures_go(folder, tmp_path):
    first, _ = study_page.build(folder)
    assert study_page.build(folder)[0] == first
    (folder / "gone-roc.png").write_bytes(b"")
    study_page.write(tmp_path)
    assert not (folder / "gone-roc.png").exists()


def test_order_titles_and_reference_come_from_the_study(folder):
    (folder / "study.yaml").write_text(
        "tables:\n- {name: paper, title: The paper's recipe}\n- {name: classic, title: Classic losses, reference: paper}\n"
    )
    (folder / "findings.md").write_text("## What came out\n\nBy hand.\n")
    text, _ = study_page.build(folder)
    assert text.index("By hand.") < text.index("## The paper's recipe") < text.index("## Classic losses")
    limit = analyse(tables.read(folder / "paper.parquet")).reference.limit
    classic = text.split("## Classic losses")[1]
    assert classic.count(f"at most {limit:.3f}") == 1
    assert "| everywhere | 30 | +0.000 |" in classic  # its trials are the first 30 of the other table
    assert "everywhere" not in text.split("## Classic losses")[0]


def test_a_table_that_is_not_there_is_named(folder, tmp_path):
    (folder / "study.yaml").write_text("tables: [{name: papr}]")
    with pytest.raises(UserError, match=r"no table papr\.parquet; there are: classic, paper"):
        study_page.build(folder)
    with pytest.raises(UserError, match="no table of trials"):
        study_page.write(tmp_path / "empty")
