"""The report of a sweep: what it says is what the facts say, in every form; drawn by a real browser."""

import json
import re
import shutil
import subprocess
import time
from dataclasses import replace
from io import BytesIO
from itertools import pairwise

import pytest
from pagekit import drawn_by_plotly
from PIL import Image
from studykit import SPACE, rows

from limoe.plots import new_figure
from limoe.report import failure_figures, failure_tables, sensitivity_figures, sensitivity_stills, sensitivity_tables
from limoe.report.document import Figure, Grid
from limoe.report.markdown import body, to_markdown
from limoe.report.page import to_html
from limoe.report.sensitivity import headline, tell
from limoe.report.sensitivity_stills import stills, success
from limoe.report.style import CSS
from limoe.report.values import middle, position, short_names
from limoe.sweep.pages import report_sweep, trials_of
from limoe.sweep.rows import to_table
from limoe.sweep.sensitivity import analyse


def told(some, space=SPACE):
    table = to_table(some, space)
    found = analyse(table)
    return found.to_dict(), trials_of(table, found)


@pytest.fixture(scope="module")
def known():
    return told(rows(40))


@pytest.fixture(scope="module")
def document(known):
    return tell(*known, "small")


def figures(document):
    for block in (one for section in document.sections for one in section.blocks):
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Grid):
            yield from block.figures


def test_the_page_has_what_was_asked_for(document):
    markdown = to_markdown(document, "report.html")
    for title in (
        "What to use",
        "How far it may move",
        "What decides success",
        "Importances",
        "How failure looks",
        "Early warning",
    ):
        assert f"## {title}" in markdown
    ids = {figure.id for figure in figures(document)}
    assert {"success-train-lr", "success-model-moe-k", "importances", "failures", "roc", "reach"} <= ids
    assert any(one.startswith("pair-") for one in ids)


def test_the_recipe_stands_beside_the_best_run_with_its_values(known):
    facts, _ = known
    table = sensitivity_tables.recipe_table(facts)
    found = facts["recommendation"]
    assert list(table.columns)[:1] + list(table.columns)[-1:] == ["Setting", "Best single run"]
    row = next(row for row in table.rows if row[0].text == "`train.lr`")
    assert row[1].text == f"{found['robust']['values']['train.lr']:.3g}"
    assert row[-1].text == f"{found['best_run']['values']['train.lr']:.3g}"


def test_outcomes_are_counted_as_they_are(known):
    facts, trials = known
    table = failure_tables.outcome_table(facts)
    counted = {row[0].text.strip("`"): int(row[1].text) for row in table.rows}
    some = rows(40)
    for kind in ("ok", "collapsed", "diverged"):
        assert counted[kind] == sum(row.kind == kind for row in some)
    grouped = failure_figures.by_kind(facts, trials)
    assert sum(len(mine) for mine in grouped.values()) == len(some) == len(trials)
    assert len(grouped["succeeded"]) == facts["counts"]["successes"]


def test_the_interval_of_a_bin_is_drawn_where_it_lies(known):
    facts, _ = known
    curve = next(one for one in facts["curves"] if one["name"] == "model.moe.k")
    trace = sensitivity_figures.success_curve(facts, curve).data[0]
    first = next(one for one in curve["bins"] if one["share"]["probability"] is not None)
    assert trace["x"][0] == str(first["choice"])
    assert trace["y"][0] + trace["error_y"]["array"][0] == pytest.approx(100 * first["share"]["upper"], abs=0.02)
    assert trace["y"][0] - trace["error_y"]["arrayminus"][0] == pytest.approx(100 * first["share"]["lower"], abs=0.02)


def test_places_on_an_axis_by_hand():
    log = {"choices": None, "log": True, "low": 1e-4, "high": 1e-2}
    assert position(log, 1e-3) == pytest.approx(0.5)
    assert position({"choices": [8, 16, 32]}, 16) == 0.5
    assert position({"choices": None, "log": False, "low": 1, "high": 3}, 1.5) == 0.25
    assert middle({"low": 2, "high": 4}, log=False) == 3


NULL = {"train.lr": SPACE["train.lr"], "model.moe.tau_text": {"choices": [None, 1.0]}}


@pytest.fixture(scope="module")
def null():
    """A sweep in which `null` is the better choice: with 1.0 every training fails."""

    def one(row):
        tau = None if row.point % 2 else 1.0
        values = {"train.lr": row.values["train.lr"], "model.moe.tau_text": tau}
        failed = {"kind": "diverged", "loss": None} if tau else {"kind": "ok", "loss": row.loss or 3.2}
        return replace(row, values=values, **failed)

    return told([one(row) for row in rows(40)], NULL)


