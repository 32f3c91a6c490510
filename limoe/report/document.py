"""What a report is made of, whatever it is written as. Text may hold `code`, **strong** and [links](address)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["", "good", "bad", "quiet"]


@dataclass(frozen=True)
class Cell:
    """A cell: its text, what is said smaller beside it, what it sorts by (its text if None), and its tone."""

    text: str
    note: str = ""
    sort: float | None = None
    tone: Tone = ""


@dataclass(frozen=True)
class Table:
    """A table. The first column names the rows; the columns in `numeric` (by place) hold numbers."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Figure:
    """A plotly figure. id: unique in the document. data, layout: plotly's, where a colour "@name" is a variable of the page's
    style. says: what the figure shows, for those who do not see it. crowded: whether the
    numbers in its cells have no room on a phone."""

    id: str
    caption: str
    says: str
    data: Sequence[dict[str, Any]]
    layout: dict[str, Any]
    crowded: bool = False


@dataclass(frozen=True)
class Prose:
    """A paragraph. tone "quiet": an aside."""

    text: str
    tone: Tone = ""


@dataclass(frozen=True)
class Card:
    """A few figures about one contestant. lines: (figure, what it is)."""

    title: str
    colour: str
    text: str
    lines: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Cards:
    """Cards side by side."""

    cards: Sequence[Card]


@dataclass(frozen=True)
class Terms:
    """Words and what they mean."""

    terms: dict[str, str]


@dataclass(frozen=True)
class Fold:
    """Blocks that a page shows only when they are asked for."""

    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Grid:
    """Figures side by side where there is room for them."""

    figures: Sequence[Figure]


@dataclass(frozen=True)
class Exhibit:
    """A picture (JPEG) with a title and a text; none if there is nothing to show. says: what it shows, for those who do not see
    it."""

    title: str
    text: str
    picture: bytes | None
    says: str


@dataclass(frozen=True)
class Exhibits:
    """Pictures side by side where there is room for them."""

    caption: str
    items: Sequence[Exhibit]


@dataclass(frozen=True)
class Bullets:
    """A list of short texts."""

    lines: Sequence[str]


Block = Table | Figure | Grid | Exhibits | Prose | Bullets | Cards | Terms | Fold


@dataclass(frozen=True)
class Section:
    """A titled part. id: its address within the page."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    """A report: the headline is what it found, in one sentence."""

    title: str
    headline: str
    lead: Sequence[Block]
    sections: Sequence[Section]
