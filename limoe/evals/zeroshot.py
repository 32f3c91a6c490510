"""Zero-shot classification: which class name fits a picture best?

The number may be compared with other models' on the same pictures, class names and templates, and with chance (1 / classes);
never with ImageNet's or any set's of other classes.

Axes: N pictures, C classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy

from limoe.evals.compare import calibration_error
from limoe.evals.encoder import Encoder
from limoe.evals.prompts import class_embeddings
from limoe.evals.ranking import ranks, similarity
from limoe.evals.sets import EvalSet, Items, Outcome, Score

PER_CLASS = "class-top1/"


class ZeroShot:
    """Zero-shot classification of the pictures `rows` of `data` (all that are labelled, by default) among their own labels.

    templates: prompts whose embeddings are averaged. bins: of the calibration error. chunk: pictures scored at a time.
    """

    def __init__(
        self, name: str, data: EvalSet, templates: Sequence[str], bins: int, chunk: int, rows: Sequence[int] | None = None
    ) -> None:
        self.name, self._data, self._templates, self._bins, self._chunk = name, data, templates, bins, chunk
        self._rows = list(data.labelled if rows is None else rows)
        labels = [str(data.labels[row]) for row in self._rows]
        self.classes = sorted(set(labels))
        index = {label: number for number, label in enumerate(self.classes)}
        self._target_N = torch.tensor([index[label] for label in labels])

    def run(self, encoder: Encoder) -> Outcome:
        """Score one model.

        Per picture: top1, top5 (0 or 1), per_class (top1 weighted so that each class counts equally) and confidence (the largest
        probability at the model's scale). Beside them: calibration (expected calibration error), chance, each class's top-1.
        """
        images_ND = encoder.images(self._data)[torch.tensor(self._rows)]
        classes_CD = class_embeddings(encoder, self.classes, self._templates)
        rank_N, confidence_N = self._score(images_ND, classes_CD, encoder.scale)
        top1_N = rank_N == 0
        per_class_C = self._per_class(top1_N)
        counts_C = torch.bincount(self._target_N, minlength=len(self.classes))
        weight_N = len(self._rows) / (len(self.classes) * counts_C[self._target_N].double())
        values = {"top1": top1_N, "top5": rank_N < 5, "per_class": top1_N * weight_N, "confidence": confidence_N}
        items = Items(
            keys=tuple(self._data.keys[row] for row in self._rows),
            groups=tuple(self._data.groups[row] for row in self._rows),
            values={metric: value_N.double().numpy() for metric, value_N in values.items()},
        )
        calibration = calibration_error(items.values["confidence"], items.values["top1"], self._bins)
        extra = [Score("calibration", calibration, len(self._rows)), Score("chance", 1 / len(self.classes), len(self.classes))]
        each = [
            Score(f"{PER_CLASS}{name}", float(value), int(count))
            for name, value, count in zip(self.classes, per_class_C, counts_C, strict=True)
        ]
        return Outcome(self.name, (items,), (*extra, *each))

    def _score(self, images_ND: Tensor, classes_CD: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """(rank_N, confidence_N), `chunk` pictures at a time."""
        rank, confidence = [], []
        for start in range(0, len(images_ND), self._chunk):
            scores_NC = similarity(images_ND[start : start + self._chunk], classes_CD).cpu()
            target_N = self._target_N[start : start + self._chunk]
            probabilities_NC = (scale * scores_NC).softmax(1)
            rank.append(ranks(scores_NC, target_N))
            confidence.append(probabilities_NC.amax(1))
        return torch.cat(rank), torch.cat(confidence)

    def _per_class(self, top1_N: Tensor) -> Tensor:
        """float32 (C,): each class's share of hits. A miss is handed to torchmetrics as the next class, whatever was tied."""
        accuracy = MulticlassAccuracy(num_classes=len(self.classes), average="none")
        missed_N = (self._target_N + 1) % len(self.classes)
        values_C: Tensor = accuracy(torch.where(top1_N, self._target_N, missed_N), self._target_N)
        return values_C
