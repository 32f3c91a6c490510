"""What an untrained model drops, as a sentence, a table and a figure of the balance analysis's page."""

from __future__ import annotations

from typing import Any

from limoe.data.balance import BalanceReport
from limoe.report.charts import axis, base_layout
from limoe.report.document import Block, Cell, Figure, Prose, Table
from limoe.train.untrained import Spread, Untrained

MODALITIES = (("text", "@series2"), ("image", "@series3"))


def drop_sentence(fresh: Untrained | None) -> str:
    """What the rule in use drops at first; nothing where no model was looked at."""
    if fresh is None:
        return ""
    text, image = fresh.own.dropped
    return f" Untrained, it drops {text.mean:.0%} of text and {image.mean:.0%} of images under {fresh.chosen}."


def drop_blocks(report: BalanceReport, fresh: Untrained | None) -> list[Block]:
    """A figure, a table and the entropies."""
    if fresh is None:
        return [Prose("`balance.seeds` is 0: no untrained model was looked at.", "quiet")]
    return [drop_figure(report, fresh), drop_table(report, fresh), entropy_table(fresh)]


def drop_table(report: BalanceReport, fresh: Untrained) -> Table:
    """By rule: what is dropped, beside uniform routing, and who holds the places."""
    uniform = report.scopes[0].routing.random_dropped
    columns = ["rule", "text dropped", "images dropped", "text, no place at all", "images, no place at all"]
    columns += ["places held by text", "places held by images"]
    rows = []
    for rule in fresh.rules:
        closed = uniform.get(rule.name, (None, None))
        rows.append(
            [
                Cell(rule.name, "in use" if rule.name == fresh.chosen else ""),
                *(spread(one, other) for one, other in zip(rule.dropped, closed, strict=True)),
                *map(spread, rule.lost),
                *map(spread, rule.places),
            ]
        )
    caption = (
        f"{fresh.seeds} untrained models, {fresh.pairs} pairs each: the first step of a training. Mean and standard deviation "
        "over the models; routing learns at once, so later steps drop less: `limoe rehearse` trains the first ones"
    )
    return Table(caption, columns, rows, frozenset(range(1, 7)))


def entropy_table(fresh: Untrained) -> Table:
    """The entropy of the mean probabilities, and how much that of a routing group is too low."""
    rows = [
        [Cell(name), *(Cell(f"{value:.{digits}f}", sort=value) for value, digits in zip(found, (3, 5, 5), strict=True))]
        for (name, _), found in zip(MODALITIES, fresh.entropy, strict=True)
    ]
    caption = "Entropy of the mean router probabilities of an untrained model, nats, and the bias of a group's"
    return Table(caption, ["modality", "entropy", "bias", "bias if tokens were independent"], rows, frozenset({1, 2, 3}))


def drop_figure(report: BalanceReport, fresh: Untrained) -> Figure:
    """A bar a rule and modality with its spread, and a line where uniform routing is."""
    uniform = report.scopes[0].routing.random_dropped
    names = [rule.name for rule in fresh.rules]
    data: list[dict[str, Any]] = []
    for modality, (name, colour) in enumerate(MODALITIES):
        found = [rule.dropped[modality] for rule in fresh.rules]
        data.append(
            {
                "type": "bar",
                "name": name,
                "x": names,
                "y": [round(100 * one.mean, 2) for one in found],
                "error_y": {"type": "data", "array": [round(100 * one.deviation, 2) for one in found], "color": "@quiet"},
                "marker": {"color": colour},
                "hovertemplate": "%{x}: %{y:.1f}%<extra>" + name + "</extra>",
            }
        )
        if all(rule in uniform for rule in names):
            closed = [round(100 * uniform[rule][modality], 3) for rule in names]
            marker = {"color": colour, "symbol": "line-ew-open", "size": 18}
            dashes = {"type": "scatter", "mode": "markers", "x": names, "y": closed, "marker": marker}
            data.append(dashes | {"name": f"{name}, uniform"})
    layout = base_layout(
        320,
        xaxis=axis(type="category"),
        yaxis=axis(title={"text": "dropped, %"}, automargin=True, rangemode="tozero"),
        barmode="group",
        showlegend=True,
    )
    says = "Two bars a rule; whiskers are a standard deviation between models, dashes what uniform routing would drop."
    return Figure("drops", "What an untrained model drops, by priority rule", says, data, layout)


def spread(value: Spread, uniform: float | None = None) -> Cell:
    """A mean share with its deviation, and the closed form under it."""
    note = "" if uniform is None else f"uniform {uniform:.1%}"
    return Cell(f"{value.mean:.1%} ± {100 * value.deviation:.1f}", note, value.mean)
