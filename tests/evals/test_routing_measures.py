"""Routing figures against hand arithmetic on tiny routings, and agreement against scikit-learn."""

from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from limoe.evals.routing import examples, measures
from limoe.evals.routing.agreement import agreement
from limoe.evals.routing.routed import NO_ID, Routed
from limoe.model.tokens import IMAGE, TEXT

E = 3


def hot(rows):
    """(1, T, E) of the experts that each token has."""
    found = np.zeros((1, len(rows), E), bool)
    for token, experts in enumerate(rows):
        found[0, token, list(experts)] = True
    return found


def tiny() -> Routed:
    """Two pairs of two patches and of two and one words. Experts 0 and 1 take patches, 2 all text and one patch."""
    probs = (
        np.array([[8, 1, 1], [1, 8, 1], [6, 2, 2], [1, 1, 8], [0, 0, 10], [1, 1.6, 7.4], [1.9, 1.9, 6.2]], np.float32)[None] / 10
    )
    return Routed(
        layers_L=np.array([1]),
        pair_T=np.array([0, 0, 1, 1, 0, 0, 1]),
        modality_T=np.array([IMAGE] * 4 + [TEXT] * 3),
        position_T=np.array([0, 1, 0, 1, 0, 1, 0]),
        id_T=np.array([NO_ID] * 4 + [7, 5, 5]),
        probs_LTE=probs,
        chosen_LTE=hot([{0}, {1}, {0}, {2}, {2}, {2}, {2}]),
        first_LT=probs.argmax(-1),
        asked_LTE=hot([{0}, {1}, {0}, {2}, {2}, {2}, {2}]),
        placed_LTE=hot([{0}, {1}, set(), {2}, {2}, set(), {2}]),
    )


def test_load_shares_and_specialists_are_those_counted_by_hand():
    load = measures.load(tiny(), tiny().chosen_LTE)
    assert load.tolist() == [[[0, 0, 3], [2, 1, 1]]]
    assert measures.text_share(load)[0].tolist() == pytest.approx([0, 0, 1 / (1 + 1 / 4)])
    assert measures.kinds(load) == [["image", "image", "mixed"]]
    assert measures.effective(load)[0, TEXT] == 1
    assert measures.effective(load)[0, IMAGE] == pytest.approx(np.exp(0.5 * np.log(2) + 2 * 0.25 * np.log(4)))


def test_an_expert_is_a_modalitys_from_nine_tenths_on_and_idle_below_a_hundredth_of_a_fair_share():
    load = np.array([[[900.0, 99, 1, 0], [100, 898, 2, 0]]])
    assert measures.kinds(load) == [["text", "image", "idle", "idle"]]
    assert np.isnan(measures.text_share(load)[0, 3])


def test_what_training_drops_by_modality_and_place():
    assert measures.placed(tiny()).tolist() == [[2 / 3, 3 / 4]]
    images, many = measures.lost_by_position(tiny(), IMAGE)
    assert (images.tolist(), many.tolist()) == ([[0.5, 0]], [2, 2])
    texts, many = measures.lost_by_position(tiny(), TEXT)
    assert (texts.tolist(), many.tolist()) == ([[0, 1]], [2, 1])


def test_confidence_is_counted_in_bins_and_a_certain_token_is_in_the_last():
    bins = measures.histogram(measures.confidence(tiny()), tiny().of(TEXT))[0]
    assert {place: share for place, share in enumerate(bins) if share} == {12: 1 / 3, 14: 1 / 3, 19: 1 / 3}


def test_words_and_patches_are_those_that_an_expert_takes_most():
    words = examples.words(tiny(), 0, lambda number: f"w{number}")
    assert words == [[], [], [examples.Word("w5", 2, 1.0), examples.Word("w7", 1, 1.0)]]
    apart = examples.patches(tiny(), 0, np.array([0, 1]))
    assert [(one.pair, one.position) for one in apart[0]] == [(0, 0), (1, 0)]
    assert apart[0][0].probability == pytest.approx(0.8)
    together = examples.patches(tiny(), 0, np.array([0, 0]))
    assert [(one.pair, one.position) for one in together[0]] == [(0, 0)]


def test_a_patch_is_cut_where_it_lies_in_the_middle_square():
    picture = Image.new("RGB", (200, 100), "black")
    picture.paste((0, 200, 0), (100, 50, 125, 75))  # row 2, column 2 of four by four on the square from 50 to 150
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    tile = examples.cut(buffer.getvalue(), 2 * 4 + 2, 4)
    side = examples.TILE / (1 + 2 * examples.CONTEXT)
    inside, outside = examples.TILE // 2, int((examples.TILE - side) / 2) - 4
    assert tile.getpixel((inside, inside)) == (0, 200, 0)
    assert tile.getpixel((outside, outside)) == (0, 0, 0)
    corner = examples.cut(buffer.getvalue(), 0, 4)
    assert corner.getpixel((2, 2)) == (255, 255, 255)


@settings(max_examples=40)
@given(st.integers(20, 60), st.integers(1, 5), st.integers(0, 1000))
def test_agreement_is_scikit_learns(tokens, experts, seed):
    random = np.random.default_rng(seed)
    first = random.integers(0, experts, tokens)
    second = np.where(random.random(tokens) < 0.5, first, random.integers(0, experts + 1, tokens))
    normalised, corrected = agreement(first, second, experts)
    assert normalised == pytest.approx(normalized_mutual_info_score(first, second), abs=1e-9)
    assert corrected == pytest.approx(adjusted_mutual_info_score(first, second), abs=1e-6)


def test_layers_that_have_nothing_to_do_with_each_other_agree_by_chance_alone():
    random = np.random.default_rng(0)
    first, second = random.integers(0, 16, (2, 300))
    normalised, corrected = agreement(first, second, 16)
    assert normalised > 0.1
    assert abs(corrected) < 0.02
    assert agreement(first, (first + 1) % 16, 16) == pytest.approx((1, 1))
