"""Published results to stand beside, and nothing else: only figures read in a source, each with that source.

Where two versions of the paper give two numbers, both are quoted.
"""

from __future__ import annotations

from dataclasses import dataclass

NOTICE = "Published, on other data, not comparable"


@dataclass(frozen=True)
class Published:
    """One published model. Scores in per cent, as text where the source has more than one; None where it has none."""

    model: str
    imagenet: str | None
    coco_i2t: str | None
    coco_t2i: str | None
    source: str


ROWS = (
    Published("LIMoE B/32", "67.5", "45.7", "31.0", "quoted by MoDE (arXiv 2404.16030)"),
    Published("LIMoE B/16", "73.7", "51.3", "36.2", "quoted by MoDE and MoE-ViE"),
    Published(
        "LIMoE L/16",
        "78.6 (arXiv v1), 77.9 (NeurIPS)",
        "55.7",
        "39.6",
        "abstracts of both versions (arXiv 2206.02770); COCO: MoDE",
    ),
    Published("LIMoE H/14", "84.1 (arXiv v1), 83.8 (NeurIPS)", None, None, "abstracts of both versions"),
    Published("CLIP L/14@336", "76.2", "58.4", "37.8", "LIMoE's abstract; CLIP, table 13"),
    Published("one-tower dense B/16 (1T-CLIP)", "62.3", "48.0", None, "CLIPPO, on its own data"),
    Published("one-tower dense L/16 (1T-CLIP)", "67.8", "50.7", None, "CLIPPO, on its own data"),
    Published("two-tower CLIP* B/16", "65.1", "48.5", None, "CLIPPO, on the same data as its one-tower rows"),
)
