"""The ablation's report: a table a group, a verdict by intervals, and every digit in the CSV."""

import csv
import io

import pytest

from limoe.report.ablation import headline, signed, tables, tell, to_csv
from limoe.report.ablation_figures import forest, still
from limoe.report.markdown import to_markdown


def line(key, loss, difference=None, **changes):
    group = key.split("/")[0]
    mean, lower, upper = difference or (0, None, None)
    return {
        "key": key,
        "group": group,
        "note": f"about {key}",
        "trials": 3,
        "finished": 3,
        "loss": loss,
        "spread": 0.02,
        "success": {"hits": 2.0, "n": 3.0, "probability": 2 / 3, "lower": 0.18, "upper": 0.96},
        "kinds": {"collapsed": 1, "ok": 2},
        "text_placed": 0.874,
        "text_experts": 1.5,
        "image_experts": 4.0,
        "experts": 8.0,
        "difference": None if difference is None else {"mean": mean, "lower": lower, "upper": upper, "pairs": 3},
        **changes,
    }


@pytest.fixture
def facts():
    lines = [
        line("full", 3.0),
        line("aux/classic", 3.3, (0.3, 0.1, 0.5)),
        line("aux/local", 2.9, (-0.1, -0.15, -0.05)),
        line("priority/shuffled", 3.05, (0.05, -0.1, 0.2)),
        line("k/2", None, None, finished=0, spread=None, text_placed=None, experts=None),
    ]
    return {"lines": lines, "limit": 3.3, "seeds": 3, "omitted": {"group/256": "does not fit"}}


def test_what_is_shown_and_what_is_not(facts):
    told = headline(facts)
    assert told.startswith("1 of 3 variants are shown to be worse than the full recipe, most of all `aux/classic` (+0.300 nats)")
    assert told.endswith("1 better, most of all `aux/local` (−0.100 nats).")
    facts["lines"] = [facts["lines"][0], facts["lines"][3]]
    assert headline(facts) == "None of 1 variants is shown to be worse or better than the full recipe."


def test_each_group_has_a_table_that_the_full_recipe_heads(facts):
    found = tables(facts["lines"])
    assert [[row[0].text for row in table.rows] for table in found] == [
        ["`full`", "`aux/classic`", "`aux/local`"],
        ["`full`", "`priority/shuffled`"],
        ["`full`", "`k/2`"],
    ]
    row = found[0].rows[1]
    assert [(cell.text, cell.note, cell.tone) for cell in row[1:6]] == [
        ("3.300", "sd 0.020", ""),
        ("+0.300", "+0.100 to +0.500", "bad"),
        ("2 of 3", "18 to 96%", ""),
        ("87%", "", ""),
        ("1.5 text, 4.0 image", "of 8", ""),
    ]
    assert found[0].rows[2][2].tone == "good"
    assert found[1].rows[1][2].tone == ""
    assert [cell.text for cell in found[2].rows[1][1:6:4]] == ["–", "–"]


def test_the_document_names_what_was_not_run_and_how_success_is_meant(facts):
    markdown = to_markdown(tell(facts, "stress"), "report.html")
    assert "`group/256`: does not fit" in markdown
    assert "at most 3.300" in markdown
    assert "not adjusted for the number of variants" in markdown
    nothing = {"lines": [], "limit": None, "seeds": 0, "omitted": {}}
    assert "has not finished" in to_markdown(tell(nothing), "p")


def test_the_csv_has_a_row_a_variant(facts):
    found = list(csv.DictReader(io.StringIO(to_csv(facts))))
    assert [row["variant"] for row in found] == [one["key"] for one in facts["lines"]]
    assert (found[1]["difference_lower"], found[1]["succeeded"], found[1]["kinds"]) == ("0.1", "2.0", "collapsed:1 ok:2")
    assert (found[4]["loss"], found[4]["difference"]) == ("", "")


def test_bars_end_where_intervals_do(facts):
    compared = [one for one in facts["lines"] if one["difference"]]
    bars = forest(compared).data[0]
    assert list(bars["y"]) == ["aux/classic", "aux/local"]
    assert [mean + more for mean, more in zip(bars["x"], bars["error_x"]["array"], strict=True)] == pytest.approx([0.5, -0.05])
    assert still(compared).startswith(b"\x89PNG")
    assert signed(-0.25) == "−0.250"
