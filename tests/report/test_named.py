"""Named budgets: the overlays fix what the names say, and the page tells what they cost by `limoe info`'s reckoning."""

from __future__ import annotations

from pathlib import Path

import pytest
from dockit import table

from limoe.config import Params
from limoe.info.facts import Schedule, describe, find_model
from limoe.overlay import load_document, merge
from limoe.paramsfile import read_yaml
from limoe.report.named import NAMED, NamedBudget, describe_budget


@pytest.mark.parametrize("name", NAMED)
def test_an_overlay_fixes_what_its_name_says_whatever_was_there(project: Path, name: str) -> None:
    document = load_document(project / "params.yaml")
    for overlay in ("large", name) if name != "debug" else ("debug",):
        merge(document, read_yaml(project / "overlays" / f"{overlay}.yaml"))
    params = Params.parse(document, name)
    assert NamedBudget(params.train.steps, params.train.batch, params.model.tower.image_size) == NAMED[name]
    settings = {"train": params.train.model_dump(), "model": {"tower": params.model.tower.model_dump()}}
    assert describe_budget(settings).startswith(f"`{name}`: {NAMED[name].steps:,} steps of ")
    settings["train"]["steps"] += 1
    assert describe_budget(settings).startswith("of no name: ")


def test_the_page_tells_every_budget_and_what_it_costs(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(project)
    rows = table(project / "docs" / "comparison.md", "budget")
    assert [row[0] for row in rows] == list(NAMED)
    for name, *numbers, model, flops, days in rows:
        budget = NAMED[name]
        assert [int(number.replace(",", "")) for number in numbers] == [
            budget.steps,
            budget.batch,
            budget.image_size,
            budget.samples,
        ]
        facts = describe(find_model(model.strip("`"))[0], 256, Schedule(budget.samples))
        assert facts["image_size"] == budget.image_size
        spent = facts["training"]["days"]
        assert (flops, days) == (f"{facts['training']['flops']:.3g}", f"{spent:.3g}" if spent >= 0.01 else "< 0.01")
