"""What things are called in front of people, and what they mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from limoe.evals.metrics import LINEAR_PROBE

MODELS = {"limoe": "LIMoE", "dense": "Dense tower", "clip": "CLIP"}  # those that are trained here; others keep their names
IN_SENTENCES = {"limoe": "LIMoE", "dense": "the dense tower", "clip": "CLIP"}
WHAT_THEY_ARE = {
    "limoe": "One tower for pictures and captions; the MLP of every second block is a mixture of experts.",
    "dense": "The same tower with plain MLPs: what the experts must beat at equal active FLOPs.",
    "clip": "Two towers, one for each modality, built by open_clip and matched in FLOPs a pair.",
}
OTHER_COLOURS, OTHER_SYMBOLS = ("series1", "series4", "series5"), ("triangle-up", "star", "x", "hexagon", "cross", "pentagon")
METRICS = {
    "top1": "top-1",
    "top5": "top-5",
    "per_class": "mean per class",
    "calibration": "calibration error",
    "i2t_r1": "picture to caption, R@1",
    "i2t_r5": "picture to caption, R@5",
    "i2t_r10": "picture to caption, R@10",
    "t2i_r1": "caption to picture, R@1",
    "t2i_r5": "caption to picture, R@5",
    "t2i_r10": "caption to picture, R@10",
}
MAIN_METRICS = ("top1", "top5", "i2t_r1", "t2i_r1")
SETS = {
    "unseen-style": (
        "The main test. Concepts that were trained on in one drawing style (Twemoji) only; the model is shown the "
        "other style (OpenMoji) and must recognise the name among all names of the set, skin tones included."
    ),
    "unseen-style/no-skin-tones": "The same without the pictures that differ from another in a skin tone alone.",
    "unseen-concept": (
        "Concepts that were never trained on, in both styles: the model knows their words at best from other names."
    ),
    "unseen-concept/no-flags": "The same without country flags, which nobody can name who was not told.",
    "test-scenes": (
        "Composed scenes that were held out. Retrieval among all of them: find a scene's caption, find a caption's scene."
    ),
    "val": "Held-out concepts for choosing settings.",
    "val-style": "Made like unseen-style, for choosing settings.",
    "val-scenes": "Held-out scenes for choosing settings.",
    "test": "The share of your own pictures that was held out for testing.",
}
WORDS = {
    "top-1, top-5": (
        "Zero-shot classification: every class name is put into prompts and embedded; the share of pictures whose "
        "own class is the nearest, or among the five nearest. Chance is 1 (or 5) divided by the number of "
        "classes."
    ),
    "mean per class": "top-1 averaged over classes instead of pictures.",
    "calibration error": (
        "How far the model's probabilities are from the truth: over bins of confidence, the mean distance between "
        "confidence and share of hits. 0 is best."
    ),
    "R@k": (
        "Retrieval: the share of pictures that have a caption of theirs among the k nearest of all captions of "
        "the set, or of captions that have their picture among the k nearest. It falls as a set grows: compare "
        "only within a set."
    ),
    "ties": "Equal scores count against the model, so that one that gives everything the same score scores nothing.",
    "interval": (
        "95%, by resampling the test items (whole groups of them, such as the skin tones of one concept). It "
        "covers the choice of items, not the luck of a training: with one seed each, nothing here can see that."
    ),
    "McNemar, sign flips": (
        "The paired test behind a p. Where every group of a set holds one item, items are independent and McNemar's exact test "
        "is used; where groups hold several, whole groups change sides between the two models at random."
    ),
    "over seeds": (
        "Mean and standard deviation over trainings that differ in their seed alone. Their test is Student's, of differences "
        "between trainings of equal seed: it covers the luck of a training and takes the test items as they are."
    ),
    "equal budget": (
        "The same prepared set, the same number of pairs seen, and FLOPs of the training within 10% of LIMoE's. Only then may "
        "better and worse be said of the models; elsewhere a score is shown against what it cost."
    ),
    "frontier": "The contestants that none beats at no higher cost.",
    "tuning": "Trials of the search by which the settings were chosen, as compare.tuning says; unknown where it says nothing.",
    "items won, lost": "Items that LIMoE alone, or the baseline alone, hits.",
    "better, worse": (
        "Printed only at an equal budget and where two things agree: the p of the paired test, adjusted by Holm for all "
        "such tests on this page, is below 0.05, and the interval of the difference excludes 0. At another budget the score "
        "alone is called higher or lower, by the same rule."
    ),
    "active parameters": (
        "Those that one token meets: of all experts in a block, the one (K of them) it is sent to. Embeddings count whole."
    ),
    "FLOPs a pair": (
        "Of one forward pass of one picture and one caption of mean length; a multiplication and an addition are two."
    ),
    "placed": (
        "Share of a modality's (token, choice) pairs that found room at their expert in training; the others skip the experts."
    ),
    "effective experts": (
        "exp(entropy) of the shares with which a modality is sent to experts: E if evenly used, 1 if all go to one."
    ),
    "gate confidence": "Mean over tokens of the largest probability that the router gives an expert.",
}


def metric_name(metric: str) -> str:
    """What a metric is called in tables.

    >>> metric_name("top1"), metric_name("10-shot"), metric_name("linear-probe")
    ('top-1', '10-shot probe', 'linear probe, all pictures')
    """
    if metric in METRICS:
        return METRICS[metric]
    return "linear probe, all pictures" if metric == LINEAR_PROBE else f"{metric} probe"


def title(name: str) -> str:
    """What a contestant is called where it stands alone.

    >>> title("dense"), title("mine-b32")
    ('Dense tower', 'mine-b32')
    """
    return MODELS.get(name, name)


def in_sentence(name: str) -> str:
    """What a contestant is called within a sentence."""
    return IN_SENTENCES.get(name, name)


@dataclass(frozen=True)
class Look:
    """How a contestant is drawn: its colour (a variable of the page's style) and symbol, so that colour is not all that tells."""

    colour: str
    symbol: str


def looks(names: Sequence[str]) -> dict[str, Look]:
    """How each contestant is drawn; further ones in the order of their names here."""
    own = {"limoe": Look("limoe", "circle"), "dense": Look("dense", "square"), "clip": Look("clip", "diamond")}
    others = [name for name in names if name not in own]
    pairs = zip(others, cycle(OTHER_COLOURS), cycle(OTHER_SYMBOLS), strict=False)
    return own | {name: Look(colour, symbol) for name, colour, symbol in pairs}


def describe_set(name: str) -> str:
    """What a set is; a split of a source that this page does not know keeps its name."""
    return SETS.get(name, "A split of the prepared set, or one of `evaluate.sets`.")
