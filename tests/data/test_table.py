from __future__ import annotations

import base64
import json
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from preparekit import ingested, params_with, picture

from limoe.config import SetParams
from limoe.data.prepared import Prepared
from limoe.data.sources import Candidate, Rejected, candidates
from limoe.data.sources.splits import hashed_split
from limoe.data.sources.table import Table
from limoe.errors import UserError

SET = {"path": "captions.csv", "images": "images", "kind": "table"}


def lay(root: Path, captions: str, *names: str, file: str = "captions.csv") -> None:
    """Pictures of these names in root/images, and a captions file."""
    for number, name in enumerate(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    (root / "images").mkdir(exist_ok=True)
    (root / file).parent.mkdir(exist_ok=True)
    (root / file).write_text(captions, encoding="utf-8")


def read(root: Path, **changes: Any) -> tuple[list[Candidate], list[tuple[str, str, str]]]:
    """Candidates, and (key, reason, detail) of what was rejected."""
    source = Table("mine", SetParams.model_validate(SET | changes), root)
    found = list(candidates(source))
    assert len(found) == source.total
    rejected = [(r.key.removeprefix("mine/"), r.reason, r.detail) for r in found if isinstance(r, Rejected)]
    return [c for c in found if isinstance(c, Candidate)], rejected


def test_rows_become_candidates_with_their_captions_merged(tmp_path: Path) -> None:
    lay(
        tmp_path,
        'image,caption,label\na.png,a  cat\n./a.png,one cat,\nsub/b.png,"a dog, running",dog\na.png,mine,cat\n',
        "a.png",
        "sub/b.png",
    )
    found, rejected = read(tmp_path)
    assert rejected == []
    assert [(c.key, c.captions, c.label, c.split_group) for c in found] == [
        ("mine/a.png", ("a cat", "one cat", "mine"), "cat", "a.png"),
        ("mine/sub/b.png", ("a dog, running",), "dog", "sub/b.png"),
    ]
    assert [c.image for c in found] == [picture(0), picture(1)]
    assert {c.size for c in found} == {None}  # ingest has to look at them


def test_jsonl_says_the_same(tmp_path: Path) -> None:
    rows: list[Any] = [{"image": "a.png", "caption": "a cat", "split": "val", "id": 7}, {"image": "a.png", "caption": "one cat"}]
    lay(tmp_path, "\n".join(json.dumps(row) for row in rows) + "\n\n", "a.png", file="captions.jsonl")
    found, rejected = read(tmp_path, path="captions.jsonl")
    assert rejected == []
    assert [(c.key, c.captions, c.split) for c in found] == [("mine/a.png", ("a cat", "one cat"), "val")]


def test_bad_rows_are_rejected_one_by_one_with_their_line(tmp_path: Path) -> None:
    lay(
        tmp_path,
        "image,caption,label,split,group\n"
        "a.png,fine,,,\n"  # 2
        "a.png,   ,,,\n"  # 3
        "a.png,fine,,,\n"
        "a.png,other,,holdout,\n"
        "a.png,labelled,cat,,\n"  # 6: adds what was missing
        "a.png,relabelled,dog,,\n"
        "a.png\n"
        "a.png,too,many,,,,columns\n"
        ",no image,,,\n"  # 10
        "gone.png,not there,,,\n"
        "sub,a folder,,,\n",
        "a.png",
        "sub/b.png",
    )
    found, rejected = read(tmp_path)
    assert [(c.captions, c.label) for c in found] == [(("fine", "labelled"), "cat")]
    assert [(key, reason, detail.split(":")[0]) for key, reason, detail in rejected[:-2]] == [
        ("a.png", "empty-caption", "line 3"),
        ("a.png", "duplicate-row", "line 4"),
        ("a.png", "bad-split", "line 5"),
        ("a.png", "conflicting-row", "line 7"),
        ("a.png", "empty-caption", "line 8"),
        ("", "bad-row", "line 9"),
        ("", "bad-row", "line 10"),
    ]
    assert [row[:2] for row in rejected[-2:]] == [("gone.png", "missing-file"), ("sub", "missing-file")]
    assert "label 'dog', an earlier row of this image has 'cat'" in rejected[3][2]
    assert "allowed are train, val, test" in rejected[2][2]


@pytest.mark.parametrize(
    "line, why",
    [
        ('{"image": "a.png"', "not JSON"),
        ("[1]", "not a JSON object but list"),
        ('{"image": "a.png"}', "caption is missing"),
        ('{"image": 3, "caption": "x"}', "image must be text, is 3"),
        ('{"image": "a.png", "caption": null, "label": [3]}', "label must be text, is [3]"),
        ('{"image": "a.png", "caption": "a \\ud83d b"}', "caption holds half a surrogate pair"),
        ('{"image": "\\udc00.png", "caption": "x"}', "image holds half a surrogate pair"),
        ('{"image": "a.png", "caption": "x", "group": "\\ud83d"}', "group holds half a surrogate pair"),
        ("[" * 100_000, "not JSON"),
        ('{"image": ' + "[" * 900 + "]" * 900 + ', "caption": "x"}', "image must be text, is [[["),
    ],
)
def test_bad_json_lines_are_rejected(tmp_path: Path, line: str, why: str) -> None:
    lay(tmp_path, f'{{"image": "a.png", "caption": "fine"}}\n{line}\n', "a.png", file="captions.jsonl")
    found, rejected = read(tmp_path, path="captions.jsonl")
    assert len(found) == 1
    ((_, reason, detail),) = rejected
    assert reason == "bad-row"
    assert detail.startswith("line 2: ")
    assert why in detail


@pytest.mark.parametrize("name", ["../secret.png", "sub/../../secret.png", "{root}/secret.png", "link.png", "linked/secret.png"])
def test_no_path_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    lay(tmp_path, f"image,caption\n{name.format(root=tmp_path)},x\n", "a.png")
    (tmp_path / "outside").mkdir()
    for path in (tmp_path / "secret.png", tmp_path / "outside" / "secret.png"):
        path.write_bytes(picture())
    (tmp_path / "images" / "link.png").symlink_to(tmp_path / "secret.png")
    (tmp_path / "images" / "linked").symlink_to(tmp_path / "outside")
    found, rejected = read(tmp_path)
    assert found == []
    assert [reason for _, reason, _ in rejected] == ["path-escape"]


def test_links_inside_the_folder_and_into_dvcs_cache_are_followed(tmp_path: Path) -> None:
    lay(tmp_path, "image,caption\ninside.png,x\ncached.png,y\n", "a.png")
    cached = tmp_path / ".dvc" / "cache" / "files" / "md5" / "00"
    cached.mkdir(parents=True)
    (cached / "11").write_bytes(picture(5))
    (tmp_path / "images" / "inside.png").symlink_to("a.png")
    (tmp_path / "images" / "cached.png").symlink_to(cached / "11")
    found, rejected = read(tmp_path)
    assert rejected == []
    assert [c.image for c in found] == [picture(0), picture(5)]


@pytest.mark.parametrize("name", ["x" * 300 + ".png", "a\\u0000b.png", ".", "sub/.."])
def test_names_that_no_file_can_have_are_rejected(tmp_path: Path, name: str) -> None:
    lay(tmp_path, f'{{"image": "{name}", "caption": "x"}}\n', file="captions.jsonl")
    found, rejected = read(tmp_path, path="captions.jsonl")
    assert (found, len(rejected)) == ([], 1)
    assert rejected[0][1] in ("bad-row", "missing-file", "unreadable")


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.sources.images.MAX_BYTES", 100)
    lay(tmp_path, "image,caption\na.png,x\n", "a.png")
    assert [reason for _, reason, _ in read(tmp_path)[1]] == ["too-many-bytes"]


def test_a_hash_of_the_group_decides_and_not_of_the_picture(tmp_path: Path) -> None:
    rows = [f"{n}.png,picture {n},,group {n % 40}" for n in range(400)]
    lay(tmp_path, "image,caption,split,group\n" + "\n".join(rows), *(f"{n}.png" for n in range(400)))
    found, rejected = read(tmp_path)
    splits = defaultdict(set)
    for c in found:
        splits[c.split_group].add(c.split)
    assert (len(splits), rejected) == (40, [])
    assert {len(chosen) for chosen in splits.values()} == {1}
    assert set.union(*splits.values()) == {"train", "val", "test"}


def test_hashed_splits_have_the_shares_that_are_asked_for() -> None:
    params = SetParams(path="x", val_fraction=0.2, test_fraction=0.05)
    counts = Counter(hashed_split(f"group {number}", params) for number in range(20_000))
    assert {split: round(count / 20_000, 2) for split, count in counts.items()} == {"train": 0.75, "val": 0.2, "test": 0.05}


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"images": "nowhere"}, r"images: .*nowhere is no folder"),
        ({"images": "captions.csv"}, r"images: .*captions\.csv is no folder"),
        ({"path": "other.csv"}, r"other\.csv: no file here that ends in \.csv, \.tsv"),
        ({"path": "images"}, r"images: no file here that ends in"),
        ({"columns": {"caption": "text"}}, r"captions\.csv: its columns are image, caption; there is no 'text', which its key"),
    ],
)
def test_what_is_not_there_is_the_users_mistake(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    lay(tmp_path, "image,caption\na.png,x\n", "a.png")
    with pytest.raises(UserError, match=message):
        read(tmp_path, **changes)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"image,words\na.png,x\n", r"its columns are image, words; none is known to hold captions or labels: name one with"),
        (b"words,caption\na.png,x\n", r"its columns are words, caption; none is known to hold images: name it with"),
        (b"url,caption\na.png,x\n", r"url has addresses alone: download the pictures first"),
        (b"", "has no first line that names its columns"),
        (b"image,caption\n", "has no rows"),
        (b'image,caption\na.png,fine\na.png,"unclosed\nb.png,swallowed\n', "not valid csv in the row that ends in line 4"),
    ],
)
def test_a_file_of_another_form_is_the_users_mistake(tmp_path: Path, content: bytes, message: str) -> None:
    lay(tmp_path, "", "a.png")
    (tmp_path / "captions.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_spreadsheets_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    lay(tmp_path, "\ufeffimage,caption\r\na.png,x\r\n", "a.png")
    assert [c.captions for c in read(tmp_path)[0]] == [("x",)]


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    lay(tmp_path, '{"image": "a.png", "caption": "a \\ud83d\\ude00"}', "a.png", file="captions.jsonl")
    assert [c.captions for c in read(tmp_path, path="captions.jsonl")[0]] == [("a \U0001f600",)]


def test_through_ingest_good_pictures_arrive_and_bad_ones_are_listed(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(30)]
    rows = [f"{name},picture number {name}" for name in [*names, "broken.png", "gone.png"]]
    lay(tmp_path, "image,caption\n" + "\n".join(rows), *names)
    (tmp_path / "images" / "broken.png").write_bytes(picture()[:100])
    params = params_with("prepare.tokenizer.vocab_size=200").prepare
    source, out = Table("mine", SetParams.model_validate(SET), tmp_path), tmp_path / "out"
    manifest = ingested({"mine": source}, params, out)
    assert manifest["rejected"] == {"truncated": 1, "missing-file": 1}
    assert manifest["sources"]["mine"]["pictures"] == 32
    prepared = Prepared(out)
    keys = [key for split in prepared.splits for key in prepared.table(split, ["key"])["key"].to_pylist()]
    assert sorted(keys) == sorted(f"mine/{name}" for name in names)
    assert prepared.table("train", ["width", "height"]).to_pylist()[0] == {"width": 20, "height": 16}


def uri(seed: int) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture(seed)).decode()}"


