"""`python -m benchmarks.step` end to end at tiny shapes; its batches and trainings are those of the pipeline."""

from __future__ import annotations

from pathlib import Path
from statistics import fmean

import pytest
import torch
from benchkit import checked, ratios

from benchmarks.layers import CAPTION_QUANTILES, PARAMS
from benchmarks.step import EOS, QUICK, draw, flops, main, subject_of, trainer_of
from limoe.config import CONTESTANTS, Params
from limoe.train.meter import routing_rows

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny() -> Params:
    return Params.load(PARAMS, (*QUICK, "train.threads=1"))


def test_all_contestants_take_turns_and_clip_is_the_base(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    main(["--quick", "--threads", "1", "--device", "cpu", "--json", str(path), "--set", "model.moe.kernel=loop"])
    report = checked(path)
    found = ratios(report, "step: 16 pairs")
    assert found.keys() == {("limoe", "clip"), ("dense", "clip"), ("clip", "clip"), ("limoe", "dense")}
    assert found["limoe", "dense"] == pytest.approx(found["limoe", "clip"] / found["dense", "clip"])
    assert [row["bar"] for row in report["rows"]] == [1.10, None, None, None]
    assert report["settings"]["kernel"] == "loop"


def test_batches_look_like_the_datas(tiny: Params) -> None:
    batch = draw(tiny, torch.zeros(16, 3, 16, 16), torch.Generator().manual_seed(0))
    assert int(batch.lengths_B.sum()) == len(batch.ids_N)
    assert set(batch.lengths_B.tolist()) <= set(CAPTION_QUANTILES)
    ends_B = batch.lengths_B.cumsum(0) - 1
    assert batch.ids_N[ends_B].tolist() == [EOS] * 16
    assert int((batch.ids_N == EOS).sum()) == 16


def test_contestants_cost_equal_flops_a_pair(tmp_path: Path) -> None:
    params = Params.load(PARAMS)
    costs = {name: flops(params, name, trainer_of(params, name, CPU, tmp_path)) for name in CONTESTANTS}
    assert costs["clip"] == pytest.approx(costs["dense"], rel=0.05)
    assert costs["limoe"] == pytest.approx(costs["dense"], rel=0.02)


def test_a_run_is_an_optimiser_step_of_the_training(tiny: Params, tmp_path: Path) -> None:
    trainer = trainer_of(tiny, "limoe", CPU, tmp_path)
    tokens = int(next(trainer_of(tiny, "dense", CPU, tmp_path).loader).lengths_B.sum())  # every contestant sees the same
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    subject_of(trainer, "limoe").run()
    moved = {name for name, parameter in trainer.model.named_parameters() if not torch.equal(before[name], parameter)}
    assert {"patch.weight", "logit_scale", "encoder.blocks.1.mlp.router.weight"} <= moved
    assert trainer.step == 1
    assert sum(row["tokens"] for row in routing_rows(trainer.meter.totals, 0) if row["expert"] == 0) == 16 * 4 + tokens


@pytest.mark.parametrize("contestant", ["limoe", "dense"])
def test_streams_are_bucketed_and_blocks_compiled_as_the_settings_say(contestant: str, tmp_path: Path) -> None:
    changes = {compiled: (*QUICK, "train.bucket=48", f"train.compile={compiled}") for compiled in ("auto", "true")}
    trainers = {name: trainer_of(Params.load(PARAMS, changed), contestant, CPU, tmp_path) for name, changed in changes.items()}
    for compiled, trainer in trainers.items():
        assert trainer.model.bucket == 48
        for block in trainer.model.encoder.blocks:
            assert (block._compiled_call_impl is not None) == (compiled == "true")


def test_how_much_was_placed_is_told(tmp_path: Path) -> None:
    path = tmp_path / "step.json"
    main(["--quick", "--threads", "1", "--device", "cpu", "--json", str(path)])
    (note,) = checked(path)["notes"]
    share = float(note.removeprefix("limoe, a fresh router: ").removesuffix("% of the choices were placed"))
    assert 25 < share < 100  # one of four experts has 1.05 / 4 of the places


def test_the_quantiles_are_the_default_datas() -> None:
    assert fmean(CAPTION_QUANTILES) == pytest.approx(8.7, abs=0.1)
    assert max(CAPTION_QUANTILES) <= Params.load(PARAMS).model.tower.text_length
