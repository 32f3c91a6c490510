"""What all plotly figures of the pages share."""

from __future__ import annotations

from typing import Any


def axis(**more: Any) -> dict[str, Any]:
    """An axis in the page's colours that does not zoom (a finger on it scrolls the page)."""
    return {"gridcolor": "@line", "zerolinecolor": "@line", "linecolor": "@line", "fixedrange": True, **more}


def base_layout(height: int, **more: Any) -> dict[str, Any]:
    """Margins, background, font and legend; `height` in px."""
    return {
        "height": height,
        "margin": {"l": 8, "r": 16, "t": 40, "b": 44},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif", "size": 13, "color": "@text"},
        "hoverlabel": {"bgcolor": "@card", "bordercolor": "@line", "font": {"color": "@text"}},
        "legend": {"orientation": "h", "x": 0, "y": 1, "xanchor": "left", "yanchor": "bottom"},
        "dragmode": False,
        **more,
    }
