"""What belongs together lies in one split, whatever form a set has: named groups, and else pictures that are equal."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from layoutkit import tar
from preparekit import ListedSource, candidate, ingested, params_with, picture

from limoe.config import PrepareParams, SetParams
from limoe.data.prepared import Prepared
from limoe.data.schema import Bond
from limoe.data.sources import build
from limoe.data.survey import survey
from limoe.stages.prepare import print_summary


class Row(NamedTuple):
    """picture: its number. split, group: as the set names them."""

    picture: int
    split: str | None = None
    group: str | None = None

    def told(self) -> dict[str, Any]:
        """What the set says of it beside the picture."""
        return {"caption": f"picture {self.picture}", "split": self.split, "group": self.group}


def columns(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist([{"image": picture(row.picture), **row.told()} for row in rows])


def write_parquet(folder: Path, name: str, rows: Sequence[Row]) -> None:
    pq.write_table(columns(rows), folder / f"{name}.parquet")


def write_arrow(folder: Path, name: str, rows: Sequence[Row]) -> None:
    table = columns(rows)
    with pa.ipc.new_file(folder / f"{name}.arrow", table.schema) as file:
        file.write_table(table)


def write_tar(folder: Path, name: str, rows: Sequence[Row]) -> None:
    samples = {f"{n:04d}": {"png": picture(row.picture), "json": json.dumps(row.told()).encode()} for n, row in enumerate(rows)}
    tar(folder, samples, name=name)


def write_table(folder: Path, name: str, rows: Sequence[Row]) -> None:
    lines = []
    for number, row in enumerate(rows):
        (folder / f"{name}-{number}.png").write_bytes(picture(row.picture))
        lines.append(json.dumps({"image": f"{name}-{number}.png", **row.told()}))
    (folder / f"{name}.jsonl").write_text("\n".join(lines))


KINDS: dict[str, Callable[[Path, str, Sequence[Row]], None]] = {
    "parquet": write_parquet,
    "huggingface": write_arrow,
    "webdataset": write_tar,
    "table": write_table,
}
every_kind = pytest.mark.parametrize("kind", KINDS)


def settings(*overrides: str, **more: Any) -> PrepareParams:
    """Of the set `mine`, with further keys."""
    mine = json.dumps({"path": "set", "val_fraction": 0.2, "test_fraction": 0.2, **more})
    return params_with(
        "prepare.sources=[mine]",
        "train.mixture={mine: 1}",
        f"prepare.sets={{mine: {mine}}}",
        "prepare.tokenizer.vocab_size=100",
        *overrides,
    ).prepare


def prepared(root: Path, kind: str, *files: Sequence[Row], **more: Any) -> Prepared:
    """The set of these files, prepared in `root`."""
    (root / "set").mkdir(parents=True)
    for number, rows in enumerate(files):
        KINDS[kind](root / "set", f"{number:05d}", rows)
    params = settings(**more)
    ingested(build(params, root), params, root / "out")
    return Prepared(root / "out")


def splits_by_caption(found: Prepared) -> dict[str, set[str]]:
    """Which splits each picture lies in."""
    by_caption = defaultdict(set)
    for split in found.splits:
        for captions in found.table(split, ["captions"])["captions"].to_pylist():
            by_caption[captions[0]].add(split)
    return dict(by_caption)


def refused(found: Prepared) -> list[tuple[str, str]]:
    rows = pq.read_table(found.root / "rejected.parquet").to_pylist()
    return [(row["reason"], row["detail"]) for row in rows]


def test_equal_pictures_lie_in_one_split_whatever_the_form_the_files_and_the_order(tmp_path: Path) -> None:
    rows = [Row(number) for number in range(40)] * 2
    found = [splits_by_caption(prepared(tmp_path / kind, kind, rows)) for kind in KINDS]
    found += [splits_by_caption(prepared(tmp_path / f"{kind} again", kind, rows[60:][::-1], rows[:60])) for kind in KINDS]
    assert [len(splits) for splits in found[0].values()] == [1] * 40
    assert set.union(*found[0].values()) == {"train", "val", "test"}
    assert all(splits == found[0] for splits in found)


@every_kind
def test_a_named_split_takes_the_rest_of_the_group_along(tmp_path: Path, kind: str) -> None:
    """By name, and where none is named by picture; in whatever file the name stands."""
    groups = [Row(number, group=f"g{number % 10}") for number in range(30)]
    named = [Row(30 + number, ("val", "test")[number % 2], f"g{number}") for number in range(10)]
    pictures = [Row(number) for number in range(40, 50)]
    renamed = [Row(number, "test") for number in range(40, 50)]
    found = splits_by_caption(prepared(tmp_path, kind, groups + pictures, [*named, *renamed, Row(50, "train")]))
    wanted = {f"picture {number}": {("val", "test")[number % 2]} for number in range(40)}
    assert found == wanted | {f"picture {number}": {"test"} for number in range(40, 50)} | {"picture 50": {"train"}}


@every_kind
@pytest.mark.parametrize("order", [1, -1])
def test_rows_of_a_named_group_in_two_named_splits_are_refused_and_no_test_shrinks(tmp_path: Path, kind: str, order: int) -> None:
    rows = [Row(0, "train", "g"), Row(1, "test", "g"), Row(2, "val", "g"), Row(3, None, "g"), Row(4, "train", "h")]
    found = prepared(tmp_path, kind, rows[::order])
    assert splits_by_caption(found) == {"picture 1": {"test"}, "picture 3": {"test"}, "picture 4": {"train"}}
    table = found.table("test", ["key", "captions"])
    (lead,) = (row["key"] for row in table.to_pylist() if row["captions"] == ["picture 1"])
    assert refused(found) == [("split-conflict", f"of one group with {lead}, which is named into another split")] * 2
    assert found.manifest["rejected"] == {"split-conflict": 2}


@every_kind
def test_equal_pictures_in_two_named_splits_stay_and_are_told(
    tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What a set publishes is kept: nothing but a report, and a row without a name goes where nothing leaks."""
    rows = [Row(0, "train"), Row(0, "test"), Row(0), Row(1, "test"), Row(1, "val"), Row(2, "train"), Row(2, "train")]
    found = prepared(tmp_path, kind, rows)
    assert splits_by_caption(found) == {"picture 0": {"train", "test"}, "picture 1": {"val", "test"}, "picture 2": {"train"}}
    assert (found.rows("test"), refused(found)) == (3, [])
    assert found.manifest["leakage"] == {"test": 2, "val": 0}
    assert found.manifest["sources"]["mine"]["straddling"] == 2
    print_summary(found.manifest)
    printed = " ".join(capsys.readouterr().out.split())
    assert "byte for byte: 2 of test" in printed
    assert "rows that their set names into another split than an equal picture: 2 of mine" in printed


