"""The whole analysis: what it holds, that it is JSON, and that few trials break nothing."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from tablekit import ONE, SPACE, row, trials

from limoe.errors import UserError
from limoe.sweep.rows import Row, to_table
from limoe.sweep.sensitivity import Sensitivity, analyse


def as_json(found: Sensitivity) -> dict:
    return json.loads(json.dumps(found.to_dict(), allow_nan=False))


def ending(u: np.ndarray, rng: np.random.Generator) -> dict:
    failing = rng.random() < 1 / (1 + math.exp(-12 * (u[0] - 0.7)))
    early = {"10/loss": float(rng.normal() + 2 * failing), "10/gradient_norm": 1.0}
    loss = 3 + 2 * (u[0] - 0.4) ** 2 + 0.02 * rng.normal()
    return {"kind": "collapsed" if failing else "ok", "loss": loss, "early": early, "alarm_step": 200 if failing else None}


def test_a_sweep_of_known_truth() -> None:
    found = analyse(to_table(trials(48, ending, seeds=2), SPACE))
    facts = as_json(found)
    assert [axis["name"] for axis in facts["axes"]] == list(SPACE)
    assert facts["contestants"] == ["limoe"]
    assert found.reference is not None
    assert found.reference.loss == pytest.approx(3.0, abs=0.1)
    assert found.counts.labelled == 96
    assert found.counts.successes + len(found.failures) == 96
    assert max(found.failure.fanova, key=lambda name: found.failure.fanova[name]) == "train.lr"
    assert found.recommendation is not None
    rate = found.recommendation.reach[0]
    assert rate.high is not None
    assert rate.high < 6e-3  # nine in ten succeed up to 10^(-4 + 2 * 0.517)
    assert found.early[0].predictors[0].name == "gradient_norm"
    assert found.early[1].reason is not None
    assert len(found.pairs) == 3


def test_finals_are_published_and_do_not_move_the_curves() -> None:
    rows = trials(16, ending)
    finals = [
        Row(point=3, seed=1000 + i, kind=kind, values=rows[3].values, loss=loss, phase="final")
        for i, (kind, loss) in enumerate([("ok", 3.0), ("ok", 3.2), ("collapsed", 3.1), ("ok", 3.4), ("killed", None)])
    ]
    found, without = analyse(to_table([*rows, *finals], SPACE), reference=3.0), analyse(to_table(rows, SPACE), reference=3.0)
    (final,) = found.finals
    assert (final.point, final.losses) == (3, [3.0, 3.2, 3.4])
    assert final.mean == pytest.approx(3.2)
    assert final.spread == pytest.approx(0.2)
    assert (final.success.hits, final.success.n) == (2, 4)
    assert found.curves == without.curves
    assert found.counts == without.counts


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [row(0)],
        [row(0, loss=3.0), row(1, loss=3.1, lr=5e-3)],
        [row(i, "diverged", None, lr=1e-3 + i * 1e-4) for i in range(12)],
        [row(i, "pruned", lr=1e-3 + i * 1e-4) for i in range(12)],
        [row(i, "killed", None, lr=1e-3 + i * 1e-4) for i in range(12)],
        [row(i, lr=1e-3) for i in range(12)],
        [Row(point=0, seed=seed, kind="ok", values={}, loss=3.0) for seed in range(3)],
    ],
    ids=["none", "one", "two", "failed", "pruned", "killed", "alike", "no names"],
)
@pytest.mark.parametrize("space", [ONE, SPACE, None])
def test_few_trials_break_nothing(rows: list[Row], space: dict | None) -> None:
    found = analyse(to_table(rows), space)
    as_json(found)
    assert found.counts.trials == len(rows)
    assert (found.recommendation is None) == all(one.kind != "ok" for one in rows)
    assert bool(found.notes)


def test_notes_say_what_was_left_out() -> None:
    rows = [row(0), row(1, "pruned"), row(2, "error", None)]
    notes = " ".join(analyse(to_table(rows), ONE).notes)
    assert "1 pruned trials are left out" in notes
    assert "1 trials that the machine or a mistake ended" in notes
    assert "3 points are few" in notes


def test_another_tables_reference_is_the_measure_if_given() -> None:
    rows = [row(0, loss=3.0), row(1, loss=2.1, lr=5e-3)]
    found = analyse(to_table(rows, ONE), reference=2.0)
    assert found.reference is not None
    assert (found.reference.limit, found.counts.successes) == (pytest.approx(2.2), 1)


def test_contestants_are_not_mixed() -> None:
    with pytest.raises(UserError, match="dense and limoe"):
        analyse(to_table([row(0), row(1, contestant="dense")]), ONE)


def test_an_ablations_trials_are_read_where_there_is_no_search() -> None:
    assert analyse(to_table([row(0, phase="ablation", group="full")]), ONE).counts.trials == 1
