from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from preparekit import ingested, params_with, picture

from limoe.data.prepared import Prepared
from limoe.data.sources import Candidate, Rejected, candidates
from limoe.data.sources.folder import FolderSource, hashed_split
from limoe.errors import UserError

SET = ("prepare.folder.images=images", "prepare.folder.captions=captions.csv", "prepare.tokenizer.vocab_size=200")


def lay(root: Path, captions: str, *names: str, file: str = "captions.csv") -> None:
    """Pictures of these names in root/images, and a captions file."""
    for number, name in enumerate(names):
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(number))
    (root / "images").mkdir(exist_ok=True)
    (root / file).write_text(captions, encoding="utf-8")


def read(root: Path, *overrides: str) -> tuple[list[Candidate], list[tuple[str, str, str]]]:
    """Candidates, and (key, reason, detail) of what was rejected."""
    source = FolderSource(params_with(*SET, *overrides).prepare, root)
    found = list(candidates(source))
    assert len(found) == source.total
    rejected = [(r.key.removeprefix("folder/"), r.reason, r.detail) for r in found if isinstance(r, Rejected)]
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
        ("folder/a.png", ("a cat", "one cat", "mine"), "cat", "a"),
        ("folder/sub/b.png", ("a dog, running",), "dog", "sub/b"),
    ]
    assert [c.image for c in found] == [picture(0), picture(1)]
    assert {c.size for c in found} == {None}  # ingest has to look at them


def test_jsonl_says_the_same(tmp_path: Path) -> None:
    rows: list[Any] = [{"image": "a.png", "caption": "a cat", "split": "val", "id": 7}, {"image": "a.png", "caption": "one cat"}]
    lay(tmp_path, "\n".join(json.dumps(row) for row in rows) + "\n\n", "a.png", file="captions.jsonl")
    found, rejected = read(tmp_path, "prepare.folder.captions=captions.jsonl")
    assert rejected == []
    assert [(c.key, c.captions, c.split) for c in found] == [("folder/a.png", ("a cat", "one cat"), "val")]


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
        ("", "bad-row", "line 8"),
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
        ('{"image": "a.png", "caption": "x", "label": 3}', "label must be text, is 3"),
        ('{"image": "a.png", "caption": "a \\ud83d b"}', "caption holds half a surrogate pair"),
        ('{"image": "\\udc00.png", "caption": "x"}', "image holds half a surrogate pair"),
        ('{"image": "a.png", "caption": "x", "group": "\\ud83d"}', "group holds half a surrogate pair"),
        ("[" * 100_000, "not JSON"),
        ('{"image": ' + "[" * 900 + "]" * 900 + ', "caption": "x"}', "image must be text, is [[["),
    ],
)
def test_bad_json_lines_are_rejected(tmp_path: Path, line: str, why: str) -> None:
    lay(tmp_path, f'{{"image": "a.png", "caption": "fine"}}\n{line}\n', "a.png", file="captions.jsonl")
    found, rejected = read(tmp_path, "prepare.folder.captions=captions.jsonl")
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
    found, rejected = read(tmp_path, "prepare.folder.captions=captions.jsonl")
    assert (found, len(rejected)) == ([], 1)
    assert rejected[0][1] in ("missing-file", "unreadable")


def test_huge_files_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("limoe.data.sources.folder.MAX_BYTES", 100)
    lay(tmp_path, "image,caption\na.png,x\n", "a.png")
    assert [reason for _, reason, _ in read(tmp_path)[1]] == ["too-many-bytes"]


def test_a_group_lies_in_one_split(tmp_path: Path) -> None:
    """Groups decide, not pictures; a named split takes the rest of its group along; a second named one is a conflict."""
    rows = [f"{n}.png,picture {n},,group {n % 40}" for n in range(400)]
    rows += ["named.png,x,test,g", "follows.png,x,,g", "quarrels.png,x,val,g"]
    names = [row.split(",")[0] for row in rows]
    lay(tmp_path, "image,caption,split,group\n" + "\n".join(rows), *names)
    found, rejected = read(tmp_path)
    splits = {c.split_group: set() for c in found}
    for c in found:
        splits[c.split_group].add(c.split)
    assert {len(chosen) for chosen in splits.values()} == {1}
    assert splits["g"] == {"test"}
    assert rejected == [("quarrels.png", "split-conflict", "split val, but an earlier row puts the group 'g' into test")]


