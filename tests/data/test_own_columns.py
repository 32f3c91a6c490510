from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparekit import picture

from limoe.config import SetParams
from limoe.data.sources import Candidate, Rejected, candidates, open_set
from limoe.data.sources.parquet import Parquet
from limoe.errors import UserError


def source(root: Path, path: str = "t.parquet", **changes: Any) -> Parquet:
    return Parquet("mine", SetParams.model_validate({"path": path} | changes), root)


def read(root: Path, **changes: Any) -> tuple[list[Candidate], list[tuple[str, str]]]:
    found = list(candidates(made := source(root, **changes)))
    assert len(found) == made.total
    rejected = [(r.key.removeprefix("mine/"), r.reason) for r in found if isinstance(r, Rejected)]
    return [c for c in found if isinstance(c, Candidate)], rejected


def write(path: Path, table: pa.Table | dict[str, Any], group: int = 2) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table if isinstance(table, pa.Table) else pa.table(table), path, row_group_size=group)


def test_img2datasets_parquet(tmp_path: Path) -> None:
    columns = {
        "url": ["http://a", "http://b", "http://c"],
        "key": ["000000000", "000000001", "000000002"],
        "status": ["success", "failed_to_download", "success"],
        "caption": ["a  cat", "gone", None],
        "jpg": [picture(0), None, picture(2)],
    }
    write(tmp_path / "t.parquet", columns)
    found, rejected = read(tmp_path)
    assert [(c.key, c.captions, c.image == picture(0)) for c in found] == [("mine/t/0000000", ("a cat",), True)]
    assert rejected == [("t/0000001", "no-image"), ("t/0000002", "empty-caption")]


def test_hugging_faces_struct_and_the_names_of_its_classes(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(picture(1))
    images = [{"bytes": picture(0), "path": "a.png"}, {"bytes": None, "path": "b.png"}, {"bytes": None, "path": "../b.png"}, None]
    told = {"info": {"features": {"label": {"names": ["tabby_cat", "pug"], "_type": "ClassLabel"}}}}
    table = pa.table({"image": images, "label": [1, 0, 0, 0], "split": ["test", None, None, None]})
    write(tmp_path / "t.parquet", table.replace_schema_metadata({"huggingface": json.dumps(told)}))
    found, rejected = read(tmp_path, templates=["a {}"], val_fraction=0, test_fraction=0)
    assert [(c.label, c.captions, c.split, c.image) for c in found] == [
        ("pug", ("a pug",), "test", picture(0)),
        ("tabby cat", ("a tabby cat",), "train", picture(1)),
    ]
    assert rejected == [("t/0000002", "path-escape"), ("t/0000003", "no-image")]
    (tmp_path / "names.yaml").write_text("[Tabby, Pug dog]")
    assert [c.label for c in read(tmp_path, classes="names.yaml")[0]] == ["Pug dog", "Tabby"]


@pytest.mark.parametrize("kind", [pa.large_binary(), pa.binary_view(), pa.string(), pa.dictionary(pa.int32(), pa.string())])
def test_images_of_any_type_and_captions_in_lists(tmp_path: Path, kind: pa.DataType) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "a.png").write_bytes(picture(0))
    binary = not (pa.types.is_string(kind) or pa.types.is_dictionary(kind))
    image = pa.array([picture(0) if binary else "a.png"] * 2).cast(kind)
    captions = [[{"raw": "x", "tokens": ["x"]}, {"raw": "y", "tokens": ["y"]}], []]
    write(tmp_path / "t.parquet", pa.table({"photo": image, "words": captions}))
    found, rejected = read(tmp_path, images="images", columns={"caption": "words"})
    assert [(c.image, c.captions) for c in found] == [(picture(0), ("x", "y"))]
    assert rejected == [("t/0000001", "empty-caption")]


def test_parts_are_row_groups_of_files_named_by_split(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.sources.parquet.PART_ROWS", 3)
    for split, rows in (("train", 7), ("validation", 2)):
        captions = [f"{split} {row}" for row in range(rows)]
        write(tmp_path / "set" / f"{split}-00000-of-00001.parquet", {"image": [picture(0)] * rows, "text": captions})
    made = source(tmp_path, "set")
    assert [(part.name[:5], part.start, part.stop) for part in made.parts] == [("train", 0, 2), ("train", 2, 4), ("valid", 0, 1)]
    found = list(made.candidates(made.parts[1]))
    assert [(c.key[-7:], c.captions, c.split) for c in found] == [(f"{n:07d}", (f"train {n}",), "train") for n in (4, 5, 6)]
    assert {c.split for c in candidates(source(tmp_path, "set/validation*"))} <= {
        "train",
        "val",
        "test",
    }  # one name tells nothing


def test_files_that_differ_behind_a_dot_have_keys_of_their_own(tmp_path: Path) -> None:
    for name in ("data.0", "data.1"):
        write(tmp_path / f"{name}.parquet", {"image": [picture(0)], "caption": ["x"]})
    assert [c.key for c in read(tmp_path, path=".")[0]] == ["mine/data.0/0000000", "mine/data.1/0000000"]


def test_a_text_that_is_no_utf8_spoils_its_row_alone(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"caf\xe9", b"fine"]).buffers())
    write(tmp_path / "t.parquet", pa.table({"image": [picture(0)] * 2, "caption": bad}))
    found, rejected = read(tmp_path)
    assert ([c.captions for c in found], rejected) == ([("fine",)], [("t/0000000", "bad-row")])