@pytest.mark.parametrize("file", ["t.csv", "t.jsonl"])
def test_data_uris_are_read_again_from_their_rows(tmp_path: Path, file: str) -> None:
    """Between rows of many lines, many bytes a letter, and empty ones; equal pictures are one, with both captions."""
    rows = [(uri(0), "caf\u00e9"), (uri(1), "two\nlines"), (uri(0), "again"), ("data:image/png;base64,?", "x"), ("data:x", "y")]
    lines = [",".join(f'"{cell}"' for cell in row) for row in [("image", "text"), *rows]]
    if file.endswith("jsonl"):
        lines = [json.dumps({"image": image, "text": text}) for image, text in rows]
    lay(tmp_path, "\ufeff" + "\n\n".join(lines) + "\n", file=file)
    found, rejected = read(tmp_path, path=file)
    assert [(c.image == picture(n), c.captions) for n, c in enumerate(found)] == [
        (True, ("caf\u00e9", "again")),
        (True, ("two lines",)),
    ]
    assert [reason for _, reason, _ in rejected] == ["bad-data-uri", "bad-data-uri"]


def test_data_uris_need_not_be_base64_but_must_be_bytes(tmp_path: Path) -> None:
    rows = [{"image": "data:,%00%ffab", "text": "x"}, {"image": "data:,\ud83d", "text": "x"}]
    lay(tmp_path, "\n".join(map(json.dumps, rows)), file="t.jsonl")
    found, rejected = read(tmp_path, path="t.jsonl")
    assert ([c.image for c in found], [row[1] for row in rejected]) == ([b"\x00\xffab"], ["bad-data-uri"])


