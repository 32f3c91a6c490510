from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from layoutkit import put
from preparekit import picture

from limoe.config import SetParams
from limoe.data.sources import Candidate, Rejected, candidates, open_set
from limoe.errors import UserError


def read(root: Path, **changes: Any) -> tuple[dict[str, Candidate], list[tuple[str, str]]]:
    """Candidates by key, and (key, reason) of what was rejected."""
    source = open_set("mine", SetParams.model_validate({"path": "set"} | changes), root)
    found = list(candidates(source))
    assert len(found) == source.total
    rejected = [(r.key.removeprefix("mine/"), r.reason) for r in found if isinstance(r, Rejected)]
    return {c.key.removeprefix("mine/"): c for c in found if isinstance(c, Candidate)}, rejected


def captions(found: dict[str, Candidate]) -> dict[str, tuple[str, ...]]:
    return {key: candidate.captions for key, candidate in found.items()}


def splits(found: dict[str, Candidate]) -> dict[str, str]:
    return {key: candidate.split for key, candidate in found.items()}


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")


def coco(*rows: tuple[int, str, list[str]]) -> dict[str, Any]:
    images = [{"id": number, "file_name": name} for number, name, _ in rows]
    return {"images": images, "annotations": [{"image_id": n, "caption": text} for n, _, texts in rows for text in texts]}


def test_coco_has_a_file_a_split_and_its_pictures_elsewhere(tmp_path: Path) -> None:
    for number, name in enumerate(("train2017/1.jpg", "train2017/2.jpg", "val2017/3.jpg")):
        put(tmp_path / "set" / name, number)
    write(tmp_path / "set" / "annotations" / "captions_train2017.json", coco((7, "1.jpg", ["a  cat", "cat"]), (8, "2.jpg", [])))
    write(tmp_path / "set" / "annotations" / "captions_val2017.json", coco((7, "3.jpg", ["a dog"]), (9, "gone.jpg", ["x"])))
    write(tmp_path / "set" / "annotations" / "instances_val2017.json", {"images": 3})
    found, rejected = read(tmp_path)
    assert captions(found) == {"train2017/1.jpg": ("a cat", "cat"), "val2017/3.jpg": ("a dog",)}
    assert splits(found) == {"train2017/1.jpg": "train", "val2017/3.jpg": "val"}
    assert rejected == [("train2017/2.jpg", "empty-caption"), ("gone.jpg", "missing-file")]
    one = read(tmp_path, path="set/annotations/captions_val2017.json", images="set/val2017", split="test")[0]
    assert splits(one) == {"3.jpg": "test"}
    assert read(tmp_path, path="set/annotations", images="set", kind="coco")[0].keys() == found.keys()


def test_pictures_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    for number, name in enumerate(("1.jpg", "a/1.jpg", "b/1.jpg", "a/2.jpg", "b/2.jpg", "b/3.jpg")):
        put(tmp_path / "set" / name, number)
    rows = [(1, "1.jpg", ["root"]), (2, "a/1.jpg", ["a"]), (3, "b/1.jpg", ["b"]), (4, "2.jpg", ["?"]), (5, "train/3.jpg", ["c"])]
    write(tmp_path / "set" / "captions_x.json", coco(*rows))
    found, rejected = read(tmp_path)
    assert captions(found) == {"1.jpg": ("root",), "a/1.jpg": ("a",), "b/1.jpg": ("b",), "b/3.jpg": ("c",)}
    assert rejected == [("2.jpg", "missing-file")]


def test_karpathys_splits_are_kept_and_the_rest_is_for_training(tmp_path: Path) -> None:
    rows = [("1.jpg", "restval"), ("2.jpg", "train"), ("3.jpg", "val"), ("4.jpg", "test")]
    for name, _ in rows:
        put(tmp_path / "set" / "deep" / name, 1)
    images = [{"filename": name, "split": split, "sentences": [{"raw": name, "tokens": []}]} for name, split in rows]
    write(tmp_path / "set" / "dataset_coco.json", {"images": images})
    found, rejected = read(tmp_path)
    assert rejected == []
    assert splits(found) == {"deep/1.jpg": "train", "deep/2.jpg": "train", "deep/3.jpg": "val", "deep/4.jpg": "test"}


