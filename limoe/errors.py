"""The exception that means "you can fix this": the CLI prints its sentence without a traceback and exits 2. And what carries
such a sentence, or another one, from one process to the next."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Literal

Kind = Literal["user", "machine", "bug"]  # whose fault it is; another attempt may help if the machine's


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """For the end of a sentence about a name that there is not: the known one most like it, nothing if none is like it at all.

    cutoff: from 0 to 1, how like (difflib's ratio).

    >>> did_you_mean("rooter", ["router", "noise"]), did_you_mean("x", ["router"])
    ('; did you mean router?', '')
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"; did you mean {close[0]}?" if close else ""


class UserError(Exception):
    """A mistake of the user's (a wrong parameter, an unreadable set): one sentence that says what, where and what is allowed."""


class Reported(Exception):
    """A failure of another process, which has found out whose fault it is. The message says it all."""

    def __init__(self, kind: Kind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Reported], tuple[Kind, str]]:
        return type(self), (self.kind, str(self))
