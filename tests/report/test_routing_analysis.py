"""The routing analysis as a page: self-contained, safe against what tokens hold, with every picture and figure in it."""

import json
import re
import shutil
import subprocess
from base64 import b64encode
from itertools import chain

import pytest
from evalkit import tiny_analysis
from pagekit import drawn_by_plotly

from limoe.evals.routing.stored import Analysis
from limoe.report.document import Exhibits, Figure, Fold, Grid
from limoe.report.markdown import to_markdown
from limoe.report.page import to_html
from limoe.report.routing_analysis import document, headline, summary
from limoe.report.routing_drops import as_log

EVIL = "</script><img src=x onerror=alert(1)>`**"


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    return tiny_analysis(tmp_path_factory.mktemp("routing"))


def flat(some):
    for block in some:
        yield block
        yield from flat(block.blocks if isinstance(block, Fold) else block.figures if isinstance(block, Grid) else [])


def blocks(page):
    return list(flat([*page.lead, *(block for section in page.sections for block in section.blocks)]))


def test_the_page_holds_every_picture_and_asks_for_nothing(found):
    page = to_html(document(found)).split("<script>")[0]
    assert found.strips
    for strip in found.strips.values():
        assert b64encode(strip).decode() in page
    assert {address[:5] for address in re.findall(r'src="([^"]*)"', page)} == {"data:"}
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", page)
    assert all(re.findall(r"<img [^>]*alt=\"[^\"]+\"", page))


def test_every_figure_is_one_that_plotly_accepts_and_has_an_id_of_its_own(found):
    figures = [block for block in blocks(document(found)) if isinstance(block, Figure)]
    assert [figure.id for figure in figures] == ["experts", "confidence", "lost-image-1", "lost-image-3", "lost-text"]
    for figure in figures:
        drawn_by_plotly(figure)


def test_the_figures_draw_the_numbers(found):
    numbers, page = found.numbers, {block.id: block for block in blocks(document(found)) if isinstance(block, Figure)}
    image = numbers["layers"][0]["lost_at"]["image"]
    assert [*chain.from_iterable(page["lost-image-1"].data[0]["z"])] == pytest.approx([100 * share for share in image], abs=0.01)
    assert page["lost-text"].data[1]["y"] == pytest.approx(
        [100 * one for one in numbers["layers"][1]["lost_at"]["text"]], abs=0.01
    )
    log = as_log(numbers)
    assert log.assigned_SLME[0, 0].tolist() == [numbers["layers"][0]["load"][name] for name in ("text", "image")]


def test_a_token_cannot_become_markup(found):
    numbers = json.loads(json.dumps(found.numbers))
    for one in numbers["examples"]:
        one["words"] = [{"text": EVIL, "count": 1, "share": 1.0}]
    page = to_html(document(Analysis(numbers, {}))).split("<script>")[0]
    assert "<img" not in page
    assert "&lt;img src=x" in page


def test_the_headline_counts_specialists_and_the_worst_layer(found):
    numbers = json.loads(json.dumps(found.numbers))
    for place, layer in enumerate(numbers["layers"]):
        layer |= {"kinds": ["image", "text"], "lost": {"text": 0.1 * place, "image": 0.05}}
    assert headline(numbers) == (
        "Of the experts in its 2 MoE layers, 2 image, 2 text; training would drop 10.0% of text and 5.0% of patches in the layer "
        "that drops most"
    )


def test_the_summary_repeats_no_figure_of_the_report_and_can_be_markdown(found):
    page = document(found)
    mine = list(flat(summary(found)))
    assert "experts" not in {block.id for block in mine if isinstance(block, Figure)}
    assert sum(isinstance(block, Exhibits) for block in mine) == 2
    assert "- **Expert 1, " in to_markdown(page, "routing.html")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Debian's chromium: apt-get install chromium")
def test_the_page_fits_a_phone(found, tmp_path):
    probe = "<script>setTimeout(() => document.title = document.querySelectorAll('.exhibits img').length + ' '"
    probe += " + (document.documentElement.scrollWidth - document.documentElement.clientWidth), 1000)</script></body>"
    file = tmp_path / "routing.html"
    file.write_text(to_html(document(found)).replace("</body>", probe), encoding="utf-8")
    command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=500,900"]
    command += ["--enable-logging=stderr", "--disable-background-networking", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=4000", "--dump-dom", file.as_uri()]
    told = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in told.stderr, told.stderr
    assert re.search(r"<title>(.*?)</title>", told.stdout)[1] == f"{len(found.strips)} 0"
