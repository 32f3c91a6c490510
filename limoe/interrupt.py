"""SIGINT and SIGTERM: an exception at once or, where a step has to be finished and saved first, at its end.

Only the main thread can set handlers: elsewhere the functions here leave signals as they are. So they do with a signal that this
process was started to ignore (nohup, a shell's background job).
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_CODES = tuple(128 + number for number in SIGNALS)  # 130 and 143, as shells have it
AGAIN = "everything already written is valid; run it again (a training goes on from its last checkpoint)"


class Interrupted(KeyboardInterrupt):
    """Somebody asked this process to end. number: the signal. The message says what to do next."""

    def __init__(self, number: int, what: str = AGAIN) -> None:
        super().__init__(f"interrupted by {signal.Signals(number).name}: {what}")
        self.exit_code = 128 + number


@dataclass
class Request:
    """number: the signal that came, None before."""

    number: int | None = None


@contextmanager
def at_once() -> Iterator[None]:
    """For the body, SIGINT and SIGTERM raise Interrupted."""

    def handle(number: int, _: FrameType | None) -> None:
        raise Interrupted(number)

    with _handled(handle):
        yield


@contextmanager
def postponed(again: signal.Handlers = signal.SIG_DFL) -> Iterator[Request]:
    """For the body, the first of them is only noted in what this yields; `again` says what a second one does: by default it ends
    the process at once."""
    request = Request()

    def handle(number: int, _: FrameType | None) -> None:
        request.number = number
        for one in SIGNALS:
            signal.signal(one, again)

    with _handled(handle):
        yield request


@contextmanager
def _handled(handle: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}
    taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]
    try:
        for number in taken:
            signal.signal(number, handle)
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])
