"""A process that is killed in the middle of its writes, without a process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path


class Killed(BaseException):
    """Stands for SIGKILL: nothing is cleaned up on its way."""


class Kill:
    """A process that is killed at its n-th durable write, counted in calls of fsync; n None: never."""

    def __init__(self, at: int | None) -> None:
        self.at, self.writes, self.dead = at, 0, False
        self._real = os.fsync, shutil.rmtree, Path.unlink

    def __enter__(self) -> Kill:
        _, rmtree, unlink = self._real

        def write(descriptor: int) -> None:
            if self.writes == self.at:
                self.dead = True
                raise Killed
            self.writes += 1

        def unless_dead(function: Callable[..., None]) -> Callable[..., None]:
            return lambda *args, **kwargs: None if self.dead else function(*args, **kwargs)

        os.fsync, shutil.rmtree, Path.unlink = write, unless_dead(rmtree), unless_dead(unlink)  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        os.fsync, shutil.rmtree, Path.unlink = self._real  # type: ignore[method-assign]
