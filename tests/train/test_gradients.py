"""A step's loss and gradients do not depend on how its batch is cut; memory does; what does not fit is cut until it does.

Float64, on the plain kernel. The reference is one differentiation of the whole batch's objective.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from memorykit import PeakMemory
from stepkit import GROUP, PAIRS, STEP, Same, pairs, task

from limoe.config import AUX_TERMS, Params
from limoe.errors import UserError
from limoe.model.router import ROUTERS
from limoe.train.gradients import Gradients, largest_part
from limoe.train.loop import Trainer
from limoe.train.meter import count
from limoe.train.outcome import timing
from limoe.train.step import ContrastiveTask
from limoe.train.throughput import Throughput


def gradients_of(one: ContrastiveTask) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in one.model.named_parameters() if p.grad is not None}


def assert_equal(found: dict, wanted: dict, **tolerance) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


LOSSES = [
    {"loss": "softmax"},
    {"loss": "softmax", "positives": "equal-captions", "loss_chunk": 3},
    {"loss": "sigmoid"},
    {"loss": "sigmoid", "positives": "equal-captions", "loss_chunk": 3},
]
ROUTED = [({"router": router}, {"loss": "softmax"}) for router in ROUTERS] + [({}, changes) for changes in LOSSES[1:]]
ROUTED += [({"aux_scope": "global"}, {"loss": "softmax"})]


@pytest.mark.parametrize("changed, changes", ROUTED)
def test_micro_batches_equal_the_whole_batch(changed, changes):
    shape = {"router": "top-k", "k": 2} | changed
    wanted = task(shape=shape, **changes)
    objective = wanted(pairs(), STEP)
    objective.total.backward()
    for parts in (1, 2, 4):
        one = task(shape=shape, micro_batch=PAIRS // parts, **changes)
        for parameter in one.model.parameters():
            parameter.grad = torch.full_like(parameter, 7.0)  # of the step before
        result = Gradients(one)(pairs(), STEP)
        tight = {"rtol": 1e-9, "atol": 1e-12}
        assert_equal(gradients_of(one), gradients_of(wanted), **tight)
        assert_equal(result.terms, {name: value.detach() for name, value in objective.terms.items()}, **tight)
        assert_equal(result.report, objective.report, **tight)
        assert result.total.item() == pytest.approx(objective.total.item(), rel=1e-12)
        assert_equal(result.counts, count(objective.output.routings, objective.output.layout), **tight)
        one.adjust(result.observed)
        moved = task(shape=shape, **changes)
        moved.adjust(moved.observe(moved(pairs(), STEP).output))
        assert_equal(dict(one.model.named_buffers()), dict(moved.model.named_buffers()), rtol=1e-6, atol=1e-7)
        assert any(not torch.equal(*both) for both in zip(one.model.buffers(), wanted.model.buffers(), strict=True)) == (
            shape["router"] in ("loss-free", "expert-choice")
        )


def test_all_auxiliary_terms_are_compared():
    objective = task()(pairs(), STEP)
    assert {name.removeprefix("aux/") for name in objective.report} == {*AUX_TERMS, "logit_scale"}
    assert all(value > 1e-3 for value in objective.report.values())


@pytest.mark.parametrize("kind", ["dense", "clip"])
def test_a_model_that_routes_nothing_is_cut_too(kind):
    wanted, one = task(kind), task(kind, micro_batch=4)
    dtype = torch.float32 if kind == "clip" else torch.float64
    objective = wanted(pairs(dtype), STEP)
    objective.total.backward()
    result = Gradients(one)(pairs(dtype), STEP)
    assert_equal(gradients_of(one), gradients_of(wanted), rtol=1e-4, atol=1e-6)
    assert (result.counts, list(result.terms)) == ({}, ["contrastive"])


@pytest.mark.parametrize("scope", ["group", "global"])
def test_without_auxiliary_terms_there_is_nothing_to_share(scope):
    off = {"aux_coefficient": 0.0, "aux_scope": scope}
    wanted, one = task(shape=off), task(shape=off, micro_batch=4)
    wanted(pairs(), STEP).total.backward()
    Gradients(one)(pairs(), STEP)
    assert_equal(gradients_of(one), gradients_of(wanted), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", ["limoe", "dense", "clip"])
@pytest.mark.parametrize("micro_batch", [None, 4])
def test_activations_that_are_computed_again_change_nothing(kind, micro_batch):
    plain, again = (task(kind, micro_batch=micro_batch) for _ in range(2))
    for one in (plain, again):
        one.model.double()  # open_clip's towers are built in float32
    again.model.set_grad_checkpointing()
    expected, found = (Gradients(one)(pairs(), STEP) for one in (plain, again))
    tolerance = {"rtol": 1e-9, "atol": 1e-12} if kind == "clip" else {"rtol": 0, "atol": 0}
    assert_equal(found.terms, expected.terms, **tolerance)
    assert_equal(gradients_of(again), gradients_of(plain), **tolerance)


def test_memory_falls():
    peaks = {}
    for name, changes in {"whole": {}, "cut": {"micro_batch": 2}, "again": {}}.items():
        one = task(**changes)
        one.model.set_grad_checkpointing(name == "again")
        gradients, whole = Gradients(one), pairs()
        gradients(whole, STEP)  # gradients are there, as they are in training
        with PeakMemory() as memory:
            gradients(whole, STEP)
        peaks[name] = memory.peak - sum(gradient.nbytes for gradient in gradients_of(one).values())
    assert peaks["cut"] < peaks["whole"] / 3
    assert peaks["again"] < peaks["whole"] / 2


@contextmanager
def room_for(one: ContrastiveTask, most: int, error: Exception, in_backward: bool) -> Iterator[list[int]]:
    """A model that finds no memory for more pairs at a time; yields the sizes that were tried."""
    tried = []

    def fail(*_: object) -> None:
        raise error

    def hook(_, args, output):
        tried.append(len(args[0]))
        if tried[-1] > most:
            if not in_backward:
                fail()
            if output.image_BV.requires_grad:
                output.image_BV.register_hook(fail)

    handle = one.model.register_forward_hook(hook)
    yield tried
    handle.remove()


SHORTAGES = [torch.OutOfMemoryError("CUDA out of memory"), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]


@pytest.mark.parametrize("in_backward", [False, True])
@pytest.mark.parametrize("error", SHORTAGES)
def test_a_batch_that_does_not_fit_is_tried_again_in_halves(caplog, error, in_backward):
    wanted, one = task(micro_batch=4), task(micro_batch="auto")
    expected, gradients = Gradients(wanted)(pairs(), STEP), Gradients(one)
    with room_for(one, 4, error, in_backward) as tried, caplog.at_level(logging.WARNING):
        result = gradients(pairs(), STEP)
    assert gradients.pairs == 4
    assert [size for i, size in enumerate(tried) if i == 0 or tried[i - 1] != size] == [16, 8, 4]
    assert [record.getMessage() for record in caplog.records] == [
        "out of memory with micro-batches of 16 pairs: going on with 8",
        "out of memory with micro-batches of 8 pairs: going on with 4",
    ]
    assert_equal(result.terms, expected.terms, rtol=0, atol=0)
    assert_equal(result.counts, expected.counts, rtol=0, atol=0)
    assert_equal(gradients_of(one), gradients_of(wanted), rtol=0, atol=0)
    again = Gradients(one)
    again.load_state_dict(gradients.state_dict())
    with room_for(one, 4, error, in_backward) as tried:
        again(pairs(), STEP)
    assert set(tried) == {4}


def test_what_was_found_is_recorded_and_used_again(tmp_path):
    def opened() -> Trainer:
        one = task(micro_batch="auto", steps=2, warmup=1, log_every=1)
        return Trainer(one, Same(), one.train, tmp_path, lambda _: None, lambda _: None).resume()

    run = opened()
    assert run.gradients.pairs is None
    with room_for(run.task, 4, SHORTAGES[1], in_backward=True):
        run.run()
    assert [row["block1/image_placed"] > 0.5 for row in run.metrics.rows()] == [True, True]
    assert {row["tokens"] for row in run.routing.rows() if row["modality"] == "image"} == {PAIRS * 4}  # counted once
    again = opened()
    again.run()
    assert timing(again, Throughput(1.0, 1.0, 1.0))["micro_batch"] == again.gradients.pairs == 4


def test_no_micro_batch_is_smaller_than_a_routing_group():
    one = task(micro_batch="auto")
    with room_for(one, 0, SHORTAGES[0], in_backward=False) as tried, pytest.raises(torch.OutOfMemoryError):
        Gradients(one)(pairs(), STEP)
    assert tried == [16, 8, 4, GROUP]


@pytest.mark.parametrize("micro_batch, error", [(None, SHORTAGES[0]), (8, SHORTAGES[1]), ("auto", RuntimeError("a bug"))])
def test_only_auto_tries_again_and_only_for_want_of_memory(micro_batch, error):
    one = task(micro_batch=micro_batch)
    with room_for(one, 0, error, in_backward=False) as tried, pytest.raises(type(error), match=str(error)):
        Gradients(one)(pairs(), STEP)
    assert len(tried) == 1


def test_parts_of_odd_batches_by_hand():
    assert largest_part(most=12, batch=24, group=4) == 12
    assert largest_part(most=6, batch=24, group=4) == 4
    assert largest_part(most=11, batch=24, group=4) == 8  # 10 is no multiple of 4
    assert largest_part(most=100, batch=24, group=4) == 24
    assert largest_part(most=2, batch=24, group=4) is None
    assert largest_part(most=3, batch=7, group=1) == 1


@pytest.mark.parametrize(
    "changes, sentence",
    [
        (("train.micro_batch=96",), r"train.micro_batch \(96\) must divide train.batch \(256\) and be a multiple of"),
        (("train.micro_batch=128",), r"be a multiple of model.moe.group_pairs \(256\)"),
        (("contestants.clip={micro_batch: 8}",), r"contestants.clip.micro_batch \(8\) must divide"),
        (("train.micro_batch=half",), r"'half' is not allowed: null, a whole number of pairs from 1, or auto is"),
        (("train.micro_batch=0",), r"0 is not allowed"),
    ],
)
def test_micro_batches_that_do_not_fit_are_refused(project, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        Params.load(project / "params.yaml", changes)


@pytest.mark.parametrize("micro_batch", ["null", "auto", "64"])
def test_micro_batches_that_fit_are_taken(project, micro_batch):
    changes = (f"train.micro_batch={micro_batch}", "model.moe.group_pairs=32")
    assert str(Params.load(project / "params.yaml", changes).train.micro_batch) == micro_batch.replace("null", "None")