def test_a_data_uri_that_is_gone_when_it_is_read_is_rejected(tmp_path: Path) -> None:
    lay(tmp_path, f'image,caption\n"{uri(0)}",x\n', file="t.csv")
    source = Table("mine", SetParams(path="t.csv"), tmp_path)
    (tmp_path / "t.csv").write_text("image,caption\n")
    assert [found.reason for found in candidates(source)] == ["unreadable"]


def test_bytes_that_are_no_utf8_spoil_their_row_alone(tmp_path: Path) -> None:
    lay(tmp_path, "", "a.png", "b.png")
    (tmp_path / "captions.csv").write_bytes(b"image,caption\na.png,caf\xe9\nb.png,\x00 a\x07dog\n")
    found, rejected = read(tmp_path)
    assert [c.captions for c in found] == [("a dog",)]
    assert rejected == [("a.png", "bad-row", "line 2: caption holds bytes that are no UTF-8")]


def test_captions_may_be_in_several_columns_or_in_a_list(tmp_path: Path) -> None:
    lay(tmp_path, "file_name,caption_0,caption_1\na.png,one,two\na.png,two,\n", "a.png")
    found, rejected = read(tmp_path, columns={"caption": ["caption_0", "caption_1"]})
    assert ([c.captions for c in found], [row[1] for row in rejected]) == ([("one", "two")], ["duplicate-row"])
    rows = [
        {"Image": "a.png", "sentences": ["x", {"raw": "y", "tokens": ["y"]}, None, " "]},
        {"Image": "a.png", "sentences": [3]},
    ]
    lay(tmp_path, "\n".join(map(json.dumps, rows)), file="t.jsonl")
    found, rejected = read(tmp_path, path="t.jsonl")
    assert ([c.captions for c in found], rejected) == ([("x", "y")], [("a.png", "bad-row", "line 2: caption must be text, is 3")])
    lay(tmp_path, json.dumps({"Image": "a.png", "text": "x" * 100_001}), file="t.jsonl")
    assert read(tmp_path, path="t.jsonl")[1][0][1] == "long-text"


