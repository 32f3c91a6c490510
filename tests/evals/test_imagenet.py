"""ImageNet's classes: the packages' lists against each other, and every layout that people have the pictures in."""

import sys

import numpy as np
import open_clip
import pytest
import torch
from evalkit import PIXELS, TableModel
from layoutkit import devkit, flat, folders, opened, parquet, picture, put, tar, told

from limoe.data.tokenizer import fold
from limoe.errors import UserError
from limoe.evals import imagenet
from limoe.evals.encoder import Encoder
from limoe.evals.suite import evaluators

WNIDS = imagenet.wnids()
SHUFFLED = np.random.default_rng(0).permutation(1000).tolist()  # as the devkit's numbers: no order that anyone would guess


def refused(message, root, kind="imagenet", **more):
    with pytest.raises(UserError) as caught:
        opened(root, kind, **more)
    assert message in str(caught.value)
    assert str(caught.value).startswith("evaluate.sets.mine: ")
    assert "\n" not in str(caught.value)


def test_the_lists_are_what_everybody_knows():
    known = imagenet.names()
    assert len(known) == len(WNIDS) == 1000
    assert list(known) == sorted(known)
    assert (known["n01440764"], known["n02123045"], known["n15075141"]) == ("tench", "tabby cat", "toilet paper")
    assert [len(imagenet.wnids(subset)) for subset in imagenet.SUBSETS] == [1000, 200, 200]
    assert {prompts: len(templates) for prompts, templates in imagenet.prompts().items()} == {"": 80, "best-7": 7, "single": 1}
    assert "itap of a {}." in imagenet.prompts()["best-7"]


@pytest.mark.parametrize("start, end", [(0, 1000), (400, 410), (0, 2)], ids=["all shifted", "ten shifted", "two swapped"])
def test_names_in_another_order_are_noticed(start, end):
    names = list(imagenet.names().values())
    names[start:end] = [*names[start + 1 : end], names[start]]
    with pytest.raises(UserError, match=r"class names are out of order near number \d+: '.*' stands for n\d{8} \("):
        imagenet.check_order(names, WNIDS, imagenet.lemmas())


def test_a_name_too_few_is_noticed():
    with pytest.raises(UserError, match="999 class names for 1000 classes"):
        imagenet.check_order(list(imagenet.names().values())[1:], WNIDS, imagenet.lemmas())


def test_class_folders_are_scored_with_three_ensembles_among_all_names(tmp_path, params):
    folders(tmp_path / "set" / "val", WNIDS)
    (tmp_path / "set" / "ILSVRC2012_img_val.tar").write_bytes(b"what it was unpacked from")
    data = opened(tmp_path, "imagenet")
    assert told(data) == list(enumerate(WNIDS))
    assert list(data.classes.items())[:2] == [("n01440764", ("tench",)), ("n01443537", ("goldfish",))]
    assert [one.name for one in evaluators(data, params.evaluate)] == ["mine", "mine/best-7", "mine/single"]
    assert evaluators(data, params.evaluate)[0].classes == list(WNIDS)


def test_the_flat_folder_follows_the_devkits_numbers_and_not_the_order_of_wnids(tmp_path):
    order = [WNIDS[place] for place in SHUFFLED]
    truth = np.random.default_rng(1).integers(1, 1001, 12).tolist()
    flat(tmp_path / "set" / "val", 12)
    devkit(tmp_path / "set" / "ILSVRC2012_devkit_t12" / "data", order, truth)
    data = opened(tmp_path, "imagenet", subset="imagenet")
    assert told(data) == [(number, order[one - 1]) for number, one in enumerate(truth)]
    assert [WNIDS[one - 1] for one in truth] != list(data.labels)


