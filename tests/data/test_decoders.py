"""Pictures made by several processes: equal to those of one thread, in memory that no batch has to share with a later one."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import closing

import pytest
import torch
from preparekit import picture

from limoe.data.augment import Augmentation
from limoe.data.decoders import POSSIBLE, Decoders, SharedBatches
from limoe.data.decoding import Encoded, Pictures
from limoe.errors import Reported, UserError

pytestmark = pytest.mark.skipif(not POSSIBLE, reason="Linux alone shares memory so")
AUGMENTATION = Augmentation(16, crop_scale=0.5, flip=0.5, operations=2, magnitude=9)
BATCH = 37


def pictures(first: int) -> tuple[list[Encoded], torch.Tensor]:
    """More than a chunk for each of two processes, every third without a label, with their draws."""
    found = [Encoded(0, index, f"emoji/{index}", picture(index), index % 3 > 0) for index in range(first, first + BATCH)]
    return found, AUGMENTATION.draw(BATCH, torch.Generator().manual_seed(first))


def made(maker: Decoders, pictures: list[Encoded], draws_ON: torch.Tensor) -> torch.Tensor:
    return maker.begin(pictures, draws_ON).result()


def expected(pictures: list[Encoded], draws_ON: torch.Tensor) -> torch.Tensor:
    """What is made here and now."""
    images = torch.empty(len(pictures), 3, AUGMENTATION.size, AUGMENTATION.size, dtype=torch.uint8)
    Pictures(AUGMENTATION, cache_mb=0).write(pictures, draws_ON, images.unbind())
    return images


@pytest.fixture(scope="module")
def decoders() -> Iterator[Decoders]:
    with closing(Decoders(2, BATCH, AUGMENTATION, cache_mb=16)) as opened:
        yield opened


def test_processes_make_what_a_thread_makes_to_the_bit(decoders: Decoders) -> None:
    held = []
    for first in (0, 20, 40, 0):  # the last one from pictures that were kept, with the same draws
        batch = pictures(first)
        held.append((made(decoders, *batch), expected(*batch)))
    assert all(torch.equal(ours, theirs) for ours, theirs in held)  # no later batch has overwritten an earlier one


def test_a_batch_whose_pictures_one_process_owns(decoders: Decoders) -> None:
    even = [Encoded(1, 2 * index, f"scenes/{index}", picture(index), False) for index in range(BATCH)]
    draws_ON = AUGMENTATION.draw(BATCH, torch.Generator().manual_seed(1))
    assert torch.equal(made(decoders, even, draws_ON), expected(even, draws_ON))


def test_each_process_keeps_its_own_pictures() -> None:
    with closing(Decoders(2, BATCH, AUGMENTATION, cache_mb=16)) as decoders:
        batch, draws_ON = pictures(0)
        first = made(decoders, batch, draws_ON)
        again = [
            Encoded(one.source, one.row, one.key, b"no picture: it must not be decoded again", one.labelled) for one in batch
        ]
        assert torch.equal(made(decoders, again, draws_ON), first)


def test_a_broken_picture_is_named_and_the_next_batch_made(decoders: Decoders) -> None:
    batch, draws_ON = pictures(100)
    broken = [*batch[:-1], Encoded(0, 999, "emoji/999", picture(1)[:60], True)]
    with pytest.raises(UserError, match=r"training picture 'emoji/999' cannot be decoded .*; run `limoe prepare` again"):
        made(decoders, broken, draws_ON)
    assert torch.equal(made(decoders, batch, draws_ON), expected(batch, draws_ON))


def test_a_process_that_is_killed_is_told_of() -> None:
    with closing(Decoders(2, BATCH, AUGMENTATION, cache_mb=0)) as decoders:
        images = made(decoders, *pictures(0))
        kept = images.clone()
        os.kill(decoders._pools[1].submit(os.getpid).result(), signal.SIGKILL)
        with pytest.raises(Reported, match=r"was killed, perhaps for want of memory: lower machine.workers") as caught:
            made(decoders, *pictures(0))
        assert caught.value.kind == "machine"
        with pytest.raises(Reported, match="was killed"):  # and of the batches after it
            decoders.begin(*pictures(0))
    assert torch.equal(images, kept)  # after the end, too


def test_what_is_dropped_is_written_no_more_when_its_memory_is_another_batch_s(decoders: Decoders) -> None:
    dropped = [decoders.begin(*pictures(first)) for first in range(4)]
    for making in dropped:
        making.drop()
    del making, dropped
    gc.collect()
    begun = [(decoders.begin(*pictures(first)), pictures(first)) for first in (50, 60, 70, 80)]
    assert all(torch.equal(making.result(), expected(*batch)) for making, batch in begun)


def test_they_end_with_the_loader() -> None:
    with closing(Decoders(2, BATCH, AUGMENTATION, cache_mb=0)) as decoders:
        processes = [pool.submit(os.getpid).result() for pool in decoders._pools]
    for process in processes:
        with pytest.raises(ProcessLookupError):
            os.kill(process, 0)


def test_memory_is_used_again_when_nothing_refers_to_it_and_not_before() -> None:
    memory = SharedBatches((4, 2))
    place, batch_BC = memory.new()
    other, _ = memory.new()
    assert other.path != place.path
    part_C = batch_BC.fill_(7)[3]
    del batch_BC, _
    gc.collect()
    assert memory.new()[0].path == other.path  # the part still refers to the first one
    assert part_C.tolist() == [7, 7]
    del part_C
    gc.collect()
    assert {memory.new()[0].path for _ in range(2)} == {place.path, other.path}


def test_memory_outlives_its_end_where_it_is_referred_to() -> None:
    memory = SharedBatches((3,))
    _, batch_B = memory.new()
    batch_B.fill_(2)
    memory.close()
    assert batch_B.tolist() == [2, 2, 2]
    del batch_B
    gc.collect()
    memory.close()
