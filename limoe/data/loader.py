"""Training batches: which rows (limoe.data.sampler), their decoded pictures, augmented, and their captions as tokens.

Axes: B pairs, O own pairs (those of this rank), R training rows, C colour channels, H height, W width, N text tokens of the
batch.

Everything random is keyed by (train.seed, step), and every batch is made by a thread that computes with one core: a batch's bits
depend neither on the number of workers nor on train.threads, and background work leaves the other cores to the training.

With several ranks each plans the same batches and makes its own part of them: together they see what one process would.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from typing import Any, Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from limoe.config import MachineParams, TowerParams, TrainParams
from limoe.data.prepared import Prepared
from limoe.data.rgb import UNDECODABLE
from limoe.data.sampler import AUGMENT, Pick, Sampler, Source, State, mixture_counts, source_rows, stream
from limoe.data.schema import TRAIN
from limoe.data.transforms import augment, decode_uint8, draw, normalize, stored_size
from limoe.errors import UserError
from limoe.model.tokens import PairBatch
from limoe.world import ALONE, World

COLUMNS = ["key", "source", "image", "captions", "label", "sha256"]
MEGABYTE = 1 << 20


class PictureCache:
    """Decoded pictures of one side, kept from their first use; where they do not all fit, the first ones are kept.

    Under epochs in random order that serves as many hits as any rule of replacement, and needs no lock: two threads that decode
    the same picture write the same bytes.
    """

    def __init__(
        self, encoded_R: pa.ChunkedArray, keys_R: Sequence[str], rows: NDArray[np.int64], side: int, capacity: int
    ) -> None:
        """Of these `rows`, `capacity` pictures are kept. Memory is taken when a picture is first kept."""
        self._encoded_R, self._keys_R, self.side = encoded_R, keys_R, side
        kept = rows[:capacity]
        self._slot_R = np.full(len(keys_R), -1)
        self._slot_R[kept] = np.arange(len(kept))
        self._known_R = np.zeros(len(keys_R), bool)
        self._pixels_KCHW = np.empty((len(kept), 3, side, side), np.uint8)

    def take(self, rows_B: NDArray[np.int64]) -> Tensor:
        """uint8 (B, 3, side, side); UserError naming the record whose picture cannot be decoded."""
        pixels_BCHW = np.empty((len(rows_B), 3, self.side, self.side), np.uint8)
        hit_B = self._known_R[rows_B]
        pixels_BCHW[hit_B] = self._pixels_KCHW[self._slot_R[rows_B[hit_B]]]
        for place in np.flatnonzero(~hit_B):
            row = int(rows_B[place])
            pixels_BCHW[place] = self._decode(row)
            if self._slot_R[row] >= 0:
                self._pixels_KCHW[self._slot_R[row]] = pixels_BCHW[place]
                self._known_R[row] = True
        return torch.from_numpy(pixels_BCHW)

    def _decode(self, row: int) -> NDArray[np.uint8]:
        try:
            return decode_uint8(self._encoded_R[row].as_py(), self.side).numpy()
        except UNDECODABLE as error:
            raise UserError(
                f"training picture {self._keys_R[row]!r} cannot be decoded ({error}); run `limoe prepare` again"
            ) from None


class Pictures:
    """The training pictures as augmented batches.

    Rows with a label show one thing, and any large crop still shows it: they are cropped, from a copy large enough that a square
    crop is not enlarged (`stored_size`; the shorter side of another one may be, by up to 15%). The captions of rows without one
    (scenes, photos) tell what lies where, and a crop could cut off what they name: these rows are kept at the tower's own size
    and never cropped.
    """

    def __init__(
        self, table: pa.Table, used: NDArray[np.int64], image_size: int, crop_scale: float, color_jitter: float, cache_mb: int
    ) -> None:
        """`used`: the rows of `table` that batches will ask for."""
        self.image_size, self.crop_scale, self.color_jitter = image_size, crop_scale, color_jitter
        self.croppable_R = table["label"].is_valid().to_numpy()
        sides = {True: stored_size(image_size, crop_scale), False: image_size}
        rows = {crop: used[self.croppable_R[used] == crop] for crop in sides}
        needed = sum(len(rows[crop]) * 3 * side * side for crop, side in sides.items())
        fits = min(1.0, cache_mb * MEGABYTE / needed)
        keys_R = table["key"].to_pylist()
        self._caches = {
            crop: PictureCache(table["image"], keys_R, rows[crop], side, int(fits * len(rows[crop])))
            for crop, side in sides.items()
        }

    def take(self, rows_B: NDArray[np.int64], own: slice, generator: torch.Generator) -> Tensor:
        """float32 (O, 3, image_size, image_size), normalised, of the `own` ones among the rows of a batch; all randomness comes
        from `generator`, and is what the whole batch would have."""
        images_BCHW = torch.empty(own.stop - own.start, 3, self.image_size, self.image_size, dtype=torch.float32)
        for crop, cache in self._caches.items():
            members = np.flatnonzero(self.croppable_R[rows_B] == crop)
            draws = draw(len(members), generator)
            mine = (members >= own.start) & (members < own.stop)
            if mine.any():
                places = torch.from_numpy(members[mine] - own.start)
                stored, scale = cache.take(rows_B[members[mine]]), self.crop_scale if crop else 1.0
                images_BCHW[places] = augment(stored, self.image_size, draws[torch.from_numpy(mine)], scale, self.color_jitter)
        return normalize(images_BCHW)


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
        table = prepared.table(TRAIN, COLUMNS)
        counts = mixture_counts(train.mixture, train.batch)
        self._rows_SR = source_rows(table["source"].to_pylist(), list(counts))
        captions_RK: list[list[str]] = table["captions"].to_pylist()
        sha256_R = table["sha256"].to_pylist()
        sources = [
            Source.of(name, [captions_RK[row] for row in rows], [sha256_R[row] for row in rows])
            for name, rows in zip(counts, self._rows_SR, strict=True)
        ]
        self._sampler = Sampler(sources, list(counts.values()), train.seed, train.steps)
        used = np.concatenate(self._rows_SR)
        self._pictures = Pictures(table, used, tower.image_size, train.crop_scale, train.color_jitter, machine.cache_mb)
        self._keys_R: list[str] = table["key"].to_pylist()
        self._captions_RK, self._tokenizer = captions_RK, prepared.tokenizer
        self._seed, self._text_length = train.seed, tower.text_length
        self._pins, self._own = pins, world.rows(train.batch // world.size)
        self._ahead = 2 * machine.workers
        self._pool = single_core_pool(max(1, machine.workers))
        self._pending: deque[tuple[Future[PairBatch], State]] = deque()
        self._state = self._sampler.start  # after the last batch that was yielded
        self._planned = self._state  # after the last one that was begun

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> PairBatch:
        """The next batch; an exception of a worker's is raised here, at the batch where it happened."""
        while len(self._pending) <= self._ahead:
            picks, self._planned, step = *self._sampler.draw(self._planned), self._planned.step
            self._pending.append((self._pool.submit(self._make, picks, step), self._planned))
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
        if len(state.cursors) != len(self._rows_SR):
            raise UserError(f"the loader's state is of {len(state.cursors)} sources, train.mixture has {len(self._rows_SR)}")
        self._drop_pending()
        self._state = self._planned = state

    def close(self) -> None:
        """Drop what was made ahead and end the threads."""
        self._drop_pending()
        self._pool.shutdown(wait=True)

    def _drop_pending(self) -> None:
        while self._pending:
            self._pending.pop()[0].cancel()

    def _make(self, picks: Sequence[Pick], step: int) -> PairBatch:
        rows_B = np.array([self._rows_SR[pick.source][pick.row] for pick in picks])
        generator = torch.Generator().manual_seed(int(stream(self._seed, AUGMENT, step).integers(2**63)))
        own = self._own
        captions = [self._captions_RK[row][pick.caption] for row, pick in zip(rows_B[own], picks[own], strict=True)]
        ids_BL = self._tokenizer.encode(captions, self._text_length)
        batch = PairBatch(
            images_BCHW=self._pictures.take(rows_B, own, generator),
            ids_N=torch.tensor(list(chain.from_iterable(ids_BL)), dtype=torch.int64),
            lengths_B=torch.tensor([len(ids) for ids in ids_BL], dtype=torch.int64),
            keys=tuple(self._keys_R[row] for row in rows_B[own]),
        )
        return batch.pin_memory() if self._pins else batch


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
