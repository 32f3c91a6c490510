"""`python -m benchmarks.clip_benchmark`: our scores of an open_clip model beside CLIP_benchmark's, on the same pictures.

The two share nothing but the files: each opens the model and the pictures with its own code. Where no two scores are tied they
must agree to 1e-6. On tied ones they may not: ours counts ties against the model, CLIP_benchmark takes the first. So ties are
counted, too. The pictures are drawn, and a model of random weights is as good for this as any.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch.utils.data import DataLoader

from limoe.config import LocalModel
from limoe.evals.encoder import Encoder
from limoe.evals.models.openclip import CONFIG
from limoe.evals.models.registry import open_other
from limoe.evals.prompts import class_embeddings
from limoe.evals.ranking import TIE
from limoe.evals.retrieval import Retrieval
from limoe.evals.sets import EvalSet
from limoe.evals.zeroshot import ZeroShot

AGREE = 1e-6
BATCH = 32
WORDS = ("red", "green", "small", "round", "old", "wet", "near", "cat", "house", "tree", "boat", "road")
TEMPLATES = ("a photo of a {}.", "the {}, drawn")
DEPTHS = (1, 5, 10)
SMALL: dict[str, Any] = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
Figures = dict[str, tuple[float, float]]  # ours and theirs, by metric


def small_model(folder: Path) -> Path:
    """An untrained CLIP in the form in which open_clip saves one."""
    import open_clip
    from safetensors.torch import save_file

    torch.manual_seed(0)
    weights = open_clip.CLIP(**SMALL).state_dict()
    for name in ("token_embedding.weight", "visual.conv1.weight"):
        weights[name] *= 50  # fresh ones are so small that whatever is embedded comes out alike, and scores nearly tie
    save_file(weights, folder / "open_clip_model.safetensors")
    (folder / CONFIG).write_text(json.dumps({"model_cfg": SMALL, "preprocess_cfg": {}}), encoding="utf-8")
    return folder


def drawn_set(count: int, captions: int, seed: int = 0) -> EvalSet:
    """Pictures of noise on a wash of colour, each with a class and captions of its own."""
    generator = np.random.default_rng(seed)
    images, texts, labels = [], [], []
    for number in range(count):
        size = generator.integers(24, 80, 2)
        pixels = generator.integers(0, 256, 3) * np.linspace(0, 1, size[0])[:, None, None] * np.ones((1, size[1], 1))
        noisy = np.clip(pixels + generator.normal(0, 40, (*size, 3)), 0, 255).astype(np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noisy).save(buffer, "PNG")
        images.append(buffer.getvalue())
        labels.append(WORDS[number % len(WORDS)])
        texts.append([f"{' '.join(generator.choice(WORDS, 4))} {number} {place}" for place in range(captions)])
    keys = [str(number) for number in range(count)]
    columns = {"key": keys, "image": images, "captions": texts, "label": labels, "split_group": keys}
    return EvalSet.of("drawn", pa.table(columns))


class Pictures(torch.utils.data.Dataset[tuple[torch.Tensor, Any]]):
    """What CLIP_benchmark reads: open_clip's own transform of each picture, and its target."""

    def __init__(self, data: EvalSet, transform: Callable[[Image.Image], torch.Tensor], targets: Sequence[Any]) -> None:
        self.data, self.transform, self.targets = data, transform, targets
        self.classes = sorted({str(label) for label in data.labels})

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, place: int) -> tuple[torch.Tensor, Any]:
        return self.transform(Image.open(io.BytesIO(self.data.images.read(place, 1)[0])).convert("RGB")), self.targets[place]


def ours(data: EvalSet, folder: Path) -> tuple[dict[str, float], int]:
    """(score by metric, ties): as the `evaluate` stage scores it."""
    opened = open_other(LocalModel(path=str(folder)), Path(), torch.device("cpu"))
    encoder = Encoder(opened.model, opened.tokenize, opened.preprocess, BATCH)
    zeroshot, retrieval = ZeroShot("drawn", data, TEMPLATES, 15, 64), Retrieval("drawn", data, 64)
    found = {
        score.metric: score.value for outcome in (zeroshot.run(encoder), retrieval.run(encoder)) for score in outcome.scores()
    }
    images_ND = encoder.images(data)
    names_NC = images_ND @ class_embeddings(encoder, zeroshot.classes, TEMPLATES).T
    label_NC = torch.tensor([[label == name for name in zeroshot.classes] for label in data.labels])
    texts_NM = images_ND @ encoder.texts(retrieval.captions).T
    caption_NM = torch.tensor([[text in texts for text in retrieval.captions] for texts in data.captions])
    return found, ties(names_NC, label_NC) + ties(texts_NM, caption_NM) + ties(texts_NM.T, caption_NM.T)


