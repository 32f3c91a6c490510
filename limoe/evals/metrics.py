"""Names of metrics that are made up as they are needed (a few-shot probe's holds its number of pictures), and of weights."""

from __future__ import annotations

import re

UNCAPTIONED = "uncaptioned"  # share of a set's pictures that retrieval leaves out, because they have no caption
LINEAR_PROBE = "linear-probe"
WEIGHTS = {"per_class": "class_weight"}  # metrics in which items count unequally: where each item's weight stands, 1 on average
SHOTS = re.compile(r"\d+-shot")


def few_shot(count: int) -> str:
    """The probe of `count` pictures a class.

    >>> few_shot(10)
    '10-shot'
    """
    return f"{count}-shot"


def is_probe(metric: str) -> bool:
    """Whether a metric is a probe's top-1.

    >>> is_probe("10-shot"), is_probe("linear-probe"), is_probe("10-shot/sd")
    (True, True, False)
    """
    return metric == LINEAR_PROBE or SHOTS.fullmatch(metric) is not None
