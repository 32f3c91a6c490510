"""A contact sheet: pictures with their captions below, in whatever script, as one PNG."""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageOps

from limoe.data.rgb import open_encoded, to_rgb

COLUMNS = 5
SIDE, GAP, LINE, SIZE = 240, 16, 19, 14  # px: of a picture, between them, of a line, of the letters
LINES, NOTES = 5, 2  # of text below a picture, and of small letters
INK, FAINT, PAPER, MOUNT = (20, 20, 20), (120, 120, 120), (255, 255, 255), (240, 240, 240)


@dataclass(frozen=True)
class Card:
    """A picture (encoded), what is written below it, and lines in small letters under that, cut where they are too long."""

    image: bytes
    text: str
    notes: Sequence[str]


def contact_sheet(cards: Sequence[Card]) -> bytes:
    """The cards in rows of COLUMNS, as PNG."""
    columns = max(1, min(COLUMNS, len(cards)))
    rows = max(1, -(-len(cards) // columns))
    width, height = SIDE + GAP, SIDE + (LINES + NOTES) * LINE + 2 * GAP
    sheet = Image.new("RGB", (columns * width + GAP, rows * height + GAP), PAPER)
    for number, card in enumerate(cards):
        _draw(sheet, card, GAP + number % columns * width, GAP + number // columns * height)
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    return encoded.getvalue()


def wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """The text in at most so many lines of this width in px, broken at spaces if there are any; an ellipsis if it is longer."""
    found: list[str] = []
    rest = text[:2000].strip()  # of a long caption more than fits
    while rest and len(found) < lines:
        fits = _fitting(rest, font, width)
        space = rest.rfind(" ", 1, fits + 1)
        cut = len(rest) if fits == len(rest) else space if space > 0 else fits
        found.append(rest[:cut])
        rest = rest[cut:].lstrip()
    if rest:
        found[-1] = found[-1][: _fitting(found[-1], font, width - round(font.getlength("…")))] + "…"
    return found


def _draw(sheet: Image.Image, card: Card, left: int, top: int) -> None:
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), MOUNT)
    with open_encoded(card.image) as opened:
        opened.draft("RGB", (SIDE, SIDE))
        picture = to_rgb(opened)
    picture = ImageOps.contain(picture, (SIDE, SIDE))
    sheet.paste(picture, (left + (SIDE - picture.width) // 2, top + (SIDE - picture.height) // 2))
    font = font_for(card.text)
    below = top + SIDE + GAP // 2
    for number, line in enumerate(wrap(card.text, font, SIDE, LINES)):
        draw.text((left, below + number * LINE), line, INK, font)
    for number, note in enumerate(card.notes[:NOTES], LINES):
        small = font_for(note, SIZE - 3)
        draw.text((left, below + number * LINE), wrap(note, small, SIDE, 1)[0], FAINT, small)


def _fitting(text: str, font: ImageFont.FreeTypeFont, width: int) -> int:
    """How many characters fit, at least one; looked for by halves, since each look measures all of them."""
    return 1 + bisect_right(range(2, len(text) + 1), float(width), key=lambda count: font.getlength(text[:count]))


def font_for(text: str, size: int = SIZE) -> ImageFont.FreeTypeFont:
    """The font of this machine that has most of the text's characters; what it lacks is drawn as a box."""
    wanted = frozenset(ord(sign) for sign in text if not sign.isspace())
    best = max(_fonts(), key=lambda path: len(wanted & _characters(path))) if wanted - _characters(_fonts()[0]) else _fonts()[0]
    return ImageFont.truetype(best, size)


@cache
def _fonts() -> tuple[str, ...]:
    """Paths: DejaVu, which comes with matplotlib, then those of the machine."""
    from matplotlib import font_manager, get_data_path

    own = Path(get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"
    return (str(own), *sorted(font_manager.findSystemFonts()))


@cache
def _characters(path: str) -> frozenset[int]:
    """Code points that a font has outlines for; none if it cannot be drawn at this size (colour fonts)."""
    from matplotlib.ft2font import FT2Font

    try:
        font = FT2Font(path)
        return frozenset(font.get_charmap()) if font.scalable else frozenset()
    except (RuntimeError, OSError):
        return frozenset()
