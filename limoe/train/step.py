"""The task: model, objective and batch contract in one place. The loop never asks what kind of model it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from limoe.config import MoeParams, TrainParams
from limoe.losses.auxiliary import auxiliary_loss
from limoe.losses.chunked import sigmoid_chunked, softmax_chunked
from limoe.losses.contrastive import equal_captions, sigmoid_contrastive, softmax_contrastive
from limoe.model.io import Model
from limoe.model.limoe import Limoe, Output
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
    """Contrastive training of any model of our protocol, with the auxiliary losses if it routes.

    train: names the seed of the router noise, and the contrastive loss; for the sigmoid loss the model needs a `logit_bias`
    (ValueError). precision: of the tower.
    """

    model: Model
    moe: MoeParams | None
    train: TrainParams
    precision: torch.dtype

    def __post_init__(self) -> None:
        if self.train.loss == "sigmoid" and self.model.logit_bias is None:
            raise ValueError("train.loss = sigmoid needs a model with a logit_bias: build it with init_bias")

    def __call__(self, batch: PairBatch, step: int) -> Objective:
        """The objective of one batch at this step (which names the router noise)."""
        device = batch.images_BCHW.device.type
        with torch.autocast(device, self.precision, enabled=self.precision != torch.float32):
            output: Output = self.model(batch, NoiseKey(self.train.seed, step))
        terms = {"contrastive": self.contrastive(output, batch)}
        report = {"logit_scale": self.model.logit_scale.detach().exp()}
        if self.model.logit_bias is not None:
            report["logit_bias"] = self.model.logit_bias.detach()
        if output.routings:
            assert self.moe is not None
            assert output.layout is not None
            auxiliary, each = auxiliary_loss(output.routings, output.layout, self.moe)
            terms["auxiliary"] = auxiliary
            report |= {f"aux/{name}": value.detach() for name, value in each.items()}
        return Objective(terms, report, output)

    def adjust(self, objectives: Sequence[Objective]) -> None:
        """After an optimiser step: move the routers' balancing state, from all micro-batches of the step."""
        if isinstance(self.model, Limoe):
            self.model.adjust_routers([objective.output for objective in objectives])

    def contrastive(self, output: Output, batch: PairBatch) -> Tensor:
        """The loss that `train` names: the plain one where the batch is one chunk, else the equal one in chunks."""
        pair = (output.image_BV, output.text_BV, self.model.logit_scale.exp())
        group_B = equal_captions(batch.ids_N, batch.lengths_B) if self.train.positives == "equal-captions" else None
        chunk, bias = self.train.loss_chunk, self.model.logit_bias
        whole = len(output.image_BV) <= chunk
        if self.train.loss == "softmax":
            return softmax_contrastive(*pair, group_B) if whole else softmax_chunked(*pair, chunk, group_B)
        assert bias is not None
        return sigmoid_contrastive(*pair, bias, group_B) if whole else sigmoid_chunked(*pair, bias, chunk, group_B)
