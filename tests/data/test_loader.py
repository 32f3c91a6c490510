"""Loading from Parquet: equality whatever the workers, exact resume, what is cropped, who computes with how many cores."""

from __future__ import annotations

import gc
import itertools
import json
import threading
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limoe.config import MachineParams, TowerParams, TrainParams
from limoe.data import decoding, rowgroups
from limoe.data.colours import RawBatch
from limoe.data.loader import PairLoader
from limoe.data.prefetch import Prefetched
from limoe.data.prepared import Prepared
from limoe.data.transforms import decode_uint8
from limoe.errors import UserError
from limoe.model.tokens import PairBatch
from limoe.paramsfile import read_yaml
from limoe.world import ALONE, World

Loader = Callable[..., PairLoader]
DEFAULTS = read_yaml(Path(__file__).parents[2] / "params.yaml")


@pytest.fixture
def rows(make_row: Callable[..., dict[str, Any]]) -> list[dict[str, Any]]:
    """Sixteen labelled emoji rows in pairs of equal captions, twelve scenes, and validation rows that must not be seen."""
    emoji = [make_row("emoji", i, [f"name {i // 2}", f"alias {i // 2} word"], label=f"name {i // 2}") for i in range(16)]
    scenes = [make_row("scenes", i, [f"scene {i} left of something"]) for i in range(12)]
    return [*emoji, *scenes, *(make_row("emoji", 99 + i, ["held out"], split="val") for i in range(3))]


@pytest.fixture
def open_loader(make_prepared: Callable[..., Path], rows: list[dict[str, Any]]) -> Iterator[Loader]:
    """Open a loader on a tiny set with some params changed."""
    root = make_prepared(rows)
    loaders = []

    def build(workers: int = 0, cache_mb: int = 16, pins: bool = False, world: World = ALONE, **changes: Any) -> PairLoader:
        train = DEFAULTS["train"] | {"batch": 8, "mixture": {"emoji": 1, "scenes": 1}} | changes
        tower = TowerParams.model_validate(DEFAULTS["model"]["tower"] | {"image_size": 16, "patch_size": 8, "text_length": 6})
        machine = MachineParams.model_validate(DEFAULTS["machine"] | {"workers": workers, "cache_mb": cache_mb})
        loaders.append(PairLoader(Prepared(root), tower, TrainParams.model_validate(train), machine, pins, world))
        return loaders[-1]

    yield build
    for loader in loaders:
        loader.close()


def take(loader: PairLoader, batches: int) -> list[PairBatch]:
    return [raw.finished() for raw in itertools.islice(loader, batches)]


def assert_equal(ours: list[PairBatch], theirs: list[PairBatch]) -> None:
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert a.keys == b.keys
        assert torch.equal(a.images_BCHW, b.images_BCHW)
        assert torch.equal(a.ids_N, b.ids_N)
        assert torch.equal(a.lengths_B, b.lengths_B)