def test_null_that_is_recommended_is_told_as_null(null):
    facts, trials = null
    assert facts["recommendation"]["robust"]["values"]["model.moe.tau_text"] is None
    page = to_markdown(tell(facts, trials), "p")
    assert "`model.moe.tau_text` null" in page
    assert "not searched" not in page
    for table in (sensitivity_tables.recipe_table(facts), sensitivity_tables.reach_table(facts)):
        row = next(row for row in table.rows if row[0].text == "`model.moe.tau_text`")
        assert row[1].text == "null"
    curve = next(one for one in facts["curves"] if one["name"] == "model.moe.tau_text")
    assert set(sensitivity_figures.success_curve(facts, curve).data[0]["x"]) == {"null", "1"}


def test_trials_with_null_are_on_the_map_of_failures(null):
    facts, trials = null
    traces = failure_figures.failure_map(facts, trials).data
    shown = [place for trace in traces for place in zip(trace["x"], trace["y"], strict=True)]
    tried = [(one["values"]["train.lr"], "1" if one["values"]["model.moe.tau_text"] else "null") for one in trials]
    if failure_figures.failure_axes(facts)[0] != "train.lr":
        tried = [place[::-1] for place in tried]
    assert sorted(map(str, shown)) == sorted(map(str, tried))
    assert sensitivity_stills.failures(facts, trials)


def test_what_a_condition_left_out_is_told_as_not_searched():
    failures = [
        {"point": point, "seed": 0, "kind": "diverged", "step": 20, "values": values, "evidence": ""}
        for point, values in enumerate(({"train.lr": 0.1, "model.moe.tau_text": None}, {"train.lr": 0.1}))
    ]
    facts = {"axes": [{"name": "train.lr"}, {"name": "model.moe.tau_text"}], "failures": failures}
    table = failure_tables.failure_table(facts)
    assert [[cell.text for cell in row[3:5]] for row in table.rows] == [["0.1", "null"], ["0.1", "not searched"]]


@pytest.mark.parametrize(
    "names, short",
    [
        (["train.lr", "model.moe.k"], ["lr", "k"]),
        (["model.moe.router", "train.lr_scale.router", "train.lr"], ["moe.router", "lr_scale.router", "lr"]),
        (["a.x.k", "b.x.k", "c.k", "k"], ["a.x.k", "b.x.k", "c.k", "k"]),
        (["router", "moe.router"], ["router", "moe.router"]),
        ([], []),
    ],
)
def test_short_names_are_as_long_as_it_takes_to_tell_them_apart(names, short):
    assert short_names(names) == dict(zip(names, short, strict=True))


@pytest.fixture(scope="module")
def alike():
    """The facts of a sweep in which two settings have one last name."""
    names = {"train.lr": "model.moe.router", "model.moe.capacity_factor": "train.lr_scale.router", "model.moe.k": "model.moe.k"}
    some = [replace(row, values={names[name]: value for name, value in row.values.items()}) for row in rows(40)]
    return told(some, {names[name]: spec for name, spec in SPACE.items()})[0]


def test_settings_of_one_last_name_have_a_row_each(alike):
    both = {"moe.router", "lr_scale.router"}
    assert set(sensitivity_figures.importances(alike).data[0]["y"]) == {*both, "k"}
    assert set(failure_figures.reach_bars(alike).data[-1]["y"]) == both
    for pair in alike["pairs"]:
        layout = sensitivity_figures.pair_map(pair).layout
        assert layout["xaxis"]["title"] != layout["yaxis"]["title"]
    assert re.search("`(moe|lr_scale).router` decides it most", headline(alike))


def test_settings_of_one_last_name_have_a_label_each_in_pictures(alike, monkeypatch):
    drawn = []
    monkeypatch.setattr(sensitivity_stills, "to_png", drawn.append)
    sensitivity_stills.importances(alike)
    (axes,) = drawn[0].axes
    assert {label.get_text() for label in axes.get_yticklabels()} == {"moe.router", "lr_scale.router", "k"}


def test_finals_are_the_figures_to_quote(known):
    facts, _ = known
    robust = facts["recommendation"]["robust"]["point"]
    final = replace(next(row for row in rows(40) if row.point == robust), phase="final", kind="ok")
    fresh = [replace(final, seed=1000, loss=3.0, fingerprint="a"), replace(final, seed=1001, loss=3.2, fingerprint="b")]
    again, _ = told([*rows(40), *fresh])
    row = sensitivity_tables.finals_table(again).rows[0]
    assert (row[0].text, row[1].text, row[1].note) == ("Robust recipe", "3.100", "sd 0.141")
    assert row[2].text == "3.000 to 3.200"
    assert "figures to quote" in to_markdown(tell(again, []), "p")


