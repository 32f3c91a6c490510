"""`python -m benchmarks.moe`: the sparse layer against a dense MLP of equal active FLOPs, against others', and as E grows."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple, get_args

import torch

from benchmarks.harness import Bench, Subject, bench_of, compare, parser
from benchmarks.layers import Input, Shape, Sparse, compiled_dense, dense_subject, memory_floor
from benchmarks.peers import MIXTRAL_GROUPED, PEERS, peer_subject, peer_version, peer_work
from benchmarks.report import Report
from limoe.config import MoeParams
from limoe.model.experts import choose_kernel

SECTIONS = ("layer", "peers", "growth")
KERNELS = tuple(name for name in get_args(MoeParams.model_fields["kernel"].annotation) if name != "auto")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
GROWTH_BAR, PEER_BAR = 1.2, 1.0
FLOOR = "dense + memory floor"


class Case(NamedTuple):
    """A shape, where its bars hold (cpu or cuda), and the bar of each precision."""

    shape: Shape
    device: str
    bars: dict[str, float]


CASES = (
    Case(Shape(384, 1536, 8, 8192), "cpu", {"float32": 1.15, "bfloat16": 1.25}),
    Case(Shape(768, 3072, 32, 8192), "cpu", {"float32": 1.30, "bfloat16": 1.30}),
    Case(Shape(768, 3072, 32, 50_000, patches=196), "cuda", {"bfloat16": 1.15}),
)
QUICK = Case(Shape(32, 96, 4, 1024), "", {"float32": 1.15, "bfloat16": 1.25})
GROWTH = tuple(Shape(384, 1536, experts, 1024 * experts) for experts in (8, 32, 128))
QUICK_GROWTH = tuple(Shape(32, 64, experts, 64 * experts) for experts in (4, 8))


def measure_layer(report: Report, bench: Bench, case: Case, precision: str, compile_dense: bool) -> None:
    """Every kernel of ours, dense (eager and compiled) and the memory floor, by turns; the bar is for what `auto` takes."""
    given = Input.of(case.shape, DTYPES[precision], bench.device)
    sparse = {kernel: Sparse(given, kernel, seed) for seed, kernel in enumerate(KERNELS)}
    dense, mlp = dense_subject(given)
    subjects = [dense, *(given.subject(name, each.layer, each.run) for name, each in sparse.items()), memory_floor(given)]
    title = f"layer: {case.shape}, {precision}"
    if compile_dense:
        try:
            subjects.append(compiled_dense(given, mlp))
        except Exception as error:  # whatever is missing for it, eager dense is still there to compare with
            report.skip(f"dense, compiled ({title})", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
    else:
        report.skip(f"dense, compiled ({title})", "not tried (--no-compile or --quick)")
    samples = bench.interleave(subjects)
    base = min((name for name in samples if name.startswith("dense")), key=lambda name: median(samples[name]))
    samples[FLOOR] = [sum(pair) for pair in zip(samples[base], samples["memory floor"], strict=True)]
    chosen = auto_kernel(given)
    bar = case.bars.get(precision) if case.device in ("", bench.device.type) else None
    report.add(compare(title, samples, base, bars={} if bar is None else {chosen: bar}, notes={chosen: "auto"}))
    _note_drops(report, sparse.values())


def auto_kernel(given: Input) -> str:
    """The kernel that `auto` takes for this stream."""
    return choose_kernel("auto", given.x_TD.detach().to(given.precision), given.shape.hidden, given.shape.tokens)


def measure_peers(report: Report, bench: Bench, shape: Shape) -> None:
    """Dense, ours and the peers by turns, float32: each as a multiple of dense, then ours as a multiple of each peer."""
    given = Input.of(shape, torch.float32, bench.device)
    ours = Sparse(given, "auto")
    subjects: list[Subject] = [dense_subject(given)[0], given.subject("ours", ours.layer, ours.run)]
    notes = {"ours": auto_kernel(given)}
    title = f"peers: {shape}, float32, per active FLOP"
    for name in PEERS:
        try:
            subjects.append(peer_subject(given, name))
        except ImportError as error:
            report.skip(f"{name} ({title})", f"{error}; pip install -c constraints.txt -e '.[bench]'")
        else:
            notes[name] = peer_version(name) + (", top-2" if name in peer_work() else "")
    samples = bench.interleave(subjects, slow=True)
    rows = compare(title, samples, "dense", work=peer_work(), notes=notes)
    for name in (name for name in PEERS if name in samples):
        rows += compare(title, samples, name, ["ours"], bars={"ours": PEER_BAR}, work=peer_work(), noise=name == MIXTRAL_GROUPED)
    report.add(rows)
    _note_drops(report, [ours])


def measure_growth(report: Report, bench: Bench, shapes: Sequence[Shape]) -> None:
    """Time per token as the experts grow in number and each keeps as many tokens, float32."""
    names = [f"E {shape.experts}" for shape in shapes]
    layers = [Sparse(Input.of(shape, torch.float32, bench.device), "auto") for shape in shapes]
    subjects = [each.given.subject(name, each.layer, each.run) for name, each in zip(names, layers, strict=True)]
    samples = bench.interleave(subjects, slow=True)
    title = f"growth: width {shapes[0].width}, {shapes[0].tokens // shapes[0].experts:,} tokens an expert, float32, per token"
    work = {name: float(shape.tokens) for name, shape in zip(names, shapes, strict=True)}
    report.add(compare(title, samples, names[0], bars=dict.fromkeys(names[1:], GROWTH_BAR), work=work))
    _note_drops(report, layers)


def _note_drops(report: Report, layers: Iterable[Sparse]) -> None:
    report.note(f"dropped: {max(each.dropped() for each in layers):.2%} of the choices")


def cases_of(options: argparse.Namespace, device: str) -> list[Case]:
    """The cases asked for; by default those that have bars, those of a GPU only on one."""
    if options.quick:
        return [QUICK]
    if options.shapes:
        known = {case.shape: case for case in CASES}
        return [known.get(shape, Case(shape, "", {})) for shape in options.shapes]
    return [case for case in CASES if case.device in ("cpu", device)]


def main(argv: Sequence[str] | None = None) -> Report:
    """Measure what the options ask for; the report, printed and written."""
    options = _options(argv)
    bench = bench_of(options)
    cases = cases_of(options, bench.device.type)
    settings = {"repeats": bench.repeats, "shapes": [str(case.shape) for case in cases], "sections": options.only}
    report = Report("moe", bench.device, settings | {"quick": options.quick})
    report.start()
    if "layer" in options.only:
        for case in cases:
            for precision in case.bars if case.device == "cuda" else options.precision:
                measure_layer(report, bench, case, precision, options.compile and not options.quick)
    if "peers" in options.only:
        for case in cases:
            if case.device != "cuda":  # one-hot dispatch of so many tokens fits no memory
                measure_peers(report, bench, case.shape)
    if "growth" in options.only:
        measure_growth(report, bench, QUICK_GROWTH if options.quick else GROWTH)
    report.finish(options.json)
    return report


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    options = parser("moe", __doc__ or "", 5)
    options.add_argument("--only", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="sections (default: all)")
    options.add_argument("--shapes", nargs="+", type=Shape.parse, metavar="DxFxExT", help="width, hidden, experts, tokens")
    options.add_argument("--precision", nargs="+", choices=tuple(DTYPES), default=list(DTYPES), help="default: both")
    options.add_argument(
        "--compile", action=argparse.BooleanOptionalAction, default=True, help="try torch.compile on dense (default: yes)"
    )
    return options.parse_args(argv)


if __name__ == "__main__":
    main(sys.argv[1:])
