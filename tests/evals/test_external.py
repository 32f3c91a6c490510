"""A user's labelled pictures and captions, in every layout: what is read, and the one sentence where something does not fit."""

import json

import pytest
from layoutkit import folders, opened, parquet, picture, put, tar, told

from limoe.config import EvalSetParams
from limoe.errors import UserError
from limoe.evals.suite import evaluators, open_external
from limoe.paramsfile import read_yaml


def refused(message, root, kind, **more):
    with pytest.raises(UserError) as caught:
        opened(root, kind, **more)
    assert message in str(caught.value)
    assert str(caught.value).startswith("evaluate.sets.mine: ")
    assert "\n" not in str(caught.value)


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path.name


def test_a_folder_has_names_of_its_own_or_its_folders(tmp_path, params):
    folders(tmp_path / "set", ["maine_coon", "pug"], each=2)
    plain = opened(tmp_path, "folder")
    assert told(plain) == [(0, "maine_coon"), (2, "maine_coon"), (1, "pug"), (3, "pug")]
    assert plain.classes == {"maine_coon": ("maine coon",), "pug": ("pug",)}
    assert [one.name for one in evaluators(plain, params.evaluate)] == ["mine"]
    written(tmp_path / "names.yaml", "- Maine Coon cat\n- pug dog\n")
    written(tmp_path / "prompts.yaml", "pets: ['a photo of a {}, a pet.']\nplain: ['{}']\n")
    named = opened(tmp_path, "folder", classes="names.yaml", templates="prompts.yaml")
    assert named.classes == {"maine_coon": ("Maine Coon cat",), "pug": ("pug dog",)}
    assert named.prompts == {"": ("a photo of a {}, a pet.",), "plain": ("{}",)}
    assert [one.name for one in evaluators(named, params.evaluate)] == ["mine", "mine/plain"]
    assert named.hash != plain.hash


def test_numbered_folders_are_counted_and_not_spelt(tmp_path):
    folders(tmp_path / "set", ["0", "1", "2", "10"])
    written(tmp_path / "names.yaml", "[zero, one, two, ten]")
    assert opened(tmp_path, "folder", classes="names.yaml").classes["10"] == ("ten",)
    refused("its classes are numbers; give their names", tmp_path, "folder")


@pytest.mark.parametrize(
    "names, message",
    [
        ("[dog, cat]", "the order is not that of the classes of"),
        ("[cat]", "1 class names, but"),
        ("{cat: cat}", "no name for the class 'dog'"),
        ("{cat: cat, dog: dog, dgo: dog}", "names the class 'dgo', of which"),
        ("{cat: no, dog: dog}", "False is no class name"),
        ("just words", "must be a list of class names, or a mapping"),
        ("[cat, dog", "not valid YAML"),
    ],
)
def test_class_names_that_do_not_fit_are_told(tmp_path, names, message):
    folders(tmp_path / "set", ["cat", "dog"])
    written(tmp_path / "names.yaml", names)
    refused(message, tmp_path, "folder", classes="names.yaml")


def test_which_name_stands_in_which_place_is_told(tmp_path):
    folders(tmp_path / "set", ["cat", "maine_coon", "pug"])
    written(tmp_path / "names.yaml", "[cat, pug, Maine Coon]")
    refused("'pug' stands in the place of 'maine_coon', not of 'pug'", tmp_path, "folder", classes="names.yaml")


@pytest.mark.parametrize("templates", ["a: ['no place']", "[]", "a: {}", "word"])
def test_templates_that_do_not_fit_are_told(tmp_path, templates):
    folders(tmp_path / "set", ["cat", "dog"])
    written(tmp_path / "prompts.yaml", templates)
    refused("prompts.yaml: ", tmp_path, "folder", templates="prompts.yaml")


def test_parquet_tells_its_own_names_and_reads_one_split(tmp_path):
    parquet(tmp_path / "set", [{"label": 1}, {"label": 0}, {"label": 1}], names=["cat", "dog"])
    data = opened(tmp_path, "parquet")
    assert told(data) == [(0, "1"), (1, "0"), (2, "1")]
    assert data.classes == {"0": ("cat",), "1": ("dog",)}
    assert len(set(data.keys)) == 3
    parquet(tmp_path / "set", [{"label": 0}], name="train-00000-of-00001", names=["cat", "dog"])
    refused("holds the splits train, val; say which", tmp_path, "parquet")
    refused("no file of the split test; there are train, val", tmp_path, "parquet", split="test")
    assert told(opened(tmp_path, "parquet", split="train")) == [(0, "0")]


