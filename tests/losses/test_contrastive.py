"""Contrastive losses: hand arithmetic, a slow reference, and the chunked ones equal to the plain ones, gradients included.

Axes: B pairs, V embedding width, L text length.
"""

from __future__ import annotations

import doctest
import math
from dataclasses import dataclass

import pytest
import reference
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from limoe.losses import chunked, contrastive
from limoe.losses.chunked import sigmoid_chunked, softmax_chunked
from limoe.losses.contrastive import equal_captions, sigmoid_contrastive, softmax_contrastive

LOSSES = ("softmax", "sigmoid")


@dataclass(frozen=True)
class Case:
    """Two sets of embeddings, some equal to each other (ties), with what the losses take beside them."""

    image_BV: Tensor
    text_BV: Tensor
    scale: float
    bias: float
    group_B: Tensor | None
    chunk: int


@st.composite
def cases(draw) -> Case:
    pairs, width = draw(st.integers(1, 12)), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    known_KV = F.normalize(torch.randn(4, width, generator=generator, dtype=torch.float64), dim=1)
    picks = st.lists(st.integers(-1, 3), min_size=pairs, max_size=pairs)  # -1: a vector of its own
    sides = []
    for picked in (draw(picks), draw(picks)):
        own_BV = F.normalize(torch.randn(pairs, width, generator=generator, dtype=torch.float64), dim=1)
        index_B = torch.tensor(picked)
        sides.append(torch.where(index_B[:, None] < 0, own_BV, known_KV[index_B.clamp(min=0)]))
    groups = draw(st.none() | st.lists(st.integers(0, pairs - 1), min_size=pairs, max_size=pairs))
    scale, bias = draw(st.sampled_from([1.0, 10.0, 100.0])), draw(st.sampled_from([0.0, -10.0, 3.5]))
    return Case(*sides, scale, bias, None if groups is None else torch.tensor(groups), draw(st.integers(1, 14)))


def run(case: Case, loss: str, dtype: torch.dtype, chunk: int | None, autocast: bool = False) -> dict[str, Tensor]:
    """Value, and gradients to all that is learned, of three times the loss; chunk None is the plain one."""
    image, text = (x.detach().to(dtype, copy=True).requires_grad_() for x in (case.image_BV, case.text_BV))
    scale, bias = (torch.tensor(x, dtype=dtype, requires_grad=True) for x in (case.scale, case.bias))
    taken = {"image": image, "text": text, "scale": scale} | ({"bias": bias} if loss == "sigmoid" else {})
    plain, fast = (softmax_contrastive, softmax_chunked) if loss == "softmax" else (sigmoid_contrastive, sigmoid_chunked)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value = plain(*taken.values(), case.group_B) if chunk is None else fast(*taken.values(), chunk, case.group_B)
    (3 * value).backward()
    return {"value": value.detach()} | {name: x.grad for name, x in taken.items()}


