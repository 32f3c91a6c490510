"""Perceptual hashes against scipy's transform and against what happens to pictures; pairs against comparing all with all."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import product

import numpy as np
import pytest
import scipy.fft
from hypothesis import given, settings
from hypothesis import strategies as st
from picturekit import photo
from PIL import Image, ImageDraw, ImageEnhance

from limoe.data import duplicates
from limoe.data.duplicates import PLAIN, RADIUS, Hashes, first_near, hash_encoded, near_pairs, perceptual_hash, repeats

PLACES = st.lists(st.tuples(st.integers(0, 4), st.sets(st.integers(0, 63), max_size=5)), max_size=24)


def saved(picture: Image.Image, fmt: str, quality: int) -> Image.Image:
    encoded = io.BytesIO()
    picture.save(encoded, fmt, quality=quality)
    return Image.open(io.BytesIO(encoded.getvalue())).convert("RGB")


def resized(picture: Image.Image, scale: float) -> Image.Image:
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), Image.Resampling.BICUBIC)


def distance(one: int, other: int) -> int:
    return (one ^ other).bit_count()


def scattered(places: list[tuple[int, set[int]]], seed: int) -> Hashes:
    """Hashes around five centres: row k is a centre with some bits flipped; the first centre is PLAIN."""
    centres = [PLAIN, *np.random.default_rng(seed).integers(1, 2**64, 4, dtype=np.uint64).tolist()]
    return np.array([centres[centre] ^ sum(1 << bit for bit in flipped) for centre, flipped in places], dtype=np.uint64)


def brute_pairs(hashes: Hashes, others: Hashes, radius: int) -> list[tuple[int, int]]:
    return [
        (row, other)
        for (row, one), (other, two) in product(enumerate(hashes.tolist()), enumerate(others.tolist()))
        if one != PLAIN and two != PLAIN and distance(one, two) <= radius
    ]


def found_pairs(hashes: Hashes, others: Hashes, radius: int) -> list[tuple[int, int]]:
    """Sorted; one that came twice is there twice."""
    return sorted(
        pair for rows, places in near_pairs(hashes, others, radius) for pair in zip(rows.tolist(), places.tolist(), strict=True)
    )


class TestHash:
    def test_is_the_signs_of_the_lowest_frequencies_by_scipy(self) -> None:
        picture = photo(0)
        grey = np.asarray(picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS), dtype=np.float64)
        transformed = scipy.fft.dctn(grey, norm="ortho")
        lowest = [(u, total - u) for total in range(1, 11) for u in range(total + 1)][:64]
        expected = sum(1 << bit for bit, place in enumerate(lowest) if transformed[place] > 0)
        assert perceptual_hash(picture) == expected

    @pytest.mark.parametrize(
        "change",
        [
            *(lambda picture, quality=quality: saved(picture, "JPEG", quality) for quality in (50, 75, 95)),
            *(lambda picture, quality=quality: saved(picture, "WEBP", quality) for quality in (50, 90)),
            *(lambda picture, scale=scale: resized(picture, scale) for scale in (0.3, 0.5, 1.37, 2.0)),
            *(lambda picture, factor=factor: ImageEnhance.Brightness(picture).enhance(factor) for factor in (0.9, 1.1)),
            lambda picture: saved(resized(picture, 0.3), "JPEG", 50),
        ],
    )
    def test_survives_what_happens_to_a_copy(self, change: Callable[[Image.Image], Image.Image]) -> None:
        for seed in range(5):
            picture = photo(seed)
            assert distance(perceptual_hash(picture), perceptual_hash(change(picture))) <= RADIUS

    def test_of_a_large_jpeg_is_that_of_its_pixels(self) -> None:
        for seed in range(5):
            picture = photo(seed, 1600, 1200)
            encoded = io.BytesIO()
            picture.save(encoded, "JPEG", quality=90)
            assert distance(hash_encoded(encoded.getvalue()), perceptual_hash(picture)) <= 2

    def test_differs_for_other_and_for_mirrored_pictures(self) -> None:
        hashes = [perceptual_hash(photo(seed)) for seed in range(20)]
        hashes += [perceptual_hash(photo(seed).transpose(Image.Transpose.FLIP_LEFT_RIGHT)) for seed in range(20)]
        array = np.array(hashes, dtype=np.uint64)
        assert found_pairs(array, array, RADIUS) == [(row, row) for row in range(40)]

    def test_plain_and_symmetric_drawings_have_none(self) -> None:
        plain = Image.new("RGB", (50, 40), (200, 30, 30))
        disc = Image.new("RGB", (72, 72), "white")
        ImageDraw.Draw(disc).ellipse((16, 16, 55, 55), "black")
        faint = Image.fromarray(np.asarray(photo(0), dtype=np.uint8) // 64 + 100)
        assert [perceptual_hash(picture) for picture in (plain, disc, faint)] == [PLAIN] * 3


class TestPairs:
    @settings(deadline=None, max_examples=150, derandomize=True)
    @given(PLACES, PLACES, st.integers(0, 12), st.integers(1, 5))
    def test_are_those_of_comparing_all_with_all(self, left: list, right: list, radius: int, seed: int) -> None:
        hashes, others = scattered(left, seed), scattered(right, seed)
        assert found_pairs(hashes, others, radius) == brute_pairs(hashes, others, radius)

    @pytest.mark.parametrize("radius", [6, 8, 10])
    def test_are_those_among_many_others(self, radius: int) -> None:
        """Many others make fewer and wider blocks, whose bits are flipped."""
        random = np.random.default_rng(radius)
        others = random.integers(1, 2**64, 10_000, dtype=np.uint64)
        flips = [sum(1 << int(bit) for bit in random.choice(64, row % 14, replace=False)) for row in range(300)]
        hashes = others[:300] ^ np.array(flips, dtype=np.uint64)
        assert len(duplicates._cut(radius, len(others))) <= radius
        expected = np.argwhere(np.bitwise_count(hashes[:, None] ^ others) <= radius)
        assert len(expected) >= 100
        assert found_pairs(hashes, others, radius) == [tuple(pair) for pair in expected.tolist()]

    def test_do_not_depend_on_the_size_of_a_piece(self, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(0)
        hashes = random.integers(1, 2**64, 40, dtype=np.uint64)[random.integers(0, 40, 400)] ^ (
            np.uint64(1) << random.integers(0, 64, 400, dtype=np.uint64)
        )
        whole = found_pairs(hashes, hashes, 2)
        assert len(whole) > 2000
        monkeypatch.setattr(duplicates, "CHUNK", 7)
        pieces = list(near_pairs(hashes, hashes, 2))
        assert max(len(rows) for rows, _ in pieces) < 40
        assert found_pairs(hashes, hashes, 2) == whole

    @pytest.mark.parametrize("others", [10, 10**4, 10**6])
    def test_blocks_leave_no_bit_out(self, others: int) -> None:
        for radius in range(17):
            blocks = duplicates._cut(radius, others)
            assert [block.start for block in blocks] == [0, *np.cumsum([block.width for block in blocks])[:-1]]
            assert sum(block.width for block in blocks) == 64


class TestKept:
    @settings(deadline=None, max_examples=150, derandomize=True)
    @given(PLACES, st.integers(0, 8), st.integers(1, 5))
    def test_is_the_first_of_those_kept_before(self, places: list, radius: int, seed: int) -> None:
        hashes = scattered(places, seed).tolist()
        kept: list[int] = []
        expected = []
        for row, one in enumerate(hashes):
            near = [other for other in kept if one != PLAIN and hashes[other] != PLAIN and distance(one, hashes[other]) <= radius]
            expected.append(min(near, default=-1))
            if not near:
                kept.append(row)
        assert repeats(np.array(hashes, dtype=np.uint64), radius).tolist() == expected

    def test_a_chain_is_not_folded_into_its_first(self) -> None:
        chain = np.array([0b1, 0b11, 0b111, 0b1111, 0b11111], dtype=np.uint64)
        assert repeats(chain, 1).tolist() == [-1, 0, -1, 2, -1]

    @settings(deadline=None, max_examples=100, derandomize=True)
    @given(PLACES, PLACES, st.integers(0, 8), st.integers(1, 5))
    def test_first_near_is_the_first(self, left: list, right: list, radius: int, seed: int) -> None:
        hashes, others = scattered(left, seed), scattered(right, seed)
        pairs = brute_pairs(hashes, others, radius)
        expected = [min((other for one, other in pairs if one == row), default=-1) for row in range(len(hashes))]
        assert first_near(hashes, others, radius).tolist() == expected
