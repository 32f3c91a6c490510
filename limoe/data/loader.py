"""Training batches: which rows (limoe.data.sampler), their pictures (limoe.data.decoding) and their captions as tokens.

Axes: B pairs, N text tokens of the batch, L tokens of a caption.

Everything random is keyed by (train.seed, step), and whoever makes pictures computes with one core: a batch's bits depend neither
on the number of workers nor on train.threads, and background work leaves the other cores to the training. One worker is a thread;
more are processes (limoe.data.decoders), as threads share the interpreter's lock.

With several ranks each plans the same batches and makes its own part of them: together they see what one process would.

What is in memory does not grow with the set: of each source the row groups of the window that is being shuffled, as they are
encoded, and those of the next one as far as they have been read (limoe.data.order), a few batches, and the cache of decoded
pictures.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Self

import torch

from limoe.config import MachineParams, TowerParams, TrainParams
from limoe.data.augment import Augmentation
from limoe.data.decoders import POSSIBLE, Decoders
from limoe.data.decoding import Encoded, Pictures
from limoe.data.keyed import AUGMENT, stream
from limoe.data.mixture import mixture_counts
from limoe.data.prepared import Prepared
from limoe.data.rowgroups import open_sources
from limoe.data.sampler import Pick, Sampler, State
from limoe.errors import Reported, UserError
from limoe.model.tokens import PairBatch
from limoe.world import ALONE, World

AHEAD = 2  # batches that are kept ready by a thread
AHEAD_OF_PROCESSES = 4  # likewise by processes
IN_HAND = 3  # batches that these work on at a time, so that none waits for another one's share


class PairLoader:
    """Endless training batches; `state_dict` and `load_state_dict` resume exactly after any of them. Close it when done."""

    def __init__(
        self,
        prepared: Prepared,
        tower: TowerParams,
        train: TrainParams,
        machine: MachineParams,
        pins: bool = False,
        world: World = ALONE,
    ) -> None:
        """UserError if train.mixture names a source without training rows, or asks for more rows than can be kept apart.

        pins: whether batches are made in pinned memory, for a GPU. world: whose ranks share each batch.
        """
        counts = mixture_counts(train.mixture, train.batch)
        self._tokenizer = prepared.tokenizer
        self._reader = ThreadPoolExecutor(1, "limoe-loader-reader")
        try:
            sources = open_sources(prepared, list(counts), train.shuffle_rows, train.seed, self._reader)
            self._sampler = Sampler(sources, list(counts.values()), train.seed, train.steps)
        except BaseException:
            self._reader.shutdown(cancel_futures=True)
            raise
        random = train.rand_augment
        self._augmentation = Augmentation(
            tower.image_size, train.crop_scale, train.color_jitter, train.flip, random.operations, random.magnitude
        )
        self._pictures = open_pictures(machine, train.batch // world.size, self._augmentation)
        self._seed, self._text_length = train.seed, tower.text_length
        self._pins, self._own = pins, world.rows(train.batch // world.size)
        processes = isinstance(self._pictures, Decoders)
        self._ahead = AHEAD_OF_PROCESSES if processes else AHEAD * min(1, machine.workers)
        self._pool = single_core_pool(IN_HAND if processes else 1)
        self._pending: deque[tuple[Future[PairBatch], State]] = deque()
        self._state = self._sampler.start  # after the last batch that was yielded
        self._planned = self._state  # after the last one that was begun

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PairBatch:
        """The next batch; what goes wrong while it is planned, read or made is raised here, when those before it are gone."""
        try:
            while len(self._pending) <= self._ahead:
                picks, self._planned, step = *self._sampler.draw(self._planned), self._planned.step
                self._pending.append((self._pool.submit(self._make, picks, step), self._planned))
        except (UserError, Reported):
            if not self._pending:
                raise
        future, state = self._pending.popleft()
        batch = future.result()
        self._state = state
        return batch

    def state_dict(self) -> dict[str, Any]:
        """JSON-able state after the last batch that was yielded, whatever has been made ahead."""
        return self._state.to_dict()

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Continue after the batch at which `values` was taken."""
        state = State.from_dict(values)
        if len(state.cursors) != len(self._sampler.sources):
            there, wanted = len(state.cursors), len(self._sampler.sources)
            raise UserError(f"the loader's state is of {there} sources, train.mixture has {wanted}")
        self._drop_pending()
        self._state = self._planned = state

    def close(self) -> None:
        """Drop what was made ahead, read or kept, and end the threads and processes."""
        self._drop_pending()
        self._pool.shutdown(wait=True)
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._sampler.drop()
        self._pictures.close()

    def _drop_pending(self) -> None:
        while self._pending:
            self._pending.pop()[0].cancel()

    def _make(self, picks: Sequence[Pick], step: int) -> PairBatch:
        generator = torch.Generator().manual_seed(int(stream(self._seed, AUGMENT, step).integers(2**63)))
        draws_BN = self._augmentation.draw(len(picks), generator)  # of the whole batch, whoever makes which part of it
        own = picks[self._own]
        ids_BL = self._tokenizer.encode([pick.row.captions[pick.caption] for pick in own], self._text_length)
        batch = PairBatch(
            images_BCHW=self._pictures.make([Encoded.of(pick) for pick in own], draws_BN[self._own]),
            ids_N=torch.tensor(list(chain.from_iterable(ids_BL)), dtype=torch.int64),
            lengths_B=torch.tensor([len(ids) for ids in ids_BL], dtype=torch.int64),
            keys=tuple(pick.row.key for pick in own),
        )
        return batch.pin_memory() if self._pins else batch


def open_pictures(machine: MachineParams, count: int, augmentation: Augmentation) -> Pictures | Decoders:
    """Whoever makes `count` pictures at a time: the thread that makes the batch, or processes if there shall be several."""
    if machine.workers > 1 and POSSIBLE:
        return Decoders(machine.workers, count, augmentation, machine.cache_mb)
    return Pictures(augmentation, machine.cache_mb)


def single_core_pool(workers: int) -> ThreadPoolExecutor:
    """A pool whose threads compute with one core each; the calling thread keeps its number of threads.

    torch.set_num_threads sets the calling thread's number and the default of later threads, and a thread takes the default over
    its own number when it first asks for it. So each thread here asks before it sets, and the caller's number is made the default
    again.
    """
    threads = torch.get_num_threads()
    started = threading.Barrier(workers + 1)
    pool = ThreadPoolExecutor(workers, "limoe-loader", initializer=_compute_with_one_core)
    for _ in range(workers):
        pool.submit(started.wait)
    started.wait()
    torch.set_num_threads(threads)
    return pool


def _compute_with_one_core() -> None:
    torch.get_num_threads()
    torch.set_num_threads(1)