def unit(pairs: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    both = [F.normalize(torch.randn(pairs, width, generator=generator, dtype=torch.float64), dim=1) for _ in range(2)]
    return both[0].to(dtype), both[1].to(dtype)


def slow(case: Case, loss: str) -> float:
    groups = list(range(len(case.image_BV))) if case.group_B is None else case.group_B.tolist()
    image, text = case.image_BV.tolist(), case.text_BV.tolist()
    if loss == "softmax":
        return reference.contrastive_with_groups(image, text, case.scale, groups)
    return reference.sigmoid_contrastive(image, text, case.scale, case.bias, groups)


def test_by_hand():
    # Orthogonal pairs at scale s: logits s * I, each row costs ln(1 + e^-s).
    for scale in (1.0, 10.0):
        loss = softmax_contrastive(torch.eye(2), torch.eye(2), torch.tensor(scale))
        assert loss.item() == pytest.approx(math.log(1 + math.exp(-scale)), rel=1e-4, abs=1e-7)


def test_sigmoid_by_hand():
    # Three orthogonal pairs at scale 10 and bias -10: a positive has logit 0 (ln 2), each of two negatives -10 (ln(1 + e^-10)).
    loss = sigmoid_contrastive(torch.eye(3), torch.eye(3), torch.tensor(10.0), torch.tensor(-10.0))
    assert loss.item() == pytest.approx(math.log(2) + 2 * math.log1p(math.exp(-10)), rel=1e-6)


def test_equal_captions_by_hand():
    # Pairs 0 and 1 share a caption, all texts of scale 1 are orthogonal to each other. Rows 0 and 1: logits (1, 0, 0), target
    # (1/2, 1/2, 0): ln(e + 2) - 1/2. Row 2: ln(e + 2) - 1. Columns likewise.
    loss = softmax_contrastive(torch.eye(3), torch.eye(3), torch.tensor(1.0), torch.tensor([5, 5, 0]))
    assert loss.item() == pytest.approx(math.log(math.e + 2) - (1 / 2 + 1 / 2 + 1) / 3, rel=1e-6)


def test_chance_is_the_log_of_the_batch():
    same = F.normalize(torch.ones(7, 3), dim=1)
    assert softmax_contrastive(same, same, torch.tensor(10.0)).item() == pytest.approx(math.log(7), rel=1e-5)


def test_equals_the_slow_one_and_is_not_symmetric_by_accident():
    image, text = unit(6, 5)
    scale = torch.tensor(4.0, dtype=torch.float64)
    assert softmax_contrastive(image, text, scale).item() == pytest.approx(
        reference.contrastive(image.tolist(), text.tolist(), 4.0)
    )
    one_way = F.cross_entropy(4 * image @ text.T, torch.arange(6))
    assert abs(one_way - softmax_contrastive(image, text, scale)) > 1e-4


@given(cases(), st.sampled_from(LOSSES))
@settings(max_examples=60, deadline=None)
def test_the_plain_loss_is_the_formula(case: Case, loss: str):
    assert run(case, loss, torch.float64, None)["value"].item() == pytest.approx(slow(case, loss), rel=1e-10, abs=1e-10)


@given(cases(), st.sampled_from(LOSSES))
@settings(max_examples=100, deadline=None)
def test_chunks_change_neither_value_nor_gradient(case: Case, loss: str):
    plain, fast = run(case, loss, torch.float64, None), run(case, loss, torch.float64, case.chunk)
    for name, wanted in plain.items():
        torch.testing.assert_close(fast[name], wanted, rtol=1e-11, atol=1e-11, msg=name)


@given(cases(), st.sampled_from(LOSSES))
@settings(max_examples=60, deadline=None)
def test_in_float32_they_differ_by_the_rounding_of_the_logits(case: Case, loss: str):
    plain, fast = run(case, loss, torch.float64, None), run(case, loss, torch.float32, case.chunk)
    size = (case.scale + abs(case.bias)) * (1 if loss == "softmax" else len(case.image_BV))
    for name, wanted in plain.items():
        torch.testing.assert_close(fast[name].double(), wanted, rtol=1e-4, atol=1e-5 * size, msg=name)


@pytest.mark.parametrize("groups", [None, [0, 0, 3, 3, 3, 1]])
def test_the_gradients_are_those_of_finite_differences(groups):
    image, text = (x.requires_grad_() for x in unit(6, 3))
    scale, bias = (torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in (5.0, -2.0))
    group_B = None if groups is None else torch.tensor(groups)
    assert torch.autograd.gradcheck(lambda *x: softmax_chunked(*x, 4, group_B), (image, text, scale))
    assert torch.autograd.gradcheck(lambda *x: sigmoid_chunked(*x, 4, group_B), (image, text, scale, bias))


@given(cases(), st.sampled_from(LOSSES), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_the_order_of_the_pairs_does_not_matter(case: Case, loss: str, random):
    order = list(range(len(case.image_BV)))
    random.shuffle(order)
    group_B = None if case.group_B is None else case.group_B[order]
    shuffled = Case(case.image_BV[order], case.text_BV[order], case.scale, case.bias, group_B, case.chunk)
    before, after = (run(one, loss, torch.float64, case.chunk) for one in (case, shuffled))
    torch.testing.assert_close(after["value"], before["value"], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(after["image"], before["image"][order], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("loss", LOSSES)
def test_captions_that_all_differ_are_pairs(loss):
    image, text = unit(5, 3)
    alone = Case(image, text, 10.0, -10.0, None, 2)
    grouped = Case(image, text, 10.0, -10.0, torch.tensor([3, 0, 4, 1, 2]), 2)
    for chunk in (None, 2):
        torch.testing.assert_close(
            run(alone, loss, torch.float64, chunk), run(grouped, loss, torch.float64, chunk), rtol=1e-12, atol=1e-12
        )


class Sizes(TorchDispatchMode):
    """Remembers how many numbers the largest tensor held that was made while it was on."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.largest = max(self.largest, tensor.untyped_storage().nbytes() // tensor.element_size())
        return out


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("groups", [False, True])
def test_nothing_as_large_as_the_square_of_the_batch_is_made(loss, groups):
    pairs, width, chunk = 96, 4, 3
    group_B = torch.arange(pairs) // 2 if groups else None
    case = Case(*unit(pairs, width), 10.0, -10.0, group_B, chunk)
    for rows, limit in ((chunk, 2 * chunk * pairs), (None, math.inf)):
        with Sizes() as sizes:
            run(case, loss, torch.float32, rows)
        assert sizes.largest <= limit
    assert sizes.largest >= pairs**2  # the plain one makes it, and is seen making it


@pytest.mark.parametrize("loss", LOSSES)
def test_float32_inside_whatever_is_around(loss):
    case = Case(*unit(8, 4), 30.0, -10.0, torch.tensor([0, 0, 1, 2, 3, 4, 5, 6]), 3)
    for chunk in (None, 3):
        outside, inside = (run(case, loss, torch.float32, chunk, autocast) for autocast in (False, True))
        torch.testing.assert_close(inside, outside, rtol=0, atol=0)


@pytest.mark.parametrize("loss", LOSSES)
def test_half_precision_is_widened(loss):
    case = Case(*unit(8, 4, dtype=torch.bfloat16), 10.0, -10.0, None, 3)
    wanted = run(Case(case.image_BV.float(), case.text_BV.float(), 10.0, -10.0, None, 3), loss, torch.float32, None)
    for chunk in (None, 3):
        half = run(case, loss, torch.bfloat16, chunk)
        assert half["value"].dtype == torch.float32
        torch.testing.assert_close(half["value"], wanted["value"], rtol=1e-5, atol=1e-5)
        assert half["image"].dtype == torch.bfloat16


@pytest.mark.parametrize("loss", LOSSES)
def test_logits_of_a_hundred_overflow_nothing_and_what_is_not_finite_shows(loss):
    image, text = unit(4, 2, dtype=torch.float32)
    for sign in (1, -1):
        far = run(Case(image, sign * image, 100.0, -10.0, None, 3), loss, torch.float32, 3)
        assert all(torch.isfinite(x).all() for x in far.values())
    image[1, 0] = math.nan
    assert run(Case(image, text, 10.0, -10.0, None, 3), loss, torch.float32, 3)["value"].isnan()


def test_softplus_is_exact_where_it_is_nearly_linear():
    # Two equal pairs at scale 21: each row has a positive and a negative of logit 21, whose softplus is 21 + 7.6e-10.
    same, scale = torch.ones(2, 1, dtype=torch.float64), torch.tensor(21.0, dtype=torch.float64)
    wanted = math.log1p(math.exp(21)) + math.log1p(math.exp(-21))
    assert sigmoid_chunked(same, same, scale, torch.zeros_like(scale), 1).item() == pytest.approx(wanted, rel=0, abs=2e-14 * 21)


@given(st.lists(st.lists(st.integers(1, 3), min_size=1, max_size=4), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_equal_captions_get_equal_numbers_and_no_others(captions):
    ids_N = torch.tensor([token for caption in captions for token in caption])
    group_B = equal_captions(ids_N, torch.tensor([len(caption) for caption in captions])).tolist()
    assert all(0 <= number < len(captions) for number in group_B)
    for i, caption in enumerate(captions):
        assert [group_B[j] == group_B[i] for j in range(len(captions))] == [other == caption for other in captions]


@pytest.mark.parametrize(
    "images, texts, chunk, groups, sentence",
    [
        ((6, 5), (7, 5), 2, None, r"images \(6, 5\) and texts \(7, 5\) must both be"),
        ((6, 5), (6, 4), 2, None, r"images \(6, 5\) and texts \(6, 4\) must both be"),
        ((0, 5), (0, 5), 2, None, "with at least one pair"),
        ((6, 5), (6, 5), 2, 5, r"groups \(5,\) must be one number for each of the 6 pairs"),
        ((6, 5), (6, 5), 0, None, "chunk = 0: a chunk is"),
    ],
)
def test_what_does_not_belong_together_is_refused(images, texts, chunk, groups, sentence):
    pair = (torch.ones(images), torch.ones(texts), torch.tensor(1.0))
    group_B = None if groups is None else torch.zeros(groups, dtype=torch.int64)
    with pytest.raises(ValueError, match=sentence):
        softmax_chunked(*pair, chunk, group_B)
    with pytest.raises(ValueError, match=sentence):
        sigmoid_chunked(*pair, torch.tensor(0.0), chunk, group_B)


@pytest.mark.parametrize("module", [contrastive, chunked])
def test_the_examples_in_the_docstrings_are_right(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