@pytest.mark.parametrize("ranks", [2, 4])
def test_ranks_share_the_very_batches_of_one_process_and_go_on_from_its_state(open_loader: Loader, ranks: int) -> None:
    whole = open_loader()
    wanted = [batch.split(8 // ranks) for batch in take(whole, 4)]
    state = None
    for rank in range(ranks):
        loader = open_loader(world=World(rank, ranks))
        assert_equal(take(loader, 2), [parts[rank] for parts in wanted[:2]])
        state = json.loads(json.dumps(loader.state_dict()))
    for rank in range(ranks):
        loader = open_loader(world=World(rank, ranks))
        loader.load_state_dict(state)
        assert_equal(take(loader, 2), [parts[rank] for parts in wanted[2:]])
        assert loader.state_dict() == whole.state_dict()


def test_a_batch_is_what_the_contract_says(open_loader: Loader, rows: list[dict[str, Any]]) -> None:
    loader = open_loader()
    tokenizer = loader._tokenizer
    captions = {r["key"]: [tokenizer.encode([c], 6)[0] for c in r["captions"]] for r in rows}
    for batch in take(loader, 8):
        assert batch.images_BCHW.shape == (8, 3, 16, 16)
        assert batch.images_BCHW.dtype == torch.float32
        assert batch.images_BCHW.abs().max() <= 1
        assert batch.ids_N.dtype == batch.lengths_B.dtype == torch.int64
        assert sum(key.startswith("emoji/") for key in batch.keys) == 4
        assert all(int(key.split("/")[1]) < 99 for key in batch.keys)
        for key, ids in zip(batch.keys, batch.ids_N.split(batch.lengths_B.tolist()), strict=True):
            assert ids.tolist() in captions[key]


@pytest.mark.parametrize("workers, cache_mb", [(0, 0), (1, 16), (2, 0), (3, 16)])
def test_batches_do_not_depend_on_workers_cache_or_threads(open_loader: Loader, workers: int, cache_mb: int) -> None:
    expected = take(open_loader(), 9)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert_equal(take(open_loader(workers, cache_mb), 9), expected)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("stop", [0, 1, 3, 6])
def test_resume_equals_an_undisturbed_run(open_loader: Loader, stop: int) -> None:
    undisturbed = take(open_loader(), 9)
    interrupted = open_loader(workers=2 if stop == 3 else 1)
    take(interrupted, stop)
    state = json.loads(json.dumps(interrupted.state_dict()))
    assert state["step"] == stop
    resumed = open_loader(workers=1)
    take(resumed, 2)  # a loader that has already run takes the state as well
    resumed.load_state_dict(state)
    assert_equal(take(resumed, 9 - stop), undisturbed[stop:])


DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_a_batch_ahead_changes_neither_order_nor_state(open_loader: Loader, device: str, stop: int, ahead: bool) -> None:
    undisturbed, plain = take(open_loader(), 9), open_loader()
    loader = open_loader(pins=device == "cuda")
    with closing(Prefetched(loader, torch.device(device), ahead)) as interrupted:
        found = [next(interrupted) for _ in range(stop)]
        take(plain, stop)
        state = json.loads(json.dumps(interrupted.state_dict()))
        assert state == plain.state_dict()
    assert loader.state_dict()["step"] == (stop + 1 if stop and ahead else stop)  # one batch is already there
    with closing(Prefetched(open_loader(workers=1), torch.device(device), ahead)) as resumed:
        next(resumed)  # a loader that has already run takes the state as well
        resumed.load_state_dict(state)
        found += [next(resumed) for _ in range(9 - stop)]
    assert all(batch.images_BCHW.device.type == device for batch in found)
    assert_equal([batch.to(torch.device("cpu")) for batch in found], undisturbed)


def test_what_goes_wrong_is_raised_where_its_batch_is_asked_for(open_loader: Loader, tmp_path: Path) -> None:
    changes = {"workers": 1, "mixture": {"emoji": 1}, "batch": 2, "shuffle_rows": 7}
    broken, ahead = open_loader(**changes), Prefetched(open_loader(**changes), torch.device("cpu"))
    (tmp_path / "prepared" / "train-00002.parquet").write_bytes(b"PAR1")
    good = 0
    with pytest.raises(UserError, match=r"train-00002\.parquet is broken"):
        for good in range(9):  # noqa: B007
            next(broken)
    with closing(broken), closing(ahead):
        for _ in range(good):
            next(ahead)
        state = ahead.state_dict()
        with pytest.raises(UserError, match=r"train-00002\.parquet is broken"):
            next(ahead)
        assert ahead.state_dict() == state == broken.state_dict()
    assert not loader_threads()


def test_batches_are_pinned_where_that_is_asked_for(open_loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[RawBatch] = []

    def pin_memory(batch: RawBatch) -> RawBatch:
        pinned.append(batch)
        return batch

    monkeypatch.setattr(RawBatch, "pin_memory", pin_memory)
    assert_equal(take(open_loader(pins=True), 2), take(open_loader(), 2))
    assert len(pinned) == 2


def test_state_of_other_sources_is_refused(open_loader: Loader) -> None:
    state = open_loader(mixture={"emoji": 1}).state_dict()
    with pytest.raises(UserError, match=r"state is of 1 sources, train.mixture has 2"):
        open_loader().load_state_dict(state)


def test_pictures_and_captions_stay_together(open_loader: Loader, rows: list[dict[str, Any]]) -> None:
    pictures = {r["key"]: decode_uint8(r["image"], 16) for r in rows}
    for batch in take(open_loader(crop_scale=1.0, color_jitter=0.0), 6):
        for key, image in zip(batch.keys, batch.images_BCHW, strict=True):
            torch.testing.assert_close(image, pictures[key] / 127.5 - 1, atol=1e-5, rtol=0)


def test_only_labelled_rows_are_cropped(open_loader: Loader, rows: list[dict[str, Any]]) -> None:
    pictures = {r["key"]: decode_uint8(r["image"], 16) / 127.5 - 1 for r in rows}
    [batch] = take(open_loader(crop_scale=0.4, color_jitter=0.0), 1)
    for key, image in zip(batch.keys, batch.images_BCHW, strict=True):
        unchanged = torch.allclose(image, pictures[key], atol=1e-5)
        assert unchanged == key.startswith("scenes/")


def test_where_memory_cannot_be_shared_a_thread_makes_the_pictures(open_loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = take(open_loader(), 3)
    monkeypatch.setattr("limoe.data.loader.POSSIBLE", False)
    loader = open_loader(workers=2)
    assert isinstance(loader._makers, decoding.InThread)
    assert_equal(take(loader, 3), expected)


AUGMENTED = {"flip": 0.5, "rand_augment": {"operations": 2, "magnitude": 9}}


@pytest.mark.parametrize("workers", [1, 2])
def test_flips_and_rand_augment_depend_on_no_worker(open_loader: Loader, workers: int) -> None:
    expected = take(open_loader(**AUGMENTED), 6)
    assert_equal(take(open_loader(workers=workers, **AUGMENTED), 6), expected)
    plain = take(open_loader(), 6)
    for ours, theirs in zip(expected, plain, strict=True):
        assert ours.keys == theirs.keys
        changed = [not torch.equal(a, b) for a, b in zip(ours.images_BCHW, theirs.images_BCHW, strict=True)]
        assert any(changed)


def test_augmentation_differs_between_epochs_and_seeds(open_loader: Loader) -> None:
    first = {key: image for b in take(open_loader(), 4) for key, image in zip(b.keys, b.images_BCHW, strict=True)}
    last = {key: image for b in take(open_loader(), 12)[8:] for key, image in zip(b.keys, b.images_BCHW, strict=True)}
    other = {key: image for b in take(open_loader(seed=1), 4) for key, image in zip(b.keys, b.images_BCHW, strict=True)}
    for later in (last, other):
        shared = first.keys() & later.keys()
        assert shared
        assert not any(torch.equal(first[key], later[key]) for key in shared)


def test_a_cache_too_small_for_all_keeps_the_first_pictures(open_loader: Loader) -> None:
    loader = open_loader(cache_mb=1)
    cache = loader._makers._pictures._cache
    cache._free = 10 * 3 * 20 * 20  # ten emoji, or more if scenes of 16 px are among them
    assert_equal(take(loader, 8), take(open_loader(), 8))
    kept = list(cache._pixels)
    assert 10 <= len(kept) < 28
    assert cache._free == 10 * 3 * 20 * 20 - sum(pixels.nbytes for pixels in cache._pixels.values()) >= 0
    take(loader, 8)
    assert list(cache._pixels)[: len(kept)] == kept


WINDOWS = {"shuffle_rows": 9, "seed": 3}  # emoji in two windows of two row groups, scenes likewise; the fifth group has both


@pytest.mark.parametrize("stop, workers", [*itertools.product([0, 1, 3, 5, 8], [0, 1]), (5, 2)])
def test_window_by_window_batches_depend_on_no_worker_and_go_on_from_any(open_loader: Loader, stop: int, workers: int) -> None:
    undisturbed = take(open_loader(**WINDOWS), 14)
    interrupted = open_loader(workers=(workers + 1) % 2, **WINDOWS)
    take(interrupted, stop)
    resumed = open_loader(workers=workers, **WINDOWS)
    take(resumed, 2)
    resumed.load_state_dict(json.loads(json.dumps(interrupted.state_dict())))
    assert_equal(take(resumed, 14 - stop), undisturbed[stop:])


@pytest.mark.parametrize("changes", [{}, WINDOWS])
def test_each_epoch_yields_each_row_once(open_loader: Loader, rows: list[dict[str, Any]], changes: dict[str, Any]) -> None:
    loader = open_loader(**changes)
    seen = Counter(key for batch in take(loader, 12) for key in batch.keys)  # three epochs of emoji, four of scenes
    waiting = [len(cursor[1]) for cursor in loader.state_dict()["cursors"]]
    drawn = [cursor[0] for cursor in loader.state_dict()["cursors"]]
    for name, epochs, its, late in zip(("emoji", "scenes"), (3, 4), drawn, waiting, strict=True):
        keys = [r["key"] for r in rows if r["source"] == name and r["split"] == "train"]
        assert its == 48 + late
        assert sum(abs(seen[key] - epochs) for key in keys) <= 2 * late
        assert min(seen[key] for key in keys) >= epochs - 1


def test_an_unknown_source_is_named(open_loader: Loader) -> None:
    with pytest.raises(
        UserError, match=r"train.mixture.folder: the prepared set has no training rows .*; it has some of emoji, scenes"
    ):
        open_loader(mixture={"folder": 1, "emoji": 1})
    assert len(next(open_loader(mixture={"folder": 0, "emoji": 1})).pairs) == 8


@pytest.mark.parametrize("workers", [0, 2])
def test_a_broken_picture_raises_in_the_consumer(
    make_prepared: Callable[..., Path], make_row: Callable[..., dict[str, Any]], workers: int
) -> None:
    rows = [make_row("emoji", i, [f"name {i}"]) for i in range(8)]
    rows[5]["image"] = rows[5]["image"][:60]
    tower = TowerParams.model_validate(DEFAULTS["model"]["tower"])
    train = TrainParams.model_validate(DEFAULTS["train"] | {"batch": 2, "mixture": {"emoji": 1}})
    machine = MachineParams.model_validate(DEFAULTS["machine"] | {"workers": workers})
    with (
        closing(PairLoader(Prepared(make_prepared(rows)), tower, train, machine)) as loader,
        pytest.raises(UserError, match=r"training picture 'emoji/5' cannot be decoded"),
    ):
        take(loader, 4)


def loader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("limoe-loader")]


def test_a_row_group_that_breaks_raises_at_its_batch_however_far_ahead_batches_are_planned(
    open_loader: Loader, tmp_path: Path
) -> None:
    loaders = [open_loader(workers, mixture={"emoji": 1}, batch=2, shuffle_rows=7) for workers in (0, 1, 2)]
    (tmp_path / "prepared" / "train-00002.parquet").write_bytes(b"PAR1")
    for loader in loaders:
        with pytest.raises(UserError, match=r"train-00002\.parquet is broken"):
            take(loader, 9)
        with pytest.raises(UserError, match=r"train-00002\.parquet is broken"):
            next(loader)
        loader.close()
    steps = [loader.state_dict()["step"] for loader in loaders]
    assert steps == [steps[0]] * 3
    assert steps[0] > 0
    assert not loader_threads()


def test_a_loader_that_is_refused_leaves_no_thread(open_loader: Loader) -> None:
    with pytest.raises(UserError, match="stands on 2 of its 16 training rows"):
        open_loader(mixture={"emoji": 1}, batch=16)
    assert not loader_threads()


def test_close_ends_the_threads_and_the_callers_thread_count_stays(open_loader: Loader) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        loader = open_loader(workers=1)
        next(loader)
        assert torch.get_num_threads() == 2
        seen: list[int] = []
        fresh = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        fresh.start()
        fresh.join()
        assert seen == [2]
        assert loader._makers._thread.submit(torch.get_num_threads).result() == 1
        loader.close()
        assert not loader_threads()
    finally:
        torch.set_num_threads(threads)


def test_mean_brightness_of_jittered_scenes_stays_that_of_the_pictures(open_loader: Loader, rows: list[dict[str, Any]]) -> None:
    pictures = np.mean([decode_uint8(r["image"], 16).numpy() for r in rows if r["source"] == "scenes"]) / 127.5 - 1
    batches = take(open_loader(mixture={"scenes": 1}, color_jitter=0.2), 30)
    assert abs(float(torch.stack([b.images_BCHW for b in batches]).mean()) - pictures) < 0.05


def test_a_closed_loader_holds_no_rows_and_no_pictures(open_loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[Any]] = []

    def watched(make: Callable[..., Any]) -> Callable[..., Any]:
        def made(*arguments: Any) -> Any:
            found = make(*arguments)
            alive.append(weakref.ref(found))
            return found

        return made

    monkeypatch.setattr(rowgroups, "RowGroup", watched(rowgroups.RowGroup))
    monkeypatch.setattr(decoding, "decode_uint8", watched(decoding.decode_uint8))
    loader = open_loader(workers=1)
    take(loader, 3)
    state = loader.state_dict()
    assert sum(one() is not None for one in alive) > 10
    loader.close()
    gc.collect()
    assert [one() for one in alive if one() is not None] == []
    assert loader.state_dict() == state
