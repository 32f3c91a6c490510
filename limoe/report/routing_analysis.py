"""The routing analysis as a page: what each expert takes, how sure the routers are, what training would drop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from limoe.evals.routing.stored import Analysis
from limoe.report import routing_drops as drawn
from limoe.report.document import Block, Cell, Document, Exhibit, Exhibits, Fold, Grid, Prose, Section, Table, Terms
from limoe.report.names import WORDS
from limoe.report.routing import MODALITIES
from limoe.report.routing_figures import load_map
from limoe.report.verdict import percent

KINDS = ("image", "text", "mixed", "idle")
EXPLAINED = {
    "agreement": (
        "How far a token's expert in one layer tells its expert in the next: mutual information over the mean of both entropies, "
        "0 to 1. A sample shows some even where there is none; the corrected figure has that taken away (adjusted mutual "
        "information: 0 for layers that have nothing to do with each other)."
    ),
    "dropped": (
        "Tokens that no expert would see in training, with noise, capacity and priority as the model was trained, for these very "
        "pairs. Pictures are not augmented here, as they are in training."
    ),
    **{word: WORDS[word] for word in ("placed", "effective experts", "gate confidence")},
}


def document(analysis: Analysis) -> Document:
    """The page of one analysis."""
    numbers = analysis.numbers
    return Document(
        "How a model routes",
        headline(numbers),
        [Prose(setting(numbers)), _kind_table(numbers)],
        [
            Section("load", "Where each modality goes", [load_map(drawn.as_log(numbers)), _layer_table(numbers)]),
            Section("examples", "What each expert takes", _examples(analysis)),
            Section("confidence", "How sure the routers are", [drawn.confidence(numbers)]),
            Section("agreement", "Agreement between layers", _agreement(numbers)),
            Section("dropped", "What training would drop", _dropped(numbers)),
            Section("words", "Words used here", [Terms({"image expert, text expert": _kinds_explained(numbers), **EXPLAINED})]),
        ],
    )


def _kinds_explained(numbers: Mapping[str, Any]) -> str:
    specialist, idle = numbers["specialist"], numbers["idle"]
    return (
        f"An expert whose share of one modality's choices is at least {specialist / (1 - specialist):.0f} times its share of the "
        f"other's: {percent(specialist, 0)} of what it takes, were there as many patches as words. Between the two it is mixed. "
        f"Idle: less than {percent(idle, 0)} of a fair share of either modality. The thresholds are ours."
    )


def summary(analysis: Analysis) -> list[Block]:
    """What the comparison's page shows of it, beside the figures of the training's own log."""
    numbers = analysis.numbers
    return [
        Prose(f"**{headline(numbers)}.** {setting(numbers)}"),
        drawn.confidence(numbers),
        *_agreement(numbers),
        *_dropped(numbers),
        Fold("What each expert takes: patches and words", _examples(analysis)),
    ]


def headline(numbers: Mapping[str, Any]) -> str:
    """One sentence: how many specialists there are, and the worst layer's drop of each modality."""
    kinds = Counter(kind for layer in numbers["layers"] for kind in layer["kinds"])
    told = ", ".join(f"{kinds[kind]} {kind}" for kind in KINDS if kinds[kind])
    worst = {name: max(layer["lost"][name] for layer in numbers["layers"]) for name in MODALITIES}
    dropped = f"{percent(worst['text'])} of text and {percent(worst['image'])} of patches"
    count = len(numbers["layers"])
    where = "its one MoE layer" if count == 1 else f"its {count} MoE layers"
    return f"Of the experts in {where}, {told}; training would drop {dropped} in the layer that drops most"


def setting(numbers: Mapping[str, Any]) -> str:
    """What was looked at, and how."""
    model, data = numbers["model"], numbers["data"]
    of = "" if data["pairs"] == data["of"] else f" of {data['of']:,}"
    return (
        f"{data['pairs']:,} pairs{of} from `{data['name']}`: {data['tokens']['image']:,} patches and "
        f"{data['tokens']['text']:,} text tokens through {model['experts']} experts a layer, router `{model['router']}`, "
        f"K = {model['k']}. What experts take is of evaluation (no noise, nothing dropped); what would be dropped, of training, "
        f"capacity factor {model['capacity_factor']:g}, priority `{model['priority']}`, groups of {numbers['group']:,} pairs. "
        f"Weights `{model['weights'][:16]}`."
    )


