"""Threads that compute with one core each: background work leaves the other cores to the training."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import torch

SHARES_TEXTS = "TOKENIZERS_PARALLELISM"  # which the library looks up for each batch


def single_core_thread(name: str) -> ThreadPoolExecutor:
    """A pool of one such thread; the calling thread keeps its number of threads.

    torch.set_num_threads sets the calling thread's number and the default of later threads, and a thread takes the default over
    its own number when it first asks for it. So the new one asks before it sets, and the caller's number is made the default
    again.
    """
    threads = torch.get_num_threads()
    started = threading.Event()
    pool = ThreadPoolExecutor(1, name, initializer=_compute_with_one_core)
    pool.submit(started.set)
    started.wait()
    torch.set_num_threads(threads)
    return pool


def _compute_with_one_core() -> None:
    torch.get_num_threads()
    torch.set_num_threads(1)


@contextmanager
def unhindered() -> Iterator[None]:
    """For as long as a process trains: nothing stops all its threads at once, and captions are tokenised by one core.

    A full garbage collection takes 0.1 s, in which every thread waits: what is there by now is not searched again. `tokenizers`
    would share each batch among all cores, which compute or decode; a user's own TOKENIZERS_PARALLELISM stays.
    """
    gc.freeze()
    own = os.environ.get(SHARES_TEXTS)
    os.environ.setdefault(SHARES_TEXTS, "false")
    try:
        yield
    finally:
        gc.unfreeze()
        if own is None:
            os.environ.pop(SHARES_TEXTS, None)