def test_flickr8ks_token_file_and_its_lists(tmp_path: Path) -> None:
    for number in range(4):
        put(tmp_path / "set" / "Flicker8k_Dataset" / f"{number}.jpg", number)
    lines = [
        "0.jpg#0\tA cat .",
        "0.jpg#1\tOne cat",
        "1.jpg#0\tA dog",
        "2.jpg#0\tA bird",
        "3.jpg#0\tno list",
        "4.jpg.1#0\tgone",
        "no caption",
    ]
    write(tmp_path / "set" / "Flickr8k.token.txt", "\n".join(lines))
    for split, number in (("train", 0), ("dev", 1), ("test", 2)):
        write(tmp_path / "set" / f"Flickr_8k.{split}Images.txt", f"{number}.jpg\n")
    found, rejected = read(tmp_path, val_fraction=0, test_fraction=0)
    assert found["Flicker8k_Dataset/0.jpg"].captions == ("A cat .", "One cat")
    assert list(splits(found).values()) == ["train", "val", "test", "train"]
    assert rejected == [("4.jpg.1", "missing-file"), ("no caption", "missing-file")]
    before, again = (open_set("mine", SetParams(path="set"), tmp_path).provenance() for _ in range(2))
    write(tmp_path / "set" / "Flickr_8k.testImages.txt", "3.jpg\n")
    assert before == again != open_set("mine", SetParams(path="set"), tmp_path).provenance()


@pytest.mark.parametrize(
    "captioned, listed",
    [
        ("p{}.png", "p{}.png"),
        ("p{}.png", "p{}"),
        ("v1.{}.JPG", "v1.{}"),
        ("p {}.jpg", "p {}.jpg"),
        ("img/p{}.jpg", "p{}.jpg"),
        ("img/p{}.jpg", "img/p{}"),
        ("p{}.jpg", "./img/p{}.jpg"),
    ],
)
def test_lists_of_splits_hold_names_with_and_without_folders_and_suffixes(tmp_path: Path, captioned: str, listed: str) -> None:
    for number in range(6):
        put(tmp_path / "set" / captioned.format(number), number)
    write(tmp_path / "set" / "captions.txt", "\n".join(f"{captioned.format(number)},number {number}" for number in range(6)))
    for split, numbers in (("train", range(3)), ("test", range(3, 6))):
        write(tmp_path / "set" / f"{split}.txt", "\ufeff" + "\r\n".join(listed.format(number) for number in numbers) + "\r\n")
    found, rejected = read(tmp_path)
    assert rejected == []
    assert splits(found) == {captioned.format(number): "train" if number < 3 else "test" for number in range(6)}


def test_lists_of_splits_tell_pictures_of_one_name_apart(tmp_path: Path) -> None:
    for number, name in enumerate(names := ("1.jpg", "a/1.jpg", "b/1.jpg", "x.jpg", "x.jpg.png")):
        put(tmp_path / "set" / name, number)
    write(tmp_path / "set" / "captions.txt", "\n".join(f"{name},of {name}" for name in names))
    for split, listed in (("train", "1.jpg\nx.jpg"), ("val", "a/1.jpg\nx.jpg.png"), ("test", "b/1.jpg\n\nb/1.jpg\n")):
        write(tmp_path / "set" / f"{split}.txt", listed)
    assert splits(read(tmp_path)[0]) == dict(zip(names, ("train", "val", "test", "train", "val"), strict=True))


@pytest.mark.parametrize(
    "listed, message",
    [
        (b"q3.png\nq4.png", r"test\.txt: none of its names is that of a picture in the captions beside it, 'q3\.png' for one"),
        (b"p3.png\np0.png", r"train\.txt: the name 'p0\.png' is in test\.txt, too; a picture belongs to one split"),
        (b"p3.png\n\xff", r"test\.txt: not a list of names in UTF-8"),
    ],
)
def test_lists_of_splits_that_do_not_fit_are_the_users_mistake(tmp_path: Path, listed: bytes, message: str) -> None:
    for number in range(6):
        put(tmp_path / "set" / f"p{number}.png", number)
    write(tmp_path / "set" / "captions.txt", "\n".join(f"p{number}.png,number {number}" for number in range(6)))
    write(tmp_path / "set" / "train.txt", "p0.png\np1.png")
    (tmp_path / "set" / "test.txt").write_bytes(listed)
    with pytest.raises(UserError, match=message):
        read(tmp_path)
    assert set(splits(read(tmp_path, split="val")[0]).values()) == {"val"}


