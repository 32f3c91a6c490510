"""A report as Markdown: everything but the figures, which say where they are drawn, unless there are pictures of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from limoe.report.document import Block, Bullets, Cards, Cell, Document, Exhibits, Figure, Fold, Grid, Prose, Table, Terms


def to_markdown(document: Document, page: str) -> str:
    """The document's text and tables; `page` is the file that draws its figures."""
    parts = [f"# {document.title}", f"**{document.headline}**", *body(document, page)]
    return "\n\n".join(part for part in parts if part) + "\n"


def body(document: Document, page: str, pictures: Mapping[str, str] | None = None, level: int = 2) -> list[str]:
    """The paragraphs below title and headline. pictures: address of a PNG by the id of its figure, or of the first of a grid.

    Other figures are said to be drawn in `page`, or left out if that is empty. level: of the sections' headings.
    """
    pictures = pictures or {}
    parts = _blocks(document.lead, page, pictures)
    for section in document.sections:
        parts += [f"{'#' * level} {section.title}", *_blocks(section.blocks, page, pictures)]
    return [part for part in parts if part]


def _blocks(blocks: Sequence[Block], page: str, pictures: Mapping[str, str]) -> list[str]:
    return [_block(block, page, pictures) for block in blocks]


def _block(block: Block, page: str, pictures: Mapping[str, str]) -> str:
    match block:
        case Prose():
            return f"*{block.text}*" if block.tone == "quiet" else block.text
        case Table():
            return _table(block)
        case Figure():
            return _figure(block, page, pictures)
        case Grid() if block.figures and block.figures[0].id in pictures:
            return _figure(block.figures[0], page, pictures)
        case Grid():
            return "\n\n".join(_figure(figure, page, pictures) for figure in block.figures)
        case Exhibits():
            return f"{block.caption}:\n\n" + "\n".join(f"- **{item.title}**: {item.text}" for item in block.items)
        case Bullets():
            return "\n".join(f"- {line}" for line in block.lines)
        case Cards():
            return "\n".join(
                f"- **{card.title}**: {card.text} {'; '.join(f'{what}: {figure}' for figure, what in card.lines)}"
                for card in block.cards
            )
        case Terms():
            return "\n".join(f"- **{term}**: {meaning}" for term, meaning in block.terms.items())
        case Fold():
            return "\n\n".join([f"### {block.title}", *_blocks(block.blocks, page, pictures)])


def _figure(figure: Figure, page: str, pictures: Mapping[str, str]) -> str:
    if figure.id in pictures:
        return f"![{figure.caption}]({pictures[figure.id]})"
    return f"*Figure: {figure.caption} (drawn in [{page}]({page}#{figure.id})).*" if page else ""


def _table(table: Table) -> str:
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    lines = [table.columns, rule, *([_cell(cell) for cell in row] for row in table.rows)]
    return f"{table.caption}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"{cell.text} ({cell.note})" if cell.note else cell.text
    return text.replace("|", "\\|")
