"""The balance analysis as a page: what each modality brings, what follows for routing, what to look at."""

from __future__ import annotations

from typing import Any

from limoe.data.balance import BalanceReport
from limoe.data.scope import Scope
from limoe.report.balance_drops import drop_blocks, drop_sentence
from limoe.report.balance_tables import (
    count,
    kind_table,
    negatives_prose,
    setting_table,
    share,
    suggestion_table,
    worst_table,
)
from limoe.report.charts import axis, base_layout
from limoe.report.document import Block, Cell, Document, Figure, Prose, Section, Table, Terms
from limoe.train.untrained import Untrained, warnings

TERMS = {
    "fair share": "(Token, choice) pairs that an expert gets in a routing group if all experts get the same number.",
    "capacity": "Places an expert has in a group: the fair share times `model.moe.capacity_factor`, rounded up. A token without "
    "a place keeps only its residual.",
    "priority": "Batch priority routing: places go by the size of the gate. Without it they go by the order of the array, "
    "images first. The figures with priority are the best case, in which text has the larger gates.",
    "random": "Every choice falls on any expert alike. Loads scatter, so some tokens find no place even then, the more the "
    "smaller the group.",
    "tau": "Threshold of the global entropy loss, in nats: a soft minimum of exp(tau) experts for a modality. Suggested is the "
    "log of the larger of two numbers: the paper's share of the experts (9 of 32 for text, 20 of 32 for images), and the "
    "experts that the modality's tokens fill.",
    "dropped": "Share of a modality's choices that find no place; with K = 1, of its tokens. Untrained: means over models with "
    "fresh weights, and the standard deviation between them. Uniform: what would be dropped if all choices fell on any "
    "expert alike, which training should approach.",
    "worst case": "All text wants the same expert (the same K), and images fall on any expert alike.",
    "entropy bias": "The entropy of the mean of few tokens' probabilities is too low, by this much, in nats. At most: if each "
    "token had one expert alone, independently of the others, (E - 1) / (2 n).",
    "alike pairs": "Pairs of captions of a batch that differ, but share 80% of their tokens: false negatives that the sampler "
    "does not keep apart.",
    "equal pairs": "Pairs of equal captions expected in a routing group if its rows were drawn blindly: false "
    "negatives of the contrastive loss. The sampler keeps them apart.",
}


def headline(report: BalanceReport, fresh: Untrained | None) -> str:
    """What the analysis found, in one sentence."""
    total = report.scopes[0]
    routing = total.routing
    return (
        f"A pair brings {total.image_tokens} image tokens and {total.lengths.mean:.1f} text tokens ({total.ratio:.1f} to 1). "
        f"If all text chose one expert, {routing.one_expert_priority_text:.0%} of it would find room with priority routing, "
        f"{routing.one_expert_first_come_text:.0%} without."
    ) + drop_sentence(fresh)


def document(report: BalanceReport, fresh: Untrained | None) -> Document:
    """The page."""
    found: list[Block] = [Prose(f"**Look at this:** {warning}.") for warning in (*report.warnings, *warnings(fresh))]
    return Document(
        title="Modality balance",
        headline=headline(report, fresh),
        lead=found or [Prose("Nothing stands out.", "quiet")],
        sections=[
            Section("tokens", "What a pair brings", [token_table(report), length_figure(report)]),
            Section(
                "routing",
                "What follows for routing",
                [placed_figure(report), routing_table(report), suggestion_table(report), worst_table(report)],
            ),
            Section("untrained", "What an untrained model drops", drop_blocks(report, fresh)),
            Section("settings", "Other pictures and text lengths", [setting_table(report)]),
            Section(
                "captions",
                "Captions",
                [vocabulary_prose(report), kind_table(report), negatives_prose(report), validation_table(report)],
            ),
            Section("terms", "Words used here", [Terms(TERMS)]),
        ],
    )


def token_table(report: BalanceReport) -> Table:
    """Tokens, cuts and duplicates by source."""
    columns = ["drawn for", "rows", "text tokens", "95% have at most", "longest", "image : text", "cut", "equal pairs"]
    rows = [
        [
            Cell(scope.name),
            count(scope.rows, f"{scope.duplicates.pictures:,} repeated pictures" if scope.duplicates.pictures else ""),
            Cell(f"{scope.lengths.mean:.1f}", f"median {scope.lengths.p50}", scope.lengths.mean),
            count(scope.lengths.p95),
            count(scope.lengths.longest),
            Cell(f"{scope.ratio:.1f} : 1", sort=scope.ratio),
            share(scope.lengths.truncated),
            Cell(f"{scope.duplicates.equal_pairs:.1f}", sort=scope.duplicates.equal_pairs),
        ]
        for scope in report.scopes
    ]
    shares = ", ".join(f"{100 * share:.3g}% {name}" for name, share in report.mixture.items())
    caption = (
        f"Captions in tokens, end of text included; cut at `model.tower.text_length` = {report.text_length}. "
        f"A training batch is {shares} (`train.mixture`)"
    )
    return Table(caption, columns, rows, frozenset(range(1, 8)))


