"""The ablation: its variants mean what they say, its trials run once, its figures are those of hand arithmetic."""

import math
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sweepkit import start

from limoe.config import Params
from limoe.errors import UserError
from limoe.model.router.places import claim_order
from limoe.model.tokens import Layout
from limoe.paths import Paths
from limoe.sweep.ablation import Ablation, AblationSettings
from limoe.sweep.ablation_result import ROUTING, analyse_ablation, collect_ablation, paired, routing_end
from limoe.sweep.outcome import Outcome, write_outcome
from limoe.sweep.role import read_role
from limoe.sweep.spec import read_spec
from limoe.sweep.variants import STUDIES, study, with_values

HASH = "d" * 64


def ok(loss):
    return Outcome("ok", step=10, evidence="finished", steps_planned=10, loss=loss)


def by_key(params, *only):
    return {one.key: one for one in study(params, only).variants}


def total(moe, terms):
    """The auxiliary loss of these values of the terms, by the paper's formula or with fixed weights."""
    active = {name: weight for name, weight in moe.aux_weights.model_dump().items() if weight > 0}
    share = len(active) if moe.aux_rule == "average" else 1
    return moe.aux_coefficient * sum(weight * terms[name] for name, weight in active.items()) / share


def test_fixed_weights_give_each_term_what_the_full_recipe_gives_it(params):
    terms = {name: float(n + 2) for n, name in enumerate(params.model.moe.aux_weights.model_dump())}
    full = params.model.moe
    active = full.aux_weights.active()
    for name, kept in (("classic", ("importance", "load", "z")), ("local", ("local_text", "z"))):
        for rule, share in (("aux", len(kept)), ("aux-fixed", len(active))):
            moe = with_values(params, by_key(params)[f"{rule}/{name}"].values).model.moe
            by_hand = full.aux_coefficient * sum(active[term] * terms[term] for term in kept) / share
            assert set(moe.aux_weights.active()) == set(kept)
            assert total(moe, terms) == pytest.approx(by_hand)


def test_with_every_term_on_fixed_weights_are_the_full_recipe(params):
    moe = params.model.moe
    active = moe.aux_weights.active()
    fixed = {f"model.moe.aux_weights.{name}": weight / len(active) for name, weight in active.items()}
    given = by_key(params)["aux-fixed/loss-free"].values  # drops importance and load, keeps the rest
    assert {name: given[name] for name in fixed if "importance" not in name and "load" not in name} == {
        name: weight for name, weight in fixed.items() if "importance" not in name and "load" not in name
    }
    terms = {name: float(n + 2) for n, name in enumerate(moe.aux_weights.model_dump())}
    same = with_values(params, {**fixed, "model.moe.aux_rule": "fixed"}).model.moe
    assert total(same, terms) == pytest.approx(total(moe, terms))


def test_each_variant_changes_what_its_group_says(params):
    found = by_key(params)
    keys = list(found)
    assert keys[0] == "full"
    assert found["full"].values == {}
    assert len(keys) == len(set(keys))
    moe = {key: with_values(params, one.values).model.moe for key, one in found.items()}
    assert moe["aux/none"].aux_coefficient == 0
    assert (moe["aux/loss-free"].router, moe["aux/loss-free"].aux_weights.load) == ("loss-free", 0)
    assert moe["aux/loss-free"].aux_weights.local_text == params.model.moe.aux_weights.local_text
    assert set(moe["aux/loss-free-only"].aux_weights.active()) == {"z"}
    assert set(moe["aux/equal-weights"].aux_weights.active().values()) == {1.0}
    assert moe["priority/text-first"].priority == "text-first"
    assert [moe[f"experts/{n}"].experts for n in (8, 32, 64)] == [8, 32, 64]
    assert moe["k/2"].k == 2
    assert moe["group/64"].group_pairs == 64
    assert moe["tau-text/0.00"].tau_text == 0
    twice = with_values(params, {"model.moe.experts": 32})
    assert by_key(twice, "tau-image")[f"tau-image/{math.log(30):.2f}"].values == {"model.moe.tau_image": math.log(30)}


