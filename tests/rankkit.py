"""Functions that several processes run together, as torchrun would have them do, over gloo; what each returns comes back."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import socket
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from limoe.world import open_world

processes = multiprocessing.get_context("forkserver")  # forked from a process that has imported, and computed nothing
processes.set_forkserver_preload(["limoe.train.loop", "torch.distributed.fsdp"])


def together(size: int, function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What function(world, *arguments) returned on each of `size` ranks, by rank; a rank's exception is an AssertionError."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = []
    for rank in range(size):
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=_rank, args=(rank, size, port, sender, function, arguments))
        process.start()
        sender.close()
        started.append((process, receiver))
    results = [_received(receiver) for _, receiver in started]
    for process, _ in started:
        process.join()
    failures = [result for result in results if isinstance(result, str)]
    assert not failures, failures[0]
    return [pickle.loads(result) for result in results]


def _received(receiver: Connection) -> bytes | str:
    try:
        return receiver.recv()
    except EOFError:
        return "a rank died without a word"


def _rank(rank: int, size: int, port: int, sender: Connection, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": size, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {"TORCHELASTIC_RUN_ID": "tests"} | {name: str(value) for name, value in here.items()}
    torch.set_num_threads(1)
    try:
        with open_world(torch.device("cpu")) as world:
            assert (world.rank, world.size) == (rank, size)
            result = pickle.dumps(function(world, *arguments))
    except Exception:
        result = traceback.format_exc()
    sender.send(result)