@every_kind
def test_a_look_at_the_set_tells_of_named_groups_in_two_named_splits(tmp_path: Path, kind: str) -> None:
    rows = [Row(0, "train", "g"), Row(1, "test", "g"), Row(2, None, "g"), Row(3, "train", "h"), Row(4, "test"), Row(4, "train")]
    (tmp_path / "set").mkdir()
    KINDS[kind](tmp_path / "set", "a", rows)
    facts = survey("mine", SetParams(path="set"), tmp_path, iter).facts
    assert facts["looked_at"] == 6
    assert facts["rejected"].keys() == {"split-conflict"}
    assert facts["rejected"]["split-conflict"]["count"] == 1
    assert "of one group with mine/a" in facts["rejected"]["split-conflict"]["first"]
    assert sum(facts["splits"].values()) == 5


def test_folders_of_splits_are_names(tmp_path: Path) -> None:
    for split, number in (("train", 0), ("test", 0), ("test", 1)):
        folder = tmp_path / "set" / split / "things"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.png").write_bytes(picture(number))
    params = settings()
    manifest = ingested(build(params, tmp_path), params, tmp_path / "out")
    assert (manifest["leakage"], manifest["sources"]["mine"]["straddling"]) == ({"test": 1}, 1)


def test_nothing_is_said_where_nothing_straddles(tmp_path: Path) -> None:
    found = prepared(tmp_path, "parquet", [Row(0, "train"), Row(0), Row(1, "test")])
    assert "straddling" not in found.manifest["sources"]["mine"]


