"""The evaluate stage with test sets of the user's own: scored beside the splits, embedded once, and hashed."""

import json

import pyarrow.parquet as pq
import pytest
from evalkit import prepared_rows, tiny_params, write_model, write_prepared
from layoutkit import folders, picture, put, tar

from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.encoder import Encoder
from limoe.evals.suite import open_external, provenance
from limoe.model.clip import Clip
from limoe.paths import Paths
from limoe.stages import evaluate

SETS = (
    "evaluate.sets.pets={path: data/raw/pets, kind: folder, templates: data/raw/prompts.yaml}",
    "evaluate.sets.texts={path: data/raw/texts, kind: webdataset}",
)


@pytest.fixture
def project(tmp_path):
    """(params, paths): a model, a prepared set, a folder of two classes and a tar of pictures with two captions each."""
    paths, params = Paths(tmp_path), tiny_params(*SETS)
    write_prepared(paths.prepared, {"train": prepared_rows("train", 4), "val": prepared_rows("val", 9)})
    write_model(paths.model("clip"), paths.prepared / "tokenizer.json", params, "clip")
    folders(tmp_path / "data" / "raw" / "pets", ["cat", "dog"], each=5)
    (tmp_path / "data" / "raw" / "prompts.yaml").write_text("full: ['{}', 'a {}.']\nsingle: ['{}']\n", encoding="utf-8")
    texts = {f"s{n}": {"png": picture(n), "json": json.dumps({"captions": [f"a{n}", f"b{n}"]}).encode()} for n in range(6)}
    tar(tmp_path / "data" / "raw" / "texts", texts)
    return params, paths


def read(paths, name):
    return json.loads((paths.evaluate("clip") / name).read_text(encoding="utf-8"))


@pytest.fixture
def counted(monkeypatch):
    """How many pictures and texts go through a model, by kind."""
    seen = {"image": 0, "text": 0}
    for kind, method in [("image", "encode_image"), ("image", "image_features"), ("text", "encode_text")]:
        plain = getattr(Clip, method)

        def counting(model, batch, *more, kind=kind, plain=plain):
            seen[kind] += len(batch)
            return plain(model, batch, *more)

        monkeypatch.setattr(Clip, method, counting)
    return seen


def test_own_sets_come_first_and_are_embedded_once(project, counted):
    params, paths = project
    evaluate.run(params, paths, "clip")
    assert counted["image"] == 10 + 6 + 9
    counts = {(row["set"], row["metric"]): row["n"] for row in read(paths, "results.json")}
    assert list(dict.fromkeys(name for name, _ in counts)) == ["pets", "pets/single", "texts", "val"]
    assert [counts[key] for key in (("pets", "top1"), ("texts", "t2i_r1"), ("texts", "i2t_r10"))] == [10, 12, 6]
    assert list(read(paths, "metrics.json")) == sorted(["pets", "pets/single", "texts", "val"])
    before = {path.name: path.read_bytes() for path in paths.evaluate("clip").iterdir()}
    counted |= {"image": 0, "text": 0}
    evaluate.run(params, paths, "clip")
    assert counted == {"image": 0, "text": 0}
    assert {path.name: path.read_bytes() for path in paths.evaluate("clip").iterdir()} == before
    (paths.root / "data" / "raw" / "pets" / "cat" / "0.png").write_bytes(picture(900))
    evaluate.run(params, paths, "clip")
    assert counted == {"image": 10, "text": 0}


def test_the_worst_classes_are_told(project):
    params, paths = project
    evaluate.run(params, paths, "clip")
    rows = read(paths, "confusion.json")
    assert {row["set"] for row in rows} == {"pets", "pets/single", "val"}
    for row in rows:
        assert sum(other["n"] for other in row["taken_for"]) == pytest.approx(row["n"] * (1 - row["top1"]))


