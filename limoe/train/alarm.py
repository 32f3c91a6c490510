"""An alarm, what usually helps against each kind, and the error that ends a training which an alarm stops (docs/health.md)."""

from __future__ import annotations

from dataclasses import dataclass

from limoe.errors import UserError

HELP = {
    "diverged": "a lower train.lr, a longer train.warmup or a lower train.clip_norm",
    "text-collapse": "a lower train.lr, model.moe.priority = bpr, a higher model.moe.aux_coefficient or aux_weights.global_text, "
    "or a higher model.moe.capacity_factor",
    "image-collapse": "a lower train.lr, model.moe.aux_weights.local_image = 0, a higher model.moe.aux_coefficient or "
    "aux_weights.global_image, or a higher model.moe.capacity_factor",
    "dead-experts": "higher model.moe.aux_weights.importance and load, fewer model.moe.experts or a lower train.lr",
    "temperature-runaway": "a lower train.lr, a lower train.init_scale, or more pictures than can be learnt by heart",
    "loss-at-chance": "another train.lr (too low learns nothing, too high neither), more train.steps, or pictures and captions "
    "that belong together",
}


@dataclass(frozen=True)
class Alarm:
    """name: the kind, and for what happens in one block `@blockN`. step: that of the row that raised it. evidence: a sentence."""

    name: str
    step: int
    evidence: str

    @property
    def kind(self) -> str:
        """The name without its block."""
        return self.name.partition("@")[0]


class Stopped(UserError):
    """A training that was ended by an alarm; the sentence says which, the evidence, and what usually helps."""

    def __init__(self, alarm: Alarm, rollbacks: int = 0) -> None:
        """rollbacks: how many there have been in vain."""
        helps, after = HELP[alarm.kind], f" after {rollbacks} rollback{'s' * (rollbacks > 1)}" if rollbacks else ""
        what = f"training stopped at step {alarm.step}{after}: {alarm.name}: {alarm.evidence}"
        super().__init__(f"{what}; what usually helps: {helps}")
        self.alarm = alarm
