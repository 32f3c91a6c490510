"""Zero-shot classification: which class name fits a picture best?

The number may be compared with other models' on the same pictures, class names and templates, and with chance (1 / classes);
never with ImageNet's or any set's of other classes.

Axes: N pictures, C classes, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix

from limoe.evals.compare import calibration_error
from limoe.evals.encoder import Encoder
from limoe.evals.metrics import WEIGHTS
from limoe.evals.prompts import class_embeddings
from limoe.evals.ranking import ranks, similarity
from limoe.evals.sets import Confused, EvalSet, Items, Outcome, Score

PER_CLASS = "class-top1/"
WORST, OFTEN = 20, 5  # classes whose confusion is told, and how many others of each


class ZeroShot:
    """Zero-shot classification of the pictures `rows` of `data` (all that are labelled, by default) among the set's classes, or
    among their own labels where the set names none.

    templates: prompts whose embeddings are averaged. bins: of the calibration error. chunk: pictures scored at a time.
    """

    def __init__(
        self, name: str, data: EvalSet, templates: Sequence[str], bins: int, chunk: int, rows: Sequence[int] | None = None
    ) -> None:
        self.name, self._data, self._templates, self._bins, self._chunk = name, data, templates, bins, chunk
        self._rows = list(data.labelled if rows is None else rows)
        labels = [str(data.labels[row]) for row in self._rows]
        classes = {label: (label,) for label in sorted(set(labels))} if data.classes is None else data.classes
        self.classes, self._names = list(classes), list(classes.values())
        index = {label: number for number, label in enumerate(self.classes)}
        self._target_N = torch.tensor([index[label] for label in labels])

    def run(self, encoder: Encoder) -> Outcome:
        """Score one model.

        Per picture: top1, top5 (0 or 1), per_class (top1 weighted so that each class counts equally) and confidence (the largest
        probability at the model's scale); where classes differ in size, also class_weight, by which per_class is weighted.
        Beside them: calibration (expected calibration error), chance, each class's top-1, and what the worst classes are taken
        for. Classes without a picture are candidates, and have no score.
        """
        images_ND = encoder.images(self._data)[torch.tensor(self._rows)]
        classes_CD = class_embeddings(encoder, self._names, self._templates)
        rank_N, guess_N, confidence_N = self._score(images_ND, classes_CD, encoder.scale)
        top1_N = rank_N == 0
        counts_C = torch.bincount(self._target_N, minlength=len(self.classes))
        weight_N = len(self._rows) / (int((counts_C > 0).sum()) * counts_C[self._target_N].double())
        values = {"top1": top1_N, "top5": rank_N < 5, "per_class": top1_N * weight_N, "confidence": confidence_N}
        if (weight_N != 1).any():
            values[WEIGHTS["per_class"]] = weight_N
        items = Items(
            keys=tuple(self._data.keys[row] for row in self._rows),
            groups=tuple(self._data.groups[row] for row in self._rows),
            values={metric: value_N.double().numpy() for metric, value_N in values.items()},
        )
        calibration = calibration_error(items.values["confidence"], items.values["top1"], self._bins)
        extra = [Score("calibration", calibration, len(self._rows)), Score("chance", 1 / len(self.classes), len(self.classes))]
        each = self._per_class(guess_N, counts_C)
        return Outcome(self.name, (items,), (*extra, *each), self._worst(guess_N, each))

    def _score(self, images_ND: Tensor, classes_CD: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
        """(rank_N, guess_N, confidence_N), `chunk` pictures at a time. guess: the class itself where it is the best,
        else the best of the others, so that a tie is a miss here too."""
        rank, guess, confidence = [], [], []
        for start in range(0, len(images_ND), self._chunk):
            scores_NC = similarity(images_ND[start : start + self._chunk], classes_CD).cpu()
            target_N = self._target_N[start : start + self._chunk]
            rank.append(ranks(scores_NC, target_N))
            confidence.append((scale * scores_NC).softmax(1).amax(1))
            others_N = scores_NC.scatter(1, target_N[:, None], -torch.inf).argmax(1)
            guess.append(torch.where(rank[-1] == 0, target_N, others_N))
        return torch.cat(rank), torch.cat(guess), torch.cat(confidence)

    def _per_class(self, guess_N: Tensor, counts_C: Tensor) -> list[Score]:
        """Each class's share of hits."""
        accuracy = MulticlassAccuracy(num_classes=len(self.classes), average="none")
        hits_C: Tensor = accuracy(guess_N, self._target_N)
        rows = zip(self.classes, hits_C.tolist(), counts_C.tolist(), strict=True)
        return [Score(f"{PER_CLASS}{label}", value, count) for label, value, count in rows if count]

    def _worst(self, guess_N: Tensor, each: Sequence[Score]) -> tuple[Confused, ...]:
        """The WORST classes by their share of hits, the worst first, without those that are always hit."""
        confusion_CC: Tensor = MulticlassConfusionMatrix(num_classes=len(self.classes))(guess_N, self._target_N)
        others_CC = confusion_CC.fill_diagonal_(0)
        worst = sorted((score for score in each if score.value < 1), key=lambda score: score.value)[:WORST]
        return tuple(self._confused(score, others_CC) for score in worst)

    def _confused(self, score: Score, others_CC: Tensor) -> Confused:
        label = score.metric.removeprefix(PER_CLASS)
        place = self.classes.index(label)
        counts, guesses = others_CC[place].sort(descending=True, stable=True)
        told = [", ".join(self._names[guess]) for guess in guesses[:OFTEN].tolist()]
        taken_for = tuple((name, count) for name, count in zip(told, counts.tolist(), strict=False) if count)
        return Confused(label, ", ".join(self._names[place]), score.value, score.n, taken_for)
