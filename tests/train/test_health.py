"""Alarms by hand-made rows: what raises which, when, and with what evidence."""

from __future__ import annotations

import json
import math
import re

import pytest
from healthkit import step_of
from modelkit import PARAMS, moe

from limoe.errors import UserError
from limoe.train.alarm import HELP
from limoe.train.chance import guessing_loss
from limoe.train.health import Alarm, Stopped, Watch, alarms_of
from limoe.train.meter import count, routing_summary

LIMITS = {
    "action": "warn",
    "rollback": {"lr_factor": 0.5, "most": 3},
    "window": 20,
    "grace": 0.5,
    "placed": 0.25,
    "effective": 0.05,
    "dead": 0.5,
    "chance": 0.95,
    "diverged": 1.5,
    "logit_scale": 99.0,
}
LN16 = math.log(16)
WELL = {"contrastive": 1.0, "logit_scale": 20.0}
FLOWING = {
    "block1/text_placed": 0.9,
    "block1/text_lost": 0.1,
    "block1/text_effective_experts": 4.0,
    "block1/image_placed": 0.9,
    "block1/image_lost": 0.1,
    "block1/image_effective_experts": 7.0,
    "block1/dead_experts": 0.0,
}


def recipe(health=None, **changes):
    small = {"steps": 100, "batch": 16, "log_every": 10, "warmup": 10, "health": LIMITS | (health or {})}
    return type(PARAMS.train).model_validate(PARAMS.train.model_dump() | small | changes)


def rows(*changes: dict, **all_along) -> list[dict]:
    """Ten rows of a training of 100 steps, healthy but for `all_along`; changes: of the last rows, in their order."""
    made = [WELL | FLOWING | all_along | {"step": 10 * (i + 1)} for i in range(10)]
    for row, change in zip(made[10 - len(changes) :], changes, strict=True):
        row |= change
    return made


def raised(found: list[dict], experts: int | None = 16, **settings) -> dict[str, int]:
    return {alarm.name: alarm.step for alarm in alarms_of(found, recipe(**settings), experts)}


def test_a_healthy_training_raises_none():
    assert raised(rows()) == {}


@pytest.mark.parametrize(
    "changes,expected",
    [
        ({"contrastive": 1.51 * LN16}, {"loss-at-chance": 70}),  # never lower, so not risen
        ({"contrastive": 0.96 * LN16}, {"loss-at-chance": 70}),  # all else once a window lies behind half of the steps
        ({"logit_scale": 99.5}, {"temperature-runaway": 70}),
        ({"block1/text_placed": 0.24}, {"text-collapse@block1": 70}),
        ({"block1/image_placed": 0.24}, {"image-collapse@block1": 70}),
        ({"block1/text_effective_experts": 1.7}, {"text-collapse@block1": 70}),
        ({"block1/image_effective_experts": 1.0}, {"image-collapse@block1": 70}),
        ({"block1/dead_experts": 0.51}, {"dead-experts@block1": 70}),
        ({"contrastive": 1.49 * LN16}, {"loss-at-chance": 70}),
        ({"contrastive": 0.94 * LN16}, {}),
        ({"logit_scale": 98.5}, {}),
        ({"block1/text_placed": 0.26}, {}),
        ({"block1/text_effective_experts": 1.8}, {}),  # 1 + 0.05 * 15 = 1.75
        ({"block1/dead_experts": 0.5}, {}),
    ],
)
def test_each_limit_on_both_sides(changes, expected):
    assert raised(rows(**changes)) == expected


def test_experts_that_choose_place_all_they_chose_and_tokens_are_lost():
    assert raised(rows(**{"block1/text_placed": 1.0, "block1/text_lost": 0.76})) == {"text-collapse@block1": 70}
    assert raised(rows(**{"block1/text_placed": 1.0, "block1/text_lost": 0.74})) == {}


@pytest.mark.parametrize("experts,fewest", [(4, 1.15), (8, 1.35), (16, 1.75), (21, 2.0), (64, 2.0)])
def test_how_few_experts_are_a_collapse_depends_on_how_many_there_are(experts, fewest):
    for value, expected in ((fewest - 0.01, {"text-collapse@block1": 70}), (fewest + 0.01, {})):
        assert raised(rows(**{"block1/text_effective_experts": value}), experts) == expected


def test_figures_are_means_over_the_window():
    low, high = {"block1/text_placed": 0.0}, {"block1/text_placed": 0.48}
    assert raised(rows(low, high, {})) == {"text-collapse@block1": 90}  # two rows each: 0.45, then 0.24, then 0.69
    assert raised(rows(low, {}, low, {}, low)) == {}
    assert raised(rows({"contrastive": 4.3}, {}, {})) == {"loss-at-chance": 80}  # (1 + 4.3) / 2 is above 0.95 ln 16 = 2.63
    assert raised(rows({"contrastive": 4.2}, {}, {})) == {}


def test_a_window_that_is_not_full_judges_nothing():
    short = recipe(steps=15, warmup=1)
    assert alarms_of([{"step": step, "contrastive": 100.0} for step in (5, 10, 15)], short, None) == []


def test_what_a_training_was_like_before_it_had_to_be_settled_does_not_count():
    leaving = [{"contrastive": LN16}] * 5 + [{"contrastive": 0.92 * LN16}] + [{"contrastive": 1.0}] * 4
    assert raised(rows(*leaving)) == {}  # the mean of steps 50 and 60 is above the limit, that of 60 and 70 is not