def _kind_table(numbers: Mapping[str, Any]) -> Table:
    rows = []
    for layer in numbers["layers"]:
        counts = Counter(layer["kinds"])
        rows.append([Cell(f"block {layer['block']}"), *(Cell(str(counts[kind]), sort=counts[kind]) for kind in KINDS)])
    return Table("Experts by what they take", ["Layer", *KINDS], rows, frozenset(range(1, 1 + len(KINDS))))


def _layer_table(numbers: Mapping[str, Any]) -> Table:
    rows = [
        [
            Cell(f"block {layer['block']}", name),
            Cell(f"{layer['effective'][name]:.1f}", sort=layer["effective"][name]),
            Cell(percent(layer["confidence"][name]["mean"]), sort=layer["confidence"][name]["mean"]),
            Cell(percent(layer["placed"][name]), sort=layer["placed"][name]),
            Cell(percent(layer["lost"][name]), sort=layer["lost"][name]),
        ]
        for layer in numbers["layers"]
        for name in MODALITIES
    ]
    columns = ["Layer", "Effective experts", "Gate confidence", "Choices placed", "Tokens dropped"]
    return Table("Each layer and modality", columns, rows, frozenset(range(1, 5)))


def _examples(analysis: Analysis) -> list[Block]:
    note = (
        "Patches are those that the router was surest of, one of each picture (or concept), with what lies around them; a frame "
        "marks it. Words are those sent there most: how often, and what share of all their occurrences. + begins a part within "
        "a word."
    )
    return [Prose(note, "quiet"), *(_layer_examples(analysis, layer) for layer in analysis.numbers["layers"])]


def _layer_examples(analysis: Analysis, layer: Mapping[str, Any]) -> Fold | Exhibits:
    block, kinds = layer["block"], layer["kinds"]
    items = [
        Exhibit(
            f"Expert {one['expert'] + 1}, {kinds[one['expert']]}",
            _words(one["words"]),
            analysis.strips.get((block, one["expert"])),
            f"{len(one['patches'])} patches that expert {one['expert'] + 1} of block {block} takes",
        )
        for one in analysis.numbers["examples"]
        if one["block"] == block
    ]
    exhibits = Exhibits(f"Block {block}: patches and words that each expert takes most", items)
    last = block == analysis.numbers["layers"][-1]["block"]
    return exhibits if last else Fold(f"Block {block}", [exhibits])


def _words(words: list[dict[str, Any]]) -> str:
    if not words:
        return "No text."
    return ", ".join(f"**{_plain(word['text'])}** {word['count']:,} ({percent(word['share'])})" for word in words)


def _plain(text: str) -> str:
    return text.replace("*", "∗").replace("`", "'")  # a token that would mark up what follows


def _agreement(numbers: Mapping[str, Any]) -> list[Block]:
    if not numbers["agreement"]:
        return [Prose("There is one MoE layer, and nothing to agree with.")]
    rows = [
        [
            Cell(f"block {one['from']} to {one['to']}", one["modality"]),
            Cell(f"{one['normalised']:.3f}", sort=one["normalised"]),
            Cell(f"{one['corrected']:.3f}", sort=one["corrected"]),
            Cell(f"{one['tokens']:,}", sort=one["tokens"]),
        ]
        for one in numbers["agreement"]
    ]
    columns = ["Layers", "Normalised", "Corrected", "Tokens"]
    return [Table("Mutual information of a token's experts in two layers", columns, rows, frozenset({1, 2, 3}))]


def _dropped(numbers: Mapping[str, Any]) -> list[Block]:
    told = f"Dropped in training, a group of {numbers['group']:,} pairs at a time; the last places hold few captions' tokens."
    return [Prose(told), Grid(drawn.lost_images(numbers)), drawn.lost_text(numbers)]
