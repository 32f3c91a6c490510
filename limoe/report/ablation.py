"""What an ablation found, as a document and as CSV. `facts` is `AblationResult.to_dict()` of limoe/sweep."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from limoe.report.ablation_figures import forest
from limoe.report.document import Block, Bullets, Cell, Document, Fold, Prose, Section, Table, Terms, Tone
from limoe.report.values import between

Facts = Mapping[str, Any]
FULL = "full"
GROUPS = {
    FULL: "The full recipe",
    "aux": "Auxiliary losses, under the paper's averaging rule",
    "aux-fixed": "Auxiliary losses, each at a fixed weight",
    "priority": "Who claims places first",
    "experts": "Number of experts",
    "k": "Experts a token",
    "group": "Pairs of a routing group",
    "tau-text": "Threshold of text's global loss, nats",
    "tau-image": "Threshold of images' global loss, nats",
}
WORDS = {
    "loss": "Contrastive loss on the validation sets at a fixed batch, nats: mean over the trainings that ran to their end; sd "
    "over seeds.",
    "difference": "Loss minus the full recipe's with the same seed, and a 95% t-interval over seeds. Above 0: worse.",
    "succeeded": "Trainings that finished without an alarm and with a loss within 10% of the full recipe's mean.",
    "text placed": "Share of text tokens that found a place, last 50 steps, in the block that places least.",
    "specific experts": "Experts of whose placed tokens at least 95% are of one modality, last 50 steps, mean over blocks: text "
    "and image, of all.",
    "averaging rule": "The auxiliary loss is the average of the active terms: what is left gains the share of what is off.",
    "fixed weight": "Each term keeps the weight that the full recipe's average gives it, whatever else is off.",
}


def tell(facts: Facts, name: str = "") -> Document:
    """The whole report."""
    shown = [line for line in facts["lines"] if line["difference"] is not None]
    lead: list[Block] = [Prose(_success_means(facts)), *([forest(shown)] if shown else [])]
    blocks: list[Block] = [Prose(f"Seeds of each, at most: {facts['seeds']}. The full recipe heads every table.")]
    blocks += [*tables(facts["lines"])]
    if omitted := [f"`{key}`: {why}" for key, why in facts["omitted"].items()]:
        blocks.append(Fold("Variants that were not run", [Bullets(omitted)]))
    sections = [Section("variants", "Every variant", blocks), Section("words", "What the words mean", [Terms(WORDS)])]
    return Document("Ablation of the full recipe" + (f": {name}" if name else ""), headline(facts), lead, sections)


def headline(facts: Facts) -> str:
    """Which variants were shown to be worse or better than the full recipe, by intervals that leave out 0."""
    compared = [line for line in facts["lines"] if line["difference"] is not None and line["difference"]["lower"] is not None]
    worse = [line for line in compared if line["difference"]["lower"] > 0]
    better = [line for line in compared if line["difference"]["upper"] < 0]
    if not compared:
        return "No variant can be told from the full recipe yet: that takes two seeds of each."
    if not worse and not better:
        return f"None of {len(compared)} variants is shown to be worse or better than the full recipe."
    told = f"{len(worse)} of {len(compared)} variants are shown to be worse than the full recipe{_most(worse, -1)}"
    return f"{told}; {len(better)} better{_most(better, 1)}." if better else f"{told}; none is shown to be better."


def _most(lines: Sequence[Facts], sign: int) -> str:
    if not lines:
        return ""
    most = min(lines, key=lambda line: sign * float(line["difference"]["mean"]))
    return f", most of all `{most['key']}` ({signed(most['difference']['mean'])} nats)"


def _success_means(facts: Facts) -> str:
    if facts["limit"] is None:
        return "The full recipe has not finished with any seed, so that nothing can be held against it."
    return (
        f"A training succeeds that raises no alarm and ends at a loss of at most {facts['limit']:.3f}, 10% above the full "
        "recipe's. Intervals are not adjusted for the number of variants: of twenty that change nothing, one will leave out 0."
    )


def signed(number: float) -> str:
    """A difference with its sign.

    >>> signed(-0.0512)
    '−0.051'
    """
    return f"{number:+.3f}".replace("-", "−")


def tables(lines: Sequence[Facts]) -> list[Table]:
    """A table a group of variants, each headed by the full recipe."""
    columns = ["Variant", "Loss", "Difference to full", "Succeeded", "Text placed", "Specific experts", "Outcomes"]
    full = [line for line in lines if line["key"] == FULL]
    groups = list(dict.fromkeys(line["group"] for line in lines if line["key"] != FULL)) or [FULL]
    numeric = frozenset(range(1, 6))
    return [
        Table(GROUPS.get(group, group), columns, [_row(line) for line in [*full, *_others(lines, group)]], numeric)
        for group in groups
    ]


def _others(lines: Sequence[Facts], group: str) -> list[Facts]:
    return [line for line in lines if line["group"] == group and line["key"] != FULL]


def _row(line: Facts) -> list[Cell]:
    success = line["success"]
    spread = "" if line["spread"] is None else f"sd {line['spread']:.3f}"
    return [
        Cell(f"`{line['key']}`", line["note"]),
        Cell("–", sort=1e9) if line["loss"] is None else Cell(f"{line['loss']:.3f}", spread, line["loss"]),
        _difference(line["difference"]),
        Cell(f"{success['hits']:.0f} of {success['n']:.0f}", between(success), success["probability"] or 0.0),
        _number(line["text_placed"], "{:.0%}"),
        _specific(line),
        Cell(", ".join(f"{kind} {number}" for kind, number in line["kinds"].items())),
    ]


def _difference(difference: Facts | None) -> Cell:
    if difference is None:
        return Cell("–", sort=0.0)
    if difference["lower"] is None:
        return Cell(signed(difference["mean"]), "one pair", difference["mean"])
    clear = difference["lower"] > 0 or difference["upper"] < 0
    tone: Tone = ("bad" if difference["mean"] > 0 else "good") if clear else ""
    note = f"{signed(difference['lower'])} to {signed(difference['upper'])}"
    return Cell(signed(difference["mean"]), note, difference["mean"], tone)


def _number(value: float | None, form: str) -> Cell:
    return Cell("–", sort=-1.0) if value is None else Cell(form.format(value), sort=value)


def _specific(line: Facts) -> Cell:
    if line["experts"] is None:
        return Cell("–", sort=-1.0)
    both = line["text_experts"] + line["image_experts"]
    told = f"{line['text_experts']:.1f} text, {line['image_experts']:.1f} image"
    return Cell(told, f"of {line['experts']:.0f}", both)


def to_csv(facts: Facts) -> str:
    """The table with all its digits, a row a variant."""
    names = ["variant", "note", "trials", "finished", "loss", "spread", "succeeded", "labelled", "success_lower", "success_upper"]
    names += ["difference", "difference_lower", "difference_upper", "pairs", "text_placed", "text_experts", "image_experts"]
    names += ["experts", "kinds"]
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for line in facts["lines"]:
        success, difference = line["success"], line["difference"] or dict.fromkeys(("mean", "lower", "upper", "pairs"))
        row = {name: line[name] for name in names if name in line}
        row |= {"variant": line["key"], "succeeded": success["hits"], "labelled": success["n"]}
        row |= {"success_lower": success["lower"], "success_upper": success["upper"]}
        row |= {"difference": difference["mean"], "difference_lower": difference["lower"]}
        row |= {"difference_upper": difference["upper"], "pairs": difference["pairs"]}
        row["kinds"] = " ".join(f"{kind}:{number}" for kind, number in line["kinds"].items())
        writer.writerow(row)
    return out.getvalue()
