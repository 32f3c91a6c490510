"""Loss and gradients of a batch: of all of it at once, or the same in micro-batches, one of whose activations is held at a time.

A contrastive batch cannot be summed up piece by piece: every pair is compared with every other. Gradient caching (arXiv
2101.06983) goes over it twice. First every micro-batch is embedded and its activations are forgotten; the loss of all embeddings
gives the gradient with respect to each of them. Then every micro-batch is embedded again, this time to send its part of that
gradient, and that of its own share of the auxiliary loss, through the model. Auxiliary terms over the whole batch go the way of
the embeddings: of every micro-batch its sums are kept (limoe/losses/batchwide.py). Router noise is keyed by (seed, step, layer,
group), so the second embedding is the first.

With several ranks each does this with its own part of the batch. The loss of all embeddings is taken together
(limoe/losses/contrastive.py), and at the end one sum over the ranks, in a few large pieces, makes gradients, losses and counts
those of the whole batch. This is not torch's DistributedDataParallel: that averages during a backward pass, and here a step has
one for the loss and one for each micro-batch, whose sum is the gradient. What it would gain, sending early gradients while later
ones are computed, is little where one sum serves many micro-batches.
"""

from __future__ import annotations

import logging
from collections.abc import Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from limoe.model.limoe import Output
from limoe.model.tokens import PairBatch
from limoe.train.holders import Holders
from limoe.train.meter import count
from limoe.train.step import ContrastiveTask

log = logging.getLogger(__name__)
NO_MEMORY = "can't allocate memory"  # what torch's allocator for processors says, in a plain RuntimeError
Name = TypeVar("Name", bound=Hashable)


@dataclass(frozen=True)
class Result:
    """What a batch came to, over all ranks; its gradients lie on the parameters.

    terms, report: as of an Objective, without a graph. By block: observed, for `ContrastiveTask.adjust`; counts, for
    `RoutingMeter.add`.
    """

    terms: dict[str, Tensor]
    report: dict[str, Tensor]
    observed: dict[int, Tensor]
    counts: dict[int, Tensor]

    @property
    def total(self) -> Tensor:
        """The sum of the terms: what was minimised."""
        return torch.stack(list(self.terms.values())).sum()


