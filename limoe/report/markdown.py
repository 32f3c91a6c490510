"""A report as Markdown: everything but the figures, which say where they are drawn."""

from __future__ import annotations

from collections.abc import Sequence

from limoe.report.document import Block, Bullets, Cards, Cell, Document, Figure, Fold, Prose, Table, Terms


def to_markdown(document: Document, page: str) -> str:
    """The document's text and tables; `page` is the file that draws its figures."""
    parts = [f"# {document.title}", f"**{document.headline}**", *_blocks(document.lead, page)]
    for section in document.sections:
        parts += [f"## {section.title}", *_blocks(section.blocks, page)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _blocks(blocks: Sequence[Block], page: str) -> list[str]:
    return [_block(block, page) for block in blocks]


def _block(block: Block, page: str) -> str:
    match block:
        case Prose():
            return f"*{block.text}*" if block.tone == "quiet" else block.text
        case Table():
            return _table(block)
        case Figure():
            return f"*Figure: {block.caption} (drawn in [{page}]({page}#{block.id})).*"
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
            return "\n\n".join([f"### {block.title}", *_blocks(block.blocks, page)])


def _table(table: Table) -> str:
    rule = ["---:" if column in table.numeric else "---" for column in range(len(table.columns))]
    lines = [table.columns, rule, *([_cell(cell) for cell in row] for row in table.rows)]
    return f"{table.caption}:\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(cell: Cell) -> str:
    text = f"{cell.text} ({cell.note})" if cell.note else cell.text
    return text.replace("|", "\\|")
