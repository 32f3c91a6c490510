"""Linear probes: how well do a picture's features tell classes apart, once a linear classifier has seen some labelled pictures?

The features are what a picture's embedding is projected from, as in CLIP's own linear probes and in the few-shot evaluators of
big_vision and V-MoE, whose protocol the few-shot probe follows; a model without such a projection is probed at its embedding.
The number may be compared with other models' on the same training and test pictures, and with published k-shot figures of this
protocol, as far as preprocessing is alike and the luck of the draw allows.

Axes: N test pictures, M training pictures, D features, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import stdev

import torch
from torch import Tensor

from limoe.config import ProbeParams
from limoe.evals.encoder import Encoder
from limoe.evals.linear import UNSETTLED, Linear, logistic, ridge
from limoe.evals.metrics import LINEAR_PROBE, few_shot
from limoe.evals.ranking import TIE, ranks
from limoe.evals.sets import EvalSet, Items, Outcome, Score
from limoe.evals.shots import divide, draw, feasible, shuffled


class Probe:
    """Probes of the labelled pictures of `data`, learnt from `data.train`. chunk: pictures scored at a time."""

    def __init__(self, data: EvalSet, train: EvalSet, params: ProbeParams, chunk: int) -> None:
        self.name, self._data, self._train, self._params, self._chunk = data.name, data, train, params, chunk
        index = {label: number for number, label in enumerate(data.candidates)}
        self._classes = len(index)
        self._target_N = torch.tensor([index[str(data.labels[row])] for row in data.labelled])
        self._target_M = torch.tensor([index[str(label)] for label in train.labels])

    def run(self, encoder: Encoder) -> Outcome:
        """Score one model.

        Per picture: for each k of params.shots that every class has pictures for, `k-shot`, the share of the draws whose ridge
        regression hits it; and `linear-probe`, 1 where the logistic regression on all training pictures hits it, where every
        class has two. Beside them: `k-shot/sd`, the sample standard deviation over draws of their top-1, where there are several
        draws; and `linear-probe/l2`, the L2 that was chosen.
        """
        test_ND = encoder.features(self._data)[torch.tensor(self._data.labelled)]
        train_MD = encoder.features(self._train)
        shots, full = feasible(self._train, self._params)
        values, extra = {}, []
        orders = [shuffled(self._train, seed) for seed in range(self._params.draws)]
        for count in encoder.tracked(shots, f"{self.name}: few-shot probes"):
            hits_SN = self._few(train_MD, test_ND, [draw(order, count) for order in orders])
            values[few_shot(count)] = hits_SN.mean(0).numpy()
            if len(hits_SN) > 1:
                extra.append(Score(f"{few_shot(count)}/sd", stdev(hits_SN.mean(1).tolist()), len(hits_SN)))
        if full:
            l2, held, classifier = self._full(train_MD, encoder)
            values[LINEAR_PROBE] = self._hits(classifier, test_ND, self._target_N, UNSETTLED).numpy()
            extra.append(Score(f"{LINEAR_PROBE}/l2", l2, held))
        keys, groups = (tuple(part[row] for row in self._data.labelled) for part in (self._data.keys, self._data.groups))
        return Outcome(self.name, (Items(keys, groups, values),), tuple(extra))

    def _few(self, train_MD: Tensor, test_ND: Tensor, draws: Sequence[Sequence[int]]) -> Tensor:
        """float64 (S, N): the hits after each of S draws, which are the rows to learn from; after one, if all are the same."""
        found = []
        for rows in map(torch.tensor, draws if any(rows != draws[0] for rows in draws) else draws[:1]):
            classifier = ridge(train_MD[rows], self._target_M[rows].to(train_MD.device), self._classes, self._params.l2)
            found.append(self._hits(classifier, test_ND, self._target_N))
        return torch.stack(found)

    def _full(self, train_MD: Tensor, encoder: Encoder) -> tuple[float, int, Linear]:
        """(the L2 whose classifier hits most held-out training pictures, the larger of equals; how many these are; the
        classifier with this L2, learnt from all)."""
        learn, held = (torch.tensor(rows) for rows in divide(self._train, self._params.held_out))
        found: list[tuple[float, float]] = []
        grid, start = sorted(self._params.full_l2, reverse=True), None
        for place in encoder.tracked(range(len(grid)), f"{self.name}: linear probe"):
            start = self._logistic(train_MD, learn, grid[place], start)
            found.append((float(self._hits(start, train_MD[held], self._target_M[held], UNSETTLED).sum()), grid[place]))
        best = max(found)[1]
        return best, len(held), self._logistic(train_MD, torch.arange(len(train_MD)), best, None)

    def _logistic(self, train_MD: Tensor, rows: Tensor, l2: float, start: Linear | None) -> Linear:
        return logistic(train_MD[rows], self._target_M[rows].to(train_MD.device), self._classes, l2, self._chunk, start)

    def _hits(self, classifier: Linear, x_ND: Tensor, target_N: Tensor, tie: float = TIE) -> Tensor:
        """float64 (N,): 1 for a hit; scores within `tie` are equal, and count against the model."""
        pieces = zip(torch.split(x_ND, self._chunk), torch.split(target_N, self._chunk), strict=True)
        return torch.cat([(ranks(classifier.scores(part_ND).cpu(), part_N, tie) == 0).double() for part_ND, part_N in pieces])
