"""The task: model, objective and batch contract in one place. The loop never asks what kind of model it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.config import MoeParams, TrainParams
from limoe.losses.auxiliary import auxiliary_loss
from limoe.losses.batchwide import batch_sums, loss_of_sums
from limoe.losses.chunked import sigmoid_chunked, softmax_chunked
from limoe.losses.contrastive import equal_captions, sigmoid_contrastive, softmax_contrastive
from limoe.mesh import ONE_PROCESS, Mesh
from limoe.model.io import Model
from limoe.model.limoe import Limoe, Output
from limoe.model.router import NoiseKey
from limoe.model.tokens import PairBatch
from limoe.world import World


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
    (ValueError). precision: of the tower. mesh: of the ranks that share a batch. Losses, auxiliary reports and what is observed
    are then a rank's shares: their sums over the ranks, and those of the gradients, are what one process would have.
    """

    model: Model
    moe: MoeParams | None
    train: TrainParams
    precision: torch.dtype
    mesh: Mesh = ONE_PROCESS

    def __post_init__(self) -> None:
        if self.train.loss == "sigmoid" and self.model.logit_bias is None:
            raise ValueError("train.loss = sigmoid needs a model with a logit_bias: build it with init_bias")

    @property
    def world(self) -> World:
        """The ranks that share a batch."""
        return self.mesh.everyone

    def __call__(self, batch: PairBatch, step: int) -> Objective:
        """The objective of a rank's batch at this step (which names the router noise)."""
        return self.objective(self.embed(batch, step, self.world.rows(len(batch)).start), batch)

    def objective(self, output: Output, batch: PairBatch) -> Objective:
        """The same, from the output for that batch."""
        terms, report = self.over_batch(self.seen(output), batch)
        auxiliary, each = self.over_groups(output, len(batch) * self.world.size)
        return Objective(terms | auxiliary, report | each, output)

    def embed(self, batch: PairBatch, step: int, first_pair: int = 0) -> Output:
        """The model's output for a batch, or for a part of one that begins at pair `first_pair` of all ranks' batch."""
        first_group = 0 if self.moe is None else first_pair // self.moe.group_pairs
        device = batch.images_BCHW.device.type
        with torch.autocast(device, self.precision, enabled=self.precision != torch.float32):
            output: Output = self.model(batch, NoiseKey(self.train.seed, step, first_group))
        return output

    def seen(self, output: Output) -> tuple[Tensor, ...]:
        """What the terms over the whole batch look at: embeddings and, if the auxiliary ones are over the batch too, their sums.

        Those of a batch's parts are joined along their first axes.
        """
        embeddings = (output.image_BV, output.text_BV)
        if self._scope(output) != "global":
            return embeddings
        assert self.moe is not None
        assert output.layout is not None
        return *embeddings, batch_sums(output.routings, output.layout, self.moe)

    def over_batch(self, seen: Sequence[Tensor], batch: PairBatch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(the terms over the whole batch, what they report), from what is `seen` of all of a rank's pairs."""
        image_BV, text_BV, *sums = seen
        terms, report = {"contrastive": self.contrastive(Output(image_BV, text_BV, None, {}), batch)}, self.report()
        for sums_PLC in sums:
            assert self.moe is not None
            auxiliary, each = _named(*loss_of_sums(sums_PLC, self.moe, self.world))
            terms, report = terms | auxiliary, report | each
        return terms, report

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

    def over_groups(self, output: Output, total_pairs: int) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """(the auxiliary term over routing groups, its parts for the report); both empty if there is none.

        total_pairs: of all ranks' batch, of which `output` may be of a part; the values are then this part's shares.
        """
        if self._scope(output) != "group":
            return {}, {}
        assert self.moe is not None
        assert output.layout is not None
        return _named(*auxiliary_loss(output.routings, output.layout, self.moe, total_pairs // self.moe.group_pairs))

    def _scope(self, output: Output) -> str | None:
        """What auxiliary terms are computed over; None if nothing was routed."""
        return self.moe.aux_scope if self.moe is not None and output.routings else None

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


def _named(auxiliary: Tensor, each: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """(term, report) of an auxiliary loss."""
    return {"auxiliary": auxiliary}, {f"aux/{name}": value.detach() for name, value in each.items()}


def all_captions(batch: PairBatch, world: World) -> tuple[Tensor, Tensor]:
    """(ids_N, lengths_B) of all ranks' captions, in the ranks' order."""
    if world.size == 1:
        return batch.ids_N, batch.lengths_B
    lengths_B = world.gather(batch.lengths_B)
    tokens = lengths_B.view(world.size, -1).sum(1).tolist()
    padded = world.gather(F.pad(batch.ids_N, (0, max(tokens) - len(batch.ids_N)))).view(world.size, -1)
    return torch.cat([ids_N[:count] for ids_N, count in zip(padded, tokens, strict=True)]), lengths_B
