"""Class prompts: a class is the mean of its templates' embeddings (prompt ensembling, as in CLIP, section 3.1.4).

Axes: C classes, P templates, D embedding.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from limoe.evals.encoder import Encoder


def class_prompts(names: Sequence[str], templates: Sequence[str]) -> list[str]:
    """Every name in every template, class by class.

    >>> class_prompts(["cat", "dog"], ["{}", "a picture of {}"])
    ['cat', 'a picture of cat', 'dog', 'a picture of dog']
    """
    return [template.replace("{}", name) for name in names for template in templates]


def class_embeddings(encoder: Encoder, names: Sequence[str], templates: Sequence[str]) -> Tensor:
    """float32 (C, D), unit length: the mean over templates of unit embeddings, made unit length again."""
    prompts_PD = encoder.texts(class_prompts(names, templates))
    return F.normalize(prompts_PD.view(len(names), len(templates), -1).mean(1), dim=1)