def test_files_of_captions_are_no_lists(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        put(tmp_path / "set" / f"{number}.jpg", number)
        write(tmp_path / "set" / f"{split}.txt", f"{number}.jpg\tnumber {number}")
    assert splits(read(tmp_path, path="set/*.txt", kind="flickr")[0]) == {"0.jpg": "train", "1.jpg": "test"}
    with pytest.raises(UserError, match=r"test\.txt: none of its names .*; call it otherwise if it is no such list"):
        read(tmp_path, path="set/train.txt", kind="flickr")


def test_two_lists_of_one_split_count_for_all_files_of_captions_beside_them(tmp_path: Path) -> None:
    for number, (file, header) in enumerate((("captions.txt", ""), ("results.csv", "image_name| comment_number| comment\n"))):
        put(tmp_path / "set" / f"{number}.jpg", number)
        write(tmp_path / "set" / file, f"{header}{number}.jpg| 0| number {number}")
    for name in ("test.txt", "Flickr_8k.testImages.txt"):
        write(tmp_path / "set" / name, "1")
    assert splits(read(tmp_path, val_fraction=0, test_fraction=0)[0]) == {"0.jpg": "train", "1.jpg": "test"}


@pytest.mark.parametrize(
    "file, lines",
    [
        ("results_20130124.token", "0.jpg#0\tA cat"),
        ("captions.txt", 'image,caption\n0.jpg,"A cat"'),
        ("results.csv", "image_name| comment_number| comment\n0.jpg| 0| A cat"),
    ],
)
def test_flickr30k_and_kaggles_forms(tmp_path: Path, file: str, lines: str) -> None:
    put(tmp_path / "set" / "images" / "0.jpg", 0)
    write(tmp_path / "set" / file, lines)
    assert captions(read(tmp_path)[0]) == {"images/0.jpg": ("A cat",)}
    assert captions(read(tmp_path, path=f"set/{file}", images="set", kind="flickr")[0]) == {"images/0.jpg": ("A cat",)}


def test_a_line_without_an_end_is_not_read_whole(tmp_path: Path) -> None:
    put(tmp_path / "set" / "0.jpg", 0)
    with (tmp_path / "set" / "captions.txt").open("wb") as handle:
        handle.write(b"image,caption\n0.jpg,")
        handle.truncate(1 << 28)  # zeros, which take no room on the disk
    tracemalloc.start()
    try:
        with pytest.raises(UserError, match=r"captions\.txt: line 2 is longer than 1048576 characters"):
            read(tmp_path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 25
    finally:
        tracemalloc.stop()


def test_names_in_captions_files_lead_nowhere_else(tmp_path: Path) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture())
    put(tmp_path / "set" / "0.jpg", 0)
    (tmp_path / "set" / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    rows = [(1, "../secret.jpg", ["x"]), (2, "link.jpg", ["x"]), (3, "../deep/0.jpg", ["good"]), (4, "0.jpg", ["\ud83d"])]
    write(tmp_path / "set" / "captions_x.json", coco(*rows))
    found, rejected = read(tmp_path)
    assert captions(found) == {"0.jpg": ("good", "?")}  # half a character is none
    assert sorted(rejected) == [("../secret.jpg", "missing-file"), ("link.jpg", "path-escape")]


@pytest.mark.parametrize(
    "content, message",
    [
        ("[]", "neither COCO's captions nor Karpathy's"),
        ('{"images": [{"id": 1, "file_name": 3}], "annotations": []}', "a picture's name is 3"),
        ('{"images": [{"id": 1}], "annotations": []}', "neither COCO's captions nor Karpathy's"),
        ("[" * 100_000, "not valid JSON"),
        ("{", "not valid JSON"),
        ('{"images": [{"id": 1, "file_name": "0.jpg"}], "annotations": [{"image_id": 2, "caption": "x"}]}', "no image has"),
        ('{"images": [{"id": 1, "file_name": "0.jpg"}]}', "neither COCO's captions nor Karpathy's: KeyError 'annotations'"),
        (
            '{"images": [{"id": 1, "file_name": "0.jpg"}, {"id": 1, "file_name": "0.jpg"}],'
            ' "annotations": [{"image_id": 1, "caption": "x"}, {"image_id": 2, "caption": "y"}]}',
            "no image has",
        ),
        ('{"images": [1]}', "neither COCO's captions nor Karpathy's"),
        ('{"images": 3}', "neither COCO's captions nor Karpathy's: KeyError 'images'"),
        ('{"images": [{"id": 1, "file_name": "0.jpg"}], "annotations": [{"image_id": 1, "caption": "x"}', "not valid JSON"),
        ('{"images": [{"id": ' + "9" * 5000 + ', "file_name": "0.jpg"}]}', "not valid JSON"),
        ('{"images": [], "annotations": []}', "no pictures below it; say with the set's key images where they are"),
    ],
)
def test_json_of_another_form_is_the_users_mistake(tmp_path: Path, content: str, message: str) -> None:
    if "no pictures" not in message:
        put(tmp_path / "set" / "0.jpg", 0)
    write(tmp_path / "set" / "captions_x.json", content)
    with pytest.raises(UserError, match=message):
        read(tmp_path)


def test_a_text_beside_each_picture(tmp_path: Path) -> None:
    for number, name in enumerate(("train/a", "train/sub/b.x", "dev/c", "dev/none", "dev/bad")):
        put(tmp_path / "set" / f"{name}.jpg", number)
    for name, content in {
        "train/a": b"\xef\xbb\xbfone\n\n two \n",
        "train/sub/b.x": b"b",
        "dev/c": b"c\x00d",
        "dev/bad": b"\xff",
    }.items():
        (tmp_path / "set" / f"{name}.txt").write_bytes(content)
    (tmp_path / "secret.txt").write_text("secret")
    put(tmp_path / "set" / "dev" / "link.jpg", 9)
    (tmp_path / "set" / "dev" / "link.txt").symlink_to(tmp_path / "secret.txt")
    found, rejected = read(tmp_path)
    assert captions(found) == {"train/a.jpg": ("one", "two"), "train/sub/b.x.jpg": ("b",), "dev/c.jpg": ("c d",)}
    assert splits(found) == {"train/a.jpg": "train", "train/sub/b.x.jpg": "train", "dev/c.jpg": "val"}
    assert rejected == [("dev/bad.jpg", "bad-row"), ("dev/link.jpg", "empty-caption"), ("dev/none.jpg", "empty-caption")]
    source = open_set("mine", SetParams(path="set"), tmp_path)
    (part,) = source.parts
    assert {str(tmp_path / "set" / "train" / name) for name in ("a.jpg", "a.txt")} <= set(source.inputs(part))
    assert len(source.inputs(part)) == 2 * 6


def test_img2datasets_folders_are_known_beside_its_parquet_files(tmp_path: Path) -> None:
    put(tmp_path / "set" / "00000" / "000000000.jpg", 0)
    write(tmp_path / "set" / "00000" / "000000000.txt", "a cat")
    write(tmp_path / "set" / "00000" / "000000000.json", {"url": "http://a"})
    write(tmp_path / "set" / "00000_stats.json", {"count": 1})
    pq.write_table(pa.table({"url": ["http://a"], "caption": ["a cat"]}), tmp_path / "set" / "00000.parquet")
    found, rejected = read(tmp_path)
    assert (captions(found), rejected) == ({"00000/000000000.jpg": ("a cat",)}, [])


def test_class_folders_become_captions(tmp_path: Path) -> None:
    for number, name in enumerate(("maine_coon/0.jpg", "maine_coon/1.jpg", "pug/0.jpg")):
        put(tmp_path / "set" / name, number)
    found, rejected = read(tmp_path)
    assert rejected == []
    assert [(c.label, c.captions) for c in found.values()] == [("maine coon", ("a photo of a maine coon",))] * 2 + [
        ("pug", ("a photo of a pug",))
    ]
    write(tmp_path / "names.yaml", "[Maine Coon, [Pug, small dog]]")
    found = read(tmp_path, classes="names.yaml", templates=["{}."])[0]
    assert captions(found)["pug/0.jpg"] == ("Pug.", "small dog.")
    named = SetParams(path="set", classes="names.yaml")
    before = open_set("mine", named, tmp_path).provenance()
    write(tmp_path / "names.yaml", "[Maine coon, [Pug, small dog]]")
    assert before != open_set("mine", named, tmp_path).provenance()
    write(tmp_path / "names.yaml", "[Maine Coon]")
    with pytest.raises(UserError, match=r"1 class names, but .* has 2 classes"):
        read(tmp_path, classes="names.yaml")


def test_class_folders_below_folders_of_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cat/0.jpg", "val/cat/0.jpg", "val/dog/0.jpg")):
        put(tmp_path / "set" / name, number)
    found = read(tmp_path)[0]
    assert splits(found) == {"train/cat/0.jpg": "train", "val/cat/0.jpg": "val", "val/dog/0.jpg": "val"}
    assert [c.label for c in found.values()] == ["cat", "cat", "dog"]
    put(tmp_path / "set" / "val" / "loose.jpg", 1)
    with pytest.raises(UserError, match=r"loose\.jpg lies beside the class folders"):
        read(tmp_path)


def test_pictures_in_folders_below_a_class_are_of_that_class(tmp_path: Path) -> None:
    for number, name in enumerate(("cats/1.jpg", "cats/more/2.jpg", "cats/more/yet/3.jpg", "dogs/more.jpg", "cats/.old/4.jpg")):
        put(tmp_path / "set" / name, number)
    found = read(tmp_path)[0]
    assert {key: c.label for key, c in found.items()} == {
        "cats/1.jpg": "cats",
        "cats/more/2.jpg": "cats",
        "cats/more/yet/3.jpg": "cats",
        "dogs/more.jpg": "dogs",
    }


def test_pictures_in_folders_below_a_class_of_a_split(tmp_path: Path) -> None:
    for number, name in enumerate(("train/cats/1.jpg", "train/cats/deep/2.jpg", "test/cats/3.jpg")):
        put(tmp_path / "set" / name, number)
    found = read(tmp_path)[0]
    assert {c.label for c in found.values()} == {"cats"}
    assert splits(found) == {"train/cats/1.jpg": "train", "train/cats/deep/2.jpg": "train", "test/cats/3.jpg": "test"}


@pytest.mark.parametrize(
    "names, message",
    [
        (["readme.jpg", "train/cats/1.jpg", "test/cats/2.jpg"], r"readme\.jpg lies beside the folders of splits"),
        (["a.jpg", "b.jpg"], r"a\.jpg lies beside the class folders"),
        ([], r"no class folders here"),
        (["train/cats/1.jpg", "extra/cats/2.jpg"], r"extra: a class folder without a picture of its own"),
        (["birds/images/wren/1.jpg"], r"birds: a class folder without a picture of its own"),
    ],
)
def test_pictures_of_no_class_are_the_users_mistake(tmp_path: Path, names: list[str], message: str) -> None:
    (tmp_path / "set").mkdir()
    for number, name in enumerate(names):
        put(tmp_path / "set" / name, number)
    with pytest.raises(UserError, match=message):
        read(tmp_path, kind="imagefolder")


@pytest.mark.parametrize(
    "file, content, kind",
    [
        ("results.csv", "image,caption,split,label\n0.jpg,a red car,test,car\n", "table"),
        ("results.csv", "image_name| comment_number| comment\n0.jpg| 0| a red car\n", "flickr"),
        ("results.csv", "image,caption\n0.jpg,a red car\n", "flickr"),
        ("results.csv", "file,text\n0.jpg,a red car\n", "table"),
        ("captions.txt", "\ufeffimage,caption\r\n0.jpg,a red car\r\n", "flickr"),
        ("captions.txt", "0.jpg#0\ta red car\n", "flickr"),
        ("captions.txt", "0.jpg,a red car\n", "flickr"),
        ("Flickr8k.token.txt", "0.jpg#0\ta red car\n", "flickr"),
    ],
)
def test_flickrs_files_are_known_by_their_first_line(tmp_path: Path, file: str, content: str, kind: str) -> None:
    put(tmp_path / "set" / "0.jpg", 0)
    write(tmp_path / "set" / file, content)
    for path in ("set", f"set/{file}", f"set/*{file[-4:]}"):
        source = open_set("mine", SetParams(path=path), tmp_path)
        assert source.params.kind == kind
        assert [c.captions for c in candidates(source) if isinstance(c, Candidate)] == [("a red car",)]


OTHERS_TABLES = ["image,score\n0.jpg,0.9\n", "image,caption\n0.jpg,0.9\n", "0.jpg,0.9\n", "0.jpg| 0| 0.9\n", "", "\0\0"]


@pytest.mark.parametrize("table", OTHERS_TABLES)
@pytest.mark.parametrize(
    "file, content",
    [
        ("captions.txt", "image,caption\n0.jpg,a red car\n"),
        ("captions.txt", "0.jpg,a red car\n"),
        ("Flickr8k.token.txt", "0.jpg#0\ta red car\n"),
        ("results_20130124.token", "0.jpg#0\ta red car\n"),
        ("dataset_flickr8k.json", {"images": [{"filename": "0.jpg", "sentences": [{"raw": "a red car"}], "split": "train"}]}),
    ],
)
def test_a_table_of_somebody_elses_beside_flickrs_captions_is_left_aside(
    tmp_path: Path, file: str, content: Any, table: str
) -> None:
    put(tmp_path / "set" / "0.jpg", 0)
    write(tmp_path / "set" / file, content)
    for name in ("results.csv", "more/scores.tsv"):
        write(tmp_path / "set" / name, table)
    for kind in ("auto", "coco" if file.endswith("json") else "flickr"):
        found, rejected = read(tmp_path, kind=kind)
        assert (captions(found), rejected) == ({"0.jpg": ("a red car",)}, [])
    told = open_set("mine", SetParams(path="set"), tmp_path).provenance()
    assert (list(told["files"]), told["left_aside"]) == ([file], ["more/scores.tsv", "results.csv"])
    assert open_set("mine", SetParams(path=f"set/{file}", images="set"), tmp_path).provenance()["left_aside"] == []


def test_flickr30ks_own_table_is_read_beside_flickr8ks_captions(tmp_path: Path) -> None:
    for number in range(2):
        put(tmp_path / "set" / f"{number}.jpg", number)
    write(tmp_path / "set" / "8k" / "captions.txt", "image,caption\n0.jpg,a red car\n")
    write(tmp_path / "set" / "30k" / "results.csv", "image_name| comment_number| comment\n1.jpg| 0| a blue car\n")
    assert captions(read(tmp_path)[0]) == {"0.jpg": ("a red car",), "1.jpg": ("a blue car",)}
    assert open_set("mine", SetParams(path="set"), tmp_path).provenance()["left_aside"] == []


@pytest.mark.parametrize("content", ["file\tcaption\tsplit\n0.jpg\ta red car\ttest\n", "0.jpg\ta red car\ttest\n", ""])
def test_a_text_of_another_form_is_not_flickrs(tmp_path: Path, content: str) -> None:
    put(tmp_path / "set" / "0.jpg", 0)
    write(tmp_path / "set" / "captions.txt", content)
    for path in ("set", "set/captions.txt"):
        with pytest.raises(UserError, match=r"captions\.txt begins as no file of Flickr's .*; name it \.csv or \.tsv"):
            read(tmp_path, path=path)


def test_texts_beside_pictures_are_looked_for_in_a_folder_alone(tmp_path: Path) -> None:
    put(tmp_path / "set" / "a.jpg", 0)
    with pytest.raises(UserError, match=r"set/\*\.jpg: must be a folder, of pictures with a \.txt each"):
        read(tmp_path, path="set/*.jpg", kind="sidecar")


def test_what_nobody_knows_is_named(tmp_path: Path) -> None:
    write(tmp_path / "set" / "notes.md", "x")
    for path in ("set", "set/notes.md"):
        with pytest.raises(UserError, match=r"holds none of what is known: tars, Parquet"):
            read(tmp_path, path=path)
    with pytest.raises(UserError, match="nowhere: no file here"):
        read(tmp_path, path="nowhere")
