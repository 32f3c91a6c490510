"""`limoe inspect`: what it says of sets that were made to be known, its picture, and that what it prints is what works."""

from __future__ import annotations

import doctest
import importlib
import io
import json
import shutil
import weakref
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.testing
import yaml
from layoutkit import number_of, put, tar
from layoutkit import picture as flat_picture
from PIL import Image, ImageFont
from preparekit import ROOT, candidate, ingested, picture

from limoe import cli
from limoe.config import Params, SetParams
from limoe.data import sheet
from limoe.data.sheet import GAP, LINE, LINES, NOTES, SIDE, Card, contact_sheet, font_for, wrap
from limoe.data.sources import build
from limoe.data.survey import Picture, Samples, survey
from limoe.inspection import unwatched
from limoe.overlay import dump_document, load_document, merge

PHOTOS = ROOT.parent / "shared" / "data"
EXAMPLES = (
    "data.sources.splits",
    "data.sources.texts",
    "data.sources.base",
    "data.sources.classes",
    "data.formats.samples",
    "data.inplace",
    "inspection",
)


def limoe(*arguments: str) -> Any:
    return typer.testing.CliRunner().invoke(cli.app, list(arguments), env={"COLUMNS": "160", "NO_COLOR": "1"})


def overlaid(section: dict[str, Any]) -> Params:
    document = load_document(ROOT / "params.yaml")
    merge(document, section)
    return Params.parse(document, "what inspect printed")


@pytest.fixture
def pets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three good pictures and two bad rows, in the working directory; a text beside a picture in another folder."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "data" / "raw" / "pets"
    folder.mkdir(parents=True)
    for number, size in enumerate(((20, 16), (40, 30), (10, 60))):
        (folder / f"{number}.png").write_bytes(picture(number, *size))
    rows = ["0.png,a grey cat,cat,train", "0.png,the cat sleeps,,", "1.png,a dog,dog,val", "2.png,a grey cat,cat,train"]
    (folder / "rows.csv").write_text("\n".join(["file_name,text,label,split", *rows, "gone.png,x,,", "1.png,y,,holdout"]))
    (texts := tmp_path / "data" / "raw" / "texts").mkdir()
    (texts / "0.png").write_bytes(picture(0))
    (texts / "0.txt").write_text("a cat")
    return folder


