"""The stages of dvc.yaml as a Prefect flow: retries for what they may mend, a GPU slot, artifacts, logs line by line.

`python -m flows.pipeline` runs it in the project's folder: on the server that PREFECT_API_URL names, else on a temporary one.
It shares DVC's cache and dvc.lock with `dvc repro`, and either goes on where the other stopped.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import typer
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate
from prefect.concurrency.sync import concurrency
from prefect.exceptions import ObjectAlreadyExists, ObjectNotFound
from prefect.settings import get_current_settings

from flows.temporary import find_server
from limoe.config import CONTESTANTS, Contestant, Params
from limoe.errors import UserError
from limoe.files import read_json
from limoe.paths import Paths

GPU_SLOT = "limoe-gpu"
LEASE_SECONDS = 60  # the shortest that the server grants: how long a killed training keeps its slot
GRACE_SECONDS = 10


def stages(params: Params) -> tuple[str, ...]:
    """The stages of dvc.yaml in an order that they allow, those of the contestants that `compare` names among them."""
    return (
        "prepare",
        "balance",
        *(f"train@{name}" for name in sorted(CONTESTANTS, key=lambda name: waits(params, name))),
        *(f"evaluate@{name}" for name in CONTESTANTS),
        *(f"evaluate-model@{name}" for name in params.compare.models),
        *(f"evaluate-fetched@{name}" for name in params.compare.fetched),
        "compare",
    )


def waits(params: Params, contestant: Contestant) -> bool:
    """Whether the contestant's training starts from what another's leaves, which dvc.yaml does not say by itself."""
    start = params.train_for(contestant).start_from
    others = [Paths().train(name).resolve() for name in CONTESTANTS if name != contestant]
    return start is not None and any(Path(start).resolve().is_relative_to(other) for other in others)


def label(stage: str) -> str:
    """What a stage calls itself in .limoe/errors: its subcommand and its contestant.

    >>> label("evaluate-model@mine"), label("train@limoe"), label("compare")
    ('evaluate-mine', 'train-limoe', 'compare')
    """
    name, _, contestant = stage.partition("@")
    return f"{name.split('-')[0]}-{contestant}" if contestant else name


class StageFailed(Exception):
    """A stage ended badly. kind: user, machine (worth a retry) or bug; the message is the stage's own sentence."""

    def __init__(self, stage: str, kind: str, sentence: str) -> None:
        super().__init__(f"{stage}: {sentence}")
        self.kind = kind


def worth_a_retry(_task: Any, _run: Any, state: Any) -> bool:
    """Prefect asks this of a failed task: yes if the machine was at fault, never for a user's mistake or a bug."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, StageFailed) and error.kind == "machine"


@task(task_run_name="{stage}", retries=2, retry_delay_seconds=30, retry_condition_fn=worth_a_retry)
def run_stage(stage: str) -> None:
    """`dvc repro --single-item STAGE` in this folder; StageFailed with the stage's sentence if it fails."""
    logger = get_run_logger()
    error_file = Paths().error(label(stage))
    error_file.unlink(missing_ok=True)
    with gpu_slot() if stage.startswith("train@") else nullcontext():
        code = stream([sys.executable, "-m", "dvc", "repro", "--single-item", stage], logger.info)
    if code:
        raise failure(stage, code, error_file)


def failure(stage: str, code: int, error_file: Path) -> StageFailed:
    """What a stage that ended with `code` says of itself; one that was interrupted or killed, or that DVC did not start,
    says nothing."""
    try:
        told = read_json(error_file)
    except UserError:
        what = f"it was interrupted, killed or did not start (DVC's exit code {code}); the log above says more"
        return StageFailed(stage, "machine", what)
    return StageFailed(stage, told["kind"], told["sentence"])


