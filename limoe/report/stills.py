"""The balance analysis as PNG pictures, for `dvc plots` and for pages that run no script. Equal reports give equal bytes."""

from __future__ import annotations

from limoe.data.balance import BalanceReport
from limoe.plots import COLOURS, new_figure, to_png
from limoe.train.untrained import Untrained


def caption_lengths(report: BalanceReport) -> bytes:
    """Share of captions by length in tokens, a line a source, and where they are cut."""
    figure = new_figure()
    axes = figure.add_subplot()
    for place, scope in enumerate(report.scopes[1:] or report.scopes):
        shares = [100 * one for one in scope.lengths.shares]
        axes.step(range(len(shares)), shares, where="mid", label=scope.name, color=COLOURS[place % len(COLOURS)])
    axes.axvline(report.text_length + 0.5, color="#a8231b", linestyle=":", label=f"cut at {report.text_length}")
    axes.set(xlabel="tokens of a caption", ylabel="captions, %", ylim=(0, None), xlim=(0, None))
    axes.legend(frameon=False)
    return to_png(figure)


def tokens(report: BalanceReport) -> bytes:
    """Image and text tokens of a pair, a bar a source."""
    figure = new_figure()
    axes = figure.add_subplot()
    names = [scope.name for scope in report.scopes]
    images = [scope.image_tokens for scope in report.scopes]
    texts = [scope.lengths.mean for scope in report.scopes]
    axes.barh(names, images, color=COLOURS[3], label="image")
    bars = axes.barh(names, texts, left=images, color=COLOURS[2], label="text")
    axes.bar_label(bars, [f" {scope.ratio:.1f} : 1" for scope in report.scopes])
    axes.invert_yaxis()
    axes.set(xlabel="tokens a pair, mean", xlim=(0, 1.15 * max(map(sum, zip(images, texts, strict=True)))))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return to_png(figure)


def drops(report: BalanceReport, fresh: Untrained | None) -> bytes:
    """What an untrained model drops under each priority rule, with its spread, and what uniform routing would; the latter alone
    where no model was looked at."""
    uniform = report.scopes[0].routing.random_dropped
    names = list(uniform) if fresh is None else [rule.name for rule in fresh.rules]
    figure = new_figure()
    axes = figure.add_subplot()
    for modality, (name, colour) in enumerate((("text", COLOURS[2]), ("image", COLOURS[3]))):
        places = [place + 0.4 * modality - 0.2 for place in range(len(names))]
        if fresh is not None:
            found = [rule.dropped[modality] for rule in fresh.rules]
            heights, spread = [100 * one.mean for one in found], [100 * one.deviation for one in found]
            axes.bar(places, heights, 0.38, yerr=spread, color=colour, ecolor="#777777", label=name)
        if all(rule in uniform for rule in names):
            closed = [100 * uniform[rule][modality] for rule in names]
            axes.scatter(places, closed, 200, marker="_", color="black", label="uniform routing" if modality else None)
    axes.set_xticks(range(len(names)), names)
    axes.set(ylabel="dropped, %", ylim=(0, None))
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=3)
    return to_png(figure)
