"""Image-text retrieval: find a picture's captions among all captions, and a caption's pictures among all pictures.

The number may be compared with other models' on the same pictures and captions only: recall falls as a set grows, so a figure
among 2,000 scenes says nothing about COCO's 5,000 photos.

Pictures without a caption are left out, of the scores and of the candidates alike.

Captions are strings: two that the tokenizer folds into one are one caption, which no model can tell apart. A picture's
positives are its captions (a hit if any is in the top k), a caption's positives are all pictures that carry it (likewise).
Without shared captions this is the usual R@k. Equal scores count against the model, for candidates that are not positives.

Axes: N pictures, M captions, Q (picture, caption) pairs that belong together, D embedding.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from limoe.data.tokenizer import fold
from limoe.evals.encoder import Encoder
from limoe.evals.metrics import UNCAPTIONED
from limoe.evals.ranking import TIE, similarity
from limoe.evals.sets import EvalSet, Items, Outcome, Score

DEPTHS = (1, 5, 10)


class Retrieval:
    """Retrieval both ways over all pictures of `data` that have captions. chunk: rows and columns of the similarity matrix held
    at a time: memory is O(chunk^2 + N + M), whatever the size of the set."""

    def __init__(self, name: str, data: EvalSet, chunk: int) -> None:
        self.name, self._data, self._chunk = name, data, chunk
        self._rows = data.described
        self._groups = tuple(data.groups[row] for row in self._rows)
        index: dict[str, int] = {}
        pairs = [
            (image, index.setdefault(caption, len(index)))
            for image, row in enumerate(self._rows)
            for caption in dict.fromkeys(map(fold, data.captions[row]))
        ]
        self.captions = list(index)
        self._image_Q, self._caption_Q = torch.tensor(pairs).T.contiguous()

    def run(self, encoder: Encoder) -> Outcome:
        """Per picture i2t_r1, i2t_r5, i2t_r10; per caption t2i_r1, t2i_r5, t2i_r10: 1 for a hit, 0 for none.

        And UNCAPTIONED, where a picture has none.
        """
        images_ND, captions_MD = encoder.images(self._data)[torch.tensor(self._rows)], encoder.texts(self.captions)
        rank_N, rank_M = retrieval_ranks(images_ND, captions_MD, self._image_Q, self._caption_Q, self._chunk)
        pictures = Items(tuple(self._data.keys[row] for row in self._rows), self._groups, _hits("i2t", rank_N))
        captions = Items(tuple(self.captions), self._caption_groups(), _hits("t2i", rank_M))
        share, count = 1 - len(self._rows) / len(self._data), len(self._data)
        return Outcome(self.name, (pictures, captions), (Score(UNCAPTIONED, share, count),) if share else ())

    def _caption_groups(self) -> tuple[str, ...]:
        """Each caption's group: that of a picture that carries it, the first by name if there are several."""
        groups: dict[int, str] = {}
        for image, caption in zip(self._image_Q.tolist(), self._caption_Q.tolist(), strict=True):
            groups[caption] = min(groups.get(caption, self._groups[image]), self._groups[image])
        return tuple(groups[caption] for caption in range(len(self.captions)))


def retrieval_ranks(
    images_ND: Tensor, captions_MD: Tensor, image_Q: Tensor, caption_Q: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """(rank_N of each picture's best caption, rank_M of each caption's best picture), int64, 0 for a hit at 1.

    A rank is the number of candidates that do not belong and score at least as high (to TIE) as the best that does. Each tile of
    at most chunk x chunk scores is computed once and counted both ways. The pairs must be sorted by picture.
    """
    best_N, best_M = _best_positives(images_ND, captions_MD, image_Q, caption_Q, chunk)
    rank_N = torch.zeros(len(images_ND), dtype=torch.int64, device=images_ND.device)
    rank_M = torch.zeros(len(captions_MD), dtype=torch.int64, device=images_ND.device)
    for top in range(0, len(images_ND), chunk):
        rows = slice(top, top + chunk)
        mine = slice(*torch.searchsorted(image_Q, torch.tensor([top, top + chunk])).tolist())
        for left in range(0, len(captions_MD), chunk):
            columns = slice(left, left + chunk)
            scores = similarity(images_ND[rows], captions_MD[columns])
            inside = (caption_Q[mine] >= left) & (caption_Q[mine] < left + chunk)
            scores[image_Q[mine][inside] - top, caption_Q[mine][inside] - left] = -torch.inf
            rank_N[rows] += (scores >= best_N[rows, None] - TIE).sum(1)
            rank_M[columns] += (scores >= best_M[columns] - TIE).sum(0)
    return rank_N.cpu(), rank_M.cpu()


def _best_positives(
    images_ND: Tensor, captions_MD: Tensor, image_Q: Tensor, caption_Q: Tensor, chunk: int
) -> tuple[Tensor, Tensor]:
    """(best_N, best_M): the best score of each picture's captions and of each caption's pictures."""
    pieces = zip(torch.split(image_Q, chunk), torch.split(caption_Q, chunk), strict=True)
    score_Q = torch.cat([(images_ND[image] * captions_MD[caption]).sum(1) for image, caption in pieces])
    best_N = torch.full_like(images_ND[:, 0], -torch.inf).scatter_reduce(0, image_Q.to(score_Q.device), score_Q, "amax")
    best_M = torch.full_like(captions_MD[:, 0], -torch.inf).scatter_reduce(0, caption_Q.to(score_Q.device), score_Q, "amax")
    return best_N, best_M


def _hits(direction: str, rank: Tensor) -> dict[str, NDArray[np.float64]]:
    return {f"{direction}_r{depth}": (rank < depth).double().numpy() for depth in DEPTHS}
