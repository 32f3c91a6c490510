"""Values of a searched parameter as people read them: short numbers, stretches of a range, places on an axis."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

ABSENT = "not searched"  # where a condition left a parameter out


def brief(value: Any) -> str:
    """A value in three digits.

    >>> brief(0.00213456), brief(16), brief(1.0), brief("bpr"), brief(None)
    ('0.00213', '16', '1', 'bpr', 'null')
    """
    if value is None:
        return "null"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def value_of(values: Mapping[str, Any], name: str) -> str:
    """The value of a setting among those of a point.

    >>> value_of({"a": None}, "a"), value_of({"a": None}, "b")
    ('null', 'not searched')
    """
    return brief(values[name]) if name in values else ABSENT


def short_names(names: Sequence[str]) -> dict[str, str]:
    """Each name's last parts, as many as no other name ends in; the whole where there are none.

    >>> list(short_names(["train.lr", "model.moe.router", "train.lr_scale.router"]).values())
    ['lr', 'moe.router', 'lr_scale.router']
    """
    ends = {name: [name.split(".", start)[-1] for start in range(name.count("."), -1, -1)] for name in names}
    taken = Counter(end for mine in ends.values() for end in mine)
    return {name: next((end for end in mine if taken[end] == 1), name) for name, mine in ends.items()}


def stretch(one: Mapping[str, Any]) -> str:
    """A bin's label: its choice, or low–high."""
    return brief(one["choice"]) if one["low"] is None else f"{brief(one['low'])}–{brief(one['high'])}"


def middle(one: Mapping[str, Any], log: bool) -> float:
    """The centre of a bin of a range, on the scale that the range is searched on.

    >>> middle({"low": 1, "high": 100}, log=True)
    10.0
    """
    low, high = float(one["low"]), float(one["high"])
    return math.sqrt(low * high) if log else (low + high) / 2


def position(axis: Mapping[str, Any], value: Any) -> float:
    """Where on its axis a value lies, 0 (lowest) to 1 (highest), on the axis's scale; choices in their order."""
    if axis["choices"] is not None:
        return list(axis["choices"]).index(value) / max(1, len(axis["choices"]) - 1)
    low, high, at = (math.log(x) if axis["log"] else float(x) for x in (axis["low"], axis["high"], value))
    return (at - low) / (high - low) if high > low else 0.5


def drawn(axis: Mapping[str, Any], value: Any) -> Any:
    """A value as figures place it: itself on an axis of numbers, its words among other choices."""
    return value if axis["numeric"] else brief(value)


def probability(share: Mapping[str, Any]) -> str:
    """An estimated probability in whole per cent, "?" where nothing was tried.

    >>> probability({"probability": 0.724}), probability({"probability": None})
    ('72%', '?')
    """
    return "?" if share["probability"] is None else f"{100 * share['probability']:.0f}%"


def between(share: Mapping[str, Any]) -> str:
    """Its interval, in whole per cent.

    >>> between({"lower": 0.583, "upper": 0.842})
    '58 to 84%'
    """
    return f"{100 * share['lower']:.0f} to {100 * share['upper']:.0f}%"


def loss_of(loss: float | None) -> str:
    """A loss in nats, "–" where there is none.

    >>> loss_of(3.14159), loss_of(None)
    ('3.142', '–')
    """
    return "–" if loss is None else f"{loss:.3f}"