def test_a_name_is_raised_once_and_every_block_has_its_own():
    collapsed = {"block1/text_placed": 0.1, "block3/text_placed": 0.1, "block11/text_placed": 0.1, "contrastive": 3.0}
    watch = Watch(recipe(), 16)
    news = [[alarm.name for alarm in watch.see(row)] for row in rows(**collapsed)]
    expected = ["text-collapse@block1", "text-collapse@block3", "text-collapse@block11", "loss-at-chance"]  # causes first
    assert news == [[]] * 6 + [expected] + [[]] * 3
    assert [alarm.name for alarm in watch.alarms] == expected


def test_a_dense_model_and_a_skipped_step_have_fewer_figures():
    dense = [{"step": 10 * (i + 1)} | WELL for i in range(10)]
    assert raised(dense, None) == {}
    assert raised([dense[0], *(row | {"contrastive": 9.0} for row in dense[1:])], None) == {"diverged": 30}
    assert raised([{"step": row["step"], "skipped_steps": 10} for row in dense], None) == {}


def test_evidence_has_the_figures():
    found = alarms_of(rows(**{"block1/text_placed": 0.14, "block1/text_effective_experts": 1.2}), recipe(), 16)
    assert found == [
        Alarm(
            "text-collapse@block1",
            70,
            "in block 1 14% of the text choices found a place, less than 25% and text uses 1.20 of 16 experts, fewer than 1.75",
        )
    ]
    chance, diverged = alarms_of(rows({"contrastive": 5.0}, {"contrastive": 6.0}), recipe(), 16)
    assert chance.evidence == "the contrastive loss is 3.00, above 0.95 times the 2.77 that guessing among 16 pairs costs"
    assert diverged.evidence == (
        "the contrastive loss is 5.50 and was 1.00 before, above 1.5 times the 2.77 that guessing among 16 pairs costs"
    )
    (dead,) = alarms_of(rows(**{"block1/dead_experts": 0.75}), recipe(), 16)
    assert dead.evidence == "no token chose 75% of the experts of block 1, more than 50%"


def test_the_same_rows_give_the_same_alarms_whatever_interrupts_them():
    collapsed = rows({"contrastive": 6.0}, {"contrastive": 6.0}, **{"block1/text_placed": 0.1})
    whole = alarms_of(collapsed, recipe(), 16)
    assert [alarm.name for alarm in whole] == ["text-collapse@block1", "loss-at-chance", "diverged"]  # on the way up
    for cut in range(10):
        first, second = Watch(recipe(), 16), Watch(recipe(), 16)
        for row in collapsed[:cut]:
            first.see(row)
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        for row in collapsed[cut:]:
            second.see(row)
        assert second.alarms == whole, cut


def test_a_limit_of_the_bound_itself_switches_the_temperature_off():
    assert raised(rows(logit_scale=100.00001), health={"logit_scale": 100.0}) == {}  # float32's exp(ln 100) is above 100


def test_guessing_costs_what_equal_embeddings_cost():
    assert guessing_loss("softmax", 16) == pytest.approx(LN16)
    # Sigmoid: the best logit z for 16 pairs that nobody can tell apart has sigmoid(z) = 1 / 16.
    z = math.log(1 / 15)
    cost = math.log1p(math.exp(-z)) + 15 * math.log1p(math.exp(z))
    assert guessing_loss("sigmoid", 16) == pytest.approx(cost)


def test_a_loss_that_begins_high_has_not_diverged():
    falling = rows(contrastive=1.0)
    for row, loss in zip(falling, (30.0, 20.0, 10.0, 9.0, 8.0, 7.0, 6.0, 5.5, 5.2, 5.0), strict=True):
        row["contrastive"] = loss
    assert raised(falling) == {"loss-at-chance": 70}
    assert raised([row | {"contrastive": 10.0} for row in falling[:5]]) == {}
    risen = [row | {"contrastive": loss} for row, loss in zip(falling, (10.0, 6.0, 9.1, 9.1, 8.9), strict=False)]
    assert raised(risen) == {"diverged": 40}  # above 1.5 times 6


def test_one_batch_that_costs_much_is_no_divergence():
    assert raised(rows({"contrastive": 300.0}, {}, {"contrastive": 300.0}), health={"chance": 200.0}) == {}


@pytest.mark.parametrize("kind", HELP)
def test_stopped_says_which_why_and_what_helps(kind, params):
    where = "@block1" if kind in ("text-collapse", "image-collapse", "dead-experts") else ""
    error = Stopped(Alarm(f"{kind}{where}", 40, "as was seen"))
    assert isinstance(error, UserError)
    assert str(error).startswith(f"training stopped at step 40: {kind}{where}: as was seen; what usually helps: ")
    assert error.alarm.kind == kind
    for name in re.findall(r"(?:model|train)\.[\w.]+", HELP[kind]):  # settings that exist
        node = params
        for part in name.split("."):
            node = getattr(node, part)


def test_the_watch_reads_what_the_meter_writes():
    routing, layout = step_of([0] * 7, [False] * 7)  # everything asks for one expert, and gets no place
    row = {"step": 70} | routing_summary(count({1: routing}, layout))
    names = {alarm.name for alarm in alarms_of([row], recipe(), 3)}
    assert names == {"text-collapse@block1", "image-collapse@block1", "dead-experts@block1"}


def test_the_default_limits_fit_each_other(params):
    health = params.train.health
    assert health.chance < 1 < health.diverged
    assert health.window >= params.train.log_every
    assert moe().experts > 1 + health.effective * (moe().experts - 1)
