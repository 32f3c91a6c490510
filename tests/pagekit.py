"""For tests of pages: whether plotly itself takes what they draw."""

from __future__ import annotations

from typing import Any

import plotly.graph_objects as go

from limoe.report.document import Figure


def drawn_by_plotly(figure: Figure) -> go.Figure:
    """The figure as plotly's own, which refuses what it does not know; colours that the page's style names are any colour."""
    return go.Figure(data=_plain(list(figure.data)), layout=_plain(figure.layout))


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return "#123456" if value.startswith("@") else value
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list) else value