def test_provenance_follows_the_content_of_every_set(project):
    params, paths = project

    def hashes():
        external = open_external(params.evaluate, paths.root)
        return provenance(Prepared(paths.prepared), paths.model("clip"), params.evaluate, external)["sets"]

    before = hashes()
    assert list(before) == ["pets", "texts"]
    folder = paths.root / "data" / "raw" / "pets"
    (folder / "cat" / "0.png").rename(folder / "dog" / "9.png")
    assert hashes() == {"pets": hashes()["pets"], "texts": before["texts"]}
    assert hashes()["pets"] != before["pets"]


def test_a_set_that_is_not_there_is_told_before_anything_is_embedded(project, monkeypatch):
    _, paths = project
    monkeypatch.setattr(Encoder, "images", lambda *_: pytest.fail("embedded"))
    for change, message in [
        ("evaluate.sets.gone={path: data/raw/gone, kind: imagenet}", r"gone: .*data/raw/gone: no such file or folder"),
        ("evaluate.sets.val={path: data/raw/pets, kind: folder}", r"val: a split of the prepared set has this name"),
    ]:
        with pytest.raises(UserError, match=rf"evaluate\.sets\.{message}"):
            evaluate.run(tiny_params(*SETS, change), paths, "clip")
    assert not paths.evaluate("clip").exists()


PROBED = "evaluate.sets.pets={path: data/raw/pets, kind: folder, train: {path: data/raw/pets-train}}"


def test_probes_are_scored_beside_zero_shot_and_their_pictures_are_known_by_content(project, counted):
    _, paths = project
    folders(paths.root / "data" / "raw" / "pets-train", ["cat", "dog"], each=3)
    params = tiny_params(*SETS, PROBED, "evaluate.probe.shots=[1, 2, 50]", "evaluate.probe.draws=4")
    evaluate.run(params, paths, "clip")
    assert counted["image"] == 10 + 6 + 9 + 10 + 6  # features of the tested and of the training pictures
    rows = {(row["set"], row["metric"]): (row["value"], row["n"]) for row in read(paths, "results.json")}
    probes = ["1-shot", "2-shot", "linear-probe", "1-shot/sd", "2-shot/sd", "linear-probe/l2"]
    assert [metric for name, metric in rows if "shot" in metric or "probe" in metric] == probes
    assert [rows["pets", metric][1] for metric in probes] == [10, 10, 10, 4, 4, 2]
    shown = read(paths, "metrics.json")["pets"]
    assert {metric: shown[metric] for metric in probes[:3]} == {metric: rows["pets", metric][0] for metric in probes[:3]}
    items = pq.read_table(paths.evaluate("clip") / "items.parquet").to_pylist()
    values = [row["value"] for row in items if (row["set"], row["metric"]) == ("pets", "1-shot")]
    assert len(values) == 10
    assert all(4 * value == int(4 * value) for value in values)
    counted |= {"image": 0}
    before = read(paths, "provenance.json")["sets"]
    put(paths.root / "data" / "raw" / "pets-train" / "cat" / "0.png", 900)
    evaluate.run(params, paths, "clip")
    assert counted["image"] == 6
    after = read(paths, "provenance.json")["sets"]
    assert {name for name in before if after[name] != before[name]} == {"pets/train"}


def test_a_split_is_probed_with_what_was_trained_on_where_each_of_its_classes_was(tmp_path):
    paths, params = Paths(tmp_path), tiny_params()
    splits = {"train": 6, "unseen-style": 6, "val": 9}
    write_prepared(paths.prepared, {name: prepared_rows(name, count) for name, count in splits.items()})
    write_model(paths.model("dense"), paths.prepared / "tokenizer.json", params, "dense")
    evaluate.run(params, paths, "dense")
    rows = json.loads((paths.evaluate("dense") / "results.json").read_text(encoding="utf-8"))
    probes = {(row["set"], row["metric"]): row["value"] for row in rows if "shot" in row["metric"] or "probe" in row["metric"]}
    assert list(probes) == [("unseen-style", "1-shot")]
    assert probes["unseen-style", "1-shot"] > 1 / 6  # these are the very pictures that are tested
