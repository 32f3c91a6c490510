"""The task: model, objective and batch contract in one place. The loop never asks what kind of model it has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.config import MoeParams, TrainParams
from limoe.losses.auxiliary import auxiliary_loss
from limoe.losses.chunked import sigmoid_chunked, softmax_chunked
from limoe.losses.contrastive import equal_captions, sigmoid_contrastive, softmax_contrastive
from limoe.model.io import Model
from limoe.model.limoe import Limoe, Output
from limoe.model.router import NoiseKey
from limoe.model.tokens import PairBatch
from limoe.world import ALONE, World


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
    (ValueError). precision: of the tower. world: the ranks that share a batch. Losses, auxiliary reports and what is observed are
    then a rank's shares: their sums over the ranks, and those of the gradients, are what one process would have.
    """

    model: Model
    moe: MoeParams | None
    train: TrainParams
    precision: torch.dtype
    world: World = ALONE

    def __post_init__(self) -> None:
        if self.train.loss == "sigmoid" and self.model.logit_bias is None:
            raise ValueError("train.loss = sigmoid needs a model with a logit_bias: build it with init_bias")

    def __call__(self, batch: PairBatch, step: int) -> Objective:
        """The objective of a rank's batch at this step (which names the router noise)."""
        return self.objective(self.embed(batch, step, self.world.rows(len(batch)).start), batch)

    def objective(self, output: Output, batch: PairBatch) -> Objective:
        """The same, from the output for that batch."""
        terms = {"contrastive": self.contrastive(output, batch)}
        auxiliary, each = self.auxiliary(output, len(batch) * self.world.size)
        return Objective(terms | auxiliary, self.report() | each, output)

    def embed(self, batch: PairBatch, step: int, first_pair: int = 0) -> Output:
        """The model's output for a batch, or for a part of one that begins at pair `first_pair` of all ranks' batch."""
        first_group = 0 if self.moe is None else first_pair // self.moe.group_pairs
        device = batch.images_BCHW.device.type
        with torch.autocast(device, self.precision, enabled=self.precision != torch.float32):
            output: Output = self.model(batch, NoiseKey(self.train.seed, step, first_group))
        return output

    def contrastive(self, output: Output, batch: PairBatch) -> Tensor:
        """The loss that `train` names: the plain one where the batch is one chunk, else the equal one in chunks."""
        pair = (output.image_BV, output.text_BV, self.model.logit_scale.exp())
        group_B = equal_captions(*all_captions(batch, self.world)) if self.train.positives == "equal-captions" else None
        ranks = (group_B, self.world)
        chunk, bias = self.train.loss_chunk, self.model.logit_bias
        whole = len(output.image_BV) <= chunk
        if self.train.loss == "softmax":
            return softmax_contrastive(*pair, *ranks) if whole else softmax_chunked(*pair, chunk, *ranks)
        assert bias is not None
        return sigmoid_contrastive(*pair, bias, *ranks) if whole else sigmoid_chunked(*pair, bias, chunk, *ranks)

    def auxiliary(self, output: Output, total_pairs: int | None = None) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(the auxiliary term, its parts for the report), both empty if the model routes nothing.

        total_pairs: of all ranks' batch, if `output` is of a part of it; the values are then this part's shares.
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


def all_captions(batch: PairBatch, world: World) -> tuple[Tensor, Tensor]:
    """(ids_N, lengths_B) of all ranks' captions, in the ranks' order."""
    if world.size == 1:
        return batch.ids_N, batch.lengths_B
    lengths_B = world.gather(batch.lengths_B)
    tokens = lengths_B.view(world.size, -1).sum(1).tolist()
    padded = world.gather(F.pad(batch.ids_N, (0, max(tokens) - len(batch.ids_N)))).view(world.size, -1)
    return torch.cat([ids_N[:count] for ids_N, count in zip(padded, tokens, strict=True)]), lengths_B
