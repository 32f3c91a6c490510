"""Tables of the balance analysis's page: the suggestion, the worst case, other settings, captions by script."""

from __future__ import annotations

from limoe.data.balance import BalanceReport
from limoe.data.negatives import ALIKE
from limoe.report.document import Cell, Prose, Table


def suggestion_table(report: BalanceReport) -> Table:
    """What is suggested under model.moe, beside the thresholds in use."""
    rows = [
        [Cell(f"model.moe.{name}"), Cell(str(value)), Cell(_short(report.in_use[name]))]
        for name, value in report.suggestion.items()
    ]
    caption = "Suggested for a training batch: what `model.moe.router: auto` stands for (tau in nats)"
    return Table(caption, ["setting", "suggested", "in use"], rows, frozenset({1, 2}))


def worst_table(report: BalanceReport) -> Table:
    """By group size: the capacity factor that the worst case needs, and what it keeps with the one in use."""
    worst = report.worst
    rows = [
        [
            count(size.pairs),
            factor(size.factor_priority),
            factor(size.factor_first_come),
            share(size.kept_priority),
            share(size.kept_first_come),
        ]
        for size in worst.sizes
    ]
    smallest = [
        f"{name}: {'no group is large enough' if pairs is None else f'groups of {pairs} pairs are enough'}"
        for name, pairs in (("text first", worst.smallest_priority), ("first-come", worst.smallest_first_come))
    ]
    columns = ["pairs a group", "factor, text first", "factor, first-come", "kept, text first", "kept, first-come"]
    caption = (
        f"The worst case: the capacity factor from which {worst.target:.0%} of text is placed, and the share that is with the "
        f"factor in use ({'; '.join(smallest)})"
    )
    return Table(caption, columns, rows, frozenset(range(5)))


def setting_table(report: BalanceReport) -> Table:
    """What another resolution, patch or text length would change."""
    columns = ["picture / patch, px", "text length", "image tokens", "text tokens", "image : text", "cut", "placed, random"]
    columns += ["worst-case factor", "tau text", "tau image", "entropy bias, text"]
    rows = [
        [
            Cell(f"{row.image_size} / {row.patch_size}", "in use" if row.in_use else ""),
            count(row.text_length),
            count(row.image_tokens),
            Cell(f"{row.text_tokens:.1f}", sort=row.text_tokens),
            Cell(f"{row.image_tokens / row.text_tokens:.1f} : 1", sort=row.image_tokens / row.text_tokens),
            share(row.truncated),
            share(row.random_placed),
            Cell(f"{row.worst_priority:.2f}", f"first-come {row.worst_first_come:.2f}", row.worst_priority),
            Cell(f"{row.tau_text:.2f}", sort=row.tau_text),
            Cell(f"{row.tau_image:.2f}", sort=row.tau_image),
            Cell(f"{row.bias_text:.4f}", f"image {row.bias_image:.4f}", row.bias_text),
        ]
        for row in report.settings
    ]
    caption = "For a training batch, all else as it is; what an untrained model drops takes a run of its own with these settings"
    return Table(caption, columns, rows, frozenset(range(1, 11)))


def kind_table(report: BalanceReport) -> Table:
    """Training captions by source and script."""
    columns = ["source", "script", "captions", "share", "tokens", "cut", "unknown tokens", "entries used"]
    rows = [
        [
            Cell(kind.source),
            Cell(kind.script),
            count(kind.captions),
            share(kind.share),
            Cell(f"{kind.tokens:.1f}", sort=kind.tokens),
            share(kind.truncated),
            share(kind.unknown),
            count(kind.used),
        ]
        for kind in report.kinds
    ]
    caption = "Training captions by the script of most of their letters, which is not a language: German and English are Latin"
    return Table(caption, columns, rows, frozenset(range(2, 8)))


def negatives_prose(report: BalanceReport) -> Prose:
    """False negatives of a batch."""
    found = report.negatives
    return Prose(
        f"A batch of {found.batch} pairs would hold {found.equal:.2f} pairs of equal captions if rows were drawn blindly, which "
        f"the sampler keeps apart, and holds {found.alike:.2f} (standard error {found.error:.2f}) pairs of different captions "
        f"that share at least {ALIKE:.0%} of their tokens."
    )


def _short(value: object) -> str:
    return f"{value:.2f}" if isinstance(value, float) else str(value)


def factor(value: float) -> Cell:
    """A capacity factor."""
    return Cell(f"{value:.2f}", sort=value)


def count(value: int, note: str = "") -> Cell:
    """A whole number."""
    return Cell(f"{value:,}", note, value)


def share(value: float, note: str = "") -> Cell:
    """A share as a percentage."""
    return Cell(f"{value:.1%}", note, value)