class Gradients:
    """Computes them in micro-batches of `pairs` pairs, None for whole batches.

    With `train.micro_batch` = auto a batch that does not fit into memory on some rank is tried again, whole, in smaller
    micro-batches, and all that follow are cut like it; `pairs` is then part of the training's state.
    """

    def __init__(self, task: ContrastiveTask) -> None:
        self.task, self.world = task, task.world
        self.holders = Holders(task.model, task.mesh)
        self.auto = task.train.micro_batch == "auto"
        self.pairs = task.train.micro_batch if isinstance(task.train.micro_batch, int) else None
        self._group = 1 if task.moe is None else task.moe.group_pairs

    def __call__(self, batch: PairBatch, step: int) -> Result:
        """Replace the model's gradients by those of the batch of which each rank gives its part."""
        while True:
            try:
                self.task.model.zero_grad(set_to_none=True)
                whole = self.held(len(batch)) == len(batch)
                return self._over_ranks(self._at_once(batch, step) if whole else self._cached(batch, step))
            except RuntimeError as error:
                if not (self.auto and is_out_of_memory(error) and self._has_shrunk(len(batch))):
                    raise
            if batch.images_BCHW.is_cuda:  # not above: until then the exception holds on to what did not fit
                torch.cuda.empty_cache()

    def held(self, batch: int) -> int:
        """Of how many of a rank's pairs the activations are held at a time: `pairs`, or fewer if these do not divide them."""
        return batch if self.pairs is None else largest_part(self.pairs, batch, self._group) or self._group

    def state_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"pairs": self.pairs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.pairs = state["pairs"]

    def _at_once(self, batch: PairBatch, step: int) -> Result:
        with self._all_have_memory():
            output = self.task.embed(batch, step, self.world.rows(len(batch)).start)
        objective = self.task.objective(output, batch)
        with self._all_have_memory():
            objective.total.backward()  # type: ignore[no-untyped-call]
        return self._result(objective.terms, objective.report, output)

    def _cached(self, batch: PairBatch, step: int) -> Result:
        own, pairs, total = self.world.rows(len(batch)), self.held(len(batch)), len(batch) * self.world.size
        parts = list(zip(range(own.start, own.stop, pairs), batch.split(pairs), strict=True))
        with self._all_have_memory():
            embedded = [self._seen(part, step, first) for first, part in parts]
        seen = [torch.cat(pieces).requires_grad_() for pieces in zip(*embedded, strict=True)]
        terms, report = self.task.over_batch(seen, batch)
        torch.stack(list(terms.values())).sum().backward()  # type: ignore[no-untyped-call]
        pulls = zip(*(leaf.grad.chunk(len(parts)) for leaf in seen if leaf.grad is not None), strict=True)
        with self._all_have_memory():
            results = [self._part(part, step, first, total, *pull) for (first, part), pull in zip(parts, pulls, strict=True)]
        return Result(
            {name: value.detach() for name, value in terms.items()} | _sums([result.terms for result in results]),
            report | _sums([result.report for result in results]),
            _sums([result.observed for result in results]),
            _sums([result.counts for result in results]),
        )

    @torch.no_grad()
    def _seen(self, part: PairBatch, step: int, first: int) -> tuple[Tensor, ...]:
        return self.task.seen(self.task.embed(part, step, first))

    def _part(self, part: PairBatch, step: int, first: int, total: int, *pulls: Tensor) -> Result:
        """Add the gradients of a micro-batch, from those with respect to what was seen of it, to the parameters' own."""
        output = self.task.embed(part, step, first)
        terms, report = self.task.over_groups(output, total)
        pulled = [(seen * pull).sum() for seen, pull in zip(self.task.seen(output), pulls, strict=True)]
        torch.stack([*pulled, *terms.values()]).sum().backward()  # type: ignore[no-untyped-call]
        return self._result(terms, report, output)

    def _result(self, terms: dict[str, Tensor], report: dict[str, Tensor], output: Output) -> Result:
        detached = {name: value.detach() for name, value in terms.items()}
        return Result(detached, report, self.task.observe(output), count(output.routings, output.layout))

    def _over_ranks(self, result: Result) -> Result:
        """Add up all that is a rank's share, gradients included."""
        learnt = self.task.report()  # no share: every rank has it
        figures = [*result.terms.values(), *(value for name, value in result.report.items() if name not in learnt)]
        self.holders.sum_gradients([*figures, *result.observed.values(), *result.counts.values()])
        return result

    @contextmanager
    def _all_have_memory(self) -> Iterator[None]:
        """A rank that finds none in the body, where ranks do not wait for each other, must not leave the others waiting after it:
        with `auto` all of them learn of it at the body's end."""
        short = False
        try:
            yield
        except RuntimeError as error:
            if self.world.size == 1 or not (self.auto and is_out_of_memory(error)):
                raise
            short = True
        if self.auto and self.world.most(short):
            raise torch.OutOfMemoryError(f"out of memory on one of {self.world.size} ranks")

    def _has_shrunk(self, batch: int) -> bool:
        """Whether there is a smaller micro-batch, which is then the one to use."""
        before = self.held(batch)
        smaller = largest_part(before // 2, batch, self._group)
        if smaller is not None:
            if self.world.is_main:
                log.warning("out of memory with micro-batches of %d pairs: going on with %d", before, smaller)
            self.pairs = smaller
        return smaller is not None


def largest_part(most: int, batch: int, group: int) -> int | None:
    """The largest micro-batch of at most `most` pairs, in whole routing groups, that divides the batch; None if there is none.

    >>> largest_part(48, 96, 16), largest_part(24, 96, 16), largest_part(8, 96, 16)
    (48, 16, None)
    """
    return next((size for size in range(min(most, batch) // group * group, 0, -group) if batch % size == 0), None)


def is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found no memory, on a GPU or a processor."""
    return isinstance(error, torch.OutOfMemoryError) or NO_MEMORY in str(error)


def _sums(parts: Sequence[Mapping[Name, Tensor]]) -> dict[Name, Tensor]:
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}
