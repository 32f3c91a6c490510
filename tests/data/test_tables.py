"""Tables of several files, with keys that come late, and with first lines that cannot be meant."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from preparekit import picture

from limoe.config import SetParams
from limoe.data.sources import Candidate, Rejected, candidates, open_set
from limoe.errors import UserError


def lay(root: Path, files: dict[str, str | bytes]) -> None:
    """Files of these names and contents."""
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())


def read(root: Path, path: str = "set", **changes: Any) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Candidates, and (key, reason) of what was rejected."""
    found = list(candidates(open_set("mine", SetParams.model_validate({"path": path} | changes), root)))
    rejected = [(one.key.removeprefix("mine/"), one.reason) for one in found if isinstance(one, Rejected)]
    return [one for one in found if isinstance(one, Candidate)], rejected


def uri(seed: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture(seed)).decode()}"


@pytest.mark.parametrize("path", ["set", "set/*/captions.csv", "set/{cats,dogs}/captions.csv", "set/**/*.csv"])
def test_paths_start_in_the_folder_of_the_file_that_has_them(tmp_path: Path, path: str) -> None:
    """Equal names in two folders are two pictures; the base of the keys is what the user gave, before any pattern."""
    for seed, folder in enumerate(("cats", "dogs")):
        lay(
            tmp_path,
            {
                f"set/{folder}/0.png": picture(seed),
                f"set/{folder}/sub/1.png": picture(seed + 10),
                f"set/{folder}/captions.csv": f"file_name,text\n0.png,{folder} 0\n./sub/1.png,{folder} 1\n../cats/0.png,x\n",
            },
        )
    found, rejected = read(tmp_path, path)
    assert [(c.key, c.captions, c.split_group) for c in found] == [
        ("mine/cats/0.png", ("cats 0",), "cats/0.png"),
        ("mine/cats/sub/1.png", ("cats 1",), "cats/sub/1.png"),
        ("mine/dogs/0.png", ("dogs 0",), "dogs/0.png"),
        ("mine/dogs/sub/1.png", ("dogs 1",), "dogs/sub/1.png"),
    ]
    assert [c.image for c in found] == [picture(seed) for seed in (0, 10, 1, 11)]
    assert [reason for _, reason in rejected] == ["path-escape"] * 2


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_hugging_faces_folders_of_splits_have_a_table_each(tmp_path: Path, suffix: str) -> None:
    for seed, split in enumerate(("train", "test", "validation")):
        row = {"file_name": "0.png", "text": split}
        table = json.dumps(row) if suffix == "jsonl" else "\n".join((",".join(row), ",".join(row.values())))
        lay(tmp_path, {f"set/{split}/0.png": picture(seed), f"set/{split}/metadata.{suffix}": table})
    found, rejected = read(tmp_path)
    assert rejected == []
    assert [(c.key, c.split, c.captions, c.image) for c in found] == [
        ("mine/test/0.png", "test", ("test",), picture(1)),
        ("mine/train/0.png", "train", ("train",), picture(0)),
        ("mine/validation/0.png", "val", ("validation",), picture(2)),
    ]