def ties(scores_NM: torch.Tensor, positive_NM: torch.Tensor) -> int:
    """Rows in which a candidate that does not belong is within TIE of the best that does."""
    best_N1 = scores_NM.masked_fill(~positive_NM, -torch.inf).amax(1, keepdim=True)
    return int((((scores_NM - best_N1).abs() <= TIE) & ~positive_NM).any(1).sum())


def theirs(data: EvalSet, folder: Path) -> dict[str, float]:
    """Score by metric, under our names: as CLIP_benchmark scores it.

    Its `accuracy` does not run with NumPy 2.4 (it makes a float of an array of one), so that its logits are counted by
    scikit-learn, as its mean per class is anyway.
    """
    import open_clip
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval
    from sklearn.metrics import balanced_accuracy_score, top_k_accuracy_score

    name = f"local-dir:{folder}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    model.eval()
    tokenizer = open_clip.get_tokenizer(name)
    classes = sorted({str(label) for label in data.labels})
    labelled = Pictures(data, transform, [classes.index(str(label)) for label in data.labels])
    templates = [template.replace("{}", "{c}") for template in TEMPLATES]
    classifier = zeroshot_classification.zero_shot_classifier(model, tokenizer, classes, templates, "cpu", amp=False)
    logits_NC, target_N = zeroshot_classification.run_classification(
        model, classifier, DataLoader(labelled, BATCH), "cpu", amp=False
    )
    captioned = DataLoader(Pictures(data, transform, data.captions), BATCH, collate_fn=_collate)
    recalls = zeroshot_retrieval.evaluate(model, captioned, tokenizer, "cpu", amp=False, recall_k_list=list(DEPTHS))
    return {
        "top1": float(top_k_accuracy_score(target_N, logits_NC, k=1)),
        "top5": float(top_k_accuracy_score(target_N, logits_NC, k=5)),
        "per_class": float(balanced_accuracy_score(target_N, logits_NC.argmax(1))),
        **{f"i2t_r{depth}": recalls[f"text_retrieval_recall@{depth}"] for depth in DEPTHS},
        **{f"t2i_r{depth}": recalls[f"image_retrieval_recall@{depth}"] for depth in DEPTHS},
    }


def compare(data: EvalSet, folder: Path) -> tuple[Figures, int]:
    """(ours and theirs by metric, ties) of the open_clip model in `folder`."""
    mine, tied = ours(data, folder)
    return {metric: (mine[metric], value) for metric, value in theirs(data, folder).items()}, tied


def main(argv: Sequence[str] | None = None) -> None:
    """Print both, and whether they agree."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.clip_benchmark", description=__doc__)
    parser.add_argument("--path", type=Path, help="a folder that open_clip saved; a small untrained model by default")
    parser.add_argument("--pictures", type=int, default=60)
    parser.add_argument("--seed", type=int, default=1, help="of the pictures; with another, scores may be tied")
    parser.add_argument("--captions", type=int, default=2, help="of each picture")
    asked = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        figures, tied = compare(drawn_set(asked.pictures, asked.captions, asked.seed), asked.path or small_model(Path(folder)))
    for metric, (mine, other) in figures.items():
        agrees = "agree" if abs(mine - other) <= AGREE else "DIFFER"
        print(f"{metric:10} ours {mine:.7f}  CLIP_benchmark {other:.7f}  {agrees}")
    print(f"{tied} ties with what is sought" + (": the two may differ there" if tied else ""))


def _collate(rows: Sequence[tuple[torch.Tensor, Any]]) -> tuple[torch.Tensor, list[Any]]:
    return torch.stack([image for image, _ in rows]), [captions for _, captions in rows]


if __name__ == "__main__":
    main(sys.argv[1:])
