"""`python -m benchmarks.gpu_pack`: what benchmarks/gpu.sh needs on a bare machine with torch, in one folder that git ignores.

A prepared set (emoji, composed scenes and, where they are at hand, photos), its pictures made small, without test sets; and the
few packages that such a machine lacks, as wheels for its Python. Repository and pack together are at most 64 MiB.
"""

from __future__ import annotations

import argparse
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from PIL import Image

from limoe.config import Params, PrepareParams
from limoe.data.ingest import ingest
from limoe.data.parts import Plan, Workshop
from limoe.data.rgb import to_rgb
from limoe.data.sources import Candidate, Part, Rejected, Source, build, check_sources
from limoe.data.workers import Here
from limoe.doctor import pinned_versions
from limoe.errors import UserError
from limoe.files import atomic_directory
from limoe.paths import Paths

ROOT = Path(__file__).resolve().parent.parent
PACK = Path(".limoe/gpu")  # in the project's folder
PHOTOS = Path("../shared/data/flickr8k")  # from there: WebDataset shards, whose names begin with their split
DATA, WHEELS = "prepared", "wheels"
LIMIT_BYTES = 64 * 2**20
SIDE, QUALITY = 128, 80  # px of a picture's shorter side, at most; WebP
KEPT = {"emoji": ("train", "val-style"), "scenes": ("train", "val-scenes"), "photos": ("train", "val")}  # one val each, no test
SETTINGS = (
    "prepare.scenes.canvas=128",
    "prepare.scenes.train=10000",
    "prepare.scenes.test=0",
    "prepare.tokenizer.vocab_size=8192",
)
MISSING = (  # on a machine that has torch, torchvision, torchmetrics, timm, transformers, pyarrow, pillow, rich and pyyaml
    "pydantic",
    "pydantic-core",
    "annotated-types",
    "typing-inspection",
    "typing-extensions",
    "open-clip-torch",
    "ftfy",
    "wcwidth",
)


@dataclass(frozen=True)
class Small:
    """A source as a pack takes it: its pictures made small, and of its splits only these."""

    source: Source
    splits: Sequence[str]

    @property
    def total(self) -> int | None:
        """Candidates that the source has to offer."""
        return self.source.total

    def packages(self, params: PrepareParams) -> tuple[Any, ...]:
        """The source's."""
        return self.source.packages(params)

    def provenance(self) -> dict[str, Any]:
        """The source's, and what was done to its pictures."""
        return {**self.source.provenance(), "side": SIDE, "quality": QUALITY}

    @property
    def parts(self) -> Sequence[Part]:
        """The source's."""
        return self.source.parts

    def inputs(self, part: Part) -> Sequence[Path]:
        """The source's."""
        return self.source.inputs(part)

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        """Those of the splits."""
        for candidate in self.source.candidates(part):
            if isinstance(candidate, Rejected):
                yield candidate
            elif candidate.split in self.splits:
                yield replace(candidate, image=shrunk(candidate.image), size=None)


def shrunk(image: bytes) -> bytes:
    """The picture as WebP, its shorter side at most SIDE px."""
    picture = to_rgb(Image.open(io.BytesIO(image)))
    factor = SIDE / min(picture.size)
    if factor < 1:
        picture = picture.resize((round(picture.width * factor), round(picture.height * factor)), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, "WEBP", quality=QUALITY)
    return encoded.getvalue()


def pack_data(out: Path, photos: Path, settings: Sequence[str] = SETTINGS) -> Mapping[str, Any]:
    """Write the prepared set into `out`; its manifest. Photos are left out where there is no such folder."""
    names, sets = ["emoji", "scenes"], "{}"
    if photos.is_dir() and any(photos.glob("*.tar")):
        names, sets = [*names, "photos"], f"{{photos: {{path: {photos.resolve()}, kind: webdataset}}}}"
    chosen = (*settings, f"prepare.sets={sets}", f"prepare.sources=[{', '.join(names)}]")
    params = Params.load(ROOT / "params.yaml", chosen).prepare
    packages = check_sources(params, Paths(ROOT))
    sources = {name: cast(Source, Small(source, KEPT[name])) for name, source in build(params, ROOT).items()}
    with tempfile.TemporaryDirectory() as work:
        return ingest(Workshop(Plan.of(params, ROOT, Path(work)), sources), Here(), packages, out)


def pack_wheels(out: Path, python: str) -> None:
    """Download the wheels of MISSING in the versions of constraints.txt, for Linux on x86-64 and this Python ("3.12")."""
    pins = pinned_versions((ROOT / "constraints.txt").read_text(encoding="utf-8"))
    wanted = [f"{name}=={pins[name]}" for name in MISSING]
    platforms = [f"--platform=manylinux{version}_x86_64" for version in ("_2_28", "_2_17", "2014")]
    options = ["--quiet", "--no-deps", "--only-binary=:all:", f"--python-version={python}", "--implementation=cp", *platforms]
    subprocess.run([sys.executable, "-m", "pip", "download", *options, "--dest", str(out), *wanted], check=True)


def bytes_that_travel(root: Path, folder: Path) -> int:
    """Bytes of the files in `root` that git tracks or does not ignore, and of those in `folder`, which it ignores."""
    listed = subprocess.run(
        ["git", "ls-files", "-zco", "--exclude-standard"], cwd=root, capture_output=True, text=True, check=True
    )
    tracked = [root / name for name in listed.stdout.split("\0") if name]
    return sum(path.lstat().st_size for path in {*tracked, *folder.rglob("*")} if path.is_symlink() or path.is_file())


def check_size(root: Path, folder: Path) -> int:
    """`bytes_that_travel`; UserError above 64 MiB."""
    size = bytes_that_travel(root, folder)
    if size > LIMIT_BYTES:
        raise UserError(f"repository and {folder} are {size / 2**20:.1f} MiB, more than {LIMIT_BYTES // 2**20}: pack less")
    return size


def main(argv: Sequence[str] | None = None) -> None:
    """Pack, and say how it is used."""
    options = argparse.ArgumentParser(prog="python -m benchmarks.gpu_pack", description=(__doc__ or "").split("\n")[0])
    options.add_argument("--photos", type=Path, default=ROOT / PHOTOS, help=f"WebDataset shards (default: {PHOTOS})")
    options.add_argument("--python", default="3.12", help="of the machine with the GPU (default: %(default)s)")
    chosen = options.parse_args(argv)
    with atomic_directory(ROOT / PACK) as folder:
        (folder / DATA).mkdir()
        (folder / WHEELS).mkdir()
        manifest = pack_data(folder / DATA, chosen.photos)
        pack_wheels(folder / WHEELS, chosen.python)
    size = check_size(ROOT, ROOT / PACK)
    for split, found in manifest["splits"].items():
        print(f"{split}: {', '.join(f'{rows:,} {source}' for source, rows in found['sources'].items())}")
    print(f"repository and {PACK}: {size / 2**20:.1f} MiB; next: take both to the GPU and run bash benchmarks/gpu.sh there")


if __name__ == "__main__":
    main()
