"""For tests of the auxiliary losses: routings made from given logits, and a step that is cut into micro-batches and ranks."""

from __future__ import annotations

import torch
from modelkit import VOCAB, batch, moe, take, tower
from safetensors.torch import save_file

from limoe.config import MoeParams
from limoe.losses.auxiliary import auxiliary_loss
from limoe.model.limoe import Limoe
from limoe.model.router import NoiseKey, Routing

PAIRS, GROUP = 16, 4  # four routing groups


def routing_of(logits_TE: torch.Tensor, noise_TE: torch.Tensor | None = None, k: int = 1, sigma: float = 0.25) -> Routing:
    """Plain top-K of these logits, everything placed."""
    noisy = logits_TE if noise_TE is None else logits_TE + noise_TE
    gate_TK, expert_TK = noisy.softmax(1).topk(k, dim=1)
    yes = torch.ones_like(expert_TK, dtype=torch.bool)
    nowhere = torch.zeros_like(expert_TK)
    return Routing(logits_TE, noisy, logits_TE.softmax(1), expert_TK, gate_TK, yes, yes, nowhere, None, sigma)


def tower_of(**changes) -> tuple[Limoe, MoeParams]:
    """A small float64 tower with two sparse blocks, the same at each call, in training."""
    torch.manual_seed(0)
    params = moe(group_pairs=GROUP, layers="sum", aux_coefficient=1.0, tau_text=1.3, tau_image=1.3, **changes)
    return Limoe(tower(), params, VOCAB).double().train(), params


def part(model: Limoe, params: MoeParams, first: int, pairs: int, ranks: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The objective of some pairs as their share of the whole batch's, differentiated into the model; and its reports.

    Beside the auxiliary loss a sum over pairs, so that gradients flow through experts and gates as well.
    """
    whole = batch(PAIRS, dtype=torch.float64)
    output = model(take(whole, list(range(first, first + pairs))), NoiseKey(7, 3, first // GROUP))
    auxiliary, each = auxiliary_loss(output.routings, output.layout, params, PAIRS // GROUP, ranks)
    pull = (output.image_BV[:, 0] - 2 * output.text_BV[:, 1]).sum() * ranks / PAIRS
    objective = auxiliary + pull
    objective.backward()
    return objective.detach(), {name: value.detach() for name, value in each.items()} | {"auxiliary": auxiliary.detach()}


def step(micro: int, ranks: int, rank: int, **changes) -> dict[str, torch.Tensor]:
    """Value, reports and gradients of one rank's share of the step, its micro-batches summed."""
    model, params = tower_of(**changes)
    mine = PAIRS // ranks
    size = mine // micro
    parts = [part(model, params, rank * mine + i * size, size, ranks) for i in range(micro)]
    found = {f"gradient/{name}": weight.grad for name, weight in model.named_parameters() if weight.grad is not None}
    found |= {name: torch.stack([reports[name] for _, reports in parts]).sum(0) for name in parts[0][1]}
    return found | {"value": torch.stack([value for value, _ in parts]).sum()}


def on_a_rank(rank: int, ranks: int, port: int, file: str) -> None:
    """What one of several processes does: two micro-batches, then the mean over ranks, by gloo; rank 0 writes it to `file`."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=ranks)
    found = step(2, ranks, rank, router="top-k", k=2)
    for value in found.values():
        torch.distributed.all_reduce(value)
        value /= ranks
    if rank == 0:
        save_file(found, file)
    torch.distributed.destroy_process_group()