def test_what_equals_the_full_recipe_is_not_trained_again(params):
    keys = set(by_key(params))
    assert not {"priority/bpr", "experts/16", "k/1", "group/256", f"tau-text/{math.log(5):.2f}"} & keys
    plain = with_values(params, {"model.moe.aux_weights.importance": 1.0, "model.moe.aux_weights.load": 1.0})
    assert "aux/equal-weights" not in by_key(plain)


def test_image_first_is_the_order_of_the_array_and_so_left_out(params):
    found = study(params)
    assert "priority/image-first" in found.omitted
    layout = Layout.of(3, 4, torch.tensor([2, 1, 3]), torch.device("cpu"), 3)
    gate_TK = torch.rand(len(layout.modality_T), 1)
    orders = [claim_order(name, gate_TK, layout, torch.arange(len(gate_TK))) for name in ("image-first", "first-come")]
    assert torch.equal(*orders)


def test_what_does_not_fit_the_budget_is_named(params):
    small = with_values(params, {"train.batch": 128, "model.moe.group_pairs": 128})
    found = study(small, ("group",))
    assert [one.key for one in found.variants] == ["full", "group/64"]
    assert "train.batch (128) must be a multiple of model.moe.group_pairs (256)" in found.omitted["group/256"]


@pytest.mark.parametrize(
    "only, said",
    [("priorty", "did you mean priority?"), ("aux/clasic", "did you mean aux/classic?"), ("zzz", "groups are aux,")],
)
def test_an_unknown_variant_is_named_with_the_nearest(params, only, said):
    with pytest.raises(UserError, match="no group and no variant") as caught:
        study(params, (only,))
    assert said in str(caught.value)


def test_a_recipe_that_is_not_the_papers_cannot_be_taken_apart(params):
    with pytest.raises(UserError, match="router must be top-k"):
        study(with_values(params, {"model.moe.router": "expert-choice"}))
    with pytest.raises(UserError, match="local_text or local_image"):
        study(with_values(params, {"model.moe.aux_weights.local_text": 0.0}))


def ablation(root, params: Params, **settings):
    return Ablation(AblationSettings(**{"only": ("priority",), "seeds": 2, **settings}), params, Paths(root), HASH)


def drain(one):
    found = []
    while (work := one.next()) is not None:
        found.append((one.group_of(work), work.seed))
        one.finish(work, ok(3.0))
    return found


def test_one_seed_of_everything_comes_before_the_next(tmp_path, params):
    one = ablation(tmp_path, params)
    ran = drain(one)
    variants = [variant.key for variant in study(params, ("priority",)).variants]
    assert ran == [(key, seed) for seed in (0, 1) for key in variants]
    assert one.done
    assert one.ended == one.planned == len(ran)


def test_a_trial_is_a_directory_with_its_seed_values_and_role(tmp_path, params):
    one = ablation(tmp_path, params, only=("k",), seeds=1)
    one.finish(one.next(), ok(3.0))
    work = one.next()
    spec, role = read_spec(work.folder), read_role(work.folder)
    assert (spec.values, spec.seed, spec.params["model"]["moe"]["k"]) == ({"model.moe.k": 2}, 0, 2)
    assert (role.phase, role.group) == ("ablation", "k/2")


def test_opened_again_it_runs_what_has_no_outcome(tmp_path, params):
    first = ablation(tmp_path, params)
    works = [first.next() for _ in range(3)]
    first.finish(works[0], ok(3.0))
    write_outcome(works[1].folder, ok(3.1))  # its flow was killed before it heard
    again = ablation(tmp_path, params)
    assert again.next() == works[2]
    assert again.ended == 2
    assert (works[0].folder / "outcome.json").exists()


def test_more_seeds_and_variants_may_be_asked_for_later(tmp_path, params):
    drain(ablation(tmp_path, params, seeds=1))
    more = ablation(tmp_path, params, only=("priority", "k"), seeds=2)
    ran = drain(more)
    assert ("full", 0) not in ran
    assert {("k/2", 0), ("full", 1), ("priority/shuffled", 1)} <= set(ran)
    numbers = {read_role(path).group: read_role(path).point for path in (more.folder / "trials").iterdir()}
    assert len(set(numbers.values())) == len(numbers)
    with pytest.raises(UserError, match=r"train\.lr was"):
        ablation(tmp_path, with_values(params, {"train.lr": 0.001}))


