"""What a contestant is: its architecture, and what it costs apart from any machine."""

from __future__ import annotations

from statistics import fmean

import pyarrow.compute as pc
import torch

from limoe.config import Contestant, Params, TowerParams, TrainParams
from limoe.data.mixture import mixture_counts, source_rows
from limoe.data.prepared import Prepared
from limoe.data.schema import TRAIN
from limoe.model.clip import matched_text_width
from limoe.model.flops import active_parameters, clip_flops, total_parameters, tower_flops
from limoe.model.io import ModelConfig, build_model

LENGTH_SAMPLE = 2000  # captions behind the mean length that costs are computed with


def caption_lengths(prepared: Prepared, train: TrainParams, tower: TowerParams) -> list[int]:
    """Token counts of training captions, evenly spaced through each source, in proportion to its share of the mixture.

    UserError if the mixture names a source without training rows.
    """
    table = prepared.table(TRAIN, columns=["source", "captions"])
    counts = mixture_counts(train.mixture, LENGTH_SAMPLE)
    lengths: list[int] = []
    for rows, wanted in zip(source_rows(table["source"].to_pylist(), list(counts)), counts.values(), strict=True):
        captions = pc.list_flatten(table["captions"].take(rows).combine_chunks()).to_pylist()
        chosen = [captions[place * len(captions) // wanted] for place in range(wanted)]
        lengths += [len(ids) for ids in prepared.tokenizer.encode(chosen, tower.text_length)]
    return lengths


def model_config(params: Params, contestant: Contestant, prepared: Prepared, lengths: list[int]) -> ModelConfig:
    """The contestant's architecture; CLIP's text tower is matched to the dense tower's FLOPs a pair at these caption lengths."""
    model, train = params.model, params.train_for(contestant)
    width = matched_text_width(model.tower, model.clip, tower_flops(model.tower, lengths)) if contestant == "clip" else None
    return ModelConfig(
        kind=contestant,
        tower=model.tower,
        moe=model.moe if contestant == "limoe" else None,
        clip=model.clip if contestant == "clip" else None,
        text_width=width,
        vocab_size=prepared.tokenizer.vocab_size,
        eos_id=prepared.tokenizer.eos_id,
        init_scale=train.init_scale,
        init_bias=train.init_bias if train.loss == "sigmoid" else None,
    )


def cost(config: ModelConfig, train: TrainParams, lengths: list[int]) -> dict[str, float]:
    """Parameters (total, active), forward FLOPs a pair, samples seen, mean caption length (tokens)."""
    with torch.device("meta"):  # all shapes, also where a rank has only parts of the weights
        model = build_model(config)
    if config.kind == "clip":
        assert config.clip is not None
        assert config.text_width is not None
        flops: float = clip_flops(config.tower, config.text_width, config.clip.text_depth)
    else:
        flops = tower_flops(config.tower, lengths, config.moe)
    return {
        "params_total": total_parameters(model),
        "params_active": active_parameters(model, config.moe.k if config.moe else 1),
        "flops_per_pair_forward": flops,
        "samples_seen": train.steps * train.batch,
        "mean_caption_tokens": fmean(lengths),
    }
