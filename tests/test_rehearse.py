"""A rehearsal is the first steps of a training, with other seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from trainkit import OVERRIDES, prepare_shapes, recipe

from limoe.cli import main
from limoe.config import PRIORITIES
from limoe.errors import UserError
from limoe.paths import Paths
from limoe.rehearse import Rehearsal, first_steps, rehearse, rules
from limoe.stages import train
from limoe.train.untrained import OTHER_SEEDS, Spread


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> Paths:
    return prepare_shapes(tmp_path_factory.mktemp("rehearse"))


def test_the_steps_are_those_of_a_training_with_that_seed(paths: Paths) -> None:
    train.run(recipe("train.seed=5", "train.log_every=1"), paths, "limoe")
    rows = [json.loads(line) for line in (paths.train("limoe") / "metrics.jsonl").read_text().splitlines()]
    rehearsed = first_steps(recipe(), paths, seed=5, steps=4)  # of which the training logs every second
    assert len(rehearsed) == 4
    assert rehearsed == tuple((1 - row["block1/text_placed"], 1 - row["block1/image_placed"]) for row in rows[:4])


def test_every_rule_has_its_own_trainings(paths: Paths) -> None:
    found = rehearse(recipe(), paths, ("image-first", "text-first"), seeds=2, steps=2)
    assert [rehearsal.rule for rehearsal in found] == ["image-first", "text-first"]
    assert found[0].over(0).mean > found[1].over(0).mean, "text drops more where images go first"
    for rehearsal in found:
        params = recipe(f"model.moe.priority={rehearsal.rule}")
        assert rehearsal.dropped_SNM == tuple(first_steps(params, paths, OTHER_SEEDS + seed, 2) for seed in (0, 1))


def test_a_router_with_a_rule_of_its_own_lends_it_its_name(paths: Paths) -> None:
    (found,) = rehearse(recipe("model.moe.router=uniform", "model.moe.aux_weights.load=0"), paths, ("bpr",), seeds=1, steps=1)
    assert found.rule == "uniform"


def test_means_by_hand() -> None:
    one, other = ((0.4, 0.2), (0.2, 0.0)), ((0.6, 0.2), (0.2, 0.2))
    rehearsal = Rehearsal("bpr", (one, other))
    assert rehearsal.at(1, 0) == (pytest.approx(0.5), pytest.approx(0.02**0.5))
    assert rehearsal.over(0) == (pytest.approx(0.35), pytest.approx(0.005**0.5))
    assert rehearsal.over(1) == Spread.of([0.1, 0.2])


def test_the_rules_to_rehearse() -> None:
    assert rules(recipe("model.moe.priority=shuffled"), every=False) == ("shuffled",)
    assert rules(recipe("model.moe.router=auto"), every=True) == PRIORITIES
    uniform = recipe("model.moe.router=uniform", "model.moe.aux_weights.load=0")
    with pytest.raises(UserError, match="has no priority rule"):
        rules(uniform, every=True)
    assert rules(uniform, every=False) == ("bpr",)


def test_more_steps_than_a_training_has_are_refused(paths: Paths) -> None:
    with pytest.raises(UserError, match=r"train\.steps = 6 has no 7 steps"):
        rehearse(recipe(), paths, ("bpr",), seeds=1, steps=7)


def test_a_step_that_was_skipped_says_so(paths: Paths) -> None:
    # An infinite weight: the first loss is no number, so that its step counts no places.
    with pytest.raises(UserError, match="step 1 of the rehearsal was skipped"):
        first_steps(recipe("model.moe.aux_weights.z=1e39"), paths, OTHER_SEEDS, 1)


def test_the_command_shows_a_table(
    paths: Paths, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (paths.root / "params.yaml").write_text((project / "params.yaml").read_text())
    command = ["limoe", "rehearse", "--params", str(paths.root / "params.yaml"), "--steps=2", "--seeds=1"]
    monkeypatch.setattr("sys.argv", [*command, *(f"--set={one}" for one in OVERRIDES)])
    with pytest.raises(SystemExit) as done:
        main()
    told = capsys.readouterr()
    assert done.value.code == 0
    assert "text, bpr" in told.out
    assert "steps 1 to 2" in told.out
    assert "next: limoe train limoe" in told.err
    assert not list(paths.work("").glob("train-limoe-*")), "nothing is kept"
