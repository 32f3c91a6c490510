"""What an expert takes, by example: the words that it gets most, and the patches that it is surest of, cut out of their pictures.

Axes: N pairs, T tokens, E experts, L MoE layers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from limoe.data.rgb import open_encoded, to_rgb
from limoe.data.transforms import fit_square
from limoe.evals.routing.routed import Routed
from limoe.model.tokens import IMAGE, TEXT

WORDS, PATCHES = 8, 8  # of each expert
CONTEXT = 0.75  # of a patch's side, shown on every side of it
TILE, GAP = 64, 4  # px of an example, and between two
BORDER = (232, 62, 140)  # of the patch within its context


@dataclass(frozen=True)
class Word:
    """A token of text. count: how often it went to the expert. share: of all its occurrences."""

    text: str
    count: int
    share: float


@dataclass(frozen=True)
class Patch:
    """A patch of the picture of a pair (its number), and the probability that the router gave the expert."""

    pair: int
    position: int
    probability: float


def words(routed: Routed, layer: int, spell: Callable[[int], str]) -> list[list[Word]]:
    """For each expert, its WORDS most frequent tokens, the most frequent first; ties by id. layer: place in `layers_L`."""
    rows_T = routed.of(TEXT)
    known, place_T = np.unique(routed.id_T[rows_T], return_inverse=True)
    total = np.bincount(place_T, minlength=len(known))
    found = []
    for expert in range(routed.experts):
        count = np.bincount(place_T[routed.chosen_LTE[layer, rows_T, expert]], minlength=len(known))
        best = np.argsort(-count, kind="stable")[:WORDS]
        found.append(
            [Word(spell(int(known[one])), int(count[one]), count[one] / total[one]) for one in best.tolist() if count[one]]
        )
    return found


def patches(routed: Routed, layer: int, group_N: NDArray[np.int64]) -> list[list[Patch]]:
    """For each expert, PATCHES of those sent to it, those first that the router is surest of; one of each group of pairs."""
    return [_patches(routed, layer, expert, group_N) for expert in range(routed.experts)]


def _patches(routed: Routed, layer: int, expert: int, group_N: NDArray[np.int64]) -> list[Patch]:
    mine = np.flatnonzero(routed.of(IMAGE) & routed.chosen_LTE[layer, :, expert])
    order = mine[np.argsort(-routed.probs_LTE[layer, mine, expert], kind="stable")]
    _, first = np.unique(group_N[routed.pair_T[order]], return_index=True)
    return [
        Patch(int(routed.pair_T[row]), int(routed.position_T[row]), float(routed.probs_LTE[layer, row, expert]))
        for row in order[np.sort(first)[:PATCHES]]
    ]


def cut(picture: bytes, position: int, grid: int) -> Image.Image:
    """The patch at `position` of a model that sees `grid` x `grid`, with CONTEXT around it, TILE px wide; a frame marks it.

    Cut out of the picture itself, not out of what the model was shown, so that people can see what it is. White beyond its edge.
    """
    image = to_rgb(open_encoded(picture))
    square = fit_square(image, min(image.size))
    side = square.width / grid
    row, column = divmod(position, grid)
    scale = TILE / (side * (1 + 2 * CONTEXT))
    corner = ((column - CONTEXT) * side, (row - CONTEXT) * side)
    box = (1 / scale, 0.0, corner[0], 0.0, 1 / scale, corner[1])
    tile = square.transform((TILE, TILE), Image.Transform.AFFINE, box, Image.Resampling.BICUBIC, fillcolor="white")
    first, last = round(CONTEXT * side * scale), round((1 + CONTEXT) * side * scale) - 1
    ImageDraw.Draw(tile).rectangle((first, first, last, last), outline=BORDER)
    return tile


def strip(tiles: Sequence[Image.Image]) -> bytes:
    """The tiles side by side, as JPEG."""
    whole = Image.new("RGB", (len(tiles) * (TILE + GAP) - GAP, TILE), "white")
    for number, tile in enumerate(tiles):
        whole.paste(tile, (number * (TILE + GAP), 0))
    buffer = io.BytesIO()
    whole.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()