def routing_table(report: BalanceReport) -> Table:
    """Capacity, and how much of it text would get, by source."""
    columns = [
        "a routing group of",
        "image tokens",
        "text tokens",
        "capacity",
        "placed, random",
        "text on one expert",
        "factor needed",
    ]
    rows = []
    for scope in report.scopes:
        routing = scope.routing
        rows.append(
            [
                Cell(scope.name),
                count(routing.image_tokens),
                count(routing.text_tokens),
                count(routing.capacity, f"fair share {routing.fair_share:.0f}"),
                share(routing.random_placed, f"text first-come {1 - routing.random_dropped['first-come'][0]:.1%}"),
                share(routing.one_expert_priority_text, f"first-come {routing.one_expert_first_come_text:.1%}"),
                Cell(f"{routing.factor_first_come:.2f}", f"random {routing.factor_random:.2f}", routing.factor_first_come),
            ]
        )
    caption = "Shares that find a place, and the capacity factor from which enough text does, first-come on the experts of tau"
    return Table(caption, columns, rows, frozenset(range(1, 7)))


def vocabulary_prose(report: BalanceReport) -> Prose:
    """How much of the vocabulary the training captions use."""
    vocabulary = report.vocabulary
    return Prose(
        f"Training captions use {vocabulary.used:.1%} of the {vocabulary.entries:,} entries of the vocabulary; "
        f"{vocabulary.unknown:.2%} of their tokens are unknown to it."
    )


def validation_table(report: BalanceReport) -> Table:
    """Each validation split beside the training rows."""
    columns = ["split", "rows", "unknown tokens", "tokens new to training", "cut", "caption known", "picture known"]
    rows = [
        [
            Cell(split.split),
            count(split.rows),
            share(split.unknown),
            share(split.unseen),
            share(split.truncated),
            share(split.known_captions),
            count(split.known_pictures),
        ]
        for split in report.validation
    ]
    return Table("Validation splits (test splits stay closed until `evaluate`)", columns, rows, frozenset(range(1, 7)))


def length_figure(report: BalanceReport) -> Figure:
    """Caption lengths by source."""
    shown = sources(report)
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": scope.name,
            "x": list(range(1, len(scope.lengths.shares))),
            "y": [round(100 * one, 3) for one in scope.lengths.shares[1:]],
            "marker": {"color": f"@series{place % 6}"},
            "hovertemplate": "%{x} tokens: %{y:.1f}%<extra>" + scope.name + "</extra>",
        }
        for place, scope in enumerate(shown)
    ]
    cut = {"type": "line", "x0": report.text_length + 0.5, "x1": report.text_length + 0.5, "yref": "paper", "y0": 0, "y1": 1}
    layout = base_layout(
        320,
        xaxis=axis(title={"text": "tokens"}),
        yaxis=axis(title={"text": "captions, %"}, automargin=True, rangemode="tozero"),
        shapes=[{**cut, "line": {"color": "@bad", "width": 1.5, "dash": "dot"}}],
        barmode="overlay" if len(shown) == 1 else "group",
        showlegend=True,
    )
    says = "A bar a length and source; the dotted line is where captions are cut."
    return Figure("lengths", "Caption lengths as training draws them", says, data, layout)


def placed_figure(report: BalanceReport) -> Figure:
    """Share of text placed over the number of experts that it spreads over, with and without priority."""
    rows = report.scopes[0].routing.text_placed
    data = [
        {
            "type": "scatter",
            "mode": "lines+markers",
            "name": name,
            "x": [row[0] for row in rows],
            "y": [round(100 * row[column], 2) for row in rows],
            "line": {"color": colour, "width": 2, "dash": dash},
            "hovertemplate": "%{x} experts: %{y:.1f}%<extra>" + name + "</extra>",
        }
        for name, column, colour, dash in (("priority", 2, "@series0", "solid"), ("first-come", 1, "@series2", "dot"))
    ]
    layout = base_layout(
        320,
        xaxis=axis(title={"text": "experts that text spreads over"}),
        yaxis=axis(title={"text": "text placed, %"}, automargin=True, range=[0, 105]),
    )
    says = "Two rising lines: text needs few experts with priority routing, nearly all of them without."
    return Figure("text-placed", "Text that finds a place while images spread over all experts", says, data, layout)


def sources(report: BalanceReport) -> list[Scope]:
    """The single sources: without the total, unless it is the only one."""
    return list(report.scopes[1:] or report.scopes)
