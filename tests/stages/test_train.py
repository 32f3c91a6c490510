"""The train stage for real, on drawn shapes: its outs, that they are the same twice, resuming, the lock, and limoe.load."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from modelkit import EOS, PARAMS, VOCAB, moe, tower
from PIL import Image
from trainkit import prepare_shapes, recipe

import limoe
from limoe.config import CONTESTANTS, MachineParams, TrainParams
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.evals.validation import Validation
from limoe.files import sha256_file
from limoe.model.io import ModelConfig, load_model
from limoe.paths import Paths
from limoe.stages import train
from limoe.tracking import Tracker
from limoe.train.checkpoint import Checkpoints
from limoe.train.health import Stopped


@pytest.fixture(scope="module")
def shapes(tmp_path_factory) -> Paths:
    return prepare_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture
def paths(shapes, tmp_path) -> Paths:
    shutil.copytree(shapes.prepared, tmp_path / "data" / "prepared")
    return Paths(tmp_path)


def hashes(folder: Path) -> dict[str, str]:
    return {path.relative_to(folder).as_posix(): sha256_file(path) for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize("contestant", CONTESTANTS)
def test_outs(paths, contestant):
    train.run(recipe(), paths, contestant)
    out = paths.train(contestant)
    assert set(hashes(out)) == {
        "cost.json",
        "health.json",
        "metrics.json",
        "metrics.jsonl",
        "model/config.json",
        "model/model.safetensors",
        "model/preprocess.json",
        "model/tokenizer.json",
        "params.json",
        "plots/curves.png",
        "routing.parquet",
    } | ({"plots/experts.png"} if contestant == "limoe" else set())
    cost = json.loads((out / "cost.json").read_text())
    assert cost["samples_seen"] == 6 * 16
    assert (cost["params_total"] > cost["params_active"]) == (contestant == "limoe")
    assert len(json.loads((out / "metrics.json").read_text())) <= 12
    routing = pq.read_table(out / "routing.parquet").to_pandas()
    if contestant == "limoe":
        assert set(routing["layer"]) == {1}
        assert (routing["placed"] <= routing["assigned"]).all()
        images = routing[(routing["modality"] == "image") & (routing["step"] == 2)]
        assert images["assigned"].sum() == 2 * 16 * 4  # two steps of 16 pictures of 4 patches
    else:
        assert routing.empty
    assert not list((paths.root / ".limoe" / "work").glob("train-*-*")), "resumable state is deleted when the stage completes"
    assert json.loads(paths.timing(f"train-{contestant}").read_text())["steps"] == 6


def test_how_fast_it_went_is_said_and_told_and_no_out(paths, monkeypatch, capsys):
    told = []
    tracker = Tracker()
    monkeypatch.setattr(tracker, "log_rows", told.extend)
    monkeypatch.setattr(train, "open_tracker", lambda *_: tracker)
    train.run(recipe(), paths, "limoe")
    timing = json.loads(paths.timing("train-limoe").read_text())
    cost = json.loads((paths.train("limoe") / "cost.json").read_text())
    assert timing["tokens_per_s"] == pytest.approx(timing["pairs_per_s"] * (4 + cost["mean_caption_tokens"]), rel=1e-3)
    assert timing["tflops"] == pytest.approx(3 * cost["flops_per_pair_forward"] * timing["pairs_per_s"] / 1e12, abs=1e-4)
    assert timing["mfu"] is timing["peak_gpu_mb"] is None, "a processor's ceiling is not measured"
    assert told[-1]["timing/pairs_per_s"] == timing["pairs_per_s"]
    assert f"train limoe: {timing['pairs_per_s']:,.0f} pairs/s, " in capsys.readouterr().out


def test_contestants_cost_the_same_flops(paths):
    params = recipe()
    for contestant in CONTESTANTS:
        train.run(params, paths, contestant)
    flops = {c: json.loads((paths.train(c) / "cost.json").read_text())["flops_per_pair_forward"] for c in CONTESTANTS}
    assert abs(flops["clip"] / flops["dense"] - 1) <= 0.05
    assert 1 < flops["limoe"] / flops["dense"] < 1.06  # the router


def test_two_runs_give_the_same_bytes(paths, shapes, tmp_path):
    train.run(recipe(), paths, "limoe")
    first = hashes(paths.train("limoe"))
    shutil.rmtree(paths.train("limoe"))
    train.run(recipe(), paths, "limoe")
    assert hashes(paths.train("limoe")) == first
    train.run(recipe("train.seed=1"), paths, "limoe")
    assert hashes(paths.train("limoe"))["model/model.safetensors"] != first["model/model.safetensors"]


OTHERWISE = ("train.optimizer=muon", "train.schedule=wsd", "train.cooldown=2", "train.ema=0.5")


def test_averaged_weights_are_a_model_beside_the_last_ones(paths):
    train.run(recipe(*OTHERWISE), paths, "limoe")
    averaged, last = (hashes(folder) for folder in (paths.averaged("limoe"), paths.model("limoe")))
    weights = "model.safetensors"
    assert averaged.pop(weights) != last.pop(weights)
    assert averaged == last
    models = [limoe.load(folder)[0].state_dict() for folder in (paths.averaged("limoe"), paths.model("limoe"))]
    assert all(0 < (models[0][name] - tensor).abs().max() < 0.1 for name, tensor in models[1].items())


def interrupt_after(monkeypatch, saves: int) -> None:
    """Die right after so many checkpoints."""
    done = []
    save = Checkpoints.save

    def save_and_die(self, checkpoint, before):
        save(self, checkpoint, before)
        done.append(checkpoint.step)
        if len(done) == saves:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_and_die)


@pytest.mark.parametrize("otherwise", [(), OTHERWISE])
def test_an_interrupted_training_goes_on_and_ends_the_same(paths, monkeypatch, capsys, otherwise):
    train.run(recipe(*otherwise), paths, "limoe")
    undisturbed = hashes(paths.train("limoe"))
    shutil.rmtree(paths.train("limoe"))
    interrupt_after(monkeypatch, saves=2)
    with pytest.raises(KeyboardInterrupt):
        train.run(recipe(*otherwise), paths, "limoe")
    assert not paths.train("limoe").exists()
    monkeypatch.undo()
    train.run(recipe(*otherwise), paths, "limoe")
    assert "continuing from step 4 of 6" in capsys.readouterr().out
    assert hashes(paths.train("limoe")) == undisturbed


def test_the_best_weights_on_validation_are_exported(paths, monkeypatch):
    seen = []

    class Told(Validation):
        """The real figures, but a loss that says which is the best: the second of three."""

        def run(self, model, device, precision):
            figures = super().run(model, device, precision)
            seen.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
            return figures | {"loss": [2.0, 1.0, 3.0][len(seen) - 1]}

    monkeypatch.setattr(train, "Validation", Told)
    train.run(recipe("train.export=best"), paths, "dense")
    out = paths.train("dense")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert {row["step"]: row["validation/loss"] for row in rows} == {2: 2.0, 4: 1.0, 6: 3.0}
    assert 1 < rows[1]["validation/loss/val-scenes"] < 4
    assert json.loads((out / "export.json").read_text())["step"] == 4
    assert json.loads((out / "params.json").read_text())["train"]["export"] == "best"
    for name, tensor in load_model(paths.model("dense")).state_dict().items():
        assert torch.equal(tensor, seen[1][name]), name
    assert not torch.equal(seen[1]["logit_scale"], seen[2]["logit_scale"])


def test_changed_params_never_resume(paths, monkeypatch, capsys):
    interrupt_after(monkeypatch, saves=1)
    with pytest.raises(KeyboardInterrupt):
        train.run(recipe(), paths, "limoe")
    monkeypatch.undo()
    train.run(recipe("train.lr=0.001"), paths, "limoe")
    assert "continuing" not in capsys.readouterr().out


def test_a_second_trainer_is_refused_and_told_who_holds_the_place(paths):
    lock = paths.work("train-limoe.lock")
    holder = (
        "import sys, pathlib; from limoe.files import exclusive_lock\n"
        "with exclusive_lock(pathlib.Path(sys.argv[1]), 'training limoe'):\n"
        "    print('held', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(lock)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"training limoe is already running: process {process.pid} holds"):
            train.run(recipe(), paths, "limoe")
        process.stdin.close()
        process.wait()
    train.run(recipe(), paths, "dense")


HASTY = ("train.steps=12", "train.lr=1.0e-7", "train.log_every=2", "train.health.window=4", "train.health.grace=0.5")


def test_an_alarm_warns_in_one_line_and_is_among_the_outs(paths, capsys):
    train.run(recipe(*HASTY), paths, "dense")
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning:")]
    (alarm,) = json.loads((paths.train("dense") / "health.json").read_text())["alarms"]
    assert alarm["name"] == "loss-at-chance"
    assert alarm["step"] == 10  # the first row with a window behind half of the steps
    assert line == f"warning: train dense: loss-at-chance at step 10: {alarm['evidence']}; see docs/health.md"


def test_an_alarm_that_stops_leaves_no_outs_and_is_not_trained_again(paths, capsys):
    for _ in range(2):
        with pytest.raises(Stopped, match=r"stopped at step 10: loss-at-chance: .* usually helps: another train\.lr"):
            train.run(recipe(*HASTY, "train.health.action=stop"), paths, "dense")
    assert not paths.train("dense").exists()
    out = capsys.readouterr().out
    assert "continuing from step 10 of 12" in out
    assert "warning" not in out  # the error says it


def test_the_tracker_gets_the_alarms_and_the_bad_batches(paths, monkeypatch):
    class Remembering(Tracker):
        tags, files = {}, []

        def set_tags(self, tags):
            self.tags.update(tags)

        def log_artifact(self, path, folder=None):
            self.files.append((path.name, folder))

    monkeypatch.setattr(train, "open_tracker", lambda *_: Remembering())
    train.run(recipe(*HASTY), paths, "dense")
    assert Remembering.tags["alarm"] == "loss-at-chance"
    with pytest.raises(Stopped):
        train.run(recipe("train.lr=1.0e30", "train.max_bad_steps=3"), paths, "limoe")
    assert Remembering.tags["alarm"] == "diverged"
    assert Remembering.files == [("dense", "train"), ("bad_batches.jsonl", "train")]


def test_a_training_that_rolls_back_says_so_everywhere(paths, monkeypatch, capsys):
    class Remembering(Tracker):
        tags, rows = {}, []

        def set_tags(self, tags):
            self.tags.update(tags)

        def log_rows(self, rows):
            self.rows.extend(rows)

    monkeypatch.setattr(train, "open_tracker", lambda *_: Remembering())
    wild = ("train.steps=12", "train.lr=1.0e30", "train.max_bad_steps=3", "train.health.window=4", "train.health.chance=2")
    train.run(recipe(*wild, "train.health.action=rollback", "train.health.rollback.lr_factor=1.0e-32"), paths, "dense")
    written = json.loads((paths.train("dense") / "health.json").read_text())
    (rollback,) = written["rollbacks"]
    assert (rollback["step"], rollback["to"], rollback["lr_factor"]) == (4, 0, 1e-32)
    assert json.loads((paths.train("dense") / "metrics.json").read_text())["rollbacks"] == 1
    assert [row["rollbacks"] for row in Remembering.rows if "rollbacks" in row] == [0, 0, 1, 1, 1, 1]
    told = f"at step 4 back to the weights of step 0 (diverged: {written['alarms'][0]['evidence']}); 4 batches are left out"
    assert Remembering.tags["rollbacks"].startswith(told)
    assert f"rollback: train dense: {told}, and the learning rate is 1e-32 times" in capsys.readouterr().out


def test_a_training_that_rolled_back_in_vain_is_stopped_at_its_end(paths, monkeypatch, capsys):
    told = {}

    class Remembering(Tracker):
        def set_tags(self, tags):
            told.update(tags)

    monkeypatch.setattr(train, "open_tracker", lambda *_: Remembering())
    for warnings in (1, 0):  # the error says the second alarm
        with pytest.raises(Stopped, match=r"training stopped at step 12 after 1 rollback: loss-at-chance: "):
            train.run(recipe(*HASTY, "train.health.action=rollback"), paths, "dense")
        assert told["alarm"] == "loss-at-chance, loss-at-chance"
        assert capsys.readouterr().out.count("warning") == warnings
        assert not paths.train("dense").exists()


def test_the_keys_of_bad_batches_are_among_the_outs(paths):
    with pytest.raises(Stopped, match=r"diverged: .* not finite for 3 steps in a row"):
        train.run(recipe("train.lr=1.0e30", "train.max_bad_steps=3"), paths, "limoe")
    train.run(recipe("train.lr=1.0e30", "train.max_bad_steps=6"), paths, "limoe")
    bad = [json.loads(line) for line in (paths.train("limoe") / "bad_batches.jsonl").read_text().splitlines()]
    assert [len(row["keys"]) for row in bad] == [16] * len(bad)
    assert json.loads((paths.train("limoe") / "metrics.json").read_text())["skipped_steps"] == len(bad) > 2


def test_load_is_open_clip_shaped(paths):
    train.run(recipe(), paths, "limoe")
    model, preprocess, tokenizer = limoe.load(paths.model("limoe"))
    image = preprocess(Image.new("RGBA", (40, 20), (255, 0, 0, 128)))
    assert image.shape == (3, 16, 16)
    ids = tokenizer(["a red circle", "a blue square left of it"])
    assert ids.shape == (2, recipe().model.tower.text_length)
    assert ids.dtype == torch.int64
    with torch.no_grad():
        images, texts = model.encode_image(image[None], normalize=True), model.encode_text(ids, normalize=True)
        raw = model.encode_text(ids)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(1))
    torch.testing.assert_close(torch.nn.functional.normalize(raw, dim=1), texts)
    assert (images @ texts.T).shape == (1, 2)
    assert model.logit_scale.exp() > 1


def test_load_refuses_what_is_no_model(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        limoe.load(tmp_path)
    with pytest.raises(AttributeError, match="no attribute"):
        limoe.loda  # noqa: B018


def test_a_set_without_the_mixtures_source_is_refused(paths):
    assert Prepared(paths.prepared).sources("train") == {"scenes": 64}
    with pytest.raises(UserError, match="emoji"):
        train.run(recipe("train.mixture={emoji: 1.0}"), paths, "limoe")


CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize(
    "changes,device,expected",
    [
        ({}, CPU, False),
        ({}, GPU, True),
        ({"compile": True}, CPU, True),
        ({"compile": False}, GPU, False),
        ({"bucket": 1}, GPU, False),
        ({"router": "expert-choice"}, GPU, False),
        ({"kernel": "streamed"}, GPU, False),
        ({"expert_parallel": 2}, GPU, False),
        ({"shard_weights": True, "compile": True}, GPU, "needs machine.shard_weights = false"),
        ({"bucket": 1, "compile": True}, GPU, "train.compile = true needs train.bucket above 1"),
        ({"router": "expert-choice", "compile": True}, GPU, "needs another router than expert-choice"),
        ({"kernel": "loop", "compile": True}, CPU, "needs another kernel than loop"),
        ({"kernel": "grouped", "compile": True}, GPU, "needs another kernel than grouped in float32"),
    ],
)
def test_blocks_are_compiled_where_they_stay_one_graph(changes, device, expected):
    recipe_changes = {name: changes[name] for name in changes if name in ("bucket", "compile")}
    settings = TrainParams.model_validate(PARAMS.train.model_dump() | recipe_changes)
    in_parts = {name: changes[name] for name in changes if name in ("expert_parallel", "shard_weights")}
    machine = MachineParams.model_validate(PARAMS.machine.model_dump() | in_parts)
    experts = moe(**({"kernel": "auto"} | {name: changes[name] for name in changes if name in ("router", "kernel")}))
    config = ModelConfig(kind="limoe", tower=tower(), moe=experts, vocab_size=VOCAB, eos_id=EOS, init_scale=10.0)
    if isinstance(expected, bool):
        assert train.compiles(settings, config, torch.float32, device, machine) is expected
    else:
        with pytest.raises(UserError, match=expected):
            train.compiles(settings, config, torch.float32, device, machine)