@pytest.mark.parametrize(
    "line",
    [
        "ILSVRC2012_val_{n:08d}.JPEG {wnid}",
        "ILSVRC2012_val_{n:08d},{wnid} 85 1 499 272",
        "val/ILSVRC2012_val_{n:08d}.JPEG\t{index}",
    ],
    ids=["wnids", "Kaggle's boxes", "Caffe's indices"],
)
def test_the_flat_folder_with_a_list(tmp_path, line):
    chosen = [7, 0, 999, 7]
    flat(tmp_path / "set", 4)
    rows = [line.format(n=n, wnid=WNIDS[index], index=index) for n, index in enumerate(chosen, 1)]
    (tmp_path / "truth.csv").write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]), encoding="utf-8")
    data = opened(tmp_path, "imagenet", labels="truth.csv", subset="imagenet")
    assert told(data) == [(number, WNIDS[index]) for number, index in enumerate(chosen)]


def test_parquet_and_tars_hold_indices(tmp_path):
    chosen = [3, 999, 0]
    parquet(tmp_path / "set", [{"label": index} for index in chosen])
    samples = {f"s{n}": {"png": picture(n), "cls": str(index).encode()} for n, index in enumerate(chosen)}
    tar(tmp_path / "tars", samples)
    expected = [(number, WNIDS[index]) for number, index in enumerate(chosen)]
    assert told(opened(tmp_path, "imagenet", subset="imagenet")) == expected
    assert told(opened(tmp_path, "imagenet", "tars", subset="imagenet")) == expected


def test_v2_has_folders_by_index(tmp_path):
    folders(tmp_path / "set", list(map(str, range(1000))))
    assert told(opened(tmp_path, "imagenet"))[:3] == [(0, WNIDS[0]), (1, WNIDS[1]), (10, WNIDS[10])]


@pytest.mark.parametrize("subset", ["imagenet-a", "imagenet-r"])
def test_a_variant_is_known_by_its_folders_and_scored_among_them(tmp_path, subset):
    classes = imagenet.wnids(subset)
    data = opened(folders(tmp_path / "set", classes).parent, "imagenet")
    assert tuple(data.classes) == classes
    assert data.labels == classes


def test_a_variants_tar_may_count_its_own_classes_only(tmp_path):
    tar(tmp_path / "set", {"a": {"png": picture(0), "cls": b"199"}})
    assert opened(tmp_path, "imagenet", subset="imagenet-r").labels == (imagenet.wnids("imagenet-r")[199],)
    tar(tmp_path / "other", {"a": {"png": picture(0), "cls": b"200"}})
    refused("the label 200 is out of range: 200 classes are counted from 0", tmp_path, path="other", subset="imagenet-r")


def test_objectnet_comes_with_a_map_and_leaves_other_folders_out(tmp_path):
    folders(tmp_path / "set", ["air_freshener", "alarm_clock", "banana"])
    (tmp_path / "map.yaml").write_text("alarm_clock: [n02708093, n03196217]\nbanana: n07753592\n", encoding="utf-8")
    data = opened(tmp_path, "imagenet", classes="map.yaml")
    assert told(data) == [(1, "alarm_clock"), (2, "banana")]
    assert data.classes == {"alarm_clock": ("analog clock", "digital clock"), "banana": ("banana",)}


def test_what_does_not_fit_is_told_in_a_sentence(tmp_path):
    refused("no such file or folder", tmp_path)
    (tmp_path / "set").mkdir()
    refused("no class folders here", tmp_path)
    folders(tmp_path / "set", WNIDS[:999])
    refused(
        "has 999 of ImageNet's 1,000 classes, which are not those of ImageNet-A or -R either; n15075141 is the first", tmp_path
    )
    put(tmp_path / "set" / "n99999999" / "a.png", 0)
    refused("the class 'n99999999' is no wnid of imagenet", tmp_path)
    put(tmp_path / "set" / "loose.png", 0)
    refused("loose.png lies beside the class folders", tmp_path)
    (tmp_path / "set" / "loose.png").unlink()
    (tmp_path / "set" / WNIDS[999]).mkdir()
    refused("n15075141: a class folder without a picture", tmp_path)