def test_what_is_said_is_counted_right(pets: Path) -> None:
    result = limoe("inspect", "data/raw/pets/rows.csv", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert (told["name"], told["kind"], told["items"], told["looked_at"], told["pictures"]) == ("rows", "table", 5, 5, 4)
    assert told["columns"] == {"image": "file_name", "captions": ["text"], "label": "label", "split": "split", "group": None}
    assert told["captions_a_picture"] == {"least": 1, "median": 1, "mean": 1.3, "most": 2}
    assert told["words_a_caption"] == {"least": 2, "median": 3.0, "mean": 2.8, "most": 3}
    assert told["different_captions"] == 0.75
    assert told["labels"] == {"different": 2, "commonest": ["cat", "dog"]}
    assert told["splits"] == {"train": 2, "val": 1}
    assert (told["width"]["least"], told["height"]["most"], told["shorter_side"]["median"]) == (10, 60, 16)
    assert told["formats"] == {"PNG": 3}
    assert {reason: row["count"] for reason, row in told["rejected"].items()} == {"missing-file": 1, "bad-split": 1}
    assert told["rejected"]["bad-split"]["first"].startswith("rows/1.png: line 7: split 'holdout'")
    assert Path(told["sheet"]).read_bytes().startswith(b"\x89PNG")


def test_what_is_printed_works_when_it_is_merged(pets: Path) -> None:
    result = limoe("inspect", "data/raw/pets/rows.csv", "--name", "mine", "--column", "caption=text", "--out", "here.png")
    assert result.exit_code == 0, result.stderr
    assert "mine: read as table, 1 file, 5 inputs; 5 looked at" in result.stdout
    assert "captions: 1 to 2 (median 1) a picture, of 2 to 3 (median 3) words; 75% differ" in result.stdout
    assert Path("here.png").is_file()
    params = overlaid(yaml.safe_load(result.stdout[result.stdout.index("prepare:") :].split("\n\n")[0]))
    assert params.prepare.sets["mine"].columns.caption == "text"
    assert params.train.mixture == {"emoji": 0, "scenes": 0, "mine": 1}
    assert build(params.prepare, Path())["mine"].total == 5


def test_an_absolute_path_below_the_project_is_printed_as_one_from_there(pets: Path) -> None:
    result = limoe("inspect", str(pets / "rows.csv"), "--images", str(pets), "--json")
    (told,) = json.loads(result.stdout)["params"]["prepare"]["sets"].values()
    assert (told["path"], told["images"]) == ("data/raw/pets/rows.csv", "data/raw/pets")
    assert "another machine" not in limoe("inspect", str(pets / "rows.csv")).stdout


def test_an_absolute_path_elsewhere_is_pointed_at(pets: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    shutil.copytree(pets, elsewhere / "pets")
    path = str(elsewhere / "pets" / "rows.csv")
    printed = limoe("inspect", path).stdout
    section = printed[printed.index("# ") :]
    assert section.startswith(f"# {path} is an absolute path: it will not be there on another machine\nprepare:")
    assert overlaid(yaml.safe_load(section)).prepare.sets["rows"].path == path


def test_the_section_of_a_second_set_leaves_out_what_the_file_mixes(pets: Path) -> None:
    """Mappings merge: what the present mixture names stays in it."""
    document = load_document(ROOT / "params.yaml")
    first = {"prepare": {"sources": ["first"], "sets": {"first": {"path": "x"}}}}
    merge(document, first | {"train": {"mixture": {"emoji": 0, "scenes": 0, "first": 1}}})
    Path("params.yaml").write_text(dump_document(document))
    section = json.loads(limoe("inspect", "data/raw/pets/rows.csv", "--json").stdout)["params"]
    assert section["train"]["mixture"] == {"emoji": 0, "scenes": 0, "first": 0, "rows": 1}
    Path("own.yaml").write_text(yaml.safe_dump(section))
    assert limoe("params", "--overlay", "own.yaml").exit_code == 0
    again = json.loads(limoe("inspect", "data/raw/pets/rows.csv", "--json").stdout)["params"]
    assert again["train"]["mixture"] == {"emoji": 0, "scenes": 0, "first": 0, "rows": 1}


def test_the_mixture_is_that_of_the_parameters_that_are_named(pets: Path) -> None:
    Path("mine.yaml").write_text("train: {mixture: {photos: 1}}")
    result = limoe("inspect", "data/raw/pets/rows.csv", "--params", "mine.yaml", "--json")
    assert json.loads(result.stdout)["params"]["train"]["mixture"] == {"photos": 0, "rows": 1}
    hint = "limoe params --params=mine.yaml --overlay FILE, with the section above in it; then limoe prepare --params=mine.yaml"
    assert result.stderr.endswith(f"next: {hint}\n")
    assert "to be merged into mine.yaml" in limoe("inspect", "data/raw/pets/rows.csv", "--params", "mine.yaml").stdout


def test_parameters_that_are_named_and_missing_are_refused_and_the_default_ones_may_be(pets: Path) -> None:
    result = limoe("inspect", "data/raw/pets/rows.csv", "--params", "nowhere.yaml")
    assert result.exit_code == 2
    assert "nowhere.yaml: no such file" in result.stderr
    assert limoe("inspect", "data/raw/pets/rows.csv").exit_code == 0


def test_what_is_left_aside_is_told(pets: Path) -> None:
    (pets / "captions.txt").write_text("image,caption\n0.png,a grey cat\n1.png,a dog\n")
    told = json.loads(limoe("inspect", "data/raw/pets", "--json").stdout)
    assert (told["kind"], told["pictures"], told["left_aside"]) == ("flickr", 2, ["rows.csv"])
    shown = limoe("inspect", "data/raw/pets").stdout
    assert "left aside: rows.csv, since captions.txt has the captions; to read a table, name it as the path\n" in shown
    assert "left aside" not in limoe("inspect", "data/raw/pets/captions.txt").stdout
    for number in range(6):
        (pets / f"{number}.csv").write_text("x")
    assert "left aside: 0.csv, 1.csv, 2.csv and 4 more, since" in limoe("inspect", "data/raw/pets").stdout


def test_pictures_that_dvc_would_not_notice_are_told(pets: Path) -> None:
    shutil.copytree(pets, "photos")
    shown = limoe("inspect", "data/raw/pets/rows.csv", "--images", "photos").stdout
    assert "DVC watches data/raw alone: move photos there, or add it to the deps of prepare in dvc.yaml" in shown
    assert shown.count("DVC") == 1


def test_a_column_can_be_left_alone(pets: Path) -> None:
    result = limoe("inspect", "data/raw/pets/rows.csv", "--column", "label=false", "--column", "split=false", "--json")
    told = json.loads(result.stdout)
    assert (told["labels"], told["columns"]["split"]) == (None, None)
    assert told["params"]["prepare"]["sets"]["rows"]["columns"] == {"label": False, "split": False}


def test_a_large_set_is_looked_at_here_and_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.survey.LOOKED_AT", 10)
    monkeypatch.setattr("limoe.data.survey.PARTS", 3)
    for name in range(6):
        tar(tmp_path, {f"{n}": {"png": flat_picture(n), "txt": b"x"} for n in range(8)}, name=f"{name}")
    found = survey("mine", SetParams(path="."), tmp_path, iter, samples=4)
    assert [one.candidate.key for one in found.pictures] == [
        f"mine/{t}/{n}" for t, count in ((0, 3), (2, 3), (4, 4)) for n in range(count)
    ]
    assert (found.facts["items"], found.facts["looked_at"], found.facts["files"]) == (None, 10, 6)
    assert [one.candidate.key[-3:] for one in found.samples] == ["0/0", "0/2", "2/1", "4/0"]
    assert all(one.candidate.image for one in found.samples)
    assert len(survey("mine", SetParams(path="."), tmp_path, iter, samples=50).samples) == 10


def test_pictures_that_are_looked_at_do_not_pile_up() -> None:
    def picture(number: int) -> Picture:
        made = Picture(candidate(str(number), b"x"), 1, 1, "PNG", 1)
        alive.add(made)
        return made

    alive: weakref.WeakSet[Picture] = weakref.WeakSet()
    samples, most = Samples(10), 0
    for number in range(1000):
        samples.add(picture(number))
        most = max(most, len(alive))
    assert most <= 22
    keys = [int(one.candidate.key) for one in samples.chosen()]
    assert (len(keys), keys[0]) == (10, 0)
    assert all(64 <= later - earlier <= 128 for earlier, later in pairwise([*keys, 1000]))


def test_labels_that_are_no_words_are_pointed_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, wnid in enumerate(("n01440764", "n01443537")):
        put(tmp_path / "data" / "raw" / "net" / wnid / "0.png", number)
    shown = limoe("inspect", "data/raw/net").stdout
    assert "labels: these are no words, and make no captions; name them in a YAML file (the set's key classes)" in shown
    assert "DVC" not in shown


def test_what_dvc_would_not_notice_is_told(tmp_path: Path) -> None:
    for path in ("data/raw/pets", "data/raw/pets/*.tar", "./data/raw/pets", str(tmp_path / "data" / "raw" / "pets")):
        assert unwatched(path, tmp_path) is None
    for path in ("elsewhere", "data/raw2/pets", "data/raw/../pets"):
        assert unwatched(path, tmp_path) == (
            f"DVC watches data/raw alone: move {path} there, or add it to the deps of prepare in dvc.yaml"
        )
    assert unwatched("s3://bucket/a.tar", tmp_path) == (
        "DVC does not see s3://bucket/a.tar: after a change there run dvc repro --force prepare"
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (("nowhere",), "error: nowhere: no file here\n"),
        (("data/raw/pets/rows.csv", "--kind", "csv"), "error: kind = 'csv' is not allowed"),
        (("data/raw/pets/rows.csv", "--name", "emoji"), "error: --name: the name 'emoji' is taken"),
        (("data/raw/pets/rows.csv", "--column", "text"), "error: --column text: must look like caption=NAME"),
        (("data/raw/pets/rows.csv", "--column", "words=text"), "error: unknown key columns.words"),
        (("data/raw/pets/rows.csv", "--column", "caption=words"), "there is no 'words', which its key columns names"),
        (("data/raw/pets/rows.csv", "--images", "gone"), "error: images: gone is no folder"),
        (("data/raw/texts", "--column", "caption=title"), "data/raw/texts is read as sidecar: columns is of no use to the kind"),
    ],
)
def test_mistakes_get_a_sentence(pets: Path, arguments: tuple[str, ...], sentence: str) -> None:
    result = limoe("inspect", *arguments)
    assert (result.exit_code, sentence in result.stderr) == (2, True), result.stderr
    assert result.stderr.count("\n") == 1


def test_a_set_without_a_good_picture_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.tar").write_bytes(b"no tar")
    shown = limoe("inspect", "a.tar").stdout
    assert "rejected: 1 broken-tar (first a/a.tar: behind its beginning:" in shown
    assert "samples: none, every input that was looked at is rejected" in shown


def test_pictures_are_laid_out_in_rows() -> None:
    cards = [Card(flat_picture(10 * number), f"picture {number}", ("train",)) for number in range(7)]
    drawn = Image.open(io.BytesIO(contact_sheet(cards)))
    height = SIDE + (LINES + NOTES) * LINE + 2 * GAP
    assert drawn.size == (5 * (SIDE + GAP) + GAP, 2 * height + GAP)
    for number in range(7):
        middle = (GAP + number % 5 * (SIDE + GAP) + SIDE // 2, GAP + number // 5 * height + SIDE // 2)
        assert drawn.getpixel(middle)[0] == 10 * number
        below = drawn.crop(
            (middle[0] - SIDE // 2, middle[1] + SIDE // 2 + GAP // 2, middle[0] + SIDE // 2, middle[1] + SIDE // 2 + 30)
        )
        assert below.convert("L").getextrema()[0] < 100  # ink
    assert number_of(cards[3].image) == 30
    assert Image.open(io.BytesIO(contact_sheet(cards[:1]))).width == SIDE + 2 * GAP


MARK = "\u0301"  # an accent for the letter before it


class CountingFont:
    """Letters of 5 px and marks of none. measured: characters, so far."""

    def __init__(self) -> None:
        self.measured = 0

    def getlength(self, text: str) -> float:
        self.measured += len(text)
        return 5.0 * (len(text) - text.count(MARK))


@pytest.mark.parametrize("text", ["x" * 1_000_000, "a" + MARK * 1_000_000, "ab " * 300_000, "i\u0301 " * 300_000])
def test_a_hostile_caption_is_wrapped_at_little_cost(text: str) -> None:
    """Each line measures a few times what may be shown, whatever the caption holds."""
    font = CountingFont()
    lines = wrap(text, font, 240, 5)  # type: ignore[arg-type]
    measured = font.measured
    assert 1 <= len(lines) <= 5
    assert all(font.getlength(line) <= 240 for line in lines)
    assert measured < 6 * 12 * 2000


@pytest.mark.parametrize(
    "text",
    [
        "a b c d e f g h",
        "word " * 9,
        "x" * 300,
        "一只猫坐在红色沙发上看着窗外的鸟" * 9,
        "שלום עולם",
        "\u202ea\u202c",
        "",
        "é" * 3,
    ],
)
def test_captions_of_any_script_are_wrapped_within_the_width(text: str) -> None:
    font = font_for(text)
    lines = wrap(text, font, 120, 3)
    assert len(lines) <= 3
    assert all(line == line.strip() for line in lines)
    assert all(font.getlength(line) <= 120 for line in lines)
    whole = "".join(lines).replace(" ", "")
    assert whole.removesuffix("…") == text.replace(" ", "")[: len(whole.removesuffix("…"))]
    assert whole.endswith("…") == (len(whole.removesuffix("…")) < len(text.replace(" ", "")))


def test_a_font_is_chosen_that_has_the_letters(monkeypatch: pytest.MonkeyPatch) -> None:
    own = sheet._fonts()[0]
    mathematical = str(Path(own).with_name("STIXNonUni.ttf"))  # has letters where others have none
    broken = str(ROOT / "params.yaml")
    monkeypatch.setattr(sheet, "_fonts", lambda: (own, broken, mathematical))
    only = next(iter(sheet._characters(mathematical) - sheet._characters(own)))
    assert (font_for("cat").path, font_for(chr(only) * 3).path) == (own, mathematical)
    assert isinstance(font_for("\U0010fffd"), ImageFont.FreeTypeFont)  # that nobody has: drawn as a box


@pytest.mark.parametrize("module", EXAMPLES)
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    results = doctest.testmod(importlib.import_module(f"limoe.{module}"))
    assert (results.failed, results.attempted > 0) == (0, True)


@pytest.mark.parametrize(
    "folder, kind, splits", [("flickr8k", "webdataset", {"train", "val", "test"}), ("imagenet-sample", "imagefolder", None)]
)
def test_real_sets_are_found_out_and_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, kind: str, splits: Any
) -> None:
    if not (PHOTOS / folder).is_dir():
        pytest.skip(f"../shared/data/{folder} is not here")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "set").symlink_to(PHOTOS / folder)
    path = "set/val-*.tar" if kind == "webdataset" else "set"
    told = json.loads(limoe("inspect", path, "--name", "real", "--json").stdout)
    assert (told["kind"], told["looked_at"], told["rejected"]) == (kind, 1000, {})
    params = overlaid(told["params"]).prepare
    manifest = ingested(build(params, tmp_path), params, tmp_path / "out")
    assert sum(split["rows"] for split in manifest["splits"].values()) == 1000
    assert set(manifest["splits"]) == {"train", "val", "test"}
