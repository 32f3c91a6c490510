"""New Python interpreters that do work for this process, and end with it, however it dies."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, parent_process
from typing import Any


def interpreters(count: int, begin: Callable[..., object] | None = None, arguments: tuple[Any, ...] = ()) -> ProcessPoolExecutor:
    """So many of them, started when they are needed; each calls begin(*arguments) first.

    Not forked: such a process would have the locks of this one's threads, but not the threads.
    """
    return ProcessPoolExecutor(count, get_context("spawn"), _begin, (begin, arguments))


def _begin(begin: Callable[..., object] | None, arguments: tuple[Any, ...]) -> None:
    """Ctrl-C is for the parent, which ends this process; and so does its death."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    if begin is not None:
        begin(*arguments)


def _end_with_parent() -> None:
    if parent := parent_process():
        parent.join()
        os._exit(1)
