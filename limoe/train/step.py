"""The task: model, objective and batch contract in one place. The loop never asks what kind of model it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from limoe.config import MoeParams
from limoe.losses.auxiliary import auxiliary_loss
from limoe.losses.contrastive import softmax_contrastive
from limoe.model.io import Model
from limoe.model.limoe import Output
from limoe.model.router import NoiseKey
from limoe.model.tokens import PairBatch


@dataclass(frozen=True)
class Objective:
    """terms: the named, weighted terms whose sum is minimised. report: scalars that are logged and not minimised."""

    terms: dict[str, Tensor]
    report: dict[str, Tensor]
    output: Output

    @property
    def total(self) -> Tensor:
        """The sum of the terms."""
        return torch.stack(list(self.terms.values())).sum()


@dataclass(frozen=True)
class ContrastiveTask:
    """Contrastive training of any model of our protocol, with the auxiliary losses if it routes. precision: of the tower."""

    model: Model
    moe: MoeParams | None
    seed: int
    precision: torch.dtype

    def __call__(self, batch: PairBatch, step: int) -> Objective:
        """The objective of one batch at this step (which names the router noise)."""
        device = batch.images_BCHW.device.type
        with torch.autocast(device, self.precision, enabled=self.precision != torch.float32):
            output: Output = self.model(batch, NoiseKey(self.seed, step))
        scale = self.model.logit_scale.exp()
        terms = {"contrastive": softmax_contrastive(output.image_BV, output.text_BV, scale)}
        report = {"logit_scale": scale.detach()}
        if output.routings:
            assert self.moe is not None
            assert output.layout is not None
            auxiliary, each = auxiliary_loss(output.routings, output.layout, self.moe)
            terms["auxiliary"] = auxiliary
            report |= {f"aux/{name}": value.detach() for name, value in each.items()}
        return Objective(terms, report, output)