def test_files_of_several_folders_add_up_where_their_images_lie_in_one(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        lay(tmp_path, {"images/0.png": picture(0), f"set/{folder}/t.csv": f"image,caption\n0.png,{folder}\n"})
    assert [(c.key, c.captions) for c in read(tmp_path, images="images")[0]] == [("mine/0.png", ("a", "b"))]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
def test_paths_in_columns_start_in_the_folder_of_their_file(tmp_path: Path, suffix: str) -> None:
    for seed, folder in enumerate(("cats", "dogs")):
        lay(tmp_path, {f"set/{folder}/0.png": picture(seed), f"images/{folder}.png": picture(seed + 5)})
        file = tmp_path / "set" / folder / f"meta.{suffix}"
        table = pa.table({"file_name": ["0.png"], "other": [f"{folder}.png"], "text": [folder]})
        if suffix == "parquet":
            pq.write_table(table, file)
        else:
            with pa.ipc.new_file(file, table.schema) as writer:
                writer.write_table(table)
    found, rejected = read(tmp_path)
    assert ([(c.captions, c.image) for c in found], rejected) == ([(("cats",), picture(0)), (("dogs",), picture(1))], [])
    found, rejected = read(tmp_path, images="images", columns={"image": "other"})
    assert ([(c.captions, c.image) for c in found], rejected) == ([(("cats",), picture(5)), (("dogs",), picture(6))], [])


def test_keys_that_come_late_in_a_jsonl_count(tmp_path: Path) -> None:
    rows: list[dict[str, str]] = [{"image": f"{number}.png", "caption": str(number)} for number in range(150)]
    rows += [{"image": f"{number}.png", "label": "cat", "split": "test", "group": "g"} for number in range(150, 153)]
    lay(tmp_path, {f"set/{number}.png": picture(number) for number in range(153)})
    lay(tmp_path, {"set/t.jsonl": "not JSON\n" + "\n".join(map(json.dumps, rows))})
    found, rejected = read(tmp_path)
    assert (len(found), rejected) == (153, [("", "bad-row")])
    assert {(c.label, c.split, c.split_group) for c in found[150:]} == {("cat", "test", "g")}


def test_a_file_without_rows_is_the_users_mistake(tmp_path: Path) -> None:
    lay(tmp_path, {"set/t.jsonl": "\n \n"})
    with pytest.raises(UserError, match=r"t\.jsonl: has no rows"):
        read(tmp_path)


def test_a_row_that_adds_a_word_alone_is_no_duplicate(tmp_path: Path) -> None:
    head = "image,caption,label,split,group\n"
    lay(tmp_path, {"set/0.png": picture(0), "set/t.csv": head + "0.png,a cat,,,\n0.png,a cat,cat,test,g\n"})
    found, rejected = read(tmp_path)
    assert [(c.captions, c.label, c.split, c.split_group) for c in found] == [(("a cat",), "cat", "test", "g")]
    assert rejected == []
    lay(tmp_path, {"set/t.csv": head + "0.png,a cat,,test,\n0.png,a cat,,test,\n0.png,a cat,,val,\n"})
    found, rejected = read(tmp_path)
    assert ([c.split for c in found], [reason for _, reason in rejected]) == (["test"], ["duplicate-row", "conflicting-row"])


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("t.csv", "image,caption,caption,caption\n0.png,one,two,three\n", r"t\.csv: has 3 columns called caption"),
        ("t.tsv", "image\timage\tcaption\n0.png\t1.png\tx\n", r"t\.tsv: has 2 columns called image"),
        ("t.csv", "image;caption\n0.png;x\n", r"'image;caption'.*a \.csv has commas between them: save it again with commas"),
        ("t.csv", "image\tcaption\n0.png\tx\n", r"'image\\tcaption'.*a \.csv has commas between them: call it \.tsv"),
        ("t.tsv", "image,caption\n0.png,x\n", r"'image,caption'.*a \.tsv has tabs between them: call it \.csv"),
        ("t.tsv", "image;caption\n0.png;x\n", r"'image;caption'.*a \.tsv has tabs between them: save it again with tabs"),
        ("t.csv", "image\n0.png\n", r"its columns are image; none is known to hold captions or labels"),
    ],
)
def test_a_first_line_that_cannot_be_meant_is_the_users_mistake(tmp_path: Path, name: str, content: str, message: str) -> None:
    lay(tmp_path, {"set/0.png": picture(0), f"set/{name}": content})
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_equal_names_of_columns_that_are_not_read_do_not_matter(tmp_path: Path) -> None:
    """Not for a picture that is read again from its row, either."""
    lay(tmp_path, {"set/t.csv": f'x,x,image,caption\n1,2,"{uri(3)}",a cat\n'})
    found, rejected = read(tmp_path)
    assert ([(c.captions, c.image) for c in found], rejected) == ([(("a cat",), picture(3))], [])


def test_a_tsv_has_no_quotation_marks(tmp_path: Path) -> None:
    lay(tmp_path, {f"set/{number}.png": picture(number) for number in range(4)})
    captions = ['"Stop', "a cat", 'go"', '"Hello" she said']
    rows = [f"{number}.png\t{caption}" for number, caption in enumerate(captions)]
    lay(tmp_path, {"set/t.tsv": "\n".join(["image\tcaption", *rows, f'{uri(7)}\t"a']) + "\n"})
    found, rejected = read(tmp_path)
    assert ([c.captions for c in found], rejected) == ([(caption,) for caption in [*captions, '"a']], [])
    assert [c.image for c in found] == [picture(number) for number in (0, 1, 2, 3, 7)]
