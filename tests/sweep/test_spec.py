"""What a trial is, on disk, and its name."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from sweepkit import spec

from limoe.errors import UserError
from limoe.files import write_json
from limoe.sweep.trial import create, read_spec


def test_the_name_covers_what_the_result_depends_on():
    base = spec()
    name = base.fingerprint("data")
    assert len(name) == 16
    assert spec().fingerprint("data") == name
    apart = spec("machine.workers=3", "compare.seed=7", "contestants.dense={lr: 0.5}")
    assert apart.fingerprint("data") == name
    assert replace(base, values={"train.lr": 0.003}).fingerprint("data") == name, "values stand in params"
    others = [
        spec(seed=1),
        replace(base, seed=1),
        spec(reports=2),
        spec("train.lr=0.1"),
        spec("model.moe.experts=8"),
        spec("contestants.limoe={lr: 0.5}"),
        spec(contestant="dense"),
    ]
    names = {other.fingerprint("data") for other in others} | {base.fingerprint("other"), name}
    assert len(names) == len(others) - 1 + 2  # the first two are one trial


def test_the_content_of_a_start_counts_and_not_its_path():
    here = replace(spec("train.start_from=here"), start="a" * 64)
    there = replace(spec("train.start_from=null", "contestants.limoe={start_from: there}"), start="a" * 64)
    assert here.fingerprint("data") == there.fingerprint("data")
    names = {one.fingerprint("data") for one in (here, replace(here, start="b" * 64), spec())}
    assert len(names) == 3


def test_specs_go_to_disk_and_back(tmp_path):
    made = replace(spec(values={"train.lr": 0.1, "model.moe.priority": "bpr"}, seed=3), start="a" * 64)
    create(tmp_path / "a", made)
    create(tmp_path / "a", made)
    assert read_spec(tmp_path / "a") == made
    with pytest.raises(UserError, match="no such file"):
        read_spec(tmp_path / "b")
    for broken in ({"contestant": "limoe"}, {**json.loads((tmp_path / "a" / "trial.json").read_text()), "reports": 0}):
        write_json(tmp_path / "c" / "trial.json", broken)
        with pytest.raises(UserError, match="not the spec of a trial"):
            read_spec(tmp_path / "c")
