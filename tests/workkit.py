"""What tests of workers have done by other processes, which find these functions by their names."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from limoe.errors import Reported, UserError


def double(number: int) -> int:
    return 2 * number


def whoami(number: int) -> int:
    return os.getpid()


def imported(name: str) -> bool:
    return name in sys.modules


def refuse(number: int) -> int:
    if number == 3:
        raise UserError("no threes")
    return number


class Odd(Exception):
    """An exception that does not survive pickling."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(f"{one} and {other}")


def stumble(number: int) -> int:
    raise {0: Odd("this", "that"), 1: FileNotFoundError(2, "gone"), 2: Reported("machine", "broke off")}[number]


class Deadly:
    """Does tasks, and is killed at one of them: the first time, or always. Names what it has done in `folder`."""

    def __init__(self, folder: Path, task: int, always: bool = False) -> None:
        self.folder, self.task, self.always = folder, task, always

    def do(self, number: int) -> int:
        tried = self.folder / f"tried-{number}"
        if number == self.task and (self.always or not tried.exists()):
            tried.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return -number
