"""Class prompts: a class is the mean of its prompts' embeddings (prompt ensembling, as in CLIP, section 3.1.4).

Axes: C classes, P prompts, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from limoe.evals.encoder import Encoder


def class_prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, class by class.

    >>> class_prompts(["cat", "dog"], ["{}", "a picture of {}"])
    ['cat', 'a picture of cat', 'dog', 'a picture of dog']
    """
    return [template.replace("{}", name) for name in names for template in templates]


def class_embeddings(encoder: Encoder, classes: Sequence[Sequence[str]], templates: Sequence[str]) -> Tensor:
    """float32 (C, D), unit length: of each class, one name or several, the mean over names and templates of unit embeddings, made
    unit length again."""
    prompts_PD = encoder.texts(class_prompts([name for names in classes for name in names], templates))
    each = torch.split(prompts_PD, [len(names) * len(templates) for names in classes])
    return F.normalize(torch.stack([mine_PD.mean(0) for mine_PD in each]), dim=1)
