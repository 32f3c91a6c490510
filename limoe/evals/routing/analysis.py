"""The routing analysis: a model directory and pairs in; every number of the figures, and the pictures of patches, out.

It looks at any pairs: pictures with a caption each. Where a picture has several, the first one counts.

Axes: T tokens, L MoE layers, M modalities, E experts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer as Pipeline

from limoe.data.prepared import TOKENIZER
from limoe.data.transforms import Preprocess
from limoe.errors import UserError
from limoe.evals.directory import Directory, open_directory
from limoe.evals.routing import examples, measures
from limoe.evals.routing.agreement import agreement
from limoe.evals.routing.routed import Routed, route
from limoe.evals.routing.stored import Analysis
from limoe.evals.sets import EvalSet
from limoe.model.io import read_config
from limoe.model.limoe import Limoe
from limoe.model.shards import weights_hash
from limoe.model.tokens import IMAGE, MODALITIES, TEXT, PairBatch

SETTINGS = ("router", "experts", "k", "capacity_factor", "priority", "group_pairs")
DIGITS = 5  # of the shares that are written down
ENDINGS = {"[EOS]": "end of text", "[UNK]": "unknown"}


def analyse(folder: Path, data: EvalSet, pairs: int, device: torch.device) -> Analysis:
    """How the model in `folder` routes at most `pairs` of the set's pairs (whole routing groups, if there are enough).

    UserError if the model has no experts, or no picture has a caption.
    """
    config = read_config(folder)
    if config.kind != "limoe" or config.moe is None:
        raise UserError(f"{folder}: a model of kind {config.kind} routes nothing, since it has no experts")
    rows = sample(data, pairs, config.moe.group_pairs)
    opened = open_directory(folder, device)
    assert isinstance(opened.model, Limoe)
    routed = route(opened.model, _batches(opened, data, rows), device)
    spell = speller(folder / TOKENIZER)
    _, group_N = np.unique([data.groups[row] for row in rows], return_inverse=True)
    patches = [examples.patches(routed, layer, group_N) for layer in range(len(routed.layers_L))]
    words = [examples.words(routed, layer, spell) for layer in range(len(routed.layers_L))]
    grid = config.tower.image_size // config.tower.patch_size
    numbers = {
        "version": 1,
        "model": {"weights": weights_hash(folder), **config.moe.model_dump(include=set(SETTINGS))},
        "data": {"name": data.name, "of": len(data), "pairs": len(rows), "tokens": _tokens(routed)},
        "specialist": measures.SPECIALIST,
        "idle": measures.IDLE,
        "grid": grid,
        "group": min(len(rows), config.moe.group_pairs or len(rows)),
        **figures(routed),
        "examples": _examples(data, rows, routed, words, patches, grid),
    }
    return Analysis(numbers, _strips(data, rows, routed, patches, grid))


def sample(data: EvalSet, pairs: int, group_pairs: int) -> list[int]:
    """Rows of captioned pictures, drawn with a fixed seed: at most `pairs`, cut to whole groups where that leaves any."""
    captioned = [row for row, captions in enumerate(data.captions) if captions]
    if not captioned:
        raise UserError(f"{data.name}: no picture here has a caption, and pictures alone are no pairs")
    order = np.random.default_rng(0).permutation(len(captioned))[:pairs]
    count = len(order) - (len(order) % group_pairs if 0 < group_pairs < len(order) else 0)
    return [captioned[place] for place in order[:count].tolist()]


def speller(tokenizer: Path) -> Callable[[int], str]:
    """What a token id stands for: a space before a word is left out, and a part within a word begins with +."""
    pipeline = Pipeline.from_file(str(tokenizer))
    spaced = any("▁" in piece for piece in pipeline.get_vocab())

    def spell(number: int) -> str:
        piece = pipeline.id_to_token(number) or "?"
        if piece in ENDINGS:
            return ENDINGS[piece]
        if not spaced:  # CLIP's byte pairs mark the ends of words
            return piece.removesuffix("</w>") if piece.endswith("</w>") else f"{piece}+"
        return piece.removeprefix("▁") or "space" if piece.startswith("▁") else f"+{piece}"

    return spell


def figures(routed: Routed) -> dict[str, Any]:
    """The numbers of the figures: by layer, and between one layer and the next."""
    load_LME = measures.load(routed, routed.chosen_LTE)
    confidence_LT = measures.confidence(routed)
    lost_LT, placed_LM = measures.lost(routed), measures.placed(routed)
    image_LP, _ = measures.lost_by_position(routed, IMAGE)
    text_LS, texts_S = measures.lost_by_position(routed, TEXT)
    rows = {name: routed.of(m) for m, name in enumerate(MODALITIES)}
    bins = {name: measures.histogram(confidence_LT, mine) for name, mine in rows.items()}
    kinds, text_share_LE, effective_LM = measures.kinds(load_LME), measures.text_share(load_LME), measures.effective(load_LME)
    layers = [
        {
            "block": int(block),
            "load": {name: load_LME[layer, m].astype(int).tolist() for m, name in enumerate(MODALITIES)},
            "text_share": [None if np.isnan(share) else round(share, DIGITS) for share in text_share_LE[layer].tolist()],
            "kinds": kinds[layer],
            "effective": {name: round(float(effective_LM[layer, m]), 3) for m, name in enumerate(MODALITIES)},
            "confidence": {name: _confidence(confidence_LT[layer, mine], bins[name][layer]) for name, mine in rows.items()},
            "placed": {name: _round(placed_LM[layer, m]) for m, name in enumerate(MODALITIES)},
            "lost": {name: _round(lost_LT[layer, mine].mean()) for name, mine in rows.items()},
            "lost_at": {"image": _rounded(image_LP[layer]), "text": _rounded(text_LS[layer])},
        }
        for layer, block in enumerate(routed.layers_L.tolist())
    ]
    return {"layers": layers, "texts_at": texts_S.tolist(), "agreement": _agreement(routed)}


def _confidence(values: NDArray[np.float32], bins: NDArray[np.float64]) -> dict[str, Any]:
    mean, median = values.mean(dtype=np.float64), np.median(values)
    return {"mean": _round(mean), "median": _round(median), "histogram": _rounded(bins)}


def _agreement(routed: Routed) -> list[dict[str, Any]]:
    found = []
    for layer, (block, following) in enumerate(zip(routed.layers_L.tolist(), routed.layers_L[1:].tolist(), strict=False)):
        for m, name in enumerate(MODALITIES):
            first_T, second_T = routed.first_LT[layer : layer + 2, routed.of(m)]
            normalised, corrected = agreement(first_T, second_T, routed.experts)
            told = {"normalised": _round(normalised), "corrected": _round(corrected), "tokens": len(first_T)}
            found.append({"from": block, "to": following, "modality": name, **told})
    return found


def _examples(
    data: EvalSet,
    rows: Sequence[int],
    routed: Routed,
    words: Sequence[Sequence[Sequence[examples.Word]]],
    patches: Sequence[Sequence[Sequence[examples.Patch]]],
    grid: int,
) -> list[dict[str, Any]]:
    def patch(one: examples.Patch) -> dict[str, Any]:
        row, column = divmod(one.position, grid)
        return {"key": data.keys[rows[one.pair]], "row": row, "column": column, "probability": _round(one.probability)}

    def word(one: examples.Word) -> dict[str, Any]:
        return asdict(one) | {"share": _round(one.share)}

    return [
        {
            "block": int(block),
            "expert": expert,
            "words": list(map(word, words[layer][expert])),
            "patches": list(map(patch, patches[layer][expert])),
        }
        for layer, block in enumerate(routed.layers_L.tolist())
        for expert in range(routed.experts)
    ]


def _strips(
    data: EvalSet, rows: Sequence[int], routed: Routed, patches: Sequence[Sequence[Sequence[examples.Patch]]], grid: int
) -> dict[tuple[int, int], bytes]:
    def tiles(mine: Sequence[examples.Patch]) -> bytes:
        return examples.strip([examples.cut(data.images.read(rows[one.pair], 1)[0], one.position, grid) for one in mine])

    return {
        (block, expert): tiles(mine)
        for layer, block in enumerate(routed.layers_L.tolist())
        for expert, mine in enumerate(patches[layer])
        if mine
    }


def _batches(opened: Directory, data: EvalSet, rows: Sequence[int]) -> Iterator[PairBatch]:
    """The pairs, a routing group at a time."""
    config, _, preprocess, tokenizer = opened
    assert config.moe is not None
    size = config.moe.group_pairs or len(rows)
    for start in range(0, len(rows), size):
        mine = rows[start : start + size]
        ids = tokenizer.encode([data.captions[row][0] for row in mine], config.tower.text_length)
        images = [_picture(preprocess, data, row) for row in mine]
        lengths_B = torch.tensor([len(one) for one in ids])
        yield PairBatch(
            torch.stack(images), torch.tensor([*chain.from_iterable(ids)]), lengths_B, tuple(data.keys[row] for row in mine)
        )


def _picture(preprocess: Preprocess, data: EvalSet, row: int) -> torch.Tensor:
    try:
        return preprocess(data.images.read(row, 1)[0])
    except UserError as error:
        raise UserError(f"{data.name}, {data.keys[row]}: {error}") from None


def _tokens(routed: Routed) -> dict[str, int]:
    return {name: int(routed.of(m).sum()) for m, name in enumerate(MODALITIES)}


def _round(value: Any) -> float:
    return round(float(value), DIGITS)


def _rounded(values: NDArray[np.float64]) -> list[float]:
    return [_round(value) for value in values]
