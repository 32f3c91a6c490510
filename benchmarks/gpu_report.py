"""`python -m benchmarks.gpu_report FILE`: what benchmarks/gpu.py wrote, as Markdown, whether or not it came to its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.report import UNITS

Figures = Mapping[str, Any]
TITLES = {
    "layer": "The sparse layer, forward and backward",
    "large": "A training step of B/16",
    "default": "A training step of params.yaml",
    "loss": "The contrastive loss, forward and backward",
}
COMPARED = ("", "median", "ratio", "quartiles", "to", "bar", "")
STEPS = ("", "GFLOP a pair, forward", "ms a step", "pairs/s", "tokens/s", "TFLOP/s", "MFU", "peak memory, GiB")
TRAINED = ("", "steps", "pairs seen", "s", "pairs/s", "MFU", "peak memory, GiB", "training loss", "text placed")
UNKNOWN = "–"


def to_markdown(path: Path) -> str:
    """The whole of it."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    sections = [_card(line) for line in lines if line["part"] == "card" and "error" not in line]
    for line in (line for line in lines if line["part"] in TITLES and "error" not in line):
        sections.append([f"## {TITLES[line['part']]}", *_compared(line["rows"])])
        sections.append(_steps(line) if "speeds" in line else [f"- {note}" for note in line["notes"]])
        sections.append([f"- skipped {name}: {why}" for name, why in line.get("skipped", {}).items()])
    sections.append(_trainings([line for line in lines if line["part"] == "train" and "error" not in line]))
    broken = [f"- {line['part']}: {line['error']}" for line in lines if "error" in line]
    sections.append(["## Not measured", *broken] if broken else [])
    return "\n\n".join("\n".join(section) for section in sections if section) + "\n"


def _card(line: Figures) -> list[str]:
    here, ceilings = line["machine"], line["ceiling_tflops"]
    products = ", ".join(f"{value:,.1f} TFLOP/s in {name}" for name, value in ceilings.items())
    memory = "" if line["memory_mib"] is None else f", {line['memory_mib'] / 1024:.0f} GiB"
    return [
        f"# {here['gpu'] or here['cpu']}",
        "",
        f"{line['date']}, torch {here['torch']}, Python {here['python']}{memory}. Square matrix products reach {products}.",
    ]


def _compared(rows: Sequence[Figures]) -> Iterator[str]:
    case = None
    for row in rows:
        if row["case"] != case:
            case = row["case"]
            yield from ("", case, "", *_head(COMPARED))
        factor, unit = UNITS[row["unit"]]
        verdict = {None: "", True: "met", False: "missed"}[row["met"]]
        spread = "{:.3f} to {:.3f}".format(*row["ratio_quartiles"])
        name = row["name"] + (f" ({row['note']})" if row["note"] else "")
        median = f"{factor * row['median'] / (row['work'] if row['unit'] == 's' else 1):,.2f} {unit}"
        yield _line(name, median, f"{row['ratio']:.3f}", spread, row["base"], "" if row["bar"] is None else row["bar"], verdict)


def _steps(line: Figures) -> list[str]:
    own = {row["name"]: row["median"] / row["work"] for row in line["rows"]}
    table = [
        _line(name, _number(line["gflops_per_pair_forward"][name], 2), f"{1e3 * own[name]:,.1f}", *_speed(speed, peak))
        for (name, speed), peak in zip(line["speeds"].items(), line["peak_mib"].values(), strict=True)
    ]
    hottest = [f"- {each['share']:.0%}, {each['ms']:.2f} ms, {each['calls']} calls: `{each['name']}`" for each in line["hottest"]]
    told = f"Placed by LIMoE's fresh router: {line['placed']:.1%}. What a step of LIMoE spends its time in:"
    return [*_head(STEPS), *table, "", told, "", *hottest]


def _speed(speed: Figures, peak: float | None) -> tuple[str, ...]:
    rates = (_number(speed["pairs_per_s"]), _number(speed["tokens_per_s"]), _number(speed["tflops"], 1))
    return (*rates, _share(speed["mfu"]), UNKNOWN if peak is None else f"{peak / 1024:.1f}")


def _trainings(lines: Sequence[Figures]) -> list[str]:
    if not lines:
        return []
    scores = list(lines[0]["scores"])
    table = []
    for line in lines:
        rate, _, _, mfu, peak = _speed(line["speed"], line["peak_mib"])
        steps = f"{line['steps']:,}" + ("" if line["steps"] == line["planned"] else f" of {line['planned']:,}")
        figures = (steps, f"{line['samples']:,}", f"{line['seconds']:.0f}", rate, mfu, peak, _number(line["contrastive"], 3))
        measured = (f"{line['scores'][name]:.3f}" for name in scores)
        table.append(_line(line["contestant"], *figures, _share(line["text_placed"]), *measured))
    told = "val: on validation sets; top1 is zero-shot among class names, r1 the mean of retrieval both ways."
    heads = (f"val: {name}" for name in scores)
    return ["## Trainings", "", *_head((*TRAINED, *heads)), *table, "", told]


def _number(value: float | None, digits: int = 0) -> str:
    return UNKNOWN if value is None else f"{value:,.{digits}f}"


def _share(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.1%}"


def _head(names: Sequence[str]) -> tuple[str, str]:
    return _line(*names), _line("---", *["---:"] * (len(names) - 1))


def _line(*cells: object) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    print(to_markdown(Path(sys.argv[1])))
