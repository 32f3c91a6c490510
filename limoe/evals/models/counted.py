"""FLOPs of one pair through a model that is not ours: counted by torch, since no closed form is known.

torch's counter sees matrix products and convolutions alone, and none inside a fused kernel (it counts zero for attention on a
processor). So attention is written out while it counts. Padding counts, as the model computes it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from limoe.evals.encoder import TwoModalities


def pair_flops(model: TwoModalities, image_CHW: Tensor, ids_L: Tensor) -> float:
    """Forward FLOPs of one preprocessed picture and one caption's ids; a multiplication and an addition are two."""
    fused = torch.backends.mha.get_fastpath_enabled()
    counter = FlopCounterMode(display=False)
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            model.encode_image(image_CHW[None])
            model.encode_text(ids_L[None])
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return float(counter.get_total_flops())
