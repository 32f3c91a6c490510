"""docs/sensitivity.md and its pictures, from the tables of trials in docs/sensitivity/.

`python -m limoe.sweep.study_page` writes them anew in the project's folder; a test holds the committed page against what the
committed tables say. Beside the tables (*.parquet) may lie study.yaml, which orders and names them, and findings.md, the
conclusions, which are put into the page as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa

from limoe.errors import UserError
from limoe.files import write_bytes, write_text
from limoe.paramsfile import read_yaml
from limoe.report import ablation as ablation_report
from limoe.report import ablation_figures, sensitivity_stills
from limoe.report.document import Block, Cell, Document, Figure, Fold, Grid, Section, Table, Terms
from limoe.report.markdown import body
from limoe.report.sensitivity import WORDS, tell
from limoe.report.values import between, loss_of, probability, short_names
from limoe.sweep import table as tables
from limoe.sweep.ablation_result import analyse_ablation, is_ablation
from limoe.sweep.axes import parse_axes
from limoe.sweep.findings import Sensitivity
from limoe.sweep.pages import trials_of
from limoe.sweep.paired import Gap, differences, gaps
from limoe.sweep.rows import to_rows
from limoe.sweep.sensitivity import analyse

PAGE, FOLDER = Path("docs") / "sensitivity.md", Path("docs") / "sensitivity"
STUDY, FINDINGS = "study.yaml", "findings.md"
TITLE = "# Sensitivity"
QUESTION = "Which settings decide whether LIMoE trains well, how far may they move, how does it fail, and what should one use?"
ORIGIN = (
    "Written by `python -m limoe.sweep.study_page` from the tables of trials in `docs/sensitivity`; the conclusions in front are "
    "a person's, every figure below is rebuilt."
)


@dataclass(frozen=True)
class Entry:
    """A table of trials: `name`.parquet. reference: name of the table whose robust recipe success is measured against."""

    name: str
    title: str
    reference: str | None = None


@dataclass(frozen=True)
class Part:
    """What one table gives: a document, its pictures by name, and what the sweep found (None for an ablation)."""

    entry: Entry
    document: Document
    pictures: dict[str, bytes]
    found: Sensitivity | None
    beside: list[Gap] = field(default_factory=list)  # the reference at equal points


def entries(folder: Path) -> list[Entry]:
    """The tables in the order of study.yaml; all of them, by name, without one. UserError for a table that is not there."""
    present = sorted(path.stem for path in folder.glob("*.parquet"))
    if not (folder / STUDY).exists():
        return [Entry(name, name) for name in present]
    listed = read_yaml(folder / STUDY).get("tables", [])
    found = [Entry(one["name"], one.get("title", one["name"]), one.get("reference")) for one in listed]
    for name in [one.name for one in found] + [one.reference for one in found if one.reference]:
        if name not in present:
            raise UserError(f"{folder / STUDY}: there is no table {name}.parquet; there are: {', '.join(present) or 'none'}")
    return found


def parts(folder: Path) -> list[Part]:
    """Every table analysed."""
    read = {path.stem: tables.read(path) for path in folder.glob("*.parquet")}
    losses: dict[str, float] = {}
    for name in {one.reference for one in entries(folder) if one.reference}:
        if (reference := analyse(read[name]).reference) is None:
            raise UserError(f"{folder / name}.parquet: no trial finished, so that no success can be measured against it")
        losses[name] = reference.loss
    return [
        _part(entry, read[entry.name], losses.get(entry.reference or ""), read.get(entry.reference or ""))
        for entry in entries(folder)
    ]


def _part(entry: Entry, table: pa.Table, reference: float | None, other: pa.Table | None) -> Part:
    if is_ablation(table):
        facts = analyse_ablation(table).to_dict()
        compared = [line for line in facts["lines"] if line["difference"] is not None]
        pictures = {"differences": ablation_figures.still(compared)} if compared else {}
        return Part(entry, ablation_report.tell(facts), pictures, None)
    found = analyse(table, reference=reference)
    facts, trials = found.to_dict(), trials_of(table, found)
    document, pictures = _without_folds(tell(facts, trials)), sensitivity_stills.stills(facts, trials)
    return Part(entry, document, pictures, found, [] if other is None else _beside(found, table, other))


def _beside(found: Sensitivity, table: pa.Table, other: pa.Table) -> list[Gap]:
    """The two tables at equal points, by thirds of the setting that decides most."""
    shares = found.quality.fanova
    axes = {axis.name: axis for axis in parse_axes(tables.space_of(table) or {})}
    return gaps(differences(to_rows(table), to_rows(other)), axes.get(max(shares, key=lambda name: shares[name], default="")))


def beside_table(gaps: Sequence[Gap]) -> Table:
    """What the recipe loses against the reference."""
    columns = ["Where", "Pairs", "Loss more than the reference", "95%", "Median", "Worse in", "p"]
    rows = [
        [
            Cell(one.where),
            Cell(str(one.n)),
            Cell(f"{one.mean:+.3f}"),
            Cell("–" if one.low is None else f"{one.low:+.3f} to {one.high:+.3f}"),
            Cell(f"{one.middle:+.3f}"),
            Cell(str(one.worse)),
            Cell("–" if one.p is None else f"{one.p:.3f}" if one.p >= 0.001 else "< 0.001"),
        ]
        for one in gaps
    ]
    return Table("The reference at equal points and seeds (p: Wilcoxon's signed ranks)", columns, rows, frozenset(range(1, 7)))


def build(folder: Path) -> tuple[str, dict[str, bytes]]:
    """(the page, its pictures by file name) from the tables in `folder`; equal tables give an equal page."""
    found = parts(folder)
    text = [TITLE, QUESTION, ORIGIN]
    if (folder / FINDINGS).exists():
        text.append((folder / FINDINGS).read_text(encoding="utf-8").strip())
    sweeps = [part for part in found if part.found is not None]
    if sweeps:
        glance = Document("", "", [overview(sweeps)], [])
        text += ["## At a glance", *body(glance, "")]
    for part in found:
        addresses = {_id(part.document, name): f"{folder.name}/{part.entry.name}-{name}.png" for name in part.pictures}
        text += [
            f"## {part.entry.title}",
            f"**{part.document.headline}**",
            *(body(Document("", "", [beside_table(part.beside)], []), "") if part.beside else []),
            *body(_without_words(part.document), "", addresses, 3),
        ]
    words = (WORDS if sweeps else {}) | (ablation_report.WORDS if len(sweeps) < len(found) else {})
    text += ["## What the words mean", *body(Document("", "", [Terms(words)], []), "")]
    pictures = {f"{part.entry.name}-{name}.png": picture for part in found for name, picture in part.pictures.items()}
    return "\n\n".join(text) + "\n", pictures


def overview(sweeps: Sequence[Part]) -> Table:
    """The sweeps side by side."""
    columns = [
        "Sweep",
        "Trials",
        "Recipes that succeed",
        "Decides success",
        "Robust recipe: loss",
        "on fresh seeds",
        "P(success) there",
    ]
    return Table("Every sweep", columns, [_glance(part) for part in sweeps], frozenset({1, 2, 4, 5, 6}))


def _glance(part: Part) -> list[Cell]:
    assert part.found is not None
    counts, best = part.found.counts, part.found.recommendation
    shares = part.found.failure.fanova
    decider = f"`{short_names(list(shares))[max(shares, key=lambda name: shares[name])]}`" if shares else "–"
    recipes = dataclasses.asdict(counts.recipes)
    cells = [
        Cell(part.entry.title),
        Cell(str(counts.trials)),
        Cell(probability(recipes), between(recipes)),
        Cell(decider),
    ]
    if best is None:
        return [*cells, Cell("–"), Cell("–"), Cell("–")]
    final = next((one for one in part.found.finals if one.point == best.robust.point), None)
    success = dataclasses.asdict(best.success)
    fresh = Cell("–") if final is None else Cell(loss_of(final.mean), "" if final.spread is None else f"sd {final.spread:.3f}")
    return [*cells, Cell(loss_of(best.robust.loss)), fresh, Cell(probability(success), between(success))]


def _id(document: Document, picture: str) -> str:
    """The id of the figure that a picture stands for: its own, or that of the first one whose name it begins."""
    figures = [figure.id for figure in _figures(document)]
    return next((one for one in figures if one == picture or one.startswith(f"{picture}-")), picture)


def _figures(document: Document) -> Iterator[Figure]:
    blocks: list[Block] = [*document.lead, *(block for section in document.sections for block in section.blocks)]
    for block in blocks:
        if isinstance(block, Figure):
            yield block
        elif isinstance(block, Grid):
            yield from block.figures[:1]


def _without_folds(document: Document) -> Document:
    """What only the page of the sweep itself shows when asked for, such as every failure's evidence, is left out."""

    def plain(section: Section) -> Section:
        return dataclasses.replace(section, blocks=[block for block in section.blocks if not isinstance(block, Fold)])

    return dataclasses.replace(document, sections=[plain(section) for section in document.sections])


def _without_words(document: Document) -> Document:
    return dataclasses.replace(document, sections=[section for section in document.sections if section.id != "words"])


def write(root: Path) -> list[Path]:
    """Write the page and its pictures below `root`, and remove pictures that no table has any more; UserError without a table."""
    folder = root / FOLDER
    if not entries(folder):
        raise UserError(f"{folder}: no table of trials (*.parquet) is there to write a page from")
    text, pictures = build(folder)
    for path in folder.glob("*.png"):
        if path.name not in pictures:
            path.unlink()
    for name, picture in pictures.items():
        write_bytes(folder / name, picture)
    write_text(root / PAGE, text)
    return [root / PAGE, *(folder / name for name in pictures)]


def main() -> int:
    """Write the page of the project in this folder; 2 for a mistake of the user's."""
    import sys

    try:
        written = write(Path())
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{len(written)} files written; next: git diff {PAGE}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
