"""`limoe ...`: one subcommand a stage, and the tools a person uses. No logic: each ends in the function that does the work.

Exit codes: 0, 2 for a mistake of the user's, 1 for anything else, 130 and 143 for an interruption (SIGINT, SIGTERM); always with
one sentence on stderr.
"""

from __future__ import annotations

import errno
import importlib
import json
import os
import shlex
import signal
import sqlite3
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated

import typer

from limoe.config import Contestant, Params
from limoe.errors import Kind, Reported, UserError
from limoe.files import write_json
from limoe.interrupt import Interrupted, at_once
from limoe.paths import Paths

EXIT_CODES: dict[Kind, int] = {"user": 2, "machine": 1, "bug": 1}
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_DISK = ("No space left on device", "database or disk is full")  # for errors that lost their number on the way
CLOSED = (errno.EACCES, errno.EPERM, errno.EROFS)
NEXT = {
    "prepare": "limoe balance",
    "balance": "limoe train limoe (then dense and clip)",
    "train": "limoe evaluate {contestant}",
    "evaluate": "limoe compare, once every contestant has been evaluated",
    "compare": "open report/report.html",
}
STAGES, TOOLS = "Stages, in their order (`dvc repro` runs those that are stale)", "Tools"

app = typer.Typer(
    help="LIMoE: one sparse tower for pictures and captions, beside a dense tower and CLIP.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
ParamsFile = Annotated[Path, typer.Option("--params", help="The parameters; the other files lie beside it.")]
Overrides = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Anyone = Annotated[str, typer.Argument(metavar="CONTESTANT", help="limoe, dense, clip, or one of compare.models or .fetched.")]
Who = Annotated[Contestant, typer.Argument(help="Which model.")]
DEFAULT_PARAMS = Path("params.yaml")


@app.command(rich_help_panel=STAGES)
def prepare(params: ParamsFile = DEFAULT_PARAMS, overrides: Overrides = None, debug: Debug = False) -> None:
    """1. Pictures and captions -> data/prepared: shards, tokenizer, manifest, rejected rows."""
    run_stage("prepare", None, params, overrides, debug)


@app.command(rich_help_panel=STAGES)
def balance(params: ParamsFile = DEFAULT_PARAMS, overrides: Overrides = None, debug: Debug = False) -> None:
    """2. How many tokens each modality brings, and what follows for routing -> runs/balance."""
    run_stage("balance", None, params, overrides, debug)


@app.command(rich_help_panel=STAGES)
def train(contestant: Who, params: ParamsFile = DEFAULT_PARAMS, overrides: Overrides = None, debug: Debug = False) -> None:
    """3. Train one contestant (limoe, dense, clip) -> runs/train/CONTESTANT."""
    run_stage("train", contestant, params, overrides, debug)


@app.command(rich_help_panel=STAGES)
def evaluate(contestant: Anyone, params: ParamsFile = DEFAULT_PARAMS, overrides: Overrides = None, debug: Debug = False) -> None:
    """4. Score it on the validation and test sets -> runs/evaluate/CONTESTANT."""
    run_stage("evaluate", contestant, params, overrides, debug)


@app.command(rich_help_panel=STAGES)
def compare(params: ParamsFile = DEFAULT_PARAMS, overrides: Overrides = None, debug: Debug = False) -> None:
    """5. One table and its plots, with intervals and paired tests -> report."""
    run_stage("compare", None, params, overrides, debug)


@app.command(rich_help_panel=TOOLS)
def doctor(
    params: ParamsFile = DEFAULT_PARAMS,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """What this machine has, and what is missing; exit code 1 if something required is."""
    from limoe.doctor import as_table, examine

    with reporting(debug):
        findings = examine(params.parent)
        if as_json:
            print(json.dumps([vars(finding) for finding in findings], indent=2))
        else:
            _rich_print(as_table(findings))
        missing = [finding.name for finding in findings if finding.ok is False]
        if missing:
            print(f"error: missing here: {', '.join(missing)}", file=sys.stderr)
            raise SystemExit(1)


@app.command(rich_help_panel=TOOLS)
def info(
    model: Annotated[str | None, typer.Argument(help="A preset, or a file of parameters (*.yaml); neither: all presets.")] = None,
    batch: Annotated[int | None, typer.Option(help="Pairs that a device holds at a time.")] = None,
    samples: Annotated[float | None, typer.Option(help="Pairs seen in a whole training: FLOPs and days.")] = None,
    mfu: Annotated[float | None, typer.Option(help="With --samples: share of the peak that is reached. Default: 0.4.")] = None,
    gpus: Annotated[int | None, typer.Option(help="With --samples: how many. Default: 1.")] = None,
    tflops: Annotated[float | None, typer.Option(help="With --samples: one's peak, TFLOP/s. Default: 989 (H100, bf16).")] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="As a file for limoe params --overlay.")] = False,
    debug: Debug = False,
) -> None:
    """A model's size, FLOPs, training memory and time, before anything is built."""
    from limoe.info import show

    with reporting(debug):
        training = {"samples": samples, "mfu": mfu, "gpus": gpus, "tflops": tflops}
        _next(show(model, batch, training, tuple(overrides or ()), as_json, as_yaml))


