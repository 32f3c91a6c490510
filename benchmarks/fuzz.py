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
from pathlib import Path

from PIL import Image

from benchmarks.damage import Damage, seeds
from limoe.config import EvalSetParams
from limoe.data.duplicates import hash_encoded
from limoe.data.rgb import to_rgb
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


def readers(folder: Path) -> Mapping[str, Read]:
    """By kind of file, what reads it. folder: of files, written anew for each."""
    places = {name: folder / name for name in ("tars", "parquet", "captions", "pictures")}
    for place in places.values():
        place.mkdir()
    for number in range(3):  # those that the captions name
        (places["pictures"] / f"{number}.jpg").write_bytes(seeds()["picture"][0])
    return {
        "picture": read_picture,
        "webdataset": read_set("webdataset", "a.tar", places["tars"]),
        "parquet": read_set("parquet", "a.parquet", places["parquet"]),
        "coco": read_set("coco", "captions.json", places["captions"], places["pictures"]),
        "flickr8k": read_set("flickr8k", "captions.txt", places["captions"], places["pictures"]),
    }


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
            counts, finds = fuzz(read, seeds()[kind], asked.files, asked.seed)
            print(f"{kind}: {dict(counts.most_common())}, {len(finds)} finds", flush=True)
            for content, how in finds:
                asked.keep.mkdir(parents=True, exist_ok=True)
                (asked.keep / f"{kind}-{found:04d}").write_bytes(content)
                print(f"  {kind}-{found:04d}: {how}", flush=True)
                found += 1
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
