"""The exception that means "you can fix this": the CLI prints its sentence without a traceback and exits 2. And what carries
such a sentence, or another one, from one process to the next."""

from __future__ import annotations

from typing import Literal

Kind = Literal["user", "machine", "bug"]  # whose fault it is; another attempt may help if the machine's


class UserError(Exception):
    """A mistake of the user's (a wrong parameter, an unreadable set): one sentence that says what, where and what is allowed."""


class Reported(Exception):
    """A failure of another process, which has found out whose fault it is. The message says it all."""

    def __init__(self, kind: Kind, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind

    def __reduce__(self) -> tuple[type[Reported], tuple[Kind, str]]:
        return type(self), (self.kind, str(self))
