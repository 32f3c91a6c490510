"""Composed scenes, as many as one likes: pictures on a canvas, with a caption that says what lies where.

Only what may be trained on appears in them: emoji pictures of the split `train`, and of those the ones without a skin tone, since
names that end in two skin tones would fill the caption. Or plain shapes, which need no package. Scene i of a split depends on
the seed, the split and i alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image, ImageDraw

from limoe.config import PrepareParams
from limoe.data.schema import TRAIN
from limoe.data.sources.base import Candidate, Part, Rejected
from limoe.data.sources.composition import BACKGROUNDS, Motif, Scene, compose
from limoe.data.sources.emoji import STYLES, EmojiSource, concepts, drawing, png
from limoe.data.sources.packages import Package
from limoe.errors import UserError

Sprite = Callable[[str, int], Image.Image]  # (drawing, size in px) -> RGBA
PART_SCENES = 5000  # a few seconds of drawing
CACHED_PIXELS = 24 << 20  # of pictures at their sizes, 4 bytes each
OVERSAMPLING = 4  # of shapes, whose edges Pillow draws without smoothing
COLOURS = {
    "red": (220, 40, 40),
    "orange": (245, 140, 30),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "purple": (140, 60, 180),
    "brown": (130, 80, 40),
    "grey": (130, 130, 130),
    "black": (20, 20, 20),
}
SHAPES = {  # corners as shares of the box; a circle has none
    "circle": (),
    "square": ((0, 0), (1, 0), (1, 1), (0, 1)),
    "triangle": ((0.5, 0), (1, 1), (0, 1)),
    "diamond": ((0.5, 0), (1, 0.5), (0.5, 1), (0, 0.5)),
    "cross": tuple(
        (x / 3, y / 3) for x, y in zip((1, 2, 2, 3, 3, 2, 2, 1, 1, 0, 0, 1), (0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 1, 1), strict=True)
    ),
    "arrow": ((0.5, 0), (1, 0.5), (0.7, 0.5), (0.7, 1), (0.3, 1), (0.3, 0.5), (0, 0.5)),
}


class ScenesSource:
    """Splits `train`, `val-scenes` and `test-scenes` of composed scenes."""

    def __init__(self, params: PrepareParams, root: Path) -> None:  # noqa: ARG002  every source takes the root
        self._seed, self._params = params.seed, params.scenes
        self._counts = {TRAIN: params.scenes.train, "val-scenes": params.scenes.val, "test-scenes": params.scenes.test}
        self._motifs, sprite = shapes() if params.scenes.pictures == "shapes" else emoji_motifs(params)
        self._sprite = lru_cache(maxsize=CACHED_PIXELS // params.scenes.canvas**2)(sprite)
        if len(self._motifs) < params.scenes.max_pictures:
            raise UserError(
                f"prepare.scenes.max_pictures = {params.scenes.max_pictures}, but there are only {len(self._motifs)} different"
                " training pictures; raise prepare.emoji.limit"
            )

    @classmethod
    def packages(cls, params: PrepareParams) -> tuple[Package, ...]:
        """Those of the emoji pictures, if the scenes show them."""
        return EmojiSource.packages(params) if params.scenes.pictures == "emoji" else ()

    @property
    def total(self) -> int:
        """Scenes of all splits."""
        return sum(self._counts.values())

    def scene(self, split: str, index: int) -> Scene:
        """Scene `index` of `split`: what lies where, and the caption."""
        random = Random(f"{self._seed}/{split}/{index}")
        count = random.randint(self._params.min_pictures, self._params.max_pictures)
        return compose(self._motifs, count, self._params.canvas, random)

    @property
    def parts(self) -> Sequence[Part]:
        """So many scenes of a split each."""
        return [part for split, count in self._counts.items() for part in Part.split(split, count, PART_SCENES)]

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        """Every scene of the part, in order."""
        for index in range(self._counts[part.name])[part.start : part.stop]:
            scene = self.scene(part.name, index)
            key = f"scenes/{part.name}/{index:07d}"
            image = png(render(scene, self._params.canvas, self._sprite), compress_level=1)
            yield Candidate(key, "scenes", part.name, image, (scene.caption,), key, None, (self._params.canvas,) * 2)

    def inputs(self, part: Part) -> Sequence[str]:  # noqa: ARG002  the same for all parts
        """None: packages are checked against data/sources.yaml."""
        return ()

    def provenance(self) -> dict[str, Any]:
        """Number of different names and of pictures that the scenes are composed of."""
        return {"motifs": len(self._motifs), "drawings": len({name for motif in self._motifs for name in motif.drawings})}


def render(scene: Scene, canvas: int, sprite: Sprite) -> Image.Image:
    """The scene as RGB, `canvas` px square."""
    image = Image.new("RGB", (canvas, canvas), BACKGROUNDS[scene.background])
    for placed in scene.placed:
        picture = sprite(placed.drawing, placed.size)
        corner = round(placed.x - placed.size / 2), round(placed.y - placed.size / 2)
        image.paste(picture, corner, picture)
    return image


def emoji_motifs(params: PrepareParams) -> tuple[list[Motif], Sprite]:
    """The emoji without skin tones that are trained on, each in the styles that are, and how to draw them."""
    motifs = []
    for concept in concepts(params.emoji):
        styles = [style for style in STYLES if concept.split(style) == TRAIN]
        if styles and not concept.toned:
            motifs.append(Motif(concept.label, tuple(f"{style}/{concept.key}" for style in styles)))
    return motifs, partial(_emoji_sprite, params.emoji.size)


def shapes() -> tuple[list[Motif], Sprite]:
    """Every size, colour and shape as a motif, and how to draw them."""
    motifs = [
        Motif(f"{size} {colour} {shape}", (f"{colour} {shape}",), small=size == "small")
        for size in ("small", "large")
        for colour in COLOURS
        for shape in SHAPES
    ]
    return motifs, shape_sprite


def shape_sprite(drawing: str, size: int) -> Image.Image:
    """ "red circle" and the like as RGBA, filling a box of `size` px."""
    colour, shape = drawing.split()
    side = size * OVERSAMPLING
    mask = Image.new("L", (side, side), 0)
    draw = ImageDraw.Draw(mask)
    if corners := SHAPES[shape]:
        draw.polygon([(x * (side - 1), y * (side - 1)) for x, y in corners], fill=255)
    else:
        draw.ellipse((0, 0, side - 1, side - 1), fill=255)
    sprite = Image.new("RGBA", (size, size), COLOURS[colour])
    sprite.putalpha(mask.resize((size, size), Image.Resampling.BOX))
    return sprite


def _emoji_sprite(source_size: int, name: str, size: int) -> Image.Image:
    style, key = name.split("/")
    return drawing(style, key, source_size).resize((size, size), Image.Resampling.LANCZOS)
