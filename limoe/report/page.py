"""A report as one HTML page that needs nothing else: style, plotly and data are inside, and its policy forbids any request."""

from __future__ import annotations

import html
import json
import re
from base64 import b64encode
from collections.abc import Callable

from limoe.report.document import (
    Block,
    Bullets,
    Card,
    Cards,
    Cell,
    Document,
    Exhibit,
    Exhibits,
    Figure,
    Fold,
    Grid,
    Prose,
    Table,
    Terms,
)
from limoe.report.style import CSS, SCRIPT

POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
BREAK = re.compile(r"([._/])(?=\w{3})")  # where a long name may go on in the next line
INLINE: tuple[tuple[re.Pattern[str], str | Callable[[re.Match[str]], str]], ...] = (
    (re.compile(r"`([^`]*)`"), lambda found: "<code>" + BREAK.sub(r"\1<wbr>", found[1]) + "</code>"),
    (re.compile(r"\*\*(.+?)\*\*"), r"<strong>\1</strong>"),
    (re.compile(r"\[([^\]]+)\]\(([^)\s]+)\)"), r'<a href="\2">\1</a>'),
)


def to_html(document: Document) -> str:
    """The page, about 5 MB, nearly all of it plotly; equal documents give equal bytes."""
    from plotly.offline import get_plotlyjs

    lead, sections = "".join(map(_block, document.lead)), document.sections
    links = "".join(f'<a href="#{section.id}">{inline(section.title)}</a>' for section in sections)
    body = "".join(
        f'<section id="{section.id}"><h2>{inline(section.title)}</h2>{"".join(map(_block, section.blocks))}</section>'
        for section in sections
    )
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<link rel="icon" href="data:,">\n<title>{html.escape(document.title)}</title>\n<style>{CSS}</style>\n'
        f"</head>\n<body>\n<main>\n"
        f'<header><p class="eyebrow">{inline(document.title)}</p><h1>{inline(document.headline)}</h1></header>\n'
        f"<nav>{links}</nav>\n{lead}\n{body}\n</main>\n"
        f"<script>{get_plotlyjs()}</script>\n<script>{SCRIPT}</script>\n</body>\n</html>\n"
    )


def inline(text: str) -> str:
    """Escaped text with its code, strong and links as HTML.

    >>> inline("a < `b`")
    'a &lt; <code>b</code>'
    """
    escaped = html.escape(text, quote=True)
    for pattern, replacement in INLINE:
        escaped = pattern.sub(replacement, escaped)
    return escaped


def _block(block: Block) -> str:
    match block:
        case Prose():
            return f'<p class="{block.tone}">{inline(block.text)}</p>' if block.tone else f"<p>{inline(block.text)}</p>"
        case Table():
            return _table(block)
        case Figure():
            return _figure(block)
        case Grid():
            return f'<div class="grid">{"".join(map(_figure, block.figures))}</div>'
        case Exhibits():
            items = "".join(map(_exhibit, block.items))
            return f'<figure><figcaption>{inline(block.caption)}</figcaption><div class="exhibits">{items}</div></figure>'
        case Bullets():
            return f"<ul>{''.join(f'<li>{inline(line)}</li>' for line in block.lines)}</ul>" if block.lines else ""
        case Cards():
            return f'<div class="cards">{"".join(map(_card, block.cards))}</div>'
        case Terms():
            return f'<dl class="terms">{"".join(map(_term, block.terms.items()))}</dl>'
        case Fold():
            return f"<details><summary>{inline(block.title)}</summary>{''.join(map(_block, block.blocks))}</details>"


def _term(item: tuple[str, str]) -> str:
    return f"<dt>{inline(item[0])}</dt><dd>{inline(item[1])}</dd>"


def _card(card: Card) -> str:
    lines = "".join(f"<dt>{inline(what)}</dt><dd>{inline(figure)}</dd>" for figure, what in card.lines)
    return (
        f'<div class="card" style="--mark: var(--{card.colour})"><h3>{inline(card.title)}</h3>'
        f"<p>{inline(card.text)}</p><dl>{lines}</dl></div>"
    )


def _exhibit(exhibit: Exhibit) -> str:
    picture = ""
    if exhibit.picture is not None:
        data = b64encode(exhibit.picture).decode("ascii")
        picture = f'<img src="data:image/jpeg;base64,{data}" alt="{html.escape(exhibit.says)}">'
    return f"<div><h3>{inline(exhibit.title)}</h3>{picture}<p>{inline(exhibit.text)}</p></div>"


def _figure(figure: Figure) -> str:
    spec = {"data": list(figure.data), "layout": figure.layout, "crowded": figure.crowded}
    # "<" would let a caption close the script element
    content = json.dumps(spec, sort_keys=True, ensure_ascii=True, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    return (
        f'<figure id="{figure.id}"><figcaption>{inline(figure.caption)}</figcaption>'
        f'<div class="plot" id="{figure.id}-plot" role="img" aria-label="{html.escape(figure.says)}"></div>'
        f'<script type="application/json" id="{figure.id}-plot-data">{content}</script></figure>'
    )


def _table(table: Table) -> str:
    heads = "".join(
        f'<th scope="col"{_number(column, table)}><button type="button">{inline(name)}</button></th>'
        for column, name in enumerate(table.columns)
    )
    rows = "".join(f"<tr>{''.join(_cell(cell, column, table) for column, cell in enumerate(row))}</tr>" for row in table.rows)
    return (
        f'<figure class="table"><figcaption>{inline(table.caption)}</figcaption><div class="scroll" tabindex="0">'
        f"<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div></figure>"
    )


def _cell(cell: Cell, column: int, table: Table) -> str:
    text = inline(cell.text)
    if cell.tone:
        text = f'<span class="chip {cell.tone}">{text}</span>'
    note = f"<small>{inline(cell.note)}</small>" if cell.note else ""
    sort = "" if cell.sort is None else f' data-sort="{cell.sort:.6g}"'
    tag, scope = ("th", ' scope="row"') if column == 0 else ("td", "")
    return f"<{tag}{scope}{_number(column, table)}{sort}>{text}{note}</{tag}>"


def _number(column: int, table: Table) -> str:
    return ' class="number"' if column in table.numeric else ""
