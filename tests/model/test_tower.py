"""The whole tower: what may and may not influence an embedding, and that it can learn."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from modelkit import EOS, PARAMS, VOCAB, batch, moe, padded_ids, take, tower

from limoe.config import AUX_TERMS
from limoe.losses.auxiliary import auxiliary_loss
from limoe.losses.contrastive import softmax_contrastive
from limoe.model.attention import Attention
from limoe.model.clip import Clip
from limoe.model.limoe import Limoe
from limoe.model.router import NoiseKey
from limoe.model.tokens import Layout, TextLayout, flat_ids

KINDS = ["limoe", "dense", "clip"]


def build(kind: str, seed: int = 0, **changes):
    torch.manual_seed(seed)
    if kind == "clip":
        return Clip(tower(), PARAMS.model.clip, 16, VOCAB, EOS)
    return Limoe(tower(), moe(**changes) if kind == "limoe" else None, VOCAB)


def test_text_layout_by_hand():
    layout = TextLayout.of(torch.tensor([2, 1, 3]))
    assert layout.slot_N.tolist() == [0, 1, 3, 6, 7, 8]
    assert layout.position_N.tolist() == [0, 1, 0, 0, 1, 2]
    assert layout.pair_N.tolist() == [0, 0, 1, 2, 2, 2]
    x = torch.arange(6.0)[:, None].requires_grad_()
    assert layout.pad(x)[:, :, 0].tolist() == [[0, 1, 0], [2, 0, 0], [3, 4, 5]]
    assert torch.equal(layout.flatten(layout.pad(x)), x)
    (layout.pad(x) * torch.arange(9.0).view(3, 3, 1)).sum().backward()
    assert x.grad.flatten().tolist() == [0, 1, 3, 6, 7, 8]


def test_flat_ids_are_what_the_padded_ones_hold():
    pairs = batch()
    ids_N, lengths_B = flat_ids(padded_ids(pairs))
    assert torch.equal(ids_N, pairs.ids_N)
    assert torch.equal(lengths_B, pairs.lengths_B)


def test_attention_equals_torchs_own_and_never_crosses_sequences():
    torch.manual_seed(0)
    ours = Attention(16, 2)
    theirs = torch.nn.MultiheadAttention(16, 2, batch_first=True)
    theirs.load_state_dict(
        {
            "in_proj_weight": ours.qkv.weight,
            "in_proj_bias": ours.qkv.bias,
            "out_proj.weight": ours.out.weight,
            "out_proj.bias": ours.out.bias,
        }
    )
    layout = Layout.of(3, 4, torch.tensor([2, 5, 1]), torch.device("cpu"))
    x = torch.randn(20, 16)
    out = ours(x, layout)
    sequences = [*x[:12].view(3, 4, 16).unbind(), *x[12:].split([2, 5, 1])]
    expected = torch.cat([theirs(s[None], s[None], s[None])[0][0] for s in sequences])
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_an_embedding_does_not_depend_on_its_batch_mates(kind):
    model, pairs = build(kind, capacity_factor=0.2).eval(), batch()
    order = [5, 0, 7, 2, 1, 6, 3, 4]
    with torch.no_grad():
        whole = model(pairs)
        shuffled = model(take(pairs, order))
        single = [model(take(pairs, [i])) for i in range(8)]
        image = model.encode_image(pairs.images_BCHW, normalize=True)
        text = model.encode_text(padded_ids(pairs), normalize=True)
        wide = model.encode_text(F.pad(padded_ids(pairs), (0, 1)), normalize=True)
    for name, other in (("image_BV", image), ("text_BV", text), ("text_BV", wide)):
        torch.testing.assert_close(other, getattr(whole, name), rtol=1e-4, atol=1e-5)
    for name in ("image_BV", "text_BV"):
        torch.testing.assert_close(getattr(shuffled, name), getattr(whole, name)[order], rtol=1e-4, atol=1e-5)
        alone = torch.cat([getattr(output, name) for output in single])
        torch.testing.assert_close(alone, getattr(whole, name), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_own_caption_and_the_own_picture_count(kind):
    model, pairs = build(kind).eval(), batch()
    other = batch(seed=1)
    with torch.no_grad():
        torch.testing.assert_close(
            model(pairs).image_BV, model(type(pairs)(pairs.images_BCHW, other.ids_N, other.lengths_B, pairs.keys)).image_BV
        )
        word = pairs.ids_N.clone()
        word[0] = 2 + (word[0] - 1) % (VOCAB - 2)
        changed = model(type(pairs)(pairs.images_BCHW, word, pairs.lengths_B, pairs.keys)).text_BV
    different = (changed - model(pairs).text_BV).abs().amax(1) > 1e-4
    assert different.tolist() == [True] + [False] * 7


def objective(model: Limoe, pairs, step: int = 0):
    output = model(pairs, NoiseKey(0, step))
    loss = softmax_contrastive(output.image_BV, output.text_BV, model.logit_scale.exp())
    return loss + auxiliary_loss(output.routings, output.layout, moe(aux_weights={"local_image": 1.0}))[0], output


def test_padding_the_stream_changes_neither_loss_nor_gradient():
    results = []
    for bucket in (1, 64):
        model = build("limoe", aux_weights={"local_image": 1.0}, group_pairs=4).double().train()
        model.bucket = bucket
        loss, output = objective(model, batch(dtype=torch.float64))
        loss.backward()
        results.append((loss, {name: p.grad for name, p in model.named_parameters()}, int((~output.layout.real_T).sum())))
    assert results[0][2] == 0 < results[1][2]
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    for name, gradient in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], gradient, rtol=1e-9, atol=1e-12, msg=name)


def test_every_parameter_gets_a_gradient():
    model = build("limoe").train()
    objective(model, batch(pairs=32))[0].backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_captions_tell_clip_apart_by_their_words_and_not_their_highest_id():
    # EOS (1) is the lowest id: open_clip's default pooling would look at the highest one. Words after it cannot exist, words
    # before it count: two captions that share their highest id and differ elsewhere get different embeddings.
    model = build("clip").eval()
    with torch.no_grad():
        first, second = model.encode_text(torch.tensor([[49, 5, EOS, 0], [49, 7, EOS, 0]]))
    assert (first - second).abs().max() > 1e-4
    assert model.clip.text_pool_type == "eos"


@pytest.mark.parametrize("kind", KINDS)
def test_starts_at_the_papers_temperature(kind):
    assert build(kind).logit_scale.exp().item() == pytest.approx(10.0)


def test_64_pairs_can_be_overfitted():
    torch.manual_seed(0)
    model = Limoe(tower(width=32), moe(group_pairs=64, experts=4), VOCAB).train()
    pairs = batch(pairs=64, shortest=3, longest=8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(200):
        output = model(pairs, NoiseKey(0, step))
        loss = softmax_contrastive(output.image_BV, output.text_BV, model.logit_scale.exp())
        if loss < 0.1:
            break
        total = loss + auxiliary_loss(output.routings, output.layout, moe(group_pairs=64))[0]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
    assert loss < 0.1 < math.log(64)


@pytest.mark.parametrize("term", ["importance", "load", "z", "local_text", "local_image", "global_text", "global_image"])
def test_each_auxiliary_term_reaches_the_routers_of_a_collapsed_tower(term):
    """No contrastive loss: what arrives at a router's weights comes from the auxiliary term alone, in every sparse block."""
    weights = dict.fromkeys(AUX_TERMS, 0.0) | {term: 1.0}
    model = build("limoe", aux_weights=weights).train()
    for block in model.encoder.blocks[1::2]:
        margin = 0.6 if term == "load" else 4.0  # in reach of the noise, without which the load loss has no gradient
        with torch.no_grad():  # every token gets this logit for expert 0, and none for the others
            block.norm2.bias[0], block.norm2.weight[0] = 1.0, 0.0
            block.mlp.router.weight.zero_()
            block.mlp.router.weight[0, 0] = margin
    output = model(batch(), NoiseKey(0, 0))
    assert all((routing.expert_TK == 0).float().mean() > 0.7 for routing in output.routings.values())
    auxiliary_loss(output.routings, output.layout, moe(aux_weights=weights))[0].backward()
    for block in model.encoder.blocks[1::2]:
        assert block.mlp.router.weight.grad.abs().max() > 1e-6


def test_patches_are_those_of_unfold_whatever_the_strides_and_another_size_is_refused():
    model = build("dense")
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    patches_BFP = torch.nn.functional.unfold(images, 8, stride=8)  # torch's own cutting
    expected = model.patch(patches_BFP.transpose(1, 2)) + model.image_position
    for given in (images, images.permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)):
        torch.testing.assert_close(model.embed_images(given), expected.flatten(0, 1))
    for wrong in ((1, 3, 32, 32), (1, 16, 16, 3), (1, 3, 8, 32), (3, 1, 16, 16), (3, 16, 16)):
        with pytest.raises(ValueError, match=r"this model takes \(B, 3, 16, 16\)"):
            model.encode_image(torch.randn(*wrong))
