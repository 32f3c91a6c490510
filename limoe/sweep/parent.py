"""A trial ends with whoever started it: a sweep that was killed leaves no trainings behind that nobody waits for."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time

PARENT = "LIMOE_PARENT"  # in the environment: the process that a trial ends with
SET_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
POLL_SECONDS = 1.0


def end_with_parent() -> None:
    """From now on SIGKILL this process when the one that PARENT names is gone; does nothing where PARENT is not set.

    Linux does so at once, elsewhere a thread looks every second. Nothing is left half written: a trial may be killed at any time.
    """
    parent = os.environ.pop(PARENT, None)
    if parent is None:
        return
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    else:
        threading.Thread(target=_watch, args=(int(parent),), daemon=True).start()
    if os.getppid() != int(parent):  # it went before we could ask
        os.kill(os.getpid(), signal.SIGKILL)


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)