def test_parquet_may_hold_captions(tmp_path, params):
    parquet(tmp_path / "set", [{"caption": ["a", "b"]}, {"caption": ["c"]}])
    data = opened(tmp_path, "parquet")
    assert data.captions == (("a", "b"), ("c",))
    assert [type(one).__name__ for one in evaluators(data, params.evaluate)] == ["Retrieval"]


def test_a_folder_a_split_is_told_apart_like_files(tmp_path, params):
    for split, labels in (("train", (0, 1, 0, 1, 0, 1)), ("test", (1, 0, 1))):
        parquet(tmp_path / "set" / "default" / split, [{"label": label} for label in labels], "0000", names=["cat", "dog"])
    refused("holds the splits test, train; say which with the set's key split", tmp_path, "parquet")
    refused("no file of the split val; there are test, train", tmp_path, "parquet", split="val")
    data = opened(tmp_path, "parquet", split="test", train={"path": "set", "split": "train"})
    assert told(data) == [(0, "1"), (1, "0"), (2, "1")]
    assert data.keys == tuple(f"default/test/0000.parquet:{row}" for row in range(3))
    assert told(data.train) == [(0, "0"), (1, "1"), (2, "0"), (3, "1"), (4, "0"), (5, "1")]
    assert told(opened(tmp_path, "parquet", "set/default/test")) == told(data)
    assert told(opened(tmp_path, "parquet", "set/default/test/0000.parquet")) == told(data)
    assert opened(tmp_path, "parquet", "set/default/test/0000.parquet").keys == tuple(f"0000.parquet:{row}" for row in range(3))


def test_folders_that_are_no_splits_are_one_set(tmp_path):
    for folder in ("b", "a"):
        parquet(tmp_path / "set" / folder, [{"label": "cat"}, {"label": "dog"}], "part-0")
    data = opened(tmp_path, "parquet")
    assert data.keys == ("a/part-0.parquet:0", "a/part-0.parquet:1", "b/part-0.parquet:0", "b/part-0.parquet:1")
    parquet(tmp_path / "set" / "test", [{"label": "emu"}], "part-0")
    assert told(opened(tmp_path, "parquet", split="test")) == [(0, "emu")]


@pytest.mark.parametrize("names", [("train/0", "validation/0"), ("train", "validation"), ("web-train-0", "web-validation-0")])
def test_splits_of_tars_are_told_by_folders_and_by_any_part_of_a_name(tmp_path, names):
    for number, name in enumerate(names):
        folder, _, file = name.rpartition("/")
        tar(tmp_path / "set" / folder, {"a": {"png": picture(number), "cls": b"cat"}}, file)
    refused("holds the splits train, validation; say which", tmp_path, "webdataset")
    assert told(opened(tmp_path, "webdataset", split="validation")) == [(1, "cat")]


def test_splits_of_other_names_are_told_by_what_names_begin_with(tmp_path):
    for number, name in enumerate(("train-0", "val-0", "minival-0", "train2017-0")):
        tar(tmp_path / "set", {name: {"png": picture(number), "cls": b"cat"}}, name)
    refused("holds the splits minival, train, val; say which", tmp_path, "webdataset")
    found = {split: told(opened(tmp_path, "webdataset", split=split)) for split in ("val", "minival", "train2017")}
    assert found == {"val": [(1, "cat")], "minival": [(2, "cat")], "train2017": [(3, "cat")]}


def test_pictures_without_captions_are_known_by_having_none(tmp_path, params):
    rows = [["c 0", None], None, [], ["c 3", " "], [None], ["", "c 5"]]
    parquet(tmp_path / "set", [{"captions": captions} for captions in rows])
    data = opened(tmp_path, "parquet")
    assert data.captions == (("c 0",), (), (), ("c 3",), (), ("c 5",))
    assert data.described == [0, 3, 5]
    assert [type(one).__name__ for one in evaluators(data, params.evaluate)] == ["Retrieval"]
    told_by = {"a": {"txt": b"c 0"}, "b": {}, "c": {"txt": b" "}, "d": {"json": b'{"captions": ["c 3", null]}'}}
    tar(tmp_path / "tars", {key: {"png": picture(0), **parts} for key, parts in told_by.items()})
    assert opened(tmp_path, "webdataset", "tars").captions == (("c 0",), (), (), ("c 3",))
    parquet(tmp_path / "numbers", [{"captions": [1, 2]}])
    refused("numbers has a broken file", tmp_path, "parquet", path="numbers")


