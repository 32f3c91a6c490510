"""`python -m benchmarks.loader`: pictures a second from files to batches of 8 bits, ours and others', and what decoding allows.

The same JPEG files as our prepared set, as WebDataset shards, as a prepared set whose pictures stay in these (`in_place`), and as
a folder; the same augmentation, a random crop of 60 to 100% of the area resized to 128 px; the same batch. Ours makes its batches
with a thread, or with as many processes as the case says, the others with a DataLoader's processes. All hand out pictures of 8
bits, as whoever trains on a GPU wants them; a row more has ours normalised on this processor. Nothing that was decoded is kept
(machine.cache_mb = 0): every epoch here is a first one.

The ceiling is a loop that does nothing but decode (at reduced scale, where the file is large enough) and crop and resize, picture
by picture, in as many processes. Beside it the same with as many decoded before they are resized as ours does, which is the
quickest that we know, and by Pillow alone.
"""

from __future__ import annotations

import io
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from benchmarks.contrastive import resident_kib
from benchmarks.harness import Bench, Samples, bench_of, compare, parser, positive
from benchmarks.layers import PARAMS
from benchmarks.loader_files import SOURCE, Files, enlarged, photos, tiny, write
from benchmarks.report import Report
from limoe.config import Params
from limoe.data.augment import CHUNK, crop, crop_boxes
from limoe.data.loader import PairLoader
from limoe.data.prefetch import Prefetched
from limoe.data.prepared import Prepared
from limoe.data.threads import unhindered
from limoe.data.transforms import decode_square, resized

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data" / "flickr8k"
SIDE, LARGE, CROP_SCALE = 128, 512, 0.6
WARM = 12  # batches of a turn before the clock runs: more than any loader keeps ready
FASTER, OF_CEILING, FLAT, FIRST_BATCH_S = 1.3, 0.85, 1.05, 2.0
OURS, FINISHED, STAYING = "limoe", "limoe, normalised here", "limoe, in place"
CEILING, CHUNKED, PILLOW = "ceiling", "ceiling, in chunks", "ceiling, Pillow"
PEERS = ("webdataset", "ImageFolder")


@dataclass(frozen=True)
class Setting:
    """What all loaders are asked for."""

    batch: int
    batches: int  # of a turn
    workers: int


def params_of(batch: int, workers: int, *changes: str) -> Params:
    """params.yaml with one source, random crops and no other augmentation."""
    ours = [f"train.batch={batch}", f"model.moe.group_pairs={batch}", f"model.tower.image_size={SIDE}"]
    ours += [f"train.crop_scale={CROP_SCALE}", "train.color_jitter=0", f"machine.workers={workers}", "machine.cache_mb=0"]
    params = Params.load(PARAMS, (*ours, *changes))
    return params.model_copy(update={"train": params.train.model_copy(update={"mixture": {SOURCE: 1.0}})})


def open_ours(root: Path, params: Params) -> PairLoader:
    """Our loader on the prepared set."""
    return PairLoader(Prepared(root), params.model.tower, params.train, params.machine)


def turn_of_ours(root: Path, setting: Setting, finished: bool = False) -> float:
    """Seconds a batch of the prepared set, of 8 bits or finished, in a process that is set up as for a training."""
    loader = open_ours(root, params_of(setting.batch, setting.workers))
    with closing(Prefetched(loader, torch.device("cpu")) if finished else loader) as batches, unhindered():
        return seconds_a_batch(batches, setting.batches)


def seconds_a_batch(batches: Iterator[Any], count: int) -> float:
    """Of so many batches, after those that were ready."""
    for _ in range(WARM):
        next(batches)
    start = time.perf_counter()
    for _ in range(count):
        next(batches)
    return (time.perf_counter() - start) / count