def test_hashed_splits_have_the_shares_that_are_asked_for() -> None:
    params = params_with("prepare.folder.val_fraction=0.2", "prepare.folder.test_fraction=0.05").prepare.folder
    counts = Counter(hashed_split(f"group {number}", params) for number in range(20_000))
    assert {split: round(count / 20_000, 2) for split, count in counts.items()} == {"train": 0.75, "val": 0.2, "test": 0.05}


@pytest.mark.parametrize(
    "overrides, message",
    [
        (("prepare.folder.images=null",), r"prepare\.folder\.images is not set, and the source `folder` needs it"),
        (("prepare.folder.captions=null",), r"prepare\.folder\.captions is not set"),
        (("prepare.folder.images=nowhere",), r"prepare\.folder\.images: .*nowhere is no folder"),
        (("prepare.folder.captions=images",), r"prepare\.folder\.captions: .*images is no file"),
    ],
)
def test_unset_or_missing_paths_are_the_users_mistake(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    lay(tmp_path, "image,caption\na.png,x\n", "a.png")
    with pytest.raises(UserError, match=message):
        read(tmp_path, *overrides)


@pytest.mark.parametrize(
    "content, message",
    [
        (b"image,text\na.png,x\n", r"has no column 'caption'; .* it names image, text"),
        (b"", r"has no column 'image'; .* it names nothing"),
        (b"image,caption\n", "has no rows"),
        (b"image,caption\na.png,caf\xe9\n", "is not UTF-8"),
        (b'image,caption\na.png,fine\na.png,"unclosed\nb.png,swallowed\n', "is not valid csv behind its row 1"),
    ],
)
def test_a_file_of_another_form_is_the_users_mistake(tmp_path: Path, content: bytes, message: str) -> None:
    lay(tmp_path, "", "a.png")
    (tmp_path / "captions.csv").write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_another_ending_is_the_users_mistake(tmp_path: Path) -> None:
    lay(tmp_path, "x", "a.png", file="captions.txt")
    with pytest.raises(UserError, match=r"captions\.txt must end in \.csv or \.jsonl"):
        read(tmp_path, "prepare.folder.captions=captions.txt")


def test_spreadsheets_byte_order_mark_is_no_part_of_a_column(tmp_path: Path) -> None:
    lay(tmp_path, "\ufeffimage,caption\r\na.png,x\r\n", "a.png")
    assert [c.captions for c in read(tmp_path)[0]] == [("x",)]


def test_a_whole_surrogate_pair_is_a_character(tmp_path: Path) -> None:
    lay(tmp_path, '{"image": "a.png", "caption": "a \\ud83d\\ude00"}', "a.png", file="captions.jsonl")
    assert [c.captions for c in read(tmp_path, "prepare.folder.captions=captions.jsonl")[0]] == [("a \U0001f600",)]


def test_through_ingest_good_pictures_arrive_and_bad_ones_are_listed(tmp_path: Path) -> None:
    names = [f"{n}.png" for n in range(30)]
    rows = [f"{name},picture number {name}" for name in [*names, "broken.png", "gone.png"]]
    lay(tmp_path, "image,caption\n" + "\n".join(rows), *names)
    (tmp_path / "images" / "broken.png").write_bytes(picture()[:100])
    params = params_with(*SET).prepare
    source, out = FolderSource(params, tmp_path), tmp_path / "out"
    manifest = ingested({"folder": source}, params, out)
    assert manifest["rejected"] == {"truncated": 1, "missing-file": 1}
    assert manifest["sources"]["folder"]["pictures"] == 32
    prepared = Prepared(out)
    keys = [key for split in prepared.splits for key in prepared.table(split, ["key"])["key"].to_pylist()]
    assert sorted(keys) == sorted(f"folder/{name}" for name in names)
    assert prepared.table("train", ["width", "height"]).to_pylist()[0] == {"width": 20, "height": 16}
