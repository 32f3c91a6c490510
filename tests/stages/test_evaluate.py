"""The evaluate stage on tiny models and a tiny prepared set: its files, that it repeats itself, and what it refuses."""

import json
import shutil

import pyarrow.parquet as pq
import pytest
import torch
from evalkit import prepared_rows, tiny_params, with_others, write_model, write_prepared
from otherkit import save_forms, tiny_clip

from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.sets import ITEM_SCHEMA
from limoe.evals.suite import open_encoder, provenance, score
from limoe.evals.zeroshot import PER_CLASS
from limoe.files import sha256_file
from limoe.paths import Paths
from limoe.stages import evaluate
from limoe.tracking import Tracker

KINDS = ("limoe", "dense", "clip")
OUTS = {"metrics.json", "results.json", "provenance.json", "items.parquet", "confusion.json", "leakage.json"}


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    root = tmp_path_factory.mktemp("project")
    paths, params = Paths(root), tiny_params()
    write_prepared(
        paths.prepared,
        {
            "train": prepared_rows("train", 4),
            "val": prepared_rows("val", 9),
            "unseen-style": prepared_rows("unseen-style", 6),
            "test-scenes": prepared_rows("test-scenes", 7, "scenes", labels=False),
        },
    )
    for kind in KINDS:
        write_model(paths.model(kind), paths.prepared / "tokenizer.json", params, kind)
        evaluate.run(params, paths, kind)
    return params, paths


def read(paths, kind, name):
    return json.loads((paths.evaluate(kind) / name).read_text(encoding="utf-8"))


