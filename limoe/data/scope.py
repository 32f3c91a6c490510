"""What training draws, from one source or in all: rows, tokens, duplicates, and what follows for routing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from limoe.config import BalanceParams, ModelParams
from limoe.data.needs import Needs
from limoe.data.statistics import Duplicates, Lengths, Rows


@dataclass(frozen=True)
class Scope:
    """What training draws from one source, or in all. rows: it draws from. image_tokens: of a picture. ratio: to a text token."""

    name: str
    rows: int
    image_tokens: int
    lengths: Lengths
    ratio: float
    duplicates: Duplicates
    routing: Needs

    @classmethod
    def of(cls, name: str, rows: Rows, shares: Mapping[str, float], model: ModelParams, balance: BalanceParams) -> Scope:
        """Of these rows, their sources drawn by `shares`, which sum to 1."""
        lengths = Lengths.of(rows.ids_RK, rows.weights(shares), model.tower.text_length)
        image_tokens = model.tower.image_tokens
        return cls(
            name=name,
            rows=len(rows),
            image_tokens=image_tokens,
            lengths=lengths,
            ratio=image_tokens / lengths.mean,
            duplicates=Duplicates.of(rows, shares, model.moe.group_pairs),
            routing=Needs.of(image_tokens, lengths.mean, model.moe, balance.target_placed),
        )