@pytest.mark.parametrize(
    "rows, message",
    [
        ([{"label": -1}], "val-00000-of-00001.parquet:0 has no label"),
        ([{"label": None}, {"label": 1}], "has no label"),
        ([{"name": "x"}], "neither a column label nor captions; its columns are image, name"),
        ([{"label": 1, "image": 7}], "needs a column image of encoded bytes"),
        ([{"label": 7}], "the label 7 is none of the 2 classes"),
    ],
)
def test_parquet_that_does_not_fit_is_told(tmp_path, rows, message):
    parquet(tmp_path / "set", rows, names=["cat", "dog"])
    refused(message, tmp_path, "parquet")


def test_a_file_that_is_no_parquet_is_told(tmp_path):
    written(tmp_path / "set" / "a.parquet", "words")
    refused("not Parquet files of one form", tmp_path, "parquet")
    refused("no *.tar files here", tmp_path, "webdataset")


def test_tars_hold_labels_or_captions(tmp_path):
    tar(tmp_path / "set", {f"d/s{n}": {"cls": label, "png": picture(n)} for n, label in enumerate([b"dog", b"cat\n"])})
    tar(tmp_path / "set", {"more": {"png": picture(2), "json": b'{"label": "dog"}'}}, "val-00001")
    data = opened(tmp_path, "webdataset")
    assert told(data) == [(0, "dog"), (1, "cat"), (2, "dog")]
    assert data.classes == {"cat": ("cat",), "dog": ("dog",)}
    tar(tmp_path / "texts", {"a": {"png": picture(0), "txt": b"one "}, "b": {"jpg": b"x", "json": b'{"captions": ["c", "d"]}'}})
    assert opened(tmp_path, "webdataset", "texts").captions == (("one",), ("c", "d"))


@pytest.mark.parametrize(
    "samples, mode, message",
    [
        ({"a": {"cls": b"1"}}, "w", "the sample 'a' has no picture"),
        ({"a": {"png": b"x", "cls": b"1"}, "b": {"png": b"x"}}, "w", "the sample 'b' has no label, others have"),
        ({"a": {"png": b"x", "json": b"{"}}, "w", "not an uncompressed tar of samples"),
        ({"a": {"png": b"x", "cls": b"1"}}, "w:gz", "not an uncompressed tar of samples"),
        ({}, "w", "the tars hold no samples"),
    ],
)
def test_tars_that_do_not_fit_are_told(tmp_path, samples, mode, message):
    tar(tmp_path / "set", samples, mode=mode)
    refused(message, tmp_path, "webdataset")


def test_a_key_in_two_tars_is_told(tmp_path):
    for name in ("val-0", "val-1"):
        tar(tmp_path / "set", {"a": {"png": picture(0), "cls": b"1"}}, name)
    refused("the sample 'a' is in an earlier tar too", tmp_path, "webdataset")


COCO = {
    "images": [{"id": 7, "file_name": "000007.jpg"}, {"id": 3, "file_name": "000003.jpg"}],
    "annotations": [{"image_id": 3, "caption": "c"}, {"image_id": 7, "caption": "a"}, {"image_id": 7, "caption": "b"}],
}
KARPATHY = {
    "images": [
        {"filename": "x.jpg", "split": "test", "sentences": [{"raw": "a"}, {"raw": "b"}]},
        {"filename": "y.jpg", "split": "train", "sentences": [{"raw": "c"}]},
    ]
}


def test_coco_captions(tmp_path):
    written(tmp_path / "set" / "annotations" / "captions_val2017.json", COCO)
    for number in (3, 7):
        put(tmp_path / "set" / "val2017" / f"00000{number}.jpg", number)
    data = opened(tmp_path, "coco")
    assert told(data) == [(7, None), (3, None)]
    assert data.captions == (("a", "b"), ("c",))
    (tmp_path / "set" / "val2017" / "000003.jpg").unlink()
    refused("1 of 2 pictures that have captions are not there, or several of their name, 000003.jpg first", tmp_path, "coco")


def test_karpathys_file_needs_a_split(tmp_path):
    written(tmp_path / "set" / "dataset_flickr8k.json", KARPATHY)
    put(tmp_path / "set" / "Images" / "x.jpg", 5)
    refused("holds the splits test, train; say which", tmp_path, "flickr8k")
    refused("no picture of the split val; there are test, train", tmp_path, "flickr8k", split="val")
    data = opened(tmp_path, "flickr8k", split="test")
    assert (told(data), data.captions) == ([(5, None)], (("a", "b"),))


