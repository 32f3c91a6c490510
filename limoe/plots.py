"""What every PNG of ours has in common. Equal figures give equal bytes: no date, no software version."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLOURS = ("#0a8f62", "#8a4fd3", "#cf620a", "#2c6fdb", "#c2317c", "#7a7a12")  # the report page's series
INCHES, DPI = (7.0, 3.6), 120


def new_figure(inches: tuple[float, float] = INCHES) -> Figure:
    """An empty figure that belongs to no window."""
    from matplotlib.figure import Figure

    return Figure(inches, DPI, layout="constrained")


def to_png(figure: Figure) -> bytes:
    """The figure as a PNG file."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
