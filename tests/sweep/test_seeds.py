"""Further seeds: which trainings they are, that they are the pipeline's own but for the seed, and what is said of them."""

import re
import shutil

import pytest
import yaml
from sweepkit import start, tiny

from limoe.config import CONTESTANTS, Params
from limoe.data.prepared import Prepared
from limoe.errors import UserError
from limoe.files import read_json
from limoe.overlay import merge_overlay
from limoe.paths import Paths
from limoe.stages import train
from limoe.sweep.outcome import Outcome
from limoe.sweep.role import read_role
from limoe.sweep.seeds import Seeds, SeedsSettings
from limoe.sweep.trial import run_trial

HASH = "d" * 64


def study(root, *overrides, **settings):
    return Seeds(SeedsSettings(**settings), tiny(*overrides), Paths(root), HASH)


def drain(one, losses=(3.0,)):
    """Every trial handed out, ended with these losses by turns, its model there; (contestant, seed) of each."""
    found = []
    while (work := one.next()) is not None:
        (work.folder / "model").mkdir()
        found.append((one.group_of(work), work.seed))
        loss = losses[(len(found) - 1) % len(losses)]
        one.finish(work, Outcome("ok", step=10, evidence="finished", steps_planned=10, loss=loss))
    return found


def test_the_pipelines_own_seed_is_the_first_and_seeds_go_in_turn(tmp_path):
    one = study(tmp_path, "train.seed=4", seeds=3)
    assert drain(one) == [(name, seed) for seed in (5, 6) for name in CONTESTANTS]
    assert (one.done, one.planned) == (True, 6)
    roles = {(read_role(work.folder).phase, read_role(work.folder).group, work.number) for work in one.works}
    assert roles == {("seeds", name, number) for number, name in enumerate(CONTESTANTS)}


def test_it_goes_on_with_more_seeds_and_other_contestants(tmp_path):
    assert drain(study(tmp_path, seeds=2, contestants=("limoe", "clip"))) == [("limoe", 1), ("clip", 1)]
    assert drain(study(tmp_path, seeds=3)) == [("dense", 1), ("limoe", 2), ("dense", 2), ("clip", 2)]


def test_the_overlay_names_every_model_there_is(tmp_path, project):
    one = study(tmp_path, seeds=3, contestants=("limoe", "dense"))
    drain(one)
    broken = one.works[1]
    shutil.rmtree(broken.folder / "model")
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    merge_overlay(tmp_path / "params.yaml", one.write_overlay())
    models = Params.load(tmp_path / "params.yaml").compare.models
    assert {name: model.seed_of for name, model in models.items()} == {
        "limoe-seed1": "limoe",
        "limoe-seed2": "limoe",
        "dense-seed2": "dense",
    }
    assert all((tmp_path / model.path / "model").is_dir() for model in models.values())
    params = yaml.safe_load((tmp_path / "params.yaml").read_text())
    assert params["compare"]["models"]["limoe-seed1"]["path"].startswith("runs/sweeps/seeds/trials/")


def test_a_training_that_did_not_reach_its_end_is_no_seed(tmp_path):
    """Its model has seen fewer pairs than the others': it would be compared as one of equal budget."""
    one = study(tmp_path, seeds=3, contestants=("limoe",))
    for kind, step in (("unhealthy", 10), ("diverged", 4)):
        work = one.next()
        (work.folder / "model").mkdir()
        one.finish(work, Outcome(kind, step=step, evidence="as it was", steps_planned=10, loss=3.0))
    assert list(yaml.safe_load(one.write_overlay().read_text())["compare"]["models"]) == ["limoe-seed1"]
    assert one.losses() == {"limoe": [3.0]}
    assert one.left_out() == ["limoe seed 2: diverged after 4 of 10 steps (as it was)"]


def test_an_overlay_of_no_model_is_one_too(tmp_path, project):
    shutil.copy(project / "params.yaml", tmp_path / "params.yaml")
    merge_overlay(tmp_path / "params.yaml", study(tmp_path).write_overlay())
    assert Params.load(tmp_path / "params.yaml").compare.models == {}


def test_losses_are_by_contestant_and_seed(tmp_path):
    one = study(tmp_path, seeds=3, contestants=("limoe", "dense"))
    drain(one, losses=(1.0, 2.0, 3.0, 4.0))
    assert one.losses() == {"limoe": [1.0, 3.0], "dense": [2.0, 4.0]}


def test_what_is_compared_may_change_but_no_training(tmp_path):
    drain(study(tmp_path))
    study(tmp_path, "compare.models={other: {path: data/raw/other}}")
    with pytest.raises(UserError, match=r"train\.lr was 0\.003 and is 0\.001"):
        study(tmp_path, "train.lr=0.001")


def test_another_start_of_one_contestant_is_another_study(tmp_path):
    from_dense = "contestants={limoe: {start_from: model}, dense: {}, clip: {}}"
    before = start(tmp_path / "model", "before")
    one = study(tmp_path, from_dense)
    assert {one.group_of(work): work.spec.start for work in one.works} == {"limoe": before, "dense": None, "clip": None}
    after = start(tmp_path / "model", "after")
    with pytest.raises(UserError, match=f"other settings: start_from.limoe was '{before}' and is '{after}'"):
        study(tmp_path, from_dense)


@pytest.mark.parametrize(
    "overrides,settings,said",
    [
        ((), {"seeds": 1}, "seeds = 1 is not allowed: at least 2, of which dvc repro trains the first"),
        ((), {"contestants": ("limo",)}, "did you mean limoe?"),
        ((), {"name": "a/b"}, "the study's name 'a/b' is not allowed"),
        (("train.export=best",), {}, "train.export = best is not allowed with seeds"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path, overrides, settings, said):
    with pytest.raises(UserError, match=re.escape(said)):
        study(tmp_path, *overrides, **settings)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("contestant", ["limoe", "clip"])
def test_a_training_is_the_stages_own_with_that_seed(tiny_data, tmp_path, contestant):
    root = tmp_path / "project"
    shutil.copytree(tiny_data, root / "data" / "prepared")
    params = tiny("train.steps=4", "train.checkpoints.every=100")
    one = Seeds(SeedsSettings(seeds=2, contestants=(contestant,)), params, Paths(root), Prepared(tiny_data).hash)
    run_trial(one.next().folder, root / "data" / "prepared")
    seeded = params.model_copy(update={"train": params.train.model_copy(update={"seed": 1})})
    train.run(seeded, Paths(root), contestant)
    kept, own = one.works[0].folder / "model", root / "runs" / "train" / contestant / "model"
    for file in ("model.safetensors", "config.json", "tokenizer.json", "preprocess.json"):
        assert (kept / file).read_bytes() == (own / file).read_bytes()
    assert read_json(kept.parent / "cost.json") == read_json(own.parent / "cost.json")