def transform() -> Callable[[Image.Image], Tensor]:
    """The same augmentation by torchvision, on 8-bit tensors, as its pages advise."""
    from torchvision.transforms import v2

    crops = v2.RandomResizedCrop(SIDE, scale=(CROP_SCALE, 1), interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    composed: Callable[[Image.Image], Tensor] = v2.Compose([v2.PILToTensor(), crops])
    return composed


def turn_of_webdataset(files: Files, setting: Setting) -> float:
    """Seconds a batch of its usual pipeline: a shuffle buffer of 1000, decoding by Pillow."""
    import webdataset

    shards = webdataset.WebDataset(files.shards, resampled=True, shardshuffle=False)
    pictures = shards.shuffle(1000).decode("pilrgb").to_tuple("jpg").map_tuple(transform()).batched(setting.batch)
    return seconds_a_batch(
        iter(torch.utils.data.DataLoader(pictures, batch_size=None, num_workers=setting.workers)), setting.batches
    )


def turn_of_imagefolder(files: Files, setting: Setting) -> float:
    """Seconds a batch, in random order."""
    from torch.utils.data import DataLoader, RandomSampler
    from torchvision.datasets import ImageFolder

    pictures = ImageFolder(str(files.folder), transform())
    order = RandomSampler(pictures, replacement=True, num_samples=(WARM + setting.batches + 8 * setting.workers) * setting.batch)
    loader = DataLoader(pictures, setting.batch, sampler=order, num_workers=setting.workers)
    return seconds_a_batch(iter(loader), setting.batches)


Box = tuple[float, float, float, float]  # left, top, width, height, as shares of the side


def decode_and_resize(image: bytes, box: Box) -> Tensor:
    """What no loader can do without."""
    return cut_and_resize(decode_square(image, SIDE), box)


def cut_and_resize(square: Tensor, box: Box) -> Tensor:
    """A decoded square's crop."""
    return resized(crop(square, pixels(box, square.shape[1])), SIDE)


def decode_and_resize_by_pillow(image: bytes, box: Box) -> Image.Image:
    """The same by Pillow."""
    picture = Image.open(io.BytesIO(image))
    picture.draft("RGB", (2 * SIDE, 2 * SIDE))
    short = min(picture.size)
    left, top, width, height = pixels(box, short)
    left, top = left + (picture.width - short) // 2, top + (picture.height - short) // 2
    return picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height))


def pixels(box: Box, side: int) -> tuple[int, int, int, int]:
    """The box in whole pixels of a picture of that side."""
    left, top, width, height = box
    return int(left * side), int(top * side), int(width * side), int(height * side)


def by_picture(step: Callable[[bytes, Box], object], images: Sequence[bytes], boxes: Sequence[Box]) -> None:
    """All, one after the other."""
    for image, box in zip(images, boxes, strict=True):
        step(image, box)


def in_chunks(images: Sequence[bytes], boxes: Sequence[Box]) -> None:
    """All, so many at a time decoded and then resized."""
    for start in range(0, len(images), CHUNK):
        squares = [decode_square(image, SIDE) for image in images[start : start + CHUNK]]
        for square, box in zip(squares, boxes[start:], strict=False):  # there are boxes for later squares, too
            cut_and_resize(square, box)


LOOPS: dict[str, Callable[[Sequence[bytes], Sequence[Box]], None]] = {
    CEILING: partial(by_picture, decode_and_resize),
    CHUNKED: in_chunks,
    PILLOW: partial(by_picture, decode_and_resize_by_pillow),
}


def loop(name: str, images: list[bytes]) -> float:
    """Seconds a picture, in this process with one thread."""
    torch.set_num_threads(1)
    uniform_B4 = torch.rand(len(images), 4, generator=torch.Generator().manual_seed(0))
    boxes = crop_boxes(uniform_B4, torch.tensor(CROP_SCALE)).tolist()
    start = time.perf_counter()
    LOOPS[name](images, boxes)
    return (time.perf_counter() - start) / len(images)


