"""Small towers and batches for tests."""

from __future__ import annotations

from pathlib import Path

import torch

from limoe.config import AUX_TERMS, MoeParams, Params, TowerParams
from limoe.model.tokens import PairBatch, TextLayout

ROOT = Path(__file__).resolve().parent.parent
PARAMS = Params.load(ROOT / "params.yaml")
VOCAB, EOS = 50, 1


def tower(**changes) -> TowerParams:
    small = {"image_size": 16, "patch_size": 8, "text_length": 8, "width": 16, "depth": 4, "heads": 2, "embed_dim": 8}
    return TowerParams.model_validate(PARAMS.model.tower.model_dump() | small | changes)


def moe(**changes) -> MoeParams:
    values = PARAMS.model.moe.model_dump() | {"experts": 4, "group_pairs": 8, "kernel": "loop"}
    paper = dict.fromkeys(AUX_TERMS, 1.0) | {"local_image": 0.0}
    weights = paper | changes.pop("aux_weights", {})
    return MoeParams.model_validate(values | changes | {"aux_weights": weights})


def batch(pairs: int = 8, seed: int = 0, longest: int = 6, shortest: int = 1, dtype=torch.float32) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    lengths_B = torch.randint(shortest, longest + 1, (pairs,), generator=generator)
    ids_N = torch.randint(2, VOCAB, (int(lengths_B.sum()),), generator=generator)
    ids_N[lengths_B.cumsum(0) - 1] = EOS
    images = torch.randn(pairs, 3, 16, 16, generator=generator, dtype=torch.float64).to(dtype)
    return PairBatch(images, ids_N, lengths_B, tuple(f"pair{i}" for i in range(pairs)))


def padded_ids(pairs: PairBatch) -> torch.Tensor:
    """(B, L) with PAD at the right, built row by row."""
    rows = torch.split(pairs.ids_N, pairs.lengths_B.tolist())
    return torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True)


def take(pairs: PairBatch, index: list[int]) -> PairBatch:
    """Some pairs of a batch, in this order."""
    rows = torch.split(pairs.ids_N, pairs.lengths_B.tolist())
    ids = torch.cat([rows[i] for i in index])
    return PairBatch(pairs.images_BCHW[index], ids, pairs.lengths_B[index], tuple(pairs.keys[i] for i in index))


__all__ = ["EOS", "PARAMS", "ROOT", "VOCAB", "TextLayout", "batch", "moe", "padded_ids", "take", "tower"]
