"""Which tests run together on one of pytest-xdist's workers, and in which order.

What a module's tests share (trainings, prepared sets) is made once if one worker runs them all; a folder's tests that share more
(the finished pipeline, a server) stay together, too. Its own `--dist loadgroup` lets marks say so, which pytest 9.2 makes it
forget without a word (pytest-dev/pytest-xdist#1386): every worker then ran the pipeline.
"""

from __future__ import annotations

import pytest
from xdist.scheduler import LoadScopeScheduling

TOGETHER = ("tests/pipeline/", "tests/flows/")
FIRST = (*TOGETHER, "tests/test_mutants.py", "tests/train/", "tests/benchmarks/", "tests/stages/")  # lest one worker wait


def unit(nodeid: str) -> str:
    """The folder or the module with which this test stays.

    >>> unit("tests/pipeline/test_repro.py::test_nothing_is_made_twice"), unit("tests/test_docs.py::test_links[a::b]")
    ('tests/pipeline/', 'tests/test_docs.py')
    """
    return next((folder for folder in TOGETHER if nodeid.startswith(folder)), nodeid.partition("::")[0])


def place(item: pytest.Item) -> int:
    """What takes longest comes first."""
    return next((number for number, start in enumerate(FIRST) if item.nodeid.startswith(start)), len(FIRST))


class Units(LoadScopeScheduling):
    """Hands out one unit after the other, in the order of their tests."""

    def _split_scope(self, nodeid: str) -> str:
        return unit(nodeid)
