"""A sweep's figures as PNG pictures, for docs, artifacts and MLflow. `facts` and `trials` as in limoe/report/sensitivity.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from limoe.plots import COLOURS, new_figure, to_png
from limoe.report.failure_figures import CENSORED, SUCCESS, by_kind, combined_roc, failure_axes
from limoe.report.sensitivity_figures import axis_of, log_ticks, ranked
from limoe.report.values import drawn, middle, short_names, stretch

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Facts = Mapping[str, Any]
COLUMNS = 3
MARKS = {  # of kinds: colour and matplotlib's marker
    SUCCESS: (COLOURS[0], "o"),
    "collapsed": (COLOURS[1], "x"),
    "diverged": ("#a8231b", "D"),
    "unhealthy": (COLOURS[2], "^"),
    "behind": (COLOURS[3], "s"),
    "oom": (COLOURS[4], "*"),
    CENSORED: ("#a8b0aa", "_"),
}
QUIET = "#66706a"


def stills(facts: Facts, trials: Sequence[Facts]) -> dict[str, bytes]:
    """Every picture that these facts allow, by its name: success, pair, importances, failures, roc."""
    drawn = {
        "success": success(facts) if facts["counts"]["labelled"] else None,
        "pair": pair(facts["pairs"][0]) if facts["pairs"] else None,
        "importances": importances(facts),
        "failures": failures(facts, trials),
        "roc": roc(facts),
    }
    return {name: picture for name, picture in drawn.items() if picture is not None}


def success(facts: Facts) -> bytes:
    """P(success) by each parameter, the one that matters most first."""
    curves = sorted(facts["curves"], key=lambda curve: ranked(facts).index(curve["name"]))
    rows = -(-len(curves) // COLUMNS)
    figure = new_figure((9.0, 0.3 + 2.1 * rows))
    grid = list(figure.subplots(rows, COLUMNS, squeeze=False).flat)
    robust = (facts["recommendation"] or {"robust": {"values": {}}})["robust"]["values"]
    for axes, curve in zip(grid, curves, strict=False):
        _curve(axes, curve, axis_of(facts, curve["name"]), robust.get(curve["name"]))
    for axes in grid[len(curves) :]:
        axes.axis("off")
    return to_png(figure)


def _curve(axes: Axes, curve: Facts, facts: Facts, robust: Any) -> None:
    tried = [one for one in curve["bins"] if one["share"]["probability"] is not None]
    ranged = facts["choices"] is None
    x = [middle(one, facts["log"]) if ranged else stretch(one) for one in tried]
    y = [100 * one["share"]["probability"] for one in tried]
    below = [100 * (one["share"]["probability"] - one["share"]["lower"]) for one in tried]
    above = [100 * (one["share"]["upper"] - one["share"]["probability"]) for one in tried]
    if ranged:
        smooth = [one for one in curve["smooth"] if one["share"]["probability"] is not None]
        places = [one["x"] for one in smooth]
        low, high = ([100 * one["share"][end] for one in smooth] for end in ("lower", "upper"))
        axes.fill_between(places, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.plot(places, [100 * one["share"]["probability"] for one in smooth], color=COLOURS[0])
        _scale(axes, "x", facts)
        if robust is not None:
            axes.axvline(robust, color="#1c2320", linestyle=":", linewidth=1.2)
    colour = QUIET if ranged else COLOURS[0]
    axes.errorbar(x, y, [below, above], fmt="o", color=colour, markersize=4, elinewidth=1)
    axes.set(ylim=(-3, 103), ylabel="success, %")
    axes.set_title(curve["name"], fontsize=9)


def pair(one: Facts) -> bytes:
    """P(success) by two parameters."""
    figure = new_figure((6.0, 3.2))
    axes = figure.add_subplot()
    shares = [[100 * cell["probability"] if cell["n"] else float("nan") for cell in row] for row in one["cells"]]
    image = axes.imshow(shares, cmap="Greens", vmin=0, vmax=100, aspect="auto", origin="lower")
    for row, cells in enumerate(one["cells"]):
        for column, cell in enumerate(cells):
            colour = "white" if (cell["probability"] or 0) > 0.6 else "#1c2320"
            told = f"{cell['hits']:.3g} of {cell['n']:.3g}" if cell["n"] else ""
            axes.text(column, row, told, ha="center", va="center", color=colour, fontsize=9)
    across, down = ([stretch(part) for part in one[bins]] for bins in ("second_bins", "first_bins"))
    axes.set(xticks=range(len(across)), xticklabels=across, xlabel=one["second"])
    axes.set(yticks=range(len(down)), yticklabels=down, ylabel=one["first"])
    figure.colorbar(image, ax=axes, label="success, %")
    return to_png(figure)


def importances(facts: Facts) -> bytes | None:
    """Shares of the variance of quality and of failure (fANOVA)."""
    known = [(target, facts[target]["fanova"]) for target in ("quality", "failure") if facts[target]["fanova"]]
    if not known:
        return None
    names = ranked(facts)
    figure = new_figure((7.0, 1.0 + 0.42 * len(names)))
    axes = figure.add_subplot()
    height = 0.8 / len(known)
    for place, (target, shares) in enumerate(known):
        rows = [row + height * (place - (len(known) - 1) / 2) for row in range(len(names))]
        colour = COLOURS[0] if target == "quality" else COLOURS[2]
        axes.barh(rows, [100 * shares.get(name, 0.0) for name in names], height, label=target, color=colour)
    axes.set(yticks=range(len(names)), yticklabels=list(short_names(names).values()), xlabel="share of the variance, %")
    axes.invert_yaxis()
    axes.legend(frameon=False)
    return to_png(figure)


def failures(facts: Facts, trials: Sequence[Facts]) -> bytes | None:
    """Every trial by the two parameters that decide failure most."""
    names = failure_axes(facts)
    if names is None or not trials:
        return None
    figure = new_figure((7.0, 4.4))
    axes = figure.add_subplot()
    places = [axis_of(facts, name) for name in names]
    for kind, mine in by_kind(facts, trials).items():
        colour, marker = MARKS.get(kind, (QUIET, "."))
        shown = [one["values"] for one in mine if all(name in one["values"] for name in names)]
        x, y = ([drawn(place, values[place["name"]]) for values in shown] for place in places)
        filled = "none" if marker in ("o", "s") else colour
        axes.plot(x, y, marker, color=colour, markerfacecolor=filled, markersize=6, label=kind)
    axes.set(xlabel=names[0], ylabel=names[1])
    _scale(axes, "x", places[0])
    _scale(axes, "y", places[1])
    axes.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9)
    return to_png(figure)


def _scale(axes: Axes, direction: Literal["x", "y"], facts: Facts) -> None:
    """Give an axis its parameter's scale. On a logarithmic one matplotlib labels every tick of a short range over the next."""
    if facts["choices"] is not None or not facts["log"]:
        return
    ticks = log_ticks(float(facts["low"]), float(facts["high"]))
    axes.set(**{f"{direction}scale": "log"})
    axes.set(**{f"{direction}ticks": ticks, f"{direction}ticklabels": [f"{tick:.3g}" for tick in ticks]})
    axes.tick_params(direction, which="minor", label1On=False)


def roc(facts: Facts) -> bytes | None:
    """Failures caught against false alarms."""
    curves = combined_roc(facts)
    if not curves:
        return None
    figure = new_figure((5.0, 3.8))
    axes = figure.add_subplot()
    for place, (fraction, curve) in enumerate(curves):
        x, y = ([100 * point[end] for point in curve] for end in (0, 1))
        axes.step(x, y, where="post", color=COLOURS[place], label=f"at {fraction:.0%} of the budget")
    axes.plot([0, 100], [0, 100], color="#a8b0aa", linewidth=1)
    axes.set(xlabel="false alarms, %", ylabel="failures caught, %", xlim=(-2, 102), ylim=(-2, 102))
    axes.legend(frameon=False)
    return to_png(figure)
