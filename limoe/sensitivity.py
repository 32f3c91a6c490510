"""`limoe sensitivity`: a sweep's answers in the terminal, and its recommendation written into params.yaml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console
from rich.table import Column, Table

from limoe.config import SHARED, Params
from limoe.errors import UserError, did_you_mean
from limoe.files import flatten, read_json, write_text
from limoe.overlay import dump_document, load_document, merge
from limoe.paths import Paths
from limoe.report.sensitivity import headline
from limoe.sweep import table as tables
from limoe.sweep.findings import Early, Reach, Sensitivity, Share
from limoe.sweep.pages import PAGE, report_sweep
from limoe.sweep.rows import to_rows
from limoe.sweep.seeds import OVERLAY
from limoe.sweep.sensitivity import analyse
from limoe.sweep.storage import RECORD
from limoe.sweep.ties import ties_of, with_ties

BUDGET = ("steps", "seed", "threads", "checkpoints", "export", "log_every")  # of train: never taken from a sweep
DIGITS = 4  # significant ones of a recommended number
TABLE = ".parquet"
ABLATION, SEEDS = "ablation", "seeds"  # kinds of studies that are no sweep
NAMED = 6  # settings that a remark names


def show(name: str | None, params: Path, apply: bool, as_json: bool) -> str:
    """Print what the sweep NAME (or the table FILE.parquet) says; `apply` changes the parameters' file; returns the next step.

    A sweep's report is written anew into its folder. UserError if there is no such sweep, or nothing to recommend.
    """
    folder, table, found = _read(name, Paths(params.parent))
    if as_json:
        print(json.dumps(found.to_dict(), indent=2, allow_nan=False))
    else:
        _print(found)
    if apply:
        changed, left = apply_recommendation(found, table, params)
        left += other_base(folder, table, found.contestants[0], params)
        told = [*(f"{key}: {old} -> {new}" for key, (old, new) in changed.items()), *left]
        if not as_json:
            print("\n".join(told or [f"{params} has these values already"]))
        return f"dvc repro, which trains what {params} says now"
    origin = name or (folder.name if folder else "")
    read = f"open {folder / 'report.html'}, or " if folder else ""
    return f"{read}limoe sensitivity {origin} --apply, which writes the recipe into {params}"


def apply_recommendation(found: Sensitivity, table: pa.Table, params: Path) -> tuple[dict[str, tuple[Any, Any]], list[str]]:
    """Write the robust optimum into the file `params`, comments and order untouched: (key -> old and new value, remarks).

    limoe's goes into `model` and `train` (or into contestants.limoe where that has the key), another contestant's into
    contestants.NAME. Left alone, with a remark: what belongs to the budget or to all contestants. UserError leaves the file.
    """
    if found.recommendation is None:
        raise UserError("no trial of this sweep finished: there is nothing to recommend")
    contestant, document = found.contestants[0], load_document(params)
    remarks, changes, changed = _budget(table, document), {}, {}
    before = flatten(document)
    space = tables.space_of(table) or {}
    short = {name: _short(value, space.get(name, {})) for name, value in found.recommendation.robust.values.items()}
    for name, value in with_ties(short, ties_of(space)).items():
        key, why = _key(name, contestant, before)
        if why:
            remarks.append(f"{name} = {value} is left alone: {why}")
        elif before.get(key, "nothing") != value:
            changes[key] = value
            changed[key] = (before.get(key, "nothing"), value)
    if found.recommendation.at_risk:
        remarks.append("at risk: even this recipe succeeds in less than 90% of trainings like it")
    merge(document, _nested(changes))
    Params.parse(json.loads(json.dumps(document)), f"{params} with the recommendation")
    if changes:
        write_text(params, dump_document(document))
    return changed, remarks


def other_base(folder: Path | None, table: pa.Table, contestant: str, params: Path) -> list[str]:
    """A remark if settings that were not searched have another value in the file `params` than in the sweep of `folder`: what was
    best there need not be best here. Without a folder, or its record, nothing is known of them."""
    if folder is None or not (folder / RECORD).is_file():
        return []
    record, space = read_json(folder / RECORD), tables.space_of(table) or {}
    there, here = (_settings(one, contestant) for one in (record["params"], Params.load(params).model_dump(mode="json")))
    differ = [name for name in there if name not in space and name in here and there[name] != here[name]]
    if not differ:
        return []
    told = [f"{name} = {there[name]} (here {here[name]})" for name in differ[:NAMED]]
    more = f" and {len(differ) - NAMED} more" if len(differ) > NAMED else ""
    return [f"the sweep had {', '.join(told)}{more}: the recipe was found for these"]


def _settings(document: Mapping[str, Any], contestant: str) -> dict[str, Any]:
    """What the contestant trains with, by dotted name, without what belongs to the budget or names failures."""
    train = {**document["train"], **document["contestants"].get(contestant, {})}
    left = {key: value for key, value in train.items() if key not in (*BUDGET, "health")}
    return flatten({"model": document["model"], "train": left})


def _read(name: str | None, paths: Paths) -> tuple[Path | None, pa.Table, Sensitivity]:
    """(folder of the sweep, its table, what it says)."""
    if name is not None and name.endswith(TABLE):
        table = tables.read(Path(name))
        return None, table, analyse(table)
    folder = paths.sweep(_chosen(name, paths.sweep("")))
    found, _ = report_sweep(folder)
    return folder, tables.read(folder / "trials.parquet"), found


def _chosen(name: str | None, root: Path) -> str:
    """The sweep's name, by default the only one."""
    found = sorted(path for path in root.glob("*") if (path / "trials").is_dir() or (path / "trials.parquet").is_file())
    known = [path.name for path in found if _kind(path) not in (ABLATION, SEEDS)]
    kind = None if name is None or name in known else _kind(root / name)
    if kind == ABLATION:
        raise UserError(f"{root / str(name)} is an ablation, whose report python -m flows.ablation has written: {PAGE}")
    if kind == SEEDS:
        raise UserError(f"{root / str(name)} is of further seeds, which have nothing to search; {OVERLAY} there names the models")
    if name in known:
        return str(name)
    if name is None and len(known) == 1:
        return known[0]
    if not known:
        raise UserError(f"{root}: no sweep has run here; python -m flows.sweep NAME begins one")
    if name is None:
        raise UserError(f"which sweep? {', '.join(known)} are in {root}")
    raise UserError(f"no sweep {name!r} in {root}{did_you_mean(name, known) or ', only ' + ', '.join(known)}")