def turn_of_ceiling(name: str, pool: ProcessPoolExecutor, files: Files, setting: Setting) -> float:
    """Seconds for as many pictures as a batch has, by all processes at once."""
    own = setting.batches * setting.batch // setting.workers
    images = [(files.images * (own // len(files.images) + 1))[:own]] * setting.workers
    return max(pool.map(partial(loop, name), images)) * setting.batch / setting.workers


def measure_speed(report: Report, bench: Bench, pool: ProcessPoolExecutor, files: Files, setting: Setting, side: int) -> None:
    """All by turns; rows against the ceiling, and of ours against the better of the others."""
    turns = {
        OURS: partial(turn_of_ours, files.prepared, setting),
        FINISHED: partial(turn_of_ours, files.prepared, setting, finished=True),
        STAYING: partial(turn_of_ours, files.staying, setting),
        "webdataset": partial(turn_of_webdataset, files, setting),
        "ImageFolder": partial(turn_of_imagefolder, files, setting),
        CEILING: partial(turn_of_ceiling, CEILING, pool, files, setting),
        CHUNKED: partial(turn_of_ceiling, CHUNKED, pool, files, setting),
        PILLOW: partial(turn_of_ceiling, PILLOW, pool, files, setting),
    }
    samples = by_turns(bench, turns)
    case = f"files of {side} px, {setting.workers} worker{'s' if setting.workers > 1 else ''}, {setting.batch} a batch"
    report.add(compare(case, samples, CEILING, bars={OURS: 1 / OF_CEILING}))
    better = min(PEERS, key=lambda name: median(samples[name]))
    bars = {OURS: 1 / FASTER} if side == LARGE else {}
    report.add(compare(f"{case}, beside the better of the others", samples, better, [OURS, STAYING, better], bars=bars))
    speeds = ", ".join(f"{name} {setting.batch / median(samples[name]):,.0f}" for name in samples)
    report.note(f"{case}: images/s: {speeds}")


def by_turns(bench: Bench, turns: Mapping[str, Callable[[], float]]) -> Samples:
    """What each says of itself, round by round."""
    samples: Samples = {name: [] for name in turns}
    for number in range(bench.warmup + bench.repeats):
        for name, turn in turns.items():
            seconds = turn()
            if number >= bench.warmup:
                samples[name].append(seconds)
    return samples


def epochs_mib(root: Path, rows: int, params: Params) -> list[float]:
    """Resident memory (MiB) after each of three epochs; to be called in a process of its own."""
    torch.set_num_threads(1)
    with closing(open_ours(root, params)) as loader:
        found = []
        for _ in range(3):
            for _ in range(rows // params.train.batch):
                next(loader)
            found.append(resident_kib("VmRSS") / 1024)
    return found


def measure_memory(report: Report, files: Files, batch: int) -> None:
    """After the second and third epoch against the first, while windows of a quarter of the set come and go."""
    rows = len(files.images)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        params = params_of(batch, 1, f"train.shuffle_rows={rows // 4}")
        found = pool.submit(epochs_mib, files.prepared, rows, params).result()
    samples = {f"epoch {number + 1}": [mib] for number, mib in enumerate(found)}
    report.add(compare("resident memory after an epoch", samples, "epoch 1", bars={"epoch 3": FLAT}, unit="MiB"))


def measure_first_batch(report: Report, bench: Bench, root: Path, rows: int, shards: int, batch: int) -> None:
    """Opening the set, the loader and the first batch: of one shard, and of many."""
    params = params_of(batch, 1)

    def first(folder: Path) -> float:
        start = time.perf_counter()
        with closing(open_ours(folder, params)) as loader:
            next(loader)
            return time.perf_counter() - start

    sets = {f"{rows * count:,} rows": tiny(rows, count, root / str(count)) for count in (1, shards)}
    samples = by_turns(bench, {name: partial(first, folder) for name, folder in sets.items()})
    largest = f"{rows * shards:,} rows"
    allowed = samples | {"allowed": [FIRST_BATCH_S] * bench.repeats}
    report.add(compare("time to the first batch", allowed, "allowed", bars={largest: 1.0}))


def main(argv: Sequence[str] | None = None) -> Report:
    """Measure what the options ask for; the report, printed and written."""
    options = parser("loader", (__doc__ or "").split("\n")[0], 5)
    options.add_argument("--photos", type=Path, default=SHARED, help="folder of WebDataset shards of JPEGs (default: Flickr8k's)")
    options.add_argument("--count", type=positive, default=1536, help="pictures that are written (default: %(default)s)")
    options.add_argument("--batches", type=positive, default=16, help="of a turn (default: %(default)s)")
    options.add_argument("--workers", type=positive, nargs="+", default=[1, 2], help="(default: 1 2)")
    chosen = options.parse_args(argv)
    bench = replace(bench_of(chosen), warmup=0 if chosen.quick else 1)
    batch, count, batches = (8, 32, 2) if chosen.quick else (128, chosen.count, chosen.batches)
    tars = [] if chosen.quick else sorted(chosen.photos.glob("train-*.tar"))
    settings = {"repeats": bench.repeats, "count": count, "batch": batch, "batches": batches, "photos": bool(tars)}
    report = Report("loader", bench.device, settings | {"workers": chosen.workers})
    report.start()
    if not tars:
        report.note("the pictures are drawn: no photos were asked for, or there are none")
    with tempfile.TemporaryDirectory() as folder:
        small = photos(tars, count)
        exact = write([enlarged(image, SIDE) for image in small], Path(folder) / "exact")
        large = write([enlarged(image, LARGE) for image in small], Path(folder) / "large")
        for workers in chosen.workers:
            setting = Setting(batch, batches, workers)
            with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
                measure_speed(report, bench, pool, large, setting, LARGE)
                measure_speed(report, bench, pool, exact, setting, SIDE)
        measure_memory(report, large, batch)
        rows, shards = (500, 4) if chosen.quick else (20_000, 500)
        measure_first_batch(report, bench, Path(folder), rows, shards, batch)
    report.finish(chosen.json)
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
