"""How a trial ended, on disk, and what alarms make of it."""

from __future__ import annotations

import pytest

from limoe.errors import UserError
from limoe.files import write_json
from limoe.sweep.outcome import judge
from limoe.sweep.trial import KINDS, Outcome, read_outcome, write_outcome
from limoe.train.health import Alarm


def test_outcomes_go_to_disk_and_back(tmp_path):
    assert read_outcome(tmp_path) is None
    alarm = {"name": "text-collapse@block3", "step": 8, "evidence": "9% placed"}
    made = Outcome("collapsed", 12, "9%", 12, 3.5, "text", 3, [alarm], 2.25, {"top1/val": 0.5})
    write_outcome(tmp_path, made)
    assert read_outcome(tmp_path) == made
    with pytest.raises(ValueError, match=f"there are {KINDS[0]}"):
        Outcome("bad", 0, "", 1)
    write_json(tmp_path / "outcome.json", {"kind": "ok"})
    with pytest.raises(UserError, match="not the outcome of a trial"):
        read_outcome(tmp_path)


@pytest.mark.parametrize(
    "names,kind,modality,layer",
    [
        ([], "ok", None, None),
        (["loss-at-chance"], "unhealthy", None, None),
        (["dead-experts@block1", "image-collapse@block3", "text-collapse@block1"], "collapsed", "image", 3),
        (["text-collapse@block1", "diverged"], "diverged", None, None),
    ],
)
def test_the_worst_alarm_names_the_outcome(names, kind, modality, layer):
    alarms = [Alarm(name, step, f"evidence {step}") for step, name in enumerate(names, 1)]
    found = judge(alarms)
    assert (found[0], found[2], found[3]) == (kind, modality, layer)
    if kind == "collapsed":
        assert found[1] == "image-collapse@block3 at step 2: evidence 2"
