"""`python -m benchmarks.step`: a whole training step of params.yaml's contestants, which cost equal FLOPs a pair.

Timed is what the training loop does with a batch that is in memory: forward, losses, backward, clipping, optimiser, statistics.
Pictures are random, and captions of random tokens with lengths as in the default data, others in each round.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from torch import Tensor

from benchmarks.harness import Subject, bench_of, compare, parser
from benchmarks.layers import CAPTION_QUANTILES, PARAMS
from benchmarks.report import Report
from limoe.config import CONTESTANTS, Contestant, Params
from limoe.data.prepared import Prepared
from limoe.dist import pick_precision
from limoe.model.io import ModelConfig, build_model
from limoe.model.limoe import Limoe
from limoe.model.tokens import PairBatch
from limoe.stages.train import compiles
from limoe.train.contestants import cost, model_config
from limoe.train.loop import Loader, Trainer
from limoe.train.meter import routing_rows
from limoe.train.step import ContrastiveTask

STEP_BAR = 1.10
BATCHES = 64  # drawn before the clock starts; as many as rounds, since in training hardly any two have equally many tokens
EOS = 1
QUICK = (
    "model.tower.image_size=16",
    "model.tower.width=32",
    "model.tower.depth=2",
    "model.tower.heads=1",  # so that CLIP's text tower finds a width of equal FLOPs
    "model.tower.embed_dim=8",
    "model.clip.text_depth=2",
    "model.moe.experts=4",
    "model.moe.group_pairs=16",
    "train.batch=16",
)


class Drawn:
    """A Loader of batches that were drawn before, in turn."""

    def __init__(self, params: Params, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(params.train.seed)
        side = params.model.tower.image_size
        images_BCHW = torch.randn(params.train.batch, 3, side, side, generator=generator).to(device)  # once, for all batches
        drawn = [draw(params, images_BCHW, generator).to(device) for _ in range(BATCHES)]
        self._batches: Iterator[PairBatch] = cycle(drawn)

    def __next__(self) -> PairBatch:
        return next(self._batches)

    def state_dict(self) -> dict[str, Any]:
        """Nothing resumes a benchmark."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing resumes a benchmark."""


def draw(params: Params, images_BCHW: Tensor, generator: torch.Generator) -> PairBatch:
    """A batch of these pictures; each caption's length is one of CAPTION_QUANTILES, and its last token the end of text."""
    pairs = len(images_BCHW)
    place_B = torch.randint(len(CAPTION_QUANTILES), (pairs,), generator=generator)
    lengths_B = torch.tensor(CAPTION_QUANTILES)[place_B]
    ids_N = torch.randint(EOS + 1, params.prepare.tokenizer.vocab_size, (int(lengths_B.sum()),), generator=generator)
    ids_N[lengths_B.cumsum(0) - 1] = EOS
    return PairBatch(images_BCHW, ids_N, lengths_B, ("drawn",) * pairs)


def config_of(params: Params, contestant: Contestant) -> ModelConfig:
    """The contestant's architecture at captions of CAPTION_QUANTILES tokens and a vocabulary that is full."""
    tokenizer = SimpleNamespace(vocab_size=params.prepare.tokenizer.vocab_size, eos_id=EOS)
    return model_config(params, contestant, cast(Prepared, SimpleNamespace(tokenizer=tokenizer)), list(CAPTION_QUANTILES))


def flops(params: Params, contestant: Contestant, trainer: Trainer) -> float:
    """Forward FLOPs a pair, as the training's cost.json has them."""
    return cost(config_of(params, contestant), trainer.train, list(CAPTION_QUANTILES))["flops_per_pair_forward"]


def trainer_of(params: Params, contestant: Contestant, device: torch.device, folder: Path) -> Trainer:
    """The contestant's training as the `train` stage sets it up, at drawn batches."""
    config = config_of(params, contestant)
    train = params.train_for(contestant)
    precision = pick_precision(train.precision, device)
    torch.manual_seed(train.seed)
    model = build_model(config)
    model.set_grad_checkpointing(train.checkpoint_activations)
    if isinstance(model, Limoe):
        model.bucket = train.bucket
        if compiles(train, config, precision, device, params.machine):
            model.compile_blocks()
    model = model.to(device).train()
    task = ContrastiveTask(model, config.moe, train, precision)
    loader: Loader = Drawn(params, device)
    return Trainer(task, loader, train, folder / contestant, on_row=lambda _: None, on_rows=lambda _: None)


def subject_of(trainer: Trainer, name: str) -> Subject:
    """One optimiser step a run: what `Trainer.run` times, without its log and its checkpoints."""

    def run() -> None:
        trainer.take_step(next(trainer.loader))
        trainer.step = (trainer.step + 1) % trainer.train.steps

    return Subject(name, run)


def placed(trainer: Trainer) -> float:
    """Share of the choices so far that found a place: what kernels that follow the decisions do less, where it is below 1."""
    rows = routing_rows(trainer.meter.totals, trainer.step)
    return float(sum(row["placed"] for row in rows) / sum(row["assigned"] for row in rows))


def main(argv: Sequence[str] | None = None) -> Report:
    """Measure what the options ask for; the report, printed and written."""
    options = parser("step", __doc__ or "", 30)
    options.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a change of params.yaml")
    chosen = options.parse_args(argv)
    bench = bench_of(chosen)
    params = Params.load(PARAMS, (*(QUICK if chosen.quick else ()), *chosen.set))
    settings = {"repeats": bench.repeats, "changes": chosen.set, "batch": params.train.batch, "kernel": params.model.moe.kernel}
    report = Report("step", bench.device, settings | {"quick": chosen.quick})
    report.start()
    with tempfile.TemporaryDirectory() as folder:
        trainers = {name: trainer_of(params, name, bench.device, Path(folder)) for name in CONTESTANTS}
        samples = bench.interleave([subject_of(trainer, name) for name, trainer in trainers.items()])
    title = f"step: {params.train.batch} pairs, {str(trainers['limoe'].task.precision).removeprefix('torch.')}"
    notes = {str(name): f"{flops(params, name, trainer) / 1e6:.1f} MFLOP a pair" for name, trainer in trainers.items()}
    rows = compare(title, samples, "clip", bars={"limoe": STEP_BAR}, notes=notes)
    report.add(rows + compare(title, samples, "dense", ["limoe"]))
    report.note(f"limoe, a fresh router: {placed(trainers['limoe']):.1%} of the choices were placed")
    report.finish(chosen.json)
    return report


if __name__ == "__main__":
    main(sys.argv[1:])
