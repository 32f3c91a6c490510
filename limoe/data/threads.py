"""Threads that compute with one core each: background work leaves the other cores to the training."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import torch


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