def stream(command: list[str], tell: Callable[[str], object]) -> int:
    """Run `command`, tell its output line by line, return its exit code; whatever ends us early ends it and its children."""
    here = Path(sys.executable).parent  # where `limoe` is, even if nobody activated the environment
    environment = {**os.environ, "PATH": f"{here}{os.pathsep}{os.environ.get('PATH', '')}", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env=environment,
        start_new_session=True,
    ) as process:
        try:
            for line in process.stdout or ():
                if line.strip():
                    tell(line.rstrip())
            return process.wait()
        except BaseException:
            end_group(process)
            raise


def end_group(process: subprocess.Popen[str]) -> None:
    """Ask the process and its children to end, and make them if they do not."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)


def gpus() -> int:
    """GPUs of this machine."""
    import torch

    return torch.cuda.device_count()


@contextmanager
def gpu_slot() -> Iterator[None]:
    """Hold one of the server's GPU slots, waiting for it if need be; nothing to hold without a GPU.

    The slot is a lease, renewed while we live: SIGKILL lets it run out. (A stage that outlives a killed flow holds no slot any
    more; its own lock keeps a second trainer of the same contestant out.) A temporary server has nobody to share a slot with, and
    nothing in it would take back a dead holder's lease, so there none is taken.
    """
    if not get_current_settings().api.url or not gpus():
        yield
        return
    ensure_limit(gpus())
    # A server that is away for a minute is no reason to stop a training that runs.
    with concurrency(GPU_SLOT, lease_duration=LEASE_SECONDS, strict=True, raise_on_lease_renewal_failure=False):
        yield


def ensure_limit(slots: int) -> None:
    """Create the global concurrency limit with `slots` places unless there is one: what a person set stays."""
    with get_client(sync_client=True) as client:
        try:
            client.read_global_concurrency_limit_by_name(GPU_SLOT)
        except ObjectNotFound:
            try:
                client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=GPU_SLOT, limit=slots))
            except ObjectAlreadyExists:  # another flow was faster
                return


def first_table(markdown: str) -> str:
    """The first table of a Markdown text, "" if it has none."""
    lines = iter(markdown.splitlines())
    table: list[str] = []
    for line in lines:
        if line.startswith("|"):
            table.append(line)
        elif table:
            break
    return "\n".join(table)


def artifact_key(path: Path) -> str:
    """A name in the letters that Prefect allows: sweep/lr.v1 -> sweep-lr-v1."""
    return re.sub(r"[^a-z0-9]+", "-", "-".join(path.parts).lower())


def picture_key(path: Path) -> str:
    """The key of a picture: runs/train/limoe/plots/curves.png -> train-limoe-curves."""
    return artifact_key(Path(*(part for part in path.with_suffix("").parts if part not in ("runs", "plots"))))


@task(task_run_name="publish")
def publish() -> None:
    """The comparison table, every plot and the way to the whole report, as artifacts of this run."""
    report = Paths().report
    table = first_table((report / "report.md").read_text(encoding="utf-8"))
    create_markdown_artifact(table, key="comparison", description="LIMoE, its baselines and the published rows")
    create_link_artifact((report / "report.html").resolve().as_uri(), link_text="report.html", key="report")
    for picture in sorted(Path("runs").rglob("*.png")):
        encoded = base64.b64encode(picture.read_bytes()).decode()
        create_image_artifact(f"data:image/png;base64,{encoded}", key=picture_key(picture), description=str(picture))


@flow(name="limoe-pipeline", log_prints=True)
def pipeline(retry_seconds: int = 30) -> None:
    """Everything from the sources to the report; stages that are not stale are skipped by DVC.

    Parameters that cannot be read end it before anything runs: DVC would meet them first, and leave no sentence of ours.
    """
    try:
        params = Params.load(Path("params.yaml"))
    except UserError as error:
        raise StageFailed("parameters", "user", str(error)) from None
    for stage in stages(params):
        run_stage.with_options(retry_delay_seconds=retry_seconds)(stage)
    publish()


def main(retry_seconds: int = typer.Option(30, min=0, help="Wait before a stage is tried again.")) -> None:
    """Run the pipeline in this folder."""
    try:
        find_server()
        pipeline(retry_seconds)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except StageFailed as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2 if error.kind == "user" else 1) from None


if __name__ == "__main__":
    typer.run(main)
