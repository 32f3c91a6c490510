"""The whole auxiliary loss: its rules by hand, and its shares over micro-batches and ranks against the whole batch."""

from __future__ import annotations

import socket

import pytest
import torch
import torch.multiprocessing
from losskit import PAIRS, on_a_rank, routing_of, step, tower_of
from modelkit import batch, moe
from safetensors.torch import load_file

from limoe.losses.auxiliary import auxiliary_loss, group_weights
from limoe.model.router import NoiseKey
from limoe.model.tokens import Layout

OFF = dict.fromkeys(("importance", "load", "z", "local_text", "local_image", "global_text", "global_image"), 0.0)


def two_pairs() -> Layout:
    return Layout.of(2, 2, torch.tensor([1, 1]), torch.device("cpu"))


def test_the_rules_by_hand():
    # Six rows of two experts with logits (ln 3, 0): p = (3/4, 1/4), logsumexp = ln 4.
    logits = torch.tensor([[3.0, 1.0]] * 6, dtype=torch.float64).log()
    h = 0.75 * torch.log(torch.tensor(4 / 3)) + 0.25 * torch.log(torch.tensor(4.0))
    values = {"z": torch.log(torch.tensor(4.0)) ** 2, "importance": 0.25, "local_text": h, "global_image": 1 - h}
    weights = {"z": 2.0, "importance": 3.0, "local_text": 0.5, "global_image": 1.0}
    summed = float(sum(weights[name] * values[name] for name in values))
    settings = {"experts": 2, "tau_image": 1.0, "aux_weights": OFF | weights}
    for rule, divisor in (("average", 4), ("fixed", 1)):
        total, each = auxiliary_loss({1: routing_of(logits)}, two_pairs(), moe(aux_rule=rule, **settings))
        assert {name: value.item() for name, value in each.items()} == pytest.approx({n: float(v) for n, v in values.items()})
        assert total.item() == pytest.approx(0.04 * summed / divisor)


@pytest.mark.parametrize("rule, share", [("average", 0.5), ("fixed", 1.0)])
def test_switching_a_term_off_raises_the_others_under_one_rule_only(rule, share):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    routing = {1: routing_of(logits)}
    both, each = auxiliary_loss(routing, two_pairs(), moe(aux_rule=rule, aux_weights=OFF | {"z": 2.0, "local_image": 1.0}))
    alone, left = auxiliary_loss(routing, two_pairs(), moe(aux_rule=rule, aux_weights=OFF | {"z": 2.0}))
    assert set(each) == {"z", "local_image"}
    assert set(left) == {"z"}, "a term of weight 0 is not computed"
    z, local = each["z"].item(), each["local_image"].item()
    assert both.item() == pytest.approx(0.04 * share * (2 * z + local))
    assert alone.item() == pytest.approx(0.04 * 2 * z)


def test_without_terms_there_is_nothing():
    logits = torch.randn(6, 4)
    for params in (moe(aux_weights=OFF), moe(aux_coefficient=0.0)):
        total, each = auxiliary_loss({1: routing_of(logits)}, two_pairs(), params)
        assert (total.item(), each) == (0.0, {})


@pytest.mark.parametrize("rule", ["average", "fixed"])
def test_layers_are_averaged_or_summed(rule):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    both = {1: routing_of(logits), 3: routing_of(2 * logits)}
    each = [auxiliary_loss({i: r}, two_pairs(), moe(aux_rule=rule))[0].item() for i, r in both.items()]
    assert auxiliary_loss(both, two_pairs(), moe(aux_rule=rule))[0].item() == pytest.approx(sum(each) / 2)
    assert auxiliary_loss(both, two_pairs(), moe(aux_rule=rule, layers="sum"))[0].item() == pytest.approx(sum(each))


def test_masks_tell_the_modalities_apart():
    layout = Layout.of(2, 2, torch.tensor([1, 2]), torch.device("cpu"), group_pairs=1, text_shape=(6, 1))
    weights = group_weights(layout, torch.float32)
    # Rows: image tokens 0-1 (pair 0) and 2-3 (pair 1), text token 4 (pair 0) and 5-6 (pair 1), 7-9 padding.
    assert weights["image"].nonzero().tolist() == [[0, 0], [0, 1], [1, 2], [1, 3]]
    assert weights["text"].nonzero().tolist() == [[0, 4], [1, 5], [1, 6]]
    assert weights["all"].sum() == 7


def test_a_part_of_a_batch_is_a_whole_number_of_groups():
    layout = Layout.of(6, 2, torch.ones(6, dtype=torch.long), torch.device("cpu"), group_pairs=4)
    with pytest.raises(ValueError, match=r"micro-batch \(6 pairs\) must be a multiple of the routing group \(4 pairs\)"):
        auxiliary_loss({1: routing_of(torch.zeros(18, 4))}, layout, moe(group_pairs=4), total_groups=4)


@pytest.fixture(scope="module")
def whole() -> dict[str, dict[str, torch.Tensor]]:
    """One batch at once, by router."""
    return {router: step(1, 1, 0, router=router, k=2) for router in ("top-k", "expert-choice", "loss-free", "uniform")}


def test_the_whole_batch_needs_no_share(whole):
    model, params = tower_of(k=2)
    output = model(batch(PAIRS, dtype=torch.float64), NoiseKey(7, 3))
    plain, each = auxiliary_loss(output.routings, output.layout, params)
    assert plain.item() == pytest.approx(whole["top-k"]["auxiliary"].item(), rel=1e-12)
    assert each["global_text"].item() == pytest.approx(whole["top-k"]["global_text"].item(), rel=1e-12)
    assert plain.item() > 0.1


@pytest.mark.parametrize("router", ["top-k", "expert-choice", "loss-free", "uniform"])
@pytest.mark.parametrize("micro, ranks", [(2, 1), (4, 1), (1, 2), (2, 2)])
def test_a_step_does_not_depend_on_how_its_batch_is_cut(whole, router, micro, ranks):
    shares = [step(micro, ranks, rank, router=router, k=2) for rank in range(ranks)]
    assert shares[0].keys() == whole[router].keys()
    assert sum(name.startswith("gradient/encoder.blocks.3.mlp.") for name in shares[0]) == 5
    for name, wanted in whole[router].items():
        mean = torch.stack([share[name] for share in shares]).mean(0)
        torch.testing.assert_close(mean, wanted, rtol=1e-9, atol=1e-12, msg=lambda text, name=name: f"{name}: {text}")


def test_two_processes_agree_with_one(whole, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(on_a_rank, args=(2, port, str(tmp_path / "mean.safetensors")), nprocs=2)
    found = load_file(tmp_path / "mean.safetensors")
    assert found.keys() == whole["top-k"].keys()
    for name, wanted in whole["top-k"].items():
        torch.testing.assert_close(found[name], wanted, rtol=1e-9, atol=1e-12)