def test_a_flat_folder_that_does_not_fit_its_truth_is_told(tmp_path):
    flat(tmp_path / "set", 3)
    refused("pictures in one flat folder need their classes", tmp_path)
    truth = devkit(tmp_path / "kit", WNIDS, [1, 2])
    refused(
        "its 2 lines belong to pictures numbered from 1 to 2, which the 3 pictures are not", tmp_path, labels="kit/" + truth.name
    )
    devkit(tmp_path / "kit", WNIDS[:2], [1, 2, 3])
    (tmp_path / "kit" / truth.name).write_text("1\n2\n900\n", encoding="utf-8")
    refused("the class number 900 is not in meta.mat", tmp_path, labels="kit/" + truth.name)
    (tmp_path / "kit" / "meta.mat").unlink()
    refused("meta.mat: not the devkit's list", tmp_path, labels="kit/" + truth.name)
    (tmp_path / "list.txt").write_text("ILSVRC2012_val_00000001.JPEG n01440764\n", encoding="utf-8")
    refused("has no class for the picture ILSVRC2012_val_00000002.JPEG", tmp_path, labels="list.txt")
    refused("no list of classes that can be read", tmp_path, labels="gone.txt")


def test_a_machine_without_open_clip_is_told_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "open_clip", None)
    with pytest.raises(UserError, match="need the package open_clip_torch; install it"):
        imagenet.prompts.__wrapped__()


@pytest.fixture
def photos(project):
    root = project.parent / "shared" / "data"
    if not (root / "imagenet-sample").is_dir():
        pytest.skip("../shared/data/imagenet-sample is not here")
    return root


def test_a_model_that_knows_every_real_photo_misses_the_two_names_of_two_classes_alone(photos, params):
    """A model that embeds the photo of the n-th folder like the n-th of open_clip's names: were one name a class further on, it
    would miss them all. `missile` and `sunglasses` stand for two classes each, and a tie is a miss."""
    data = opened(photos, "imagenet", "imagenet-sample")
    folders = sorted(path for path in (photos / "imagenet-sample" / "val").iterdir())
    place = {next(folder.iterdir()).read_bytes(): number for number, folder in enumerate(folders)}
    classes = open_clip.IMAGENET_CLASSNAMES
    texts = {fold(fill(name)): classes.index(name) for name in classes for fill in open_clip.OPENAI_IMAGENET_TEMPLATES}
    vectors = torch.randn(1000, 64, generator=torch.Generator().manual_seed(0))
    model = Encoder(
        TableModel(vectors, vectors),
        lambda prompts: torch.tensor([[texts[prompt]] for prompt in prompts]),
        lambda image: torch.full(PIXELS, float(place[image])),
        batch=4096,
    )
    outcomes = [one.run(model) for one in evaluators(data, params.evaluate)]
    assert [outcome.set for outcome in outcomes] == ["mine", "mine/best-7", "mine/single"]
    for outcome in outcomes:
        assert {score.metric: score.value for score in outcome.scores()}["top1"] == 0.996
        assert [one.name for one in outcome.worst] == ["missile", "missile", "sunglasses", "sunglasses"]


def test_flickr8k_in_tars_is_one_split_with_five_captions_a_photo(photos):
    data = opened(photos, "webdataset", "flickr8k", split="test")
    assert len(data) == 1000
    assert {len(captions) for captions in data.captions} == {5}
    assert data.images.read(999, 1)[0][:2] == b"\xff\xd8"


def test_training_pictures_lie_in_the_folder_beside_and_their_numbers_count_all_classes(tmp_path):
    part = imagenet.wnids("imagenet-a")
    folders(tmp_path / "set" / "val", part)
    folders(tmp_path / "set" / "train", WNIDS[:400], each=2)
    refused(f"train: {tmp_path / 'set' / 'train'} has no picture of the class", tmp_path, train={"path": "set"})
    folders(tmp_path / "set" / "train", WNIDS, each=1)
    data = opened(tmp_path, "imagenet", train={"path": "set"})
    assert (len(data), set(data.labels), set(data.train.labels)) == (200, set(part), set(part))
    assert [path.parent.parent.name for path in data.train.images.whole.paths[:2]] == ["train", "train"]
    parquet(tmp_path / "table", [{"label": number} for number in range(1000)], name="train-00000")
    numbered = opened(tmp_path, "imagenet", subset="imagenet-a", train={"path": "table"}).train
    assert told(numbered) == [(WNIDS.index(wnid), wnid) for wnid in sorted(part)]