def test_fewer_variants_later_take_none_out_of_the_report(tmp_path, params):
    drain(ablation(tmp_path, params, only=("k", "priority"), seeds=1))
    less = ablation(tmp_path, params, only=("priority/shuffled",), seeds=2)
    drain(less)
    lines = {line.key: line.trials for line in analyse_ablation(collect_ablation(less.folder, less.told)).lines}
    assert lines["k/2"] == lines["priority/first-come"] == 1
    assert lines["full"] == lines["priority/shuffled"] == 2


def test_a_variant_that_equals_one_of_another_group_runs_where_that_is_left_out(tmp_path, params):
    """With images first as the recipe, classic losses with images first are classic losses."""
    changed = with_values(params, {"model.moe.priority": "first-come"})
    assert ("priority/classic-first-come", 0) in drain(ablation(tmp_path, changed, only=("priority",), seeds=1))


def test_a_killed_trial_is_handed_out_once_more_and_a_collapse_is_a_result(tmp_path, params):
    one = ablation(tmp_path, params, only=("k",), seeds=1)
    work = one.next()
    one.finish(work, Outcome("killed", step=3, evidence="by signal 9", steps_planned=10))
    assert one.next() == work
    one.finish(work, Outcome("killed", step=3, evidence="by signal 9", steps_planned=10))
    other = one.next()
    assert one.group_of(other) == "k/2"
    one.finish(other, Outcome("collapsed", step=10, evidence="text", steps_planned=10, modality="text", layer=1, loss=4.0))
    assert one.done


def test_a_silent_trial_can_be_handed_out_again(tmp_path, params):
    one = ablation(tmp_path, params)
    work = one.next()
    assert one.next() != work
    one.retry(work)
    assert one.next() == work


def routing_table(placed_by_layer, steps=(40, 60, 100)):
    """Rows of routing.parquet: layer -> modality -> placed by expert, alike at each step; twice as many were assigned to text."""
    rows = [
        {
            "step": step,
            "layer": layer,
            "modality": modality,
            "expert": expert,
            "assigned": number * (2 if modality == "text" else 1),
            "placed": number,
            "tokens": 1000,
            "confidence": 0.5,
        }
        for step in steps
        for layer, modalities in placed_by_layer.items()
        for modality, placed in modalities.items()
        for expert, number in enumerate(placed)
    ]
    return pa.Table.from_pylist(rows)


def test_specific_experts_by_hand(tmp_path):
    layers = {
        1: {"text": [95, 94, 0, 0], "image": [5, 6, 50, 0]},  # 95% text, 94% text, all image, unused
        3: {"text": [10, 10, 10, 1], "image": [0, 0, 0, 19]},  # three of text alone, the last exactly 95% image
    }
    pq.write_table(routing_table(layers), tmp_path / "routing.parquet")
    found = routing_end(tmp_path)
    assert found == {"text_placed": 0.5, "text_experts": (1 + 3) / 2, "image_experts": (1 + 1) / 2, "experts": 4.0}
    assert routing_end(tmp_path / "absent") == {}


def test_only_the_last_fifty_steps_count(tmp_path):
    early = routing_table({1: {"text": [0, 100], "image": [100, 0]}}, steps=(10, 50))
    late = routing_table({1: {"text": [50, 50], "image": [50, 50]}}, steps=(51, 100))
    pq.write_table(pa.concat_tables([early, late]), tmp_path / "routing.parquet")
    assert routing_end(tmp_path)["text_experts"] == 0
    pq.write_table(early, tmp_path / "routing.parquet")
    assert routing_end(tmp_path)["text_experts"] == 1


def run_with(root, params, outcomes):
    """An ablation of K with these outcomes by (variant, seed)."""
    one = ablation(root, params, only=("k",), seeds=3)
    while (work := one.next()) is not None:
        one.finish(work, outcomes[one.group_of(work), work.seed])
    return collect_ablation(one.folder, one.study)