@pytest.mark.parametrize(
    "name, text",
    [
        ("Flickr8k.token.txt", "x.jpg#0\tA dog , running .\nx.jpg#1\tb\ny.jpg#0\tc\n"),
        ("captions.txt", 'image,caption\nx.jpg,"A dog , running ."\nx.jpg,b\ny.jpg,c\n'),
        ("results.csv", "image_name| comment_number| comment\nx.jpg| 0| A dog , running .\nx.jpg| 1   b\ny.jpg| 0| c\n"),
    ],
    ids=["authors", "Kaggle, Flickr8k", "Kaggle, Flickr30k"],
)
def test_flickr_captions_with_and_without_a_split(tmp_path, name, text):
    written(tmp_path / "set" / "text" / name, text)
    for number, picture_name in enumerate(("x.jpg", "y.jpg")):
        put(tmp_path / "set" / "Images" / picture_name, number)
    whole = opened(tmp_path, "flickr30k")
    assert (told(whole), whole.captions) == ([(0, None), (1, None)], (("A dog , running .", "b"), ("c",)))
    refused("no list of the split test", tmp_path, "flickr8k", split="test")
    written(tmp_path / "set" / "text" / "Flickr_8k.testImages.txt", "y.jpg\n")
    assert told(opened(tmp_path, "flickr8k", split="test")) == [(1, None)]
    written(tmp_path / "set" / "text" / "Flickr_8k.testImages.txt", "z.jpg\n")
    refused("no captions of z.jpg, which the split test names", tmp_path, "flickr8k", split="test")


@pytest.mark.parametrize(
    "captioned, listed",
    [
        ("p{}.png", "p{}.png"),
        ("p{}.png", "p{}"),
        ("p {}.jpg", "p {}.jpg"),
        ("img/p{}.jpg", "p{}.jpg"),
        ("img/p{}.jpg", "img/p{}"),
        ("p{}.jpg", "./img/p{}.jpg"),
    ],
)
def test_a_flickr_list_names_pictures_with_and_without_folders_and_suffixes(tmp_path, captioned, listed):
    for number in range(6):
        put(tmp_path / "set" / captioned.format(number), number)
    written(tmp_path / "set" / "captions.txt", "\n".join(f"{captioned.format(number)},number {number}" for number in range(6)))
    written(tmp_path / "set" / "test.txt", "\n".join(listed.format(number) for number in (4, 3, 5)))
    data = opened(tmp_path, "flickr8k", split="test")
    assert (told(data), data.captions) == ([(n, None) for n in (4, 3, 5)], (("number 4",), ("number 3",), ("number 5",)))
    written(tmp_path / "set" / "test.txt", "\n")
    refused("test.txt: names no picture", tmp_path, "flickr8k", split="test")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("captions.txt", "image,caption\nx.jpg,\n", "line 2 is not a picture's name and a caption"),
        ("captions.txt", "image,caption\n", "no captions"),
        ("dataset_flickr8k.json", [], "neither COCO's captions nor Karpathy's"),
        ("dataset_flickr8k.json", {"images": [{"filename": "x", "sentences": []}]}, "the picture x has no caption"),
        ("other.txt", "", "no captions here (dataset_flickr8k.json"),
    ],
)
def test_captions_that_do_not_fit_are_told(tmp_path, name, content, message):
    written(tmp_path / "set" / name, content)
    refused(message, tmp_path, "flickr8k")


def test_a_picture_that_cannot_be_decoded_is_named_by_set_and_key(tmp_path):
    from evalkit import TableModel
    from torch import ones

    from limoe.data.transforms import Preprocess
    from limoe.evals.encoder import Encoder

    written(tmp_path / "set" / "cat" / "a.png", "no picture")
    put(tmp_path / "set" / "dog" / "b.png", 1)
    model = Encoder(TableModel(ones(2, 2), ones(2, 2)), lambda texts: ones(1), Preprocess(8), 4)
    with pytest.raises(UserError, match=r"mine, cat/a\.png: the picture cannot be decoded"):
        model.images(opened(tmp_path, "folder"))


def test_settings_that_a_kind_does_not_read_are_refused(project):
    from limoe.config import Params

    def given(**more):
        values = read_yaml(project / "params.yaml")
        values["evaluate"]["sets"] = {more.pop("name", "mine"): {"path": "x", **more}}
        return Params.parse(values, "params.yaml")

    assert given(kind="coco").evaluate.sets["mine"].path == "x"
    for wrong, message in [
        ({"kind": "coco", "classes": "x"}, "classes is of no use to the kind coco, but to imagenet, folder, parquet, webdataset"),
        ({"kind": "folder", "subset": "imagenet-a"}, "subset is of no use to the kind folder, but to imagenet"),
        ({"kind": "imagenett"}, "did you mean imagenet?"),
        ({"kind": "folder", "name": "My/Set"}, "the name 'My/Set' must be of small letters"),
    ]:
        with pytest.raises(UserError) as caught:
            given(**wrong)
        assert message in str(caught.value)


