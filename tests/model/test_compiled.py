"""A sparse block under torch.compile: no graph break, the same results, and one graph for captions of any length."""

from __future__ import annotations

import pytest
import torch
from modelkit import VOCAB, batch, moe, tower
from torch._dynamo.testing import CompileCounter

from limoe.model.encoder import Block
from limoe.model.limoe import Limoe
from limoe.model.router import NoiseKey
from limoe.model.tokens import Layout

PAIRS, PATCHES, WIDTH, EXPERTS = 8, 4, 16, 4
LENGTHS = ([3, 1, 2, 4, 1, 5, 2, 2], [8, 1, 1, 1, 1, 1, 1, 2], [1] * 8, [5, 5, 5, 5, 1, 1, 1, 1])  # 20, 16, 8 and 24 tokens


def sparse_block(**changes) -> Block:
    torch.manual_seed(0)
    return Block(tower(), moe(**{"kernel": "slots", "group_pairs": 4} | changes), layer=1).train()


def bucketed(number: int) -> tuple[torch.Tensor, Layout]:
    """A batch of other captions, in a stream of the same shape: 24 text rows, and places for 8 words a caption."""
    shape = (24, 8)
    layout = Layout.of(PAIRS, PATCHES, torch.tensor(LENGTHS[number]), torch.device("cpu"), group_pairs=4, text_shape=shape)
    assert len(layout.real_T) == PAIRS * PATCHES + 24
    return torch.randn(len(layout.real_T), WIDTH, generator=torch.Generator().manual_seed(number)), layout


def results(block: Block, run, number: int) -> list[torch.Tensor]:
    """Output, decisions, and the gradients of everything that training moves."""
    x_TD, layout = bucketed(number)
    x_TD.requires_grad_()
    block.zero_grad()
    low = block.mlp.experts.kernel == "grouped"  # torch's shape function of grouped_mm knows no float32
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        out_TD, routing = run(x_TD, layout, NoiseKey(0, number).draw(layout, 1, EXPERTS))
    (out_TD[layout.real_T].square().sum() + routing.probs_TE[layout.real_T].square().sum()).backward()
    gradients = [x_TD.grad, *(parameter.grad for parameter in block.parameters())]
    return [out_TD[layout.real_T].detach(), routing.expert_TK, routing.placed_TK, *(g.clone() for g in gradients)]


@pytest.mark.parametrize("kernel", ["slots", "grouped"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_a_compiled_block_has_no_graph_break_and_equals_the_plain_one(backend, kernel):
    torch.compiler.reset()
    block, tolerance = sparse_block(kernel=kernel), 1e-5 if kernel == "slots" else 5e-2  # bf16
    compiled = torch.compile(block, backend=backend, fullgraph=True)
    for number in range(2):
        for plain, fast in zip(results(block, block, number), results(block, compiled, number), strict=True):
            torch.testing.assert_close(fast, plain, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("router,k,kernel", [("top-k", 1, "slots"), ("loss-free", 2, "grouped"), ("uniform", 1, "slots")])
def test_captions_of_other_lengths_need_no_other_graph(router, k, kernel):
    torch.compiler.reset()
    block, counter = sparse_block(router=router, k=k, kernel=kernel), CompileCounter()
    compiled = torch.compile(block, backend=counter, fullgraph=True)
    for number in range(len(LENGTHS)):
        results(block, compiled, number)
    assert counter.frame_count == 1


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # dynamo itself looks at it
def test_every_shape_of_the_stream_has_its_graphs(monkeypatch):
    """Five, as many as the default data have: a graph each for the dense and for the sparse block, and none again."""
    torch.compiler.reset()
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", torch._dynamo.config.recompile_limit)  # put back at the end
    model, counter = Limoe(tower(depth=2), moe(kernel="slots"), VOCAB, bucket=8).train(), CompileCounter()
    model.compile_blocks(backend=counter)
    shapes = set()
    for repeat in range(2):
        for words in range(1, 6):
            output = model(batch(longest=words, shortest=words), NoiseKey(0, repeat))
            shapes.add(len(output.layout.real_T))
    assert len(shapes) == 5
    assert counter.frame_count == 2 * 5