def test_every_figure_is_one_that_plotly_accepts_in_known_colours(document):
    light, dark = CSS.split("prefers-color-scheme: dark")
    for figure in figures(document):
        drawn_by_plotly(figure)
        for name in re.findall(r'"@([\w-]+)"', json.dumps([list(figure.data), figure.layout])):
            assert f"--{name}:" in light
            assert f"--{name}:" in dark


def test_equal_facts_give_equal_pages(known, document):
    assert to_html(tell(*known, "small")) == to_html(document)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_few_trials_are_said_to_be_few(count):
    facts, trials = told(rows(count))
    page = to_markdown(tell(facts, trials), "p")
    assert "there are no trials" in page.lower() or "few" in page
    assert isinstance(stills(facts, trials), dict)


def test_places_without_a_curve_stay_blank(known):
    facts, _ = known
    picture = Image.open(BytesIO(success({**facts, "curves": facts["curves"][:1]}))).convert("L")
    width, height = picture.size
    assert picture.crop((width // 2, 0, width, height)).getextrema() == (255, 255)
    assert picture.getextrema() != (255, 255)


def test_a_short_logarithmic_axis_has_labels_that_do_not_run_into_each_other():
    axes = new_figure((3.0, 2.0)).add_subplot()
    axes.set_xlim(1e-3, 6.4e-3)
    sensitivity_stills._scale(axes, "x", {"choices": None, "log": True, "low": 1e-3, "high": 6.4e-3})
    axes.figure.canvas.draw()
    boxes = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks()]
    assert [tick.label1.get_text() for tick in axes.xaxis.get_major_ticks()] == ["0.001", "0.003"]
    assert all(left.x1 < right.x0 for left, right in pairwise(boxes))
    assert not any(tick.label1.get_visible() for tick in axes.xaxis.get_minor_ticks())


def test_a_headline_quotes_no_figure_that_could_be_anything():
    facts, _ = told(rows(120))
    found = facts["recommendation"]["success"]
    assert f"{found['probability']:.0%}" in headline(facts)
    found |= {"probability": 0.96, "lower": 0.0, "upper": 1.0}  # one trial near the recipe
    assert "96%" not in headline(facts)
    assert "Near the recipe to use there are too few to tell." in headline(facts)


def test_a_space_of_failures_recommends_nothing():
    failed = [replace(row, kind="diverged", loss=None, step=20) for row in rows(12)]
    facts, trials = told(failed)
    assert "too few ended" in headline(facts)
    assert "## What to use" not in to_markdown(tell(facts, trials), "p")


def test_pictures_take_the_place_of_figures(document):
    grid = next(block for section in document.sections for block in section.blocks if isinstance(block, Grid))
    text = "\n".join(body(document, "", {grid.figures[0].id: "s.png", "roc": "r.png"}, level=3))
    assert text.count("](s.png)") == text.count("](r.png)") == 1
    assert "drawn in" not in text
    assert "### What to use" in text


def test_a_sweep_of_two_hundred_trials_is_reported_in_seconds(tmp_path):
    from limoe.sweep import table as tables

    tables.write(to_table(rows(200), SPACE), tmp_path / "trials.parquet")
    start = time.perf_counter()
    report_sweep(tmp_path)
    assert time.perf_counter() - start < 60  # 4 s on an idle core
    assert {path.name for path in (tmp_path / "plots").iterdir()} == {
        f"{name}.png" for name in ("success", "pair", "importances", "failures", "roc")
    }
    assert json.loads((tmp_path / "sensitivity.json").read_text())["counts"]["trials"] == 200
    assert (tmp_path / "report.md").read_text().startswith("# Sensitivity of limoe")


PROBE = """<script>setTimeout(() => {
const plots = [...document.querySelectorAll(".plot")];
document.title = JSON.stringify({
  drawn: plots.filter(plot => plot.querySelector("path, image")).length, plots: plots.length,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
});}, 2000);</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium: apt-get install chromium")
def test_a_browser_draws_every_figure(document, tmp_path):
    file = tmp_path / "report.html"
    file.write_text(to_html(document).replace("</body>", PROBE), encoding="utf-8")
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
    ]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    found = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in found.stderr, found.stderr
    state = json.loads(re.search(r"<title>(.*?)</title>", found.stdout).group(1).replace("&quot;", '"'))
    assert state["drawn"] == state["plots"] >= 8
    assert state["wide"] == 0
