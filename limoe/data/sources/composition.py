"""Where the pictures of a scene lie, and a true sentence about it: geometry and words, no pixels.

The canvas is cut into as many cells as there are pictures, always across its longer side, and each picture lies inside its cell:
nothing overlaps. So the centres of two pictures are at least the mean of their sizes apart along one axis, and every relation
that a caption states holds along that axis by a clear margin.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random

SIZES = (0.3, 0.36, 0.42, 0.5, 0.6, 0.75, 0.9)  # of a picture, as shares of the canvas
SMALL = 0.2  # of what is drawn small, whatever its cell would hold
CUT = (0.4, 0.6)  # where a cell may be cut, as shares of its longer side
MARGIN = 1 / 6  # of the canvas: the least distance of neighbouring centres in a caption that lists pictures in order
BACKGROUNDS = {
    "white": (255, 255, 255),
    "pink": (255, 228, 232),
    "yellow": (255, 250, 214),
    "green": (224, 244, 224),
    "blue": (222, 236, 252),
    "purple": (236, 228, 250),
}


@dataclass(frozen=True)
class Placed:
    """A picture in a scene. x, y: its centre, in px from the upper left corner. size: of its square box, in px."""

    name: str
    drawing: str
    x: float
    y: float
    size: int


@dataclass(frozen=True)
class Scene:
    """What a scene shows: the background's name, the pictures, and a sentence about them."""

    background: str
    placed: tuple[Placed, ...]
    caption: str


@dataclass(frozen=True)
class Motif:
    """Something a scene can show. drawings: the pictures of it there are. small: always drawn small."""

    name: str
    drawings: tuple[str, ...]
    small: bool = False


Box = tuple[int, int, int, int]  # left, top, width, height in px
ORDERS: dict[str, Callable[[Placed], float]] = {
    "left to right": lambda picture: picture.x,
    "right to left": lambda picture: -picture.x,
    "top to bottom": lambda picture: picture.y,
    "bottom to top": lambda picture: -picture.y,
}


def compose(motifs: Sequence[Motif], count: int, canvas: int, random: Random) -> Scene:
    """A scene of `count` different motifs on a square canvas of `canvas` px; all choices are drawn from `random`."""
    chosen = random.sample(motifs, count)
    boxes = cells((0, 0, canvas, canvas), count, random)
    random.shuffle(boxes)
    placed = tuple(_place(motif, box, canvas, random) for motif, box in zip(chosen, boxes, strict=True))
    background = random.choice(list(BACKGROUNDS))
    return Scene(background, placed, describe(placed, background, canvas, random))


def cells(box: Box, count: int, random: Random) -> list[Box]:
    """`box` cut into `count` cells."""
    if count == 1:
        return [box]
    left, top, width, height = box
    few, many = count // 2, count - count // 2
    first = random.choice((few, many))
    side = max(width, height)
    cut = random.randint(round(CUT[0] * side), round(CUT[1] * side))
    if width > height or (width == height and random.random() < 0.5):
        parts = (left, top, cut, height), (left + cut, top, width - cut, height)
    else:
        parts = (left, top, width, cut), (left, top + cut, width, height - cut)
    return cells(parts[0], first, random) + cells(parts[1], count - first, random)


def relation(a: Placed, b: Placed) -> str:
    """How `a` lies to `b`, along the axis on which their centres are farther apart.

    >>> relation(Placed("cat", "", 8, 20, 10), Placed("dog", "", 30, 24, 10))
    'left of'
    """
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) >= abs(dy):
        return "left of" if dx > 0 else "right of"
    return "above" if dy > 0 else "below"


def describe(placed: Sequence[Placed], background: str, canvas: int, random: Random) -> str:
    """A true sentence that names every picture once, in one of several forms."""
    if len(placed) == 1:
        return random.choice((placed[0].name, f"{placed[0].name} on a {background} background"))
    shuffled = random.sample(placed, len(placed))
    forms = [_around(shuffled), _with(shuffled), _chain(shuffled)]
    orders = [words for words in ORDERS if _apart(placed, words) >= MARGIN * canvas]
    if orders:
        forms.append(_in_order(shuffled, random.choice(orders)))
    return random.choice(forms)


def _around(placed: list[Placed]) -> str:
    """cat left of dog and above sun"""
    first, *others = placed
    return f"{first.name} {_joined([f'{relation(first, other)} {other.name}' for other in others])}"


def _with(placed: list[Placed]) -> str:
    """cat with dog right of it and sun below it"""
    first, *others = placed
    return f"{first.name} with {_joined([f'{other.name} {relation(other, first)} it' for other in others])}"


def _chain(placed: list[Placed]) -> str:
    """cat left of dog, which is above sun"""
    links = [f"{relation(a, b)} {b.name}" for a, b in pairwise(placed)]
    return f"{placed[0].name} {', which is '.join(links)}"


def _in_order(placed: list[Placed], words: str) -> str:
    """cat, dog and sun from left to right"""
    return f"{_joined([picture.name for picture in sorted(placed, key=ORDERS[words])])} from {words}"


def _apart(placed: Sequence[Placed], words: str) -> float:
    """The least distance of neighbouring centres in this order, in px."""
    places = sorted(ORDERS[words](picture) for picture in placed)
    return min(b - a for a, b in pairwise(places))


def _joined(parts: list[str]) -> str:
    return f"{', '.join(parts[:-1])} and {parts[-1]}" if len(parts) > 1 else parts[0]


def _place(motif: Motif, box: Box, canvas: int, random: Random) -> Placed:
    """The motif at a random size that fits, at a random place inside its cell."""
    left, top, width, height = box
    fitting = [size for share in SIZES if (size := round(share * canvas)) <= min(width, height)]
    size = round(SMALL * canvas) if motif.small else random.choice(fitting[-3:])
    x, y = left + random.randint(0, width - size), top + random.randint(0, height - size)
    return Placed(motif.name, random.choice(motif.drawings), x + size / 2, y + size / 2, size)
