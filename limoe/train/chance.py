"""What guessing costs: the yardstick of a contrastive loss."""

from __future__ import annotations

import math


def guessing_loss(loss: str, batch: int) -> float:
    """The contrastive loss, in nats, of the best embeddings that know nothing of the pairs: B equal ones.

    softmax: ln B. sigmoid: every logit is that of 1 in B, so a row costs ln B for its positive and -ln(1 - 1/B) for each of the
    B - 1 others.

    >>> round(guessing_loss("softmax", 256), 3), round(guessing_loss("sigmoid", 256), 3)
    (5.545, 6.543)
    """
    others = (batch - 1) * -math.log1p(-1 / batch) if loss == "sigmoid" else 0.0
    return math.log(batch) + others
