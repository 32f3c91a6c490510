"""What is compared is comparable: equal FLOPs, balanced experts, streams of exactly the asked size."""

from __future__ import annotations

import importlib.util

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Subject
from benchmarks.layers import (
    CAPTION_QUANTILES,
    Input,
    Shape,
    Sparse,
    balanced_rows,
    caption_lengths,
    dense_subject,
    layout_of,
    memory_floor,
    orthonormal,
)
from benchmarks.peers import PEERS, peer_subject
from limoe.model.tokens import IMAGE
from limoe.train.meter import routing_rows

CPU = torch.device("cpu")
SHAPE = Shape(24, 96, 4, 800)


def counted(subject: Subject) -> int:
    """FLOPs of one run, forward and backward, by torch's own counter."""
    with FlopCounterMode(display=False) as counter:
        subject.run()
    subject.reset()
    return counter.get_total_flops()


@pytest.fixture
def given() -> Input:
    torch.manual_seed(0)
    return Input.of(SHAPE, torch.float32, CPU)


@pytest.mark.parametrize("tokens,patches", [(800, 36), (8192, 36), (50_000, 196)])
def test_a_stream_has_as_many_rows_as_asked_in_one_group(tokens: int, patches: int) -> None:
    layout = layout_of(Shape(8, 8, 4, tokens, patches), CPU)
    assert len(layout.group_T) == tokens == int(layout.real_T.sum())
    assert layout.groups == 1
    assert int((layout.modality_T == IMAGE).sum()) == layout.images * patches
    text = tokens - layout.images * patches
    assert text / layout.images == pytest.approx(sum(CAPTION_QUANTILES) / len(CAPTION_QUANTILES), rel=0.15)


@pytest.mark.parametrize("pairs,tokens", [(20, 175), (7, 7), (13, 150)])
def test_captions_make_the_asked_number_of_tokens(pairs: int, tokens: int) -> None:
    lengths_B = caption_lengths(pairs, tokens)
    assert len(lengths_B) == pairs
    assert int(lengths_B.min()) >= 1
    assert int(lengths_B.sum()) == tokens or int(lengths_B.min()) == 1


def test_twenty_captions_are_the_quantiles() -> None:
    assert sorted(caption_lengths(20).tolist()) == sorted(CAPTION_QUANTILES)


def test_every_expert_wins_alike_and_logits_stay_normal() -> None:
    torch.manual_seed(0)
    router_ED = orthonormal(5, 24, CPU)
    assert torch.allclose(router_ED @ router_ED.T, torch.eye(5), atol=1e-5)
    logits_TE = balanced_rows(router_ED, 2003) @ router_ED.T
    assert sorted(logits_TE.argmax(1).bincount().tolist()) == [400, 400, 401, 401, 401]
    assert float(logits_TE.std()) == pytest.approx(1, abs=0.03)


@pytest.mark.parametrize("kernel", ["loop", "slots"])
def test_sparse_and_dense_cost_equal_flops_but_for_router_and_drops(given: Input, kernel: str) -> None:
    sparse = Sparse(given, kernel)
    flops = counted(given.subject(kernel, sparse.layer, sparse.run))
    dense = counted(dense_subject(given)[0])
    assert dense == 3 * 4 * SHAPE.tokens * SHAPE.width * SHAPE.hidden
    router = 3 * 2 * SHAPE.tokens * SHAPE.width * SHAPE.experts
    assert 0.99 * dense <= flops - router <= 1.06 * dense  # up to 1% dropped; slots fill up to 1.05 of the places


@pytest.fixture
def peer(request: pytest.FixtureRequest) -> str:
    if importlib.util.find_spec(PEERS[request.param][0].replace("-", "_")) is None:
        pytest.skip("the bench extra is not installed")
    return request.param


every_peer = pytest.mark.parametrize("peer", PEERS, indirect=True)
theirs = pytest.mark.filterwarnings("ignore")  # what other people's packages warn of