def test_training_pictures_of_the_tested_classes_are_read_as_test_sets_are(tmp_path):
    folders(tmp_path / "set", ["cat", "dog"], each=2)
    folders(tmp_path / "train", ["cat", "dog", "emu"], each=3)
    data = opened(tmp_path, "folder", train={"path": "train"})
    assert (data.train.name, len(data)) == ("mine/train", 4)
    assert told(data.train) == [(0, "cat"), (3, "cat"), (6, "cat"), (1, "dog"), (4, "dog"), (7, "dog")]
    parquet(tmp_path / "table", [{"label": "dog"}, {"label": "cat"}], name="train-00000")
    assert told(opened(tmp_path, "folder", train={"path": "table", "kind": "parquet"}).train) == [(0, "dog"), (1, "cat")]
    tar(tmp_path / "tars", {"a": {"png": picture(7), "cls": b"cat"}, "b": {"png": picture(8), "cls": b"dog"}})
    assert told(opened(tmp_path, "folder", train={"path": "tars", "kind": "webdataset"}).train) == [(7, "cat"), (8, "dog")]


def test_one_folder_may_hold_the_files_of_both_splits(tmp_path):
    parquet(tmp_path / "set", [{"label": 1}, {"label": 0}], names=["cat", "dog"])
    parquet(tmp_path / "set", [{"label": 0}, {"label": 0}, {"label": 1}], name="train-00000-of-00001", names=["cat", "dog"])
    data = opened(tmp_path, "parquet", split="val", train={"path": "set", "split": "train"})
    assert (told(data), told(data.train)) == ([(0, "1"), (1, "0")], [(0, "0"), (1, "0"), (2, "1")])
    refused("train names the pictures that are tested", tmp_path, "parquet", split="val", train={"path": "set", "split": "val"})
    (tmp_path / "set" / "train-00000-of-00001.parquet").unlink()
    refused("train names the pictures that are tested", tmp_path, "parquet", split="val", train={"path": "set"})


@pytest.mark.parametrize(
    "train, message",
    [
        ({"path": "gone"}, "gone: no such file or folder"),
        ({"path": "set"}, "train names the pictures that are tested; give another path or split"),
        ({"path": "cats"}, "has no picture of the class 'dog'"),
    ],
)
def test_training_pictures_that_do_not_fit_are_told(tmp_path, train, message):
    folders(tmp_path / "set", ["cat", "dog"])
    folders(tmp_path / "cats", ["cat"])
    refused(message, tmp_path, "folder", train=train)


def test_captions_have_no_use_for_training_pictures(tmp_path):
    tar(tmp_path / "set", {"a": {"png": picture(1), "txt": b"a cat"}, "b": {"png": picture(2), "txt": b"a dog"}})
    refused("train is of no use: the pictures of the set have no labels", tmp_path, "webdataset", train={"path": "set"})


def test_too_few_training_pictures_for_any_probe_are_told_with_their_class(tmp_path, params):
    folders(tmp_path / "set", ["cat", "dog"])
    folders(tmp_path / "train", ["cat", "dog"], each=4)
    put(tmp_path / "train" / "dog" / "one-more.png", 9)

    def open_all(**probe):
        given = {"mine": EvalSetParams(path="set", kind="folder", train={"path": "train"})}
        probe = params.evaluate.probe.model_copy(update=probe)
        return open_external(params.evaluate.model_copy(update={"sets": given, "probe": probe}), tmp_path)

    message = r"evaluate\.sets\.mine\.train: the class 'cat' has 4 pictures, too few for every probe of evaluate\.probe"
    with pytest.raises(UserError, match=message):
        open_all(shots=(5, 10), full_l2=())
    (data,) = open_all(shots=(5, 10), full_l2=(1.0,))
    assert len(data.train) == 9
    assert [one.name for one in evaluators(data, params.evaluate)] == ["mine", "mine"]
    (data,) = open_all(shots=(), full_l2=())
    assert data.train is None


def test_one_class_alone_is_nothing_to_tell_apart(tmp_path, params):
    folders(tmp_path / "set", ["cat"])
    folders(tmp_path / "train", ["cat"], each=3)
    data = opened(tmp_path, "folder", train={"path": "train"})
    assert (len(data.train), evaluators(data, params.evaluate)) == (3, [])
