"""The page and the Markdown: self-contained, safe against what captions hold, complete, and drawn by a real browser."""

import json
import re
import shutil
import subprocess

import pytest
from evalkit import tiny_params
from pagekit import drawn_by_plotly
from reportkit import only_validation, plant, plant_further

from limoe.config import CONTESTANTS
from limoe.evals.metrics import UNCAPTIONED
from limoe.files import read_json, write_json
from limoe.report import tables
from limoe.report.document import Cards, Cell, Document, Figure, Fold, Grid, Prose, Section, Table, Terms
from limoe.report.evidence import load_evidence
from limoe.report.lineup import load_lineup
from limoe.report.markdown import to_markdown
from limoe.report.page import inline, to_html
from limoe.report.published import NOTICE, ROWS
from limoe.report.scores import duels, measure
from limoe.report.story import tell
from limoe.report.style import CSS

PARAMS = tiny_params()
SIDES = ("forward", "training")
FIGURES = ["scores", *(f"pareto-{number}-{side}" for number in (0, 1) for side in SIDES), "curves", "experts", "placed"]


def told(paths, params=PARAMS):
    lineup = load_lineup(paths, params.compare)
    measured, found = measure(lineup.evidence, params.compare, 15), duels(lineup.evidence, params.compare)
    return tell(lineup, measured, found, params.compare, "timing.md")


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    return told(plant(tmp_path_factory.mktemp("planted"), PARAMS))


@pytest.fixture(scope="module")
def crowded(tmp_path_factory):
    """With further contestants, seeds, and one that could not be fetched."""
    paths, params = plant_further(plant(tmp_path_factory.mktemp("crowded"), PARAMS), PARAMS)
    return told(paths, params)


@pytest.fixture(scope="module")
def page(document):
    return to_html(document)


def blocks(document):
    def walk(some):
        for block in some:
            yield block
            if isinstance(block, Fold | Grid):
                yield from walk(block.blocks if isinstance(block, Fold) else block.figures)

    yield from walk([*document.lead, *(block for section in document.sections for block in section.blocks)])


def without_plotly(page):
    """All of the page before its two scripts, plotly's and ours."""
    return page.split("<script>")[0]


def test_the_page_asks_for_nothing_from_outside(page):
    outside = without_plotly(page)
    assert not re.search(r"""(src|href|action|poster)\s*=\s*["']?(https?:)?//""", outside)
    assert not re.search(r"url\(|@import", CSS)
    links = re.findall(r'href="([^"]*)"', outside)
    assert {link for link in links if not link.startswith("#")} == {"data:,", "timing.md"}
    assert "default-src 'none'" in page.split("<style>")[0]
    assert page.count("<script>") == 2


def test_equal_documents_give_equal_bytes(document, page):
    assert to_html(document) == page


def test_equal_evidence_in_another_folder_gives_an_equal_page(document, page, tmp_path):
    again = told(plant(tmp_path, PARAMS))
    assert again is not document
    assert to_html(again) == page
    assert to_markdown(again, "report.html") == to_markdown(document, "report.html")


def test_without_a_test_set_the_report_says_so_everywhere(tmp_path):
    document = told(only_validation(plant(tmp_path, PARAMS)))
    markdown = to_markdown(document, "report.html")
    assert document.headline.startswith("On validation sets only, since there is no test set, LIMoE ")
    assert next(section.title for section in document.sections) == "Validation sets: there is no test set"
    assert "main test" not in markdown.split("## What the numbers mean")[0]
    assert "on the test sets" not in markdown
    assert "On the first validation set**, `val`" in markdown


def test_what_one_seed_and_one_recipe_cannot_show_is_said(document):
    markdown = to_markdown(document, "report.html")
    assert "One training each" in markdown
    assert "How much each contestant's settings were tuned stands [beside its costs](#price)" in markdown
    price = next(block.text for block in document.lead if isinstance(block, Prose) and "The price" in block.text)
    assert "[timing.md](timing.md)" in price


def test_light_and_dark_give_every_colour_a_value(document, page):
    light, dark = CSS.split("prefers-color-scheme: dark")
    text = without_plotly(page)
    used = set(re.findall(r'"@([\w-]+)"', text)) | set(re.findall(r"var\(--([\w-]+)\)", text)) - {"mark"}
    assert used
    for name in used:
        assert f"--{name}:" in light
        assert f"--{name}:" in dark
    assert '<meta name="viewport" content="width=device-width' in page


def test_every_figure_is_one_that_plotly_accepts(document, crowded):
    figures = [block for block in blocks(document) if isinstance(block, Figure)]
    assert [figure.id for figure in figures] == FIGURES
    for figure in (*figures, *(block for block in blocks(crowded) if isinstance(block, Figure))):
        drawn_by_plotly(figure)


def test_what_a_table_says_is_in_both_forms(document, page):
    markdown = to_markdown(document, "report.html")
    for table in (block for block in blocks(document) if isinstance(block, Table)):
        assert table.caption in markdown
        assert inline(table.caption) in page
        assert all(len(row) == len(table.columns) for row in table.rows)
    assert document.headline in markdown
    for term in ("placed", "effective experts", "interval", "ties", "`unseen-style`".strip("`")):
        assert f"**{term}**" in markdown


def test_published_rows_are_marked_and_quote_both_versions(document):
    markdown = to_markdown(document, "report.html")
    assert f"**{NOTICE}**" in markdown
    assert f"{NOTICE}:" in markdown
    assert "78.6 (arXiv v1), 77.9 (NeurIPS)" in markdown
    assert "84.1 (arXiv v1), 83.8 (NeurIPS)" in markdown
    assert all(row.source for row in ROWS)


