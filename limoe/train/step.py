"""The task: model, objective and batch contract in one place. The loop never asks what kind of model it has."""

from __future__ import annotations

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
        """The objective of one whole batch at this step (which names the router noise)."""
        output = self.embed(batch, step)
        terms = {"contrastive": self.contrastive(output, batch)}
        auxiliary, each = self.auxiliary(output)
        return Objective(terms | auxiliary, self.report() | each, output)

    def embed(self, batch: PairBatch, step: int, first_pair: int = 0) -> Output:
        """The model's output for a batch, or for a part of one that begins at pair `first_pair` of the whole."""
        first_group = 0 if self.moe is None else first_pair // self.moe.group_pairs
        device = batch.images_BCHW.device.type
        with torch.autocast(device, self.precision, enabled=self.precision != torch.float32):
            output: Output = self.model(batch, NoiseKey(self.train.seed, step, first_group))
        return output

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

    def auxiliary(self, output: Output, total_pairs: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(the auxiliary term, its parts for the report), both empty if the model routes nothing.

        total_pairs: of the whole batch, if `output` is of a part of it; the values are then this part's shares.
        """
        if not output.routings:
            return {}, {}
        assert self.moe is not None
        assert output.layout is not None
        groups = None if total_pairs is None else total_pairs // self.moe.group_pairs
        auxiliary, each = auxiliary_loss(output.routings, output.layout, self.moe, groups)
        return {"auxiliary": auxiliary}, {f"aux/{name}": value.detach() for name, value in each.items()}

    def report(self) -> dict[str, Tensor]:
        """What the contrastive loss has learnt beside the tower: the logit scale and, with the sigmoid loss, the bias."""
        report = {"logit_scale": self.model.logit_scale.detach().exp()}
        return report if self.model.logit_bias is None else report | {"logit_bias": self.model.logit_bias.detach()}

    def observe(self, output: Output) -> dict[int, Tensor]:
        """What the routers with a balancing state need to know of this output, by block; sums over micro-batches."""
        return self.model.observe_routers(output) if isinstance(self.model, Limoe) else {}

    def adjust(self, observed: dict[int, Tensor]) -> None:
        """After an optimiser step: move the routers' balancing state, by all that was observed in the step."""
        if isinstance(self.model, Limoe):
            self.model.adjust_routers(observed)