def files(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.*")}


@pytest.mark.parametrize("kind", KINDS)
def test_every_contestant_is_scored_on_every_split_but_training(project, kind):
    _, paths = project
    rows = read(paths, kind, "results.json")
    assert list(dict.fromkeys(row["set"] for row in rows)) == ["unseen-style", "unseen-style/no-skin-tones", "test-scenes", "val"]
    counts = {(row["set"], row["metric"]): row["n"] for row in rows}
    assert counts["val", "top1"] == counts["val", "i2t_r1"] == 9
    assert counts["val", "t2i_r1"] == 18
    assert counts["unseen-style", "chance"] == 6
    assert ("test-scenes", "top1") not in counts
    assert all(0 <= row["value"] <= 1 or row["metric"] == "per_class" for row in rows)


def test_training_pictures_in_any_set_are_named(project):
    _, paths = project
    found = {row["set"]: row for row in read(paths, "clip", "leakage.json")}
    assert {name: (row["n"], row["exact"], row["near"], row["plain"]) for name, row in found.items()} == {
        "unseen-style": (6, 4, 0, 6),
        "test-scenes": (7, 4, 0, 7),
        "val": (9, 4, 0, 9),
    }
    assert found["test-scenes"]["seen"][1] == {
        "key": "scenes/twemoji/1F601",
        "training": "emoji/twemoji/1F601",
        "exact": True,
    }


def test_what_dvc_shows_is_small_and_agrees_with_the_whole(project):
    _, paths = project
    rows = {(row["set"], row["metric"]): row["value"] for row in read(paths, "limoe", "results.json")}
    shown = read(paths, "limoe", "metrics.json")
    assert sum(map(len, shown.values())) <= 12
    assert set(shown["test-scenes"]) == {"i2t_r1", "t2i_r1"}
    assert all(rows[name, metric] == value for name, metrics in shown.items() for metric, value in metrics.items())


def test_the_score_is_the_mean_of_its_items(project):
    _, paths = project
    table = pq.read_table(paths.evaluate("clip") / "items.parquet")
    assert table.schema.equals(ITEM_SCHEMA)
    items = table.to_pylist()
    for row in read(paths, "clip", "results.json"):
        mine = [item["value"] for item in items if (item["set"], item["metric"]) == (row["set"], row["metric"])]
        if mine:
            assert (len(mine), sum(mine) / len(mine)) == (row["n"], pytest.approx(row["value"], abs=1e-6))
    assert {item["key"] for item in items if item["metric"] == "top1" and item["set"] == "val"} == {
        f"emoji/twemoji/{0x1F600 + number:X}" for number in range(9)
    }


def test_provenance_names_data_weights_and_settings(project):
    params, paths = project
    source = read(paths, "dense", "provenance.json")
    assert source["data"] == sha256_file(paths.prepared / "manifest.json")
    assert source["weights"] == sha256_file(paths.model("dense") / "model.safetensors")
    assert source["evaluate"] == params.evaluate.model_dump(mode="json")


def test_outs_repeat_byte_by_byte_and_hold_no_clock(project):
    params, paths = project
    before = files(paths.evaluate("limoe"))
    threads = torch.get_num_threads()
    shutil.rmtree(paths.embeddings)
    evaluate.run(params, paths, "limoe")
    assert files(paths.evaluate("limoe")) == before
    assert {name for name in before if "/" not in name} == OUTS
    assert "routing/routing.json" in before
    assert set(files(paths.evaluate("dense"))) == OUTS
    assert torch.get_num_threads() == threads
    timing = json.loads(paths.timing("evaluate-limoe").read_text(encoding="utf-8"))
    assert timing["seconds"] >= 0
    assert timing["device"] == "cpu"


@pytest.mark.parametrize("override", ["evaluate.batch=1", "evaluate.batch=64", "evaluate.chunk=64"])
def test_no_score_depends_on_batch_or_chunk(project, override, tmp_path):
    _, paths = project
    encoder = open_encoder(paths.model("limoe"), tiny_params(override).evaluate, torch.device("cpu"))
    outcomes = score(encoder, Prepared(paths.prepared), tiny_params(override).evaluate)
    rows = {(row["set"], row["metric"]): row["value"] for row in read(paths, "limoe", "results.json")}
    for outcome in outcomes:
        for found in outcome.scores():
            assert found.value == pytest.approx(rows[outcome.set, found.metric], abs=1e-5)


def test_averaged_weights_are_scored_beside_the_last_ones(project, tmp_path, monkeypatch):
    params, _ = project
    paths = Paths(tmp_path)
    write_prepared(paths.prepared, {"train": prepared_rows("train", 4), "val": prepared_rows("val", 9)})
    for seed, folder in enumerate((paths.model("dense"), paths.averaged("dense"))):
        write_model(folder, paths.prepared / "tokenizer.json", params, "dense", seed)
    logged = []

    class Remembering(Tracker):
        def log_rows(self, rows):
            logged.extend(rows)

    monkeypatch.setattr(evaluate, "open_tracker", lambda *_: Remembering())
    evaluate.run(params, paths, "dense")
    folders = paths.evaluate("dense"), paths.evaluate_averaged("dense")
    models = paths.model("dense"), paths.averaged("dense")
    for folder, model, outs in zip(folders, models, (OUTS, OUTS - {"leakage.json"}), strict=True):
        assert {path.name for path in folder.iterdir() if path.is_file()} == outs
        source = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))
        assert source["weights"] == sha256_file(model / "model.safetensors")
        assert sum(map(len, json.loads((folder / "metrics.json").read_text(encoding="utf-8")).values())) <= 12
    (row,) = logged
    for prefix, folder in zip(("", "ema/"), folders, strict=True):
        for found in json.loads((folder / "results.json").read_text(encoding="utf-8")):
            assert found["metric"].startswith(PER_CLASS) or row[f"{prefix}{found['set']}/{found['metric']}"] == found["value"]
    assert row["val/confidence"] != row["ema/val/confidence"]
    shutil.rmtree(paths.averaged("dense"))
    evaluate.run(params, paths, "dense")
    assert {path.name for path in paths.evaluate("dense").iterdir()} == OUTS


