"""`python -m benchmarks.fuzz --files 5000`: damaged and spliced files, none of which may crash what reads them.

A picture must be measured, or refused with a reason; what was measured must then decode as every reader of a prepared set decodes
it, to the size that was measured. A set's file (tar, Parquet, captions) must give pictures, or a UserError. Whatever else is
raised is a find: its file is kept in the folder `--keep`, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple
from pathlib import Path

from PIL import Image

from benchmarks.damage import Damage, seeds
from limoe.config import EvalSetParams, SetParams
from limoe.config.sets import Kind
from limoe.data.duplicates import hash_encoded
from limoe.data.rgb import to_rgb
from limoe.data.sources import Rejected, candidates
from limoe.data.sources import open_set as open_source
from limoe.data.transforms import decode_uint8
from limoe.data.verify import BadImage, measure
from limoe.errors import UserError
from limoe.evals.external import open_set
from limoe.evals.pictures import pieces

MAX_PIXELS = 1 << 20
SLOW_SECONDS = 10.0  # of one file of some hundred bytes: it would be a find, too
Read = Callable[[bytes], str]


def read_picture(content: bytes) -> str:
    """What became of it: "taken", or the reason why it is refused."""
    try:
        size = measure(content, MAX_PIXELS)
    except BadImage as error:
        return error.reason
    upright = to_rgb(Image.open(io.BytesIO(content)))
    assert (upright.size, upright.mode) == (size, "RGB"), (upright.size, size)
    decode_uint8(content, 16)
    assert 0 <= hash_encoded(content) < 1 << 64
    return "taken"


def read_set(kind: str, name: str, folder: Path, pictures: Path | None = None) -> Read:
    """Reads a file as the set of this kind that evaluation opens, to the last picture."""
    params = EvalSetParams(path=str(pictures or folder), kind=kind, captions=str(folder / name) if pictures else None)  # type: ignore[arg-type]

    def read(content: bytes) -> str:
        (folder / name).write_bytes(content)
        try:
            data = open_set("fuzzed", params, folder)
            assert sum(map(len, pieces(data.images))) == len(data)
        except UserError:
            return "UserError"
        return "taken"

    return read


def read_source(kind: Kind, name: str, folder: Path, pictures: Path | None = None) -> Read:
    """Reads a file as the set of this kind that is prepared, to the last candidate, all of whose texts a file can hold."""
    params = SetParams(path=str(folder / name), kind=kind, images=str(pictures) if pictures else None)

    def read(content: bytes) -> str:
        (folder / name).write_bytes(content)
        try:
            for one in candidates(open_source("fuzzed", params, folder)):
                texts = astuple(one) if isinstance(one, Rejected) else (one.key, one.split_group, one.label or "", *one.captions)
                "".join(texts).encode()
        except UserError:
            return "UserError"
        return "taken"

    return read


def readers(folder: Path) -> Mapping[str, Read]:
    """What reads a file of the kind that the last word names. folder: of files, written anew for each."""
    tars, columns, told, pictures = places = [folder / name for name in ("tars", "columns", "captions", "pictures")]
    for place in places:
        place.mkdir()
    for number in range(3):  # those that the captions name
        (pictures / f"{number}.jpg").write_bytes(seeds()["picture"][0])
    return {
        "picture": read_picture,
        "evaluate webdataset": read_set("webdataset", "a.tar", tars),
        "evaluate parquet": read_set("parquet", "a.parquet", columns),
        "evaluate coco": read_set("coco", "captions.json", told, pictures),
        "evaluate flickr": read_set("flickr8k", "captions.txt", told, pictures),
        "prepare webdataset": read_source("webdataset", "a.tar", tars),
        "prepare parquet": read_source("parquet", "a.parquet", columns),
        "prepare coco": read_source("coco", "captions.json", told, pictures),
        "prepare flickr": read_source("flickr", "captions.txt", told, pictures),
        "prepare csv": read_source("table", "a.csv", told, pictures),
        "prepare jsonl": read_source("table", "a.jsonl", told, pictures),
    }


def files_for(reader: str) -> Sequence[bytes]:
    """Whole files that it can read."""
    return seeds()[reader.split()[-1]]


def fuzz(read: Read, files: Sequence[bytes], count: int, seed: int) -> tuple[Counter[str], list[tuple[bytes, str]]]:
    """`count` damaged files, read: how many became what, and those on which reading failed, with how."""
    damage, counts, finds = Damage(files, seed), Counter[str](), list[tuple[bytes, str]]()
    for _ in range(count):
        content, start = damage.one(), time.monotonic()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # readers of a prepared set say nothing of odd metadata either
                counts[read(content)] += 1
            if (took := time.monotonic() - start) > SLOW_SECONDS:
                finds.append((content, f"took {took:.0f} s"))
        except Exception as error:  # that is what is looked for
            finds.append((content, f"{type(error).__name__}: {error}"))
    return counts, finds


def main(arguments: Sequence[str] | None = None) -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--files", type=int, default=5000, help="damaged files of each kind")
    options.add_argument("--seed", type=int, default=0)
    options.add_argument("--keep", type=Path, default=Path("fuzz-finds"), help="folder for files on which reading failed")
    asked = options.parse_args(arguments)
    found = 0
    with tempfile.TemporaryDirectory() as folder:
        for kind, read in readers(Path(folder)).items():
            counts, finds = fuzz(read, files_for(kind), asked.files, asked.seed)
            print(f"{kind}: {dict(counts.most_common())}, {len(finds)} finds", flush=True)
            name = kind.replace(" ", "-")
            for content, how in finds:
                asked.keep.mkdir(parents=True, exist_ok=True)
                (asked.keep / f"{name}-{found:04d}").write_bytes(content)
                print(f"  {name}-{found:04d}: {how}", flush=True)
                found += 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