def test_equal_pictures_of_two_sets_are_together_and_groups_of_two_sets_are_not(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    (tmp_path / "other").mkdir()
    write_parquet(tmp_path / "set", "a", [Row(number, "test") for number in range(10)] + [Row(20, "test", "g"), Row(22, "train")])
    write_parquet(tmp_path / "other", "b", [Row(number) for number in range(10)] + [Row(21, "train", "g")])
    both = "prepare.sets={mine: {path: set}, other: {path: other}}"
    params = settings("prepare.sources=[mine, other]", both)
    ingested(build(params, tmp_path), params, tmp_path / "out")
    found = splits_by_caption(Prepared(tmp_path / "out"))
    assert found == {f"picture {number}": {"test"} for number in (*range(10), 20)} | {
        f"picture {number}": {"train"} for number in (21, 22)
    }


def test_pictures_that_are_equal_once_encoded_are_together(tmp_path: Path) -> None:
    """A picture in two formats has two hashes, but one encoding: no test of it is trained on."""
    (tmp_path / "set").mkdir()
    for number in range(30):
        (tmp_path / "set" / f"{number}.png").write_bytes(picture(number))
        (tmp_path / "set" / f"{number} again.bmp").write_bytes(picture(number, fmt="BMP"))
        for name in (f"{number}", f"{number} again"):
            (tmp_path / "set" / f"{name}.txt").write_text(f"picture {number}")
    params = settings("prepare.pictures.encode=png")
    manifest = ingested(build(params, tmp_path), params, tmp_path / "out")
    assert {len(splits) for splits in splits_by_caption(Prepared(tmp_path / "out")).values()} == {1}
    assert set(manifest["leakage"].values()) == {0}


def test_in_place_a_row_that_follows_into_another_split_is_read_from_its_tar(tmp_path: Path) -> None:
    unnamed = [Row(number, group=f"g{number}") for number in range(20)]
    named = [Row(20 + number, "val", f"g{number}") for number in range(10)]
    found = prepared(tmp_path, "webdataset", unnamed + named, in_place=True, val_fraction=0, test_fraction=0)
    # The project's tars are found from the prepared set's place, which is data/prepared.
    (tmp_path / "data").mkdir()
    (tmp_path / "out").rename(tmp_path / "data" / "prepared")
    table = Prepared(tmp_path / "data" / "prepared").table("val", ["image", "captions"])
    assert len(table) == 20
    assert found.manifest["splits"]["train"]["rows"] == 10
    for image, (caption,) in zip(table["image"].to_pylist(), table["captions"].to_pylist(), strict=True):
        assert image == picture(int(caption.split()[1]))


SPLITS = ("train", "val", "test")
CANDIDATES = st.lists(
    st.tuples(st.sampled_from(SPLITS), st.booleans(), st.sampled_from((None, None, "g", "h")), st.integers(0, 3)), max_size=12
)


@given(drawn=CANDIDATES, seed=st.randoms(use_true_random=False))
def test_splits_are_those_of_a_plain_loop_in_any_order(
    drawn: list[tuple[str, bool, str | None, int]], seed: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Named splits before hashed ones, then test before val before train."""
    drawn = [*drawn, ("train", True, None, 9)]
    tied = [(split, named, group or number) for split, named, group, number in drawn]
    best = {mine: max((named, SPLITS.index(split)) for split, named, other in tied if other == mine)[1] for *_, mine in tied}
    wanted, conflicts, apart = {}, set(), 0
    for key, (split, named, mine) in enumerate(tied):
        elsewhere = named and split != SPLITS[best[mine]]
        if elsewhere and isinstance(mine, str):
            conflicts.add(str(key))
            continue
        apart += elsewhere
        wanted[str(key)] = split if named else SPLITS[best[mine]]

    items = [
        candidate(str(key), picture(number, 4, 4), split=split, bond=Bond(group, named))
        for key, (split, named, group, number) in enumerate(drawn)
    ]
    seed.shuffle(items)
    out = tmp_path_factory.mktemp("groups") / "out"
    manifest = ingested({"listed": ListedSource(items)}, params_with("prepare.tokenizer.vocab_size=100").prepare, out)
    found = Prepared(out)
    assert {key: split for split in found.splits for key in found.table(split, ["key"])["key"].to_pylist()} == wanted
    assert {row["key"] for row in pq.read_table(out / "rejected.parquet").to_pylist()} == conflicts
    assert manifest["sources"]["listed"].get("straddling", 0) == apart
    assert {row["split"] for split in found.splits for row in found.table(split, ["split"]).to_pylist()} == set(found.splits)


def test_sources_that_answer_for_their_splits_are_left_alone(tmp_path: Path) -> None:
    """Emoji hold concepts out in one style alone, though both styles are one group."""
    items = [candidate("a", picture(0), split="train", split_group="g"), candidate("b", picture(0), split="val", split_group="g")]
    params = params_with("prepare.tokenizer.vocab_size=100").prepare
    manifest = ingested({"listed": ListedSource(items)}, params, tmp_path / "out")
    assert (manifest["rejected"], manifest["leakage"]) == ({}, {"val": 1})
    assert "straddling" not in manifest["sources"]["listed"]