def test_the_run_says_what_its_training_went_through(project, tmp_path, monkeypatch):
    params, paths = project
    paths = Paths(shutil.copytree(paths.root, tmp_path / "copy"))

    told = {}

    class Remembering(Tracker):
        def set_tags(self, tags):
            told.update(tags)

    monkeypatch.setattr(evaluate, "open_tracker", lambda *_: Remembering())
    evaluate.run(params, paths, "dense")
    assert not told.keys() & {"alarm", "rollbacks"}
    alarm = {"name": "diverged", "step": 240, "evidence": "as was seen"}
    rollback = {"step": 240, "to": 100, "lr_factor": 0.5, "lr": 0.001, "alarms": [alarm]}
    (paths.train("dense") / "health.json").write_text(json.dumps({"alarms": [alarm], "rollbacks": [rollback]}))
    evaluate.run(params, paths, "dense")
    assert told["alarm"] == "diverged"
    assert told["rollbacks"] == "at step 240 back to the weights of step 100"


def test_a_model_with_another_tokenizer_is_refused(project, tmp_path):
    params, _ = project
    other = Paths(tmp_path)
    write_prepared(other.prepared, {"val": prepared_rows("val", 3)})
    write_model(other.model("limoe"), other.prepared / "tokenizer.json", params)
    tokenizer = other.model("limoe") / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    with pytest.raises(UserError, match="its tokenizer is not that of"):
        evaluate.run(params, other, "limoe")
    assert not other.evaluate("limoe").exists()


def test_nothing_to_score_is_an_error(project, tmp_path):
    params, _ = project
    other = Paths(tmp_path)
    write_prepared(other.prepared, {"train": prepared_rows("train", 3)})
    write_model(other.model("limoe"), other.prepared / "tokenizer.json", params)
    with pytest.raises(UserError, match="nothing to evaluate on"):
        evaluate.run(params, other, "limoe")


def test_a_missing_model_is_named(project, tmp_path):
    params, paths = project
    with pytest.raises(UserError, match="no such file"):
        provenance(Prepared(paths.prepared), tmp_path, params.evaluate)


def test_further_contestants_are_scored_on_the_same_items_by_their_own_tokenizer(project, tmp_path):
    params, paths = project
    save_forms(tiny_clip(), tmp_path)
    models = {"open": {"path": str(tmp_path / "folder")}, "twin": {"path": str(paths.model("dense"))}}
    params = with_others(params, models=models)
    for name in models:
        evaluate.run(params, paths, name)
        assert {path.name for path in paths.evaluate(name).iterdir()} == OUTS | {"about.json"}
    keys = {
        name: pq.read_table(paths.evaluate(name) / "items.parquet").drop_columns("value") for name in ("dense", "open", "twin")
    }
    assert keys["open"].equals(keys["dense"])
    assert read(paths, "twin", "results.json") == read(paths, "dense", "results.json")
    assert read(paths, "open", "about.json")["form"] == "An open_clip folder, folder"
    source = read(paths, "open", "provenance.json")
    assert (source["data"], source["weights"]) == (Prepared(paths.prepared).hash, read(paths, "open", "about.json")["weights"])


def test_a_contestant_that_cannot_be_fetched_leaves_a_sentence_and_no_score(project, monkeypatch):
    params, paths = project
    monkeypatch.setattr("open_clip.pretrained.download_pretrained", unreachable)
    evaluate.run(with_others(params, fetched={"far": {"architecture": "ViT-B-32", "tag": "openai"}}), paths, "far")
    assert [path.name for path in paths.evaluate("far").iterdir()] == ["unavailable.json"]
    assert "could not be fetched: no network" in read(paths, "far", "unavailable.json")["sentence"]


def test_an_unknown_contestant_is_refused(project):
    params, paths = project
    with pytest.raises(UserError, match="'limo' is no contestant: limoe, dense, clip are"):
        evaluate.run(params, paths, "limo")


def unreachable(cfg):
    raise OSError("no network")