@app.command(name="params", rich_help_panel=TOOLS)
def show_params(
    params: ParamsFile = DEFAULT_PARAMS,
    overrides: Overrides = None,
    overlay: Annotated[Path | None, typer.Option(help="First merge this file into the parameters' file.")] = None,
    debug: Debug = False,
) -> None:
    """Show the parameters as they are understood; with --overlay, change their file (comments stay)."""
    import yaml

    from limoe.overlay import merge_overlay

    with reporting(debug):
        if overlay is not None:
            merge_overlay(params, overlay)
        resolved = Params.load(params, tuple(overrides or ()))
        print(yaml.safe_dump(resolved.model_dump(mode="json"), sort_keys=False, allow_unicode=True), end="")
        _next("dvc repro")


@app.command(rich_help_panel=TOOLS)
def sensitivity(
    name: Annotated[str | None, typer.Argument(help="A sweep, or a table of trials (*.parquet). Default: the only one.")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    apply: Annotated[bool, typer.Option("--apply", help="Write the recommended recipe into the parameters' file.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """What a sweep says: which settings matter, how far they may move, what fails, and what to use."""
    with reporting(debug):
        from limoe.sensitivity import show

        _next(show(name, params, apply, as_json))


@app.command(rich_help_panel=TOOLS)
def routing(
    model: Annotated[Path, typer.Argument(help="A model directory, such as runs/train/limoe/model.")],
    images: Annotated[Path | None, typer.Option(help="Pictures: a folder, Parquet, tars. Default: validation splits.")] = None,
    captions: Annotated[Path | None, typer.Option(help="The captions' file of a folder of pictures.")] = None,
    split: Annotated[str | None, typer.Option(help="One split alone, where there are several.")] = None,
    pairs: Annotated[int, typer.Option(min=2, help="At most so many pairs.")] = 512,
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("runs/routing"),
    params: ParamsFile = DEFAULT_PARAMS,
    debug: Debug = False,
) -> None:
    """How a model routes any pairs: what each expert takes, how surely, and what training would drop."""
    with reporting(debug):
        from limoe.routing import show

        device = Params.load(params).machine.device if params.is_file() else "auto"
        _next(show(model, images, captions, split, pairs, out, Paths(params.parent), device))


@app.command(rich_help_panel=TOOLS)
def upcycle(
    dense: Annotated[Path, typer.Argument(help="A dense model's directory, such as runs/train/dense/model.")],
    out: Annotated[Path, typer.Argument(help="The directory to write.")],
    params: ParamsFile = DEFAULT_PARAMS,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """Make a LIMoE of a trained dense model: experts as model.moe says, and the same embeddings to begin with."""
    with reporting(debug):
        resolved, paths = Params.load(params, tuple(overrides or ())), Paths(params.parent)
        from limoe.data.suggestion import with_suggestion
        from limoe.model.upcycle import upcycle_directory

        upcycle_directory(dense, out, with_suggestion(resolved, paths).model, resolved.train.seed)
        begin = f"contestants.limoe.start_from={os.path.relpath(out, paths.root)}"
        where = [] if params == DEFAULT_PARAMS else [f"--params={params}"]
        _next(shlex.join(["limoe", "train", "limoe", *where, *(f"--set={one}" for one in (*(overrides or ()), begin))]))


@app.command(rich_help_panel=TOOLS)
def trial(
    folder: Annotated[Path, typer.Argument(help="The trial's directory; trial.json says what to train.")],
    data: Annotated[Path, typer.Option(help="The prepared set.")] = Path("data/prepared"),
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a process that is at work there.")] = False,
    memory_mb: Annotated[int | None, typer.Option(help="MB that it may take beyond its libraries (CPU).")] = None,
    debug: Debug = False,
) -> None:
    """Run one trial of a sweep, or go on with it: train, measure the objective, write down how it ended."""
    from limoe.sweep.trial import run_trial

    with reporting(debug):
        outcome = run_trial(folder, data, wait, memory_mb)
        print(f"{outcome.kind}: step {outcome.step} of {outcome.steps_planned}: {outcome.evidence}")
        _next(f"cat {folder / 'outcome.json'}")


@app.command(name="inspect", rich_help_panel=TOOLS)
def inspect_set(
    path: Annotated[str, typer.Argument(help="Pictures and captions: a folder, a file, a pattern in quotes, an address.")],
    kind: Annotated[str | None, typer.Option(help="As what to read it; found out by default (docs/data.md).")] = None,
    images: Annotated[str | None, typer.Option(help="The folder in which paths of pictures start.")] = None,
    columns: Annotated[
        list[str] | None, typer.Option("--column", help="WHAT=NAME, of image, caption, label, split, group; repeatable.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="What the set is to be called.")] = None,
    samples: Annotated[int, typer.Option(min=1, max=100, help="Pictures on the contact sheet.")] = 10,
    out: Annotated[Path | None, typer.Option(help="The contact sheet. Default: runs/inspect/NAME.png.")] = None,
    params: ParamsFile = DEFAULT_PARAMS,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
    debug: Debug = False,
) -> None:
    """What a set of pictures of your own is, samples of it, and what to write into params.yaml."""
    from limoe.inspection import read_columns, show

    with reporting(debug):
        given = {"path": path, "kind": kind, "images": images, "columns": read_columns(columns or ())}
        _next(show(given, name, samples, out, as_json, params))


@app.command(rich_help_panel=TOOLS)
def rehearse(
    params: ParamsFile = DEFAULT_PARAMS,
    steps: Annotated[int, typer.Option(min=1, help="Steps from the beginning.")] = 20,
    seeds: Annotated[int, typer.Option(min=1, help="Trainings, each with a seed of its own.")] = 5,
    every_rule: Annotated[bool, typer.Option("--every-rule", help="Under each priority rule, not the chosen one alone.")] = False,
    overrides: Overrides = None,
    debug: Debug = False,
) -> None:
    """What the first steps of a training will drop, by training them with other seeds; nothing is kept."""
    with reporting(debug):
        resolved = Params.load(params, tuple(overrides or ()))
        from limoe.rehearse import rehearse, rules, show

        found = rehearse(resolved, Paths(params.parent), rules(resolved, every_rule), seeds, steps)
        show(found, steps)
        _next("limoe train limoe")


@app.command(rich_help_panel=TOOLS)
def sources(
    params: ParamsFile = DEFAULT_PARAMS,
    write: Annotated[bool, typer.Option("--write", help="Record what is installed.")] = False,
    debug: Debug = False,
) -> None:
    """Whether the packaged data are what data/sources.yaml says; with --write, make it say what is installed."""
    from limoe.data.sources import check_sources, write_sources

    with reporting(debug):
        settings, paths = Params.load(params).prepare, Paths(params.parent)
        if write:
            write_sources(settings, paths)
        for name, facts in check_sources(settings, paths).items():
            print(f"{name} {facts['version']}: as {paths.sources} says")


@app.command(rich_help_panel=TOOLS)
def deps(
    dvc_yaml: Annotated[Path, typer.Option("--file", help="The pipeline.")] = Path("dvc.yaml"),
    write: Annotated[bool, typer.Option("--write", help="Put the file right.")] = False,
    debug: Debug = False,
) -> None:
    """Whether each stage in dvc.yaml depends on exactly the code that it imports."""
    from limoe.deps import stale_stages

    with reporting(debug):
        stale = ", ".join(stale_stages(dvc_yaml, write))
        if stale and not write:
            raise UserError(f"{dvc_yaml}: the code deps of {stale} are not what they import; run limoe deps --write")
        print(f"{dvc_yaml}: {f'code deps of {stale} rewritten' if stale else 'every code dep is right'}")


def run_stage(name: str, contestant: str | None, params: Path, overrides: list[str] | None, debug: bool) -> None:
    """Read the parameters and call `limoe.stages.NAME.run`; a failure leaves its kind and sentence in `paths.error`."""
    paths = Paths(params.parent)
    label = name if contestant is None else f"{name}-{contestant}"
    with reporting(debug, paths.error(label) if params.is_file() else None):
        resolved = Params.load(params, tuple(overrides or ()))  # before the imports, which take seconds
        stage = importlib.import_module(f"limoe.stages.{name}")
        stage.run(resolved, paths, *(() if contestant is None else (contestant,)))
        _next(NEXT[name].format(contestant=contestant))


@contextmanager
def reporting(debug: bool, error_file: Path | None = None) -> Iterator[None]:
    """Turn whatever the body raises into one sentence on stderr and an exit code, kept in `error_file` for who started us."""
    try:
        if error_file is not None:
            error_file.unlink(missing_ok=True)
        with at_once():
            yield
    except KeyboardInterrupt as interruption:
        told = interruption if isinstance(interruption, Interrupted) else Interrupted(signal.SIGINT)
        print(told, file=sys.stderr)
        raise SystemExit(told.exit_code) from None
    except Exception as error:
        kind, sentence = diagnose(error)
        if debug:
            traceback.print_exc()
        print(f"error: {sentence}", file=sys.stderr)
        if error_file is not None:
            with suppress(OSError, ValueError):  # on a full disk, or about a name that is no text, the sentence above must do
                write_json(error_file, {"kind": kind, "sentence": sentence})
        raise SystemExit(EXIT_CODES[kind]) from None


def diagnose(error: BaseException) -> tuple[Kind, str]:
    """Whose fault an exception is, and a sentence for a person: the user's, the machine's (worth a retry), or a bug."""
    if isinstance(error, UserError):
        return "user", str(error)
    if isinstance(error, Reported):
        return error.kind, str(error)
    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, ModuleNotFoundError) and not (error.name or "").startswith("limoe"):
        return "user", f"the package {error.name} is not installed: pip install -c constraints.txt -e ."
    cause = _machine_cause(error)
    where = f" ({cause.filename})" if isinstance(cause, OSError) and cause.filename else ""
    if any(sign in text for sign in FULL_DISK) or (isinstance(cause, OSError) and cause.errno in FULL):
        return "machine", f"no space left on the disk{where}: free some and run again; everything already written is valid"
    if isinstance(cause, OSError) and cause.errno in CLOSED:
        return "machine", f"not permitted{where}: {cause.strerror}; everything already written is valid"
    if isinstance(cause, MemoryError) or type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in text:
        helps = "set train.micro_batch to auto, or lower train.batch, evaluate.batch or machine.cache_mb"
        return "machine", f"not enough memory: {helps} ({text})"
    if isinstance(cause, sqlite3.Error):
        return "machine", f"the MLflow store: {cause}; mend or remove it, or name another with MLFLOW_TRACKING_URI"
    if cause is not None:
        return "machine", f"{type(error).__name__}: {text}"
    return "bug", f"{type(error).__name__}: {text}; this is a bug, and --debug shows where"


def _machine_cause(error: BaseException | None) -> OSError | MemoryError | sqlite3.Error | None:
    """The failure of the machine that lies behind an exception, if one does."""
    while error is not None:
        if isinstance(error, OSError | MemoryError | sqlite3.Error):
            return error
        error = error.__cause__ or error.__context__
    return None


def _rich_print(renderable: object) -> None:
    from rich.console import Console

    Console().print(renderable)


def _next(step: str) -> None:
    print(f"next: {step}", file=sys.stderr)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