def test_a_label_alone_becomes_captions_by_templates(tmp_path: Path) -> None:
    lay(tmp_path, "image,label\na.png,maine_coon\nb.png,1\nc.png,7\nd.png,\n", *(f"{n}.png" for n in "abcd"))
    (tmp_path / "names.yaml").write_text("{maine_coon: [Maine Coon, big cat], '1': pug}")
    found, rejected = read(tmp_path, classes="names.yaml", templates=["a {}", "{}!"])
    assert [(c.label, c.captions) for c in found] == [
        ("Maine Coon", ("a Maine Coon", "a big cat", "Maine Coon!", "big cat!")),
        ("pug", ("a pug", "pug!")),
    ]
    assert [row[:2] for row in rejected] == [("d.png", "empty-caption"), ("c.png", "unknown-class")]
    assert next((c.label, c.captions) for c in read(tmp_path)[0]) == ("maine coon", ("a photo of a maine coon",))


def test_several_files_are_told_apart_by_the_splits_in_their_names(tmp_path: Path) -> None:
    lay(tmp_path, "image,caption\na.png,x\n", *(f"{n}.png" for n in "abc"), file="tables/train.csv")
    lay(tmp_path, "image,caption\nb.png,x\n", file="tables/validation.csv")
    assert {c.key: c.split for c in read(tmp_path, path="tables")[0]} == {"mine/a.png": "train", "mine/b.png": "val"}
    lay(tmp_path, "image,caption,split\na.png,x,train_extra\n", file="tables/train.csv")
    assert {c.split for c in read(tmp_path, path="tables/{train,validation}.csv", split="test")[0]} == {"test"}
    lay(tmp_path, "image,caption\na.png,x\n", file="tables/train.csv")
    lay(tmp_path, "image,caption\nb.png,x\na.png,y\n", file="tables/validation.csv")
    assert [row[1:] for row in read(tmp_path, path="tables/*.csv")[1]] == [
        ("conflicting-row", "validation.csv, line 3: split 'val', an earlier row of this image has 'train'")
    ]


def test_a_file_in_another_encoding_is_named_in_a_sentence_that_can_be_written(tmp_path: Path) -> None:
    lay(tmp_path, "", "a.png")
    (tmp_path / "captions.csv").write_bytes("image,caption\na.png,caf\u00e9\n".encode("utf-16"))
    with pytest.raises(UserError, match="its columns are") as caught:
        read(tmp_path)
    assert str(caught.value).encode()


def test_numbers_of_columns_with_gaps_are_labels(tmp_path: Path) -> None:
    rows = [
        {"image": "a.png", "label": 3.0},
        {"image": "b.png", "label": float("nan"), "caption": "x"},
        {"image": "c.png", "label": 3.5},
    ]
    lay(tmp_path, "\n".join(map(json.dumps, rows)), "a.png", "b.png", "c.png", file="t.jsonl")
    found, rejected = read(tmp_path, path="t.jsonl")
    assert [(c.label, c.captions) for c in found] == [("3", ("a photo of a 3",)), (None, ("x",))]
    assert rejected == [("c.png", "bad-row", "line 3: label must be text, is 3.5")]