def test_mean_spread_success_and_paired_difference_by_hand(tmp_path, params):
    collapse = Outcome("collapsed", step=10, evidence="t", steps_planned=10, modality="text", layer=1, loss=3.5)
    gone = Outcome("diverged", step=4, evidence="d", steps_planned=10)
    full = {("full", seed): ok(loss) for seed, loss in enumerate((3.0, 3.2, 3.4))}
    table = run_with(tmp_path, params, {**full, ("k/2", 0): ok(3.1), ("k/2", 1): collapse, ("k/2", 2): gone})
    found = analyse_ablation(table)
    base, other = found.lines
    assert base.loss == pytest.approx(3.2)
    assert base.spread == pytest.approx(0.2)  # of -0.2, 0, 0.2 over two degrees of freedom
    assert found.limit == pytest.approx(3.52)
    assert (base.success.hits, base.success.n) == (3, 3)
    assert other.loss == pytest.approx((3.1 + 3.5) / 2)
    assert (other.success.hits, other.success.n) == (1, 3)
    assert other.kinds == {"collapsed": 1, "diverged": 1, "ok": 1}
    assert (other.trials, other.finished) == (3, 2)
    # differences 0.1 and 0.3: mean 0.2, sd 0.1414, half width 12.706 x 0.1414 / sqrt(2)
    assert other.difference.mean == pytest.approx(0.2)
    assert other.difference.upper - other.difference.mean == pytest.approx(1.2706, abs=1e-4)
    assert other.difference.pairs == 2
    assert base.difference is None
    assert base.text_placed is None


def test_a_table_is_whole_without_its_folder(tmp_path, params):
    outcomes = {(key, seed): ok(3.0 + seed) for key in ("full", "k/2") for seed in range(3)}
    table = run_with(tmp_path, params, outcomes)
    pq.write_table(table, tmp_path / "t.parquet")
    found = analyse_ablation(pq.read_table(tmp_path / "t.parquet"))
    assert [line.key for line in found.lines] == ["full", "k/2"]
    assert found.lines[1].note == "2 experts a token"
    assert found.lines[1].difference.mean == 0
    assert [name for name in table.column_names if name.startswith("end/")] == [f"end/{name}" for name in ROUTING]


def test_one_pair_has_no_interval_and_none_no_difference():
    assert paired({0: 3.5}, {0: 3.0, 1: 3.0}).lower is None
    assert paired({0: 3.5}, {1: 3.0}) is None


def test_the_notes_say_which_terms_are_left(params):
    for variant in STUDIES["aux"](params.model.moe):
        if variant.name in ("classic", "local", "global"):
            told = set(variant.note.removeprefix("only ").replace(" ", "_").replace(",_", ",").split(","))
            assert told | {"z"} == set(with_values(params, variant.values).model.moe.aux_weights.active())


def test_taus_ask_for_ever_more_experts(params):
    for modality in ("text", "image"):
        taus = [
            one.values[f"model.moe.tau_{modality}"]
            for one in STUDIES["tau-text, tau-image"](params.model.moe)
            if modality in one.group
        ]
        assert len(taus) == 3
        assert all(first < second for first, second in pairwise(taus))
        assert max(taus) <= math.log(params.model.moe.experts)


def test_trainings_that_would_roll_back_are_refused(tmp_path, params):
    health = params.train.health.model_copy(update={"action": "rollback"})
    rolling = params.model_copy(update={"train": params.train.model_copy(update={"health": health})})
    with pytest.raises(UserError, match=r"train\.health\.action = rollback is not allowed in a sweep, an ablation or seeds"):
        Ablation(AblationSettings(), rolling, Paths(tmp_path), HASH)


def test_another_start_is_another_ablation(tmp_path, params):
    params = with_values(params, {"train.start_from": "model"})
    before = start(tmp_path / "model", "before")
    one = ablation(tmp_path, params)
    assert {work.spec.start for work in one.works} == {before}
    after = start(tmp_path / "model", "after")
    with pytest.raises(UserError, match=f"other settings: start_from.limoe was '{before}' and is '{after}'"):
        ablation(tmp_path, params)