@every_peer
@theirs
def test_a_peers_expert_has_as_many_weights_as_ours(given: Input, peer: str) -> None:
    module, _ = PEERS[peer][1](given)
    numbers = sum(p.numel() for name, p in module.named_parameters() if name.startswith("experts.") and p.ndim >= 2)
    assert numbers == 2 * SHAPE.experts * SHAPE.width * SHAPE.hidden


@pytest.mark.parametrize("peer", ["Mixtral eager"], indirect=True)
@theirs
def test_mixtrals_block_costs_equal_flops_but_for_the_router(given: Input, peer: str) -> None:
    router = 3 * 2 * SHAPE.tokens * SHAPE.width * SHAPE.experts
    assert counted(peer_subject(given, peer)) - router == counted(dense_subject(given)[0])


@every_peer
@theirs
def test_a_peer_runs_as_it_comes_and_leaves_the_switch_as_it_was(given: Input, peer: str) -> None:
    torch.use_deterministic_algorithms(True)
    subject = peer_subject(given, peer)
    subject.run()
    assert torch.are_deterministic_algorithms_enabled()
    assert given.x_TD.grad is not None
    assert bool(given.x_TD.grad.abs().sum(1).gt(0).float().mean() > 0.9)  # top-2 ones drop some
    subject.reset()
    assert given.x_TD.grad is None


def test_a_run_gives_gradients_to_rows_and_all_weights_and_a_reset_frees_them(given: Input) -> None:
    sparse = Sparse(given, "loop")
    subject = given.subject("loop", sparse.layer, sparse.run)
    subject.run()
    assert all(p.grad is not None for p in (given.x_TD, *sparse.layer.parameters()))
    subject.reset()
    assert all(p.grad is None for p in (given.x_TD, *sparse.layer.parameters()))


def test_layers_that_take_turns_do_not_share_their_noise(given: Input) -> None:
    placed = []
    for seed in (0, 1, 1):
        sparse = Sparse(given, "loop", seed)
        sparse.run()
        placed.append([row["assigned"] for row in routing_rows(sparse.meter.totals, 1)])
    assert placed[0] != placed[1] == placed[2]


def test_in_bf16_weights_stay_float32(given: Input) -> None:
    half = Input.of(SHAPE, torch.bfloat16, CPU)
    sparse, (dense, mlp) = Sparse(half, "loop"), dense_subject(half)
    sparse.run()
    dense.run()
    for module in (sparse.layer, mlp):
        assert {(p.dtype, p.grad.dtype) for p in module.parameters()} == {(torch.float32, torch.float32)}


def test_a_layer_that_drops_is_refused(given: Input) -> None:
    sparse = Sparse(given, "loop")
    sparse.run()
    assert 0 <= sparse.dropped() <= 0.01
    with torch.no_grad():
        sparse.layer.router.weight.copy_(sparse.layer.router.weight[:1].clone())  # all experts alike: the noise alone decides
        given.x_TD.copy_(given.x_TD[:1].clone().expand_as(given.x_TD))
        sparse.layer.router.weight[0] += given.x_TD[0]  # and this one wins them
    sparse.run()
    with pytest.raises(RuntimeError, match="were dropped, more than 1%"):
        sparse.dropped()


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_the_memory_floor_writes_float32_gradients_of_all_weights(precision: torch.dtype) -> None:
    floor = memory_floor(Input.of(SHAPE, precision, CPU))
    written = floor.run()
    sizes = [(SHAPE.experts, SHAPE.width, SHAPE.hidden), (SHAPE.experts, SHAPE.hidden, SHAPE.width)]
    assert [(tuple(x.shape), x.dtype) for x in written] == [(size, torch.float32) for size in sizes]
    assert [x.data_ptr() for x in floor.run()] == [x.data_ptr() for x in written]  # as a layer's lie where the last step's were


@pytest.mark.parametrize("text", ["384x1536x8", "axbxcxd", ""])
def test_a_shape_has_four_numbers(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # argparse makes a sentence of it
        Shape.parse(text)
