"""The guard against loss or gradients that are not finite: the device skips, and whoever reads it counts."""

from __future__ import annotations

import json
import re

import torch

from limoe.train.guard import FiniteGuard

NAN, INF = float("nan"), float("inf")


def see(guard: FiniteGuard, *steps: tuple[float, float], first: int = 1, key: str = "a") -> list[bool]:
    """Let a guard see steps, and judge them together; whether each was to be skipped."""
    spoilt = [
        guard.spoilt(torch.tensor(loss), torch.tensor(norm), first + i, (f"{key}{first + i}", "b"))
        for i, (loss, norm) in enumerate(steps)
    ]
    bad = guard.judge(dict(guard.unread))
    assert guard.unread == {}
    assert [row["step"] for row in bad] == [first + i for i, is_spoilt in enumerate(spoilt) if is_spoilt]
    return [bool(is_spoilt) for is_spoilt in spoilt]


def test_guard_skips_and_gives_up():
    guard = FiniteGuard(limit=3)
    assert see(guard, (1.0, 1.0), (NAN, 1.0), (1.0, INF), (1.0, 1.0)) == [False, True, True, False]
    assert guard.skipped == 2  # and a good step starts the count anew
    assert see(guard, (NAN, 1.0), first=5) == [True]
    again = FiniteGuard(limit=3)
    again.load_state_dict(json.loads(json.dumps(guard.state_dict())))
    see(again, (NAN, 1.0), first=6)
    assert again.alarm is None
    see(again, (NAN, 1.0), first=7)
    assert (again.alarm.name, again.alarm.step, again.skipped) == ("diverged", 7, 5)
    assert re.search(r"the loss was nan .* 3 steps in a row .*a7, b", again.alarm.evidence)
    last = FiniteGuard(limit=3)
    last.load_state_dict(json.loads(json.dumps(again.state_dict())))
    assert last.alarm == again.alarm


def test_steps_that_are_read_together_are_judged_one_by_one():
    guard = FiniteGuard(limit=2)
    see(guard, (1.0, 1.0), (NAN, 1.0), (INF, 1.0), (NAN, NAN), (2.0, 1.0))
    assert (guard.alarm.step, guard.skipped, guard.in_a_row) == (3, 3, 0)


def test_what_bad_batches_says():
    guard = FiniteGuard(limit=5)
    guard.spoilt(torch.tensor(2.5), torch.tensor(INF), 4, ("x", "y"))
    assert guard.judge(dict(guard.unread)) == [{"step": 4, "loss": "2.5", "gradient_norm": "inf", "keys": ["x", "y"]}]