def _kind(folder: Path) -> str | None:
    """What the study in `folder` says that it is; None for a sweep, and if there is none."""
    record = folder / RECORD
    return read_json(record).get("kind") if record.is_file() else None


def _print(found: Sensitivity) -> None:
    console = Console(markup=False, highlight=False)
    console.print(headline(found.to_dict()), soft_wrap=True)
    if (best := found.recommendation) is not None:
        lines = Table(Column("setting", no_wrap=True), "recommended", "may lie within", "importance: loss", "failure")
        for one in best.reach:
            weights = [
                f"{part.fanova[one.name]:.0%}" if one.name in part.fanova else "" for part in (found.quality, found.failure)
            ]
            lines.add_row(one.name, _brief(one.value), _within(one), *weights)
        console.print(lines)
        loss = "" if best.robust.loss is None else f"loss {best.robust.loss:.3f}, seeds: {best.robust.seeds}"
        told = f"robust recipe: {loss}; best single run: {best.best_loss:.3f}; P(success) {_share(best.success)}"
        console.print(told, soft_wrap=True)
    for early in found.early:
        console.print(f"early warning at {early.fraction:.0%} of the budget: {_warning(early)}", soft_wrap=True)
    console.print("\n".join(found.notes), soft_wrap=True)


def _warning(early: Early) -> str:
    rule = next((one for one in reversed(early.predictors) if one.caught is not None), None)
    if rule is None or rule.caught is None or rule.false_alarms is None:
        return early.reason or "too few trials to fit a threshold"
    return f"{rule.name} catches {_share(rule.caught)} of the failures, with {_share(rule.false_alarms)} false alarms"


def _within(one: Reach) -> str:
    if one.allowed is not None:
        return ", ".join(_brief(choice) for choice in one.allowed)
    if one.low is None or one.high is None:
        return "no room"
    return f"{_brief(one.low)}{' (edge)' if one.low_is_edge else ''} to {_brief(one.high)}{' (edge)' if one.high_is_edge else ''}"


def _share(one: Share) -> str:
    known = "unknown" if one.probability is None else f"{one.probability:.0%}"
    return f"{known} (95%: {one.lower:.0%} to {one.upper:.0%})"


def _brief(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "null" if value is None else str(value)


def _short(value: Any, spec: Mapping[str, Any]) -> Any:
    """A number drawn from a range with few digits, unless that leads out of the range; any other value as it was tried."""
    if not isinstance(value, float) or "choices" in spec or spec.get("step") is not None:
        return value
    short = float(f"{value:.{DIGITS}g}")
    return short if spec.get("low", short) <= short <= spec.get("high", short) else value


def _key(name: str, contestant: str, before: Mapping[str, Any]) -> tuple[str, str]:
    """Where the value is written, or why it is not."""
    section, _, key = name.partition(".")
    own = f"contestants.{contestant}.{key}"
    if section == "train" and key in BUDGET:
        return name, "it belongs to the budget"
    if contestant == "limoe":
        return (own if section == "train" and own in before else name), ""
    if section != "train":
        return name, "the contestants share it"
    return own, "the contestants share it" if key.partition(".")[0] in SHARED else ""


def _budget(table: pa.Table, document: Mapping[str, Any]) -> list[str]:
    """A remark if the sweep's trainings were shorter or longer than those that params.yaml asks for."""
    swept, asked = sorted({row.steps_planned for row in to_rows(table)}), document["train"]["steps"]
    if swept in ([], [asked]):
        return []
    return [f"the sweep trained for {' and '.join(map(str, swept))} steps, and train.steps is {asked}: the optimum may move"]


def _nested(changes: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for name, value in changes.items():
        *sections, last = name.split(".")
        node = nested
        for section in sections:
            node = node.setdefault(section, {})
        node[last] = value
    return nested