def test_a_date_that_python_does_not_know_spoils_its_row_alone(tmp_path: Path) -> None:
    label = pa.array([2**40, None], pa.timestamp("s"))
    write(tmp_path / "t.parquet", pa.table({"image": [picture(0)] * 2, "caption": ["x", "fine"], "label": label}))
    found, rejected = read(tmp_path)
    assert ([c.captions for c in found], rejected) == ([("fine",)], [("t/0000000", "bad-row")])


def test_a_file_that_is_broken_inside_loses_its_part_alone(tmp_path: Path) -> None:
    write(tmp_path / "t.parquet", {"image": [bytes([n]) * 3000 for n in range(4)], "caption": list("abcd")}, group=4)
    content = bytearray((tmp_path / "t.parquet").read_bytes())
    content[4:60] = b"\xff" * 56
    (tmp_path / "t.parquet").write_bytes(content)
    write(tmp_path / "u.parquet", {"image": [picture(0)], "caption": ["fine"]})
    found = list(candidates(source(tmp_path, "*.parquet")))
    assert [c.reason if isinstance(c, Rejected) else c.captions for c in found] == ["unreadable", ("fine",)]


@pytest.mark.parametrize(
    "table, message",
    [
        ({"image": [3], "caption": ["x"]}, r"t\.parquet: its column image holds int64, not bytes, paths or data URIs"),
        ({"image": [b""], "words": ["x"]}, r"its columns are image, words; none is known to hold captions or labels"),
        (
            pa.Table.from_arrays([pa.array([b"x"]), pa.array([b"y"]), pa.array(["z"])], ["image", "image", "caption"]),
            r"t\.parquet: has 2 columns called image",
        ),
        ({"URL": ["http://x"], "TEXT": ["x"]}, r"URL has addresses alone: download the pictures first, with img2dataset"),
    ],
)
def test_a_file_without_what_is_needed_is_the_users_mistake(
    tmp_path: Path, table: pa.Table | dict[str, Any], message: str
) -> None:
    write(tmp_path / "t.parquet", table)
    with pytest.raises(UserError, match=message):
        source(tmp_path)


def test_what_is_no_parquet_is_the_users_mistake_if_there_is_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "t.parquet").write_bytes(b"no")
    with pytest.raises(UserError, match=r"t\.parquet: no Parquet file that can be read"):
        source(tmp_path)
    write(tmp_path / "u.parquet", {"image": [picture(0)], "caption": ["fine"]})
    found, rejected = read(tmp_path, path="*.parquet")
    assert ([c.captions for c in found], rejected) == ([("fine",)], [("t.parquet/0", "unreadable")])


def save(folder: Path, table: pa.Table, kind: str = "stream", name: str = "data-00000-of-00001.arrow") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with new(folder / name, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


def saved(root: Path) -> list[Candidate | Rejected]:
    return list(candidates(open_set("mine", SetParams(path="set"), root)))


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_what_save_to_disk_leaves(tmp_path: Path, kind: str) -> None:
    told = {"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}}}
    for split in ("train", "test"):
        images = [{"bytes": picture(number), "path": None} for number in range(3)]
        table = pa.table({"image": images, "label": [0, 1, 1], "text": [["a", "b"], ["c"], []]})
        save(tmp_path / "set" / split, table.replace_schema_metadata({"huggingface": json.dumps(told)}), kind)
        state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_indices_files": None}
        (tmp_path / "set" / split / "state.json").write_text(json.dumps(state))
    save(tmp_path / "set" / "train", pa.table({"computed": [1]}), name="cache-1.arrow")
    (tmp_path / "set" / "dataset_dict.json").write_text('{"splits": ["train", "test"]}')
    found = saved(tmp_path)
    assert [c.key for c in found[:3]] == [f"mine/test/data-00000-of-00001/000000{n}" for n in range(3)]
    assert [(c.split, c.label, c.captions) for c in found[2:4]] == [
        ("test", "dog", ("a photo of a dog",)),
        ("train", "cat", ("a", "b")),
    ]
    assert [c.image for c in found] == [picture(n) for n in range(3)] * 2
    (tmp_path / "set" / "test" / "state.json").write_text('{"_data_files": [], "_indices_files": ["x"]}')
    with pytest.raises(UserError, match="holds a choice of rows beside the rows"):
        saved(tmp_path)
    for other in ("[]", "{}", '{"_data_files": ["x"]}', '{"_data_files": [{"filename": 1}]}'):
        (tmp_path / "set" / "test" / "state.json").write_text(other)
        with pytest.raises(UserError, match=r"state\.json: not as Dataset\.save_to_disk writes it"):
            saved(tmp_path)


def test_a_broken_arrow_file_gives_what_stood_before(tmp_path: Path) -> None:
    save(tmp_path / "set", pa.table({"image": [picture(0)] * 6, "caption": list("abcdef")}))
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    found = saved(tmp_path)
    assert [c.captions for c in found[:-1]] == [("a",), ("b",)]
    assert found[-1].reason == "unreadable"
    path.write_bytes(content[:20])
    with pytest.raises(UserError, match="no Arrow file that can be read"):
        saved(tmp_path)


def test_lengths_that_lie_are_found_before_they_are_followed(tmp_path: Path) -> None:
    save(tmp_path / "set", pa.table({"image": [picture(0)], "caption": ["x" * 77]}))
    path = tmp_path / "set" / "data-00000-of-00001.arrow"
    path.write_bytes(path.read_bytes().replace(bytes(4) + (77).to_bytes(4, "little"), bytes(4) + (1 << 30).to_bytes(4, "little")))
    assert [found.reason for found in saved(tmp_path)] == ["unreadable"]
