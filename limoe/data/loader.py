"""Training batches: which rows (limoe.data.sampler), their pictures (limoe.data.decoding) and their captions as tokens.

Pictures have 8 bits here; limoe.data.prefetch brings batches to the device that trains, and finishes them there.

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

from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from limoe.config import MachineParams, TowerParams, TrainParams
from limoe.data.augment import Augmentation
from limoe.data.colours import RawBatch
from limoe.data.decoders import POSSIBLE, Decoders
from limoe.data.decoding import Encoded, InThread, Making, Pictures
from limoe.data.keyed import AUGMENT, stream
from limoe.data.mixture import mixture_counts
from limoe.data.prepared import Prepared
from limoe.data.rowgroups import open_sources
from limoe.data.sampler import Pick, Sampler, State
from limoe.errors import Reported, UserError
from limoe.model.tokens import PairBatch
from limoe.world import ALONE, World

AHEAD = 2  # batches that are kept ready by a thread
AHEAD_OF_PROCESSES = 8  # likewise by processes: their shares are not quite equal, and with few ahead one waits for another's


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
        self._makers = open_makers(machine, train.batch // world.size, self._augmentation)
        self._seed, self._text_length = train.seed, tower.text_length
        self._pins, self._own = pins, world.rows(train.batch // world.size)
        self._ahead = AHEAD_OF_PROCESSES if isinstance(self._makers, Decoders) else AHEAD * min(1, machine.workers)
        self._pending: deque[tuple[_Begun, State]] = deque()
        self._state = self._sampler.start  # after the last batch that was yielded
        self._planned = self._state  # after the last one that was begun

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> RawBatch:
        """The next batch; what goes wrong while it is planned, read or made is raised here, when those before it are gone."""
        try:
            while len(self._pending) <= self._ahead:
                picks, planned = self._sampler.draw(self._planned)
                self._pending.append((self._begin(picks, self._planned.step), planned))
                self._planned = planned
        except (UserError, Reported):
            if not self._pending:
                raise
        begun, state = self._pending.popleft()
        batch = begun.result()
        batch = batch.pin_memory() if self._pins else batch
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
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._sampler.drop()
        self._makers.close()

    def _drop_pending(self) -> None:
        for begun, _ in self._pending:
            begun.making.drop()
        self._pending.clear()

    def _begin(self, picks: Sequence[Pick], step: int) -> _Begun:
        generator = torch.Generator().manual_seed(int(stream(self._seed, AUGMENT, step).integers(2**63)))
        draws_BN = self._augmentation.draw(len(picks), generator)[
            self._own
        ]  # drawn for the whole batch, whoever makes which part
        own = picks[self._own]
        ids_BL = self._tokenizer.encode([pick.row.captions[pick.caption] for pick in own], self._text_length)
        ids_N = torch.tensor(list(chain.from_iterable(ids_BL)), dtype=torch.int64)
        lengths_B = torch.tensor([len(ids) for ids in ids_BL], dtype=torch.int64)
        making = self._makers.begin([Encoded.of(pick) for pick in own], draws_BN)  # last: what fails before leaves nobody writing
        return _Begun(making, self._augmentation.factors(draws_BN), ids_N, lengths_B, tuple(pick.row.key for pick in own))


class _Begun(NamedTuple):
    """A batch whose pictures are being made."""

    making: Making
    factors_B3: Tensor | None
    ids_N: Tensor
    lengths_B: Tensor
    keys: tuple[str, ...]

    def result(self) -> RawBatch:
        return RawBatch(PairBatch(self.making.result(), self.ids_N, self.lengths_B, self.keys), self.factors_B3)


def open_makers(machine: MachineParams, count: int, augmentation: Augmentation) -> InThread | Decoders:
    """Whoever makes `count` pictures at a time: a thread, or processes if there shall be several."""
    if machine.workers > 1 and POSSIBLE:
        return Decoders(machine.workers, count, augmentation, machine.cache_mb)
    return InThread(Pictures(augmentation, machine.cache_mb))