def test_validation_scores_stand_apart_from_the_tests(document):
    scores = next(section for section in document.sections if section.id == "scores")
    shown = [block for block in scores.blocks if isinstance(block, Table)]
    folded = [block for block in scores.blocks if isinstance(block, Fold) and block.title == "Validation sets"]
    assert "val" not in {row[0].text for row in shown[0].rows}
    assert {row[0].text for row in folded[0].blocks[0].rows} == {"val"}


def test_settings_and_hashes_that_reproduce_it_are_there(document):
    markdown = to_markdown(document, "report.html")
    for needle in ("train.lr", "`0.002`", "dddddddddddddddd", "`{}.`", "1,000 resamples", "seed 0"):
        assert needle in markdown


def test_costs_are_multiples_of_the_dense_tower(tmp_path):
    table = tables.cost_table(load_evidence(plant(tmp_path, PARAMS), CONTESTANTS))
    row = next(row for row in table.rows if (row[0].text, row[0].note) == ("Parameters", "all"))
    assert [(cell.text, cell.note) for cell in row[1:]] == [("4\xa0M", "4.00 ×"), ("1\xa0M", "1.00 ×"), ("1.2\xa0M", "1.20 ×")]


def test_text_from_outside_cannot_become_markup():
    evil = "</script><img src=x onerror=alert(1)>"
    figure = Figure("f", "caption", evil, [{"name": evil}], {})
    section = Section("s", evil, [Prose(evil), Table(evil, [evil], [[Cell(evil, evil)]]), figure, Terms({evil: evil})])
    page = to_html(Document(evil, evil, [Cards([])], [section]))
    assert "<img" not in without_plotly(page)
    assert page.count("</script>") == page.count("<script") == 3


def test_a_pipe_in_a_cell_does_not_break_the_markdown_table():
    document = Document("t", "h", [Table("c", ["a|b"], [[Cell("x|y")]])], [])
    assert "| x\\|y |" in to_markdown(document, "p")


PROBE = """<script>
const plots = [...document.querySelectorAll(".plot")];
const table = document.querySelector("table"), button = table.querySelectorAll("thead button")[1];
const column = () => [...table.tBodies[0].rows].map(row => Number(row.cells[1].dataset.sort));
button.click(); const up = column(); button.click(); const down = column();
setTimeout(() => document.title = JSON.stringify({
  drawn: plots.filter(plot => plot.querySelector(".scatterlayer path, .heatmaplayer image")).length, plots: plots.length,
  up, down, dark: matchMedia("(prefers-color-scheme: dark)").matches,
  wide: document.documentElement.scrollWidth - document.documentElement.clientWidth,
}), 2000);
</script></body>"""


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium: apt-get install chromium")
@pytest.mark.parametrize("size,scheme", [("1280,900", "light"), ("500,900", "dark")])  # no window is narrower than 500 px
def test_a_browser_draws_every_figure_sorts_the_table_and_complains_of_nothing(crowded, tmp_path, size, scheme):
    file = tmp_path / "report.html"
    file.write_text(to_html(crowded).replace("</body>", PROBE), encoding="utf-8")
    command = [
        "chromium",
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--enable-logging=stderr",
        f"--window-size={size}",
        *(["--blink-settings=preferredColorScheme=0"] if scheme == "dark" else []),
    ]
    command += ["--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}", "--virtual-time-budget=5000"]
    found = subprocess.run([*command, "--dump-dom", file.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in found.stderr, found.stderr
    title = re.search(r"<title>(.*?)</title>", found.stdout)
    state = json.loads(title.group(1).replace("&quot;", '"'))
    assert state["drawn"] == state["plots"] == len(FIGURES)
    assert state["up"] == sorted(state["up"]) == state["down"][::-1]
    assert state["wide"] == 0
    assert state["dark"] == (scheme == "dark")


def test_pictures_without_captions_are_counted(tmp_path, document):
    paths = plant(tmp_path, PARAMS)
    for name in CONTESTANTS:
        file = paths.evaluate(name) / "results.json"
        silent = [{"set": one, "metric": UNCAPTIONED, "value": 0.25, "n": 200} for one in ("test-scenes", "val")]
        write_json(file, [*read_json(file), *silent])
    marked = told(paths)
    sentence = "50 of the 200 pictures of test-scenes have no caption, and no part in retrieval"
    assert sentence in to_markdown(marked, "report.html")
    assert sentence in to_html(marked)
    assert "pictures of val have no caption" not in to_html(marked)
    assert "have no caption" not in to_html(document)


def test_a_training_that_was_rolled_back_is_marked(tmp_path, document):
    assert "rollbacks: see" not in to_html(document)
    paths = plant(tmp_path, PARAMS)
    alarm = {"name": "diverged", "step": 240, "evidence": "the contrastive loss is 9.10"}
    rollback = {"step": 240, "to": 100, "lr_factor": 0.5, "lr": 0.001, "alarms": [alarm]}
    write_json(paths.train("clip") / "health.json", {"alarms": [alarm], "rollbacks": [rollback]})
    marked = told(paths)
    cards = {card.title: card for block in marked.lead if isinstance(block, Cards) for card in block.cards}
    assert [title for title, card in cards.items() if ("1", "rollbacks: see Training") in card.lines] == ["CLIP"]
    sentence = (
        "CLIP, at step 240: back to the weights of step 100 (diverged: the contrastive loss is 9.10); from there on 0.5 times "
        "the schedule's learning rate."
    )
    for written in (to_html(marked), to_markdown(marked, "report.html")):
        assert sentence in written.replace("&#x27;", "'")
        assert "Not all trainings ran through." in written
