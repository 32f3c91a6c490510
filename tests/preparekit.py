"""For the tests of sources, ingest and prepare: params with a few changes, pictures, and a source made of a list."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from limoe.config import Params, PrepareParams
from limoe.data.ingest import ingest
from limoe.data.parts import Plan, Workshop
from limoe.data.sources import Candidate, Part, Rejected, Source
from limoe.data.workers import Here, Workers

ROOT = Path(__file__).resolve().parents[1]


def params_with(*overrides: str) -> Params:
    """The checkout's params.yaml with overrides such as "prepare.seed=1"."""
    return Params.load(ROOT / "params.yaml", overrides)


def picture(seed: int = 0, width: int = 20, height: int = 16, fmt: str = "PNG") -> bytes:
    """Noise, encoded."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, fmt)
    return encoded.getvalue()


def candidate(key: str, image: bytes | None = None, **changes: Any) -> Candidate:
    """A good candidate of the split `train`, with changes."""
    values: dict[str, Any] = {
        "key": key,
        "source": "listed",
        "split": "train",
        "image": picture() if image is None else image,
        "captions": (f"caption of {key}",),
        "split_group": key,
    }
    return Candidate(**(values | changes))


class ListedSource:
    """A source that yields what it is given."""

    def __init__(self, items: Iterable[Candidate | Rejected]) -> None:
        self._items = list(items)
        self.total = len(self._items)
        self.parts = Part.split("items", len(self._items), 3)

    @classmethod
    def packages(cls, params: Any) -> tuple[()]:
        return ()

    def candidates(self, part: Part) -> Iterator[Candidate | Rejected]:
        yield from self._items[part.start : part.stop]

    def inputs(self, part: Part) -> tuple[()]:
        return ()

    def provenance(self) -> dict[str, Any]:
        return {"listed": self.total}


def ingested(
    sources: Mapping[str, Source], params: PrepareParams, out: Path, work: Path | None = None, workers: Workers | None = None
) -> dict[str, Any]:
    """The manifest of what `sources` bring, in the new folder `out`; parts and shards meanwhile in `work`."""
    out.mkdir()
    shop = Workshop(Plan.of(params, out.parent, work or out.parent / f"{out.name}-work"), sources)
    return ingest(shop, workers or Here(), {}, out)


@contextmanager
def cluster(workers: int = 2) -> Iterator[str]:
    """The address of a Dask scheduler with so many worker processes of this machine, of one thread each; a task may kill two."""
    import dask
    from distributed import LocalCluster

    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 1}),
        LocalCluster(n_workers=workers, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0") as found,
    ):
        yield found.scheduler_address
