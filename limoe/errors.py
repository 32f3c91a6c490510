"""The one exception that means "you can fix this": the CLI prints its sentence without a traceback and exits 2."""

from __future__ import annotations


class UserError(Exception):
    """A mistake of the user's (a wrong parameter, an unreadable set): one sentence that says what, where and what is allowed."""
