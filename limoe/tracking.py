"""What happened, remembered by MLflow; and a tracker of the same shape that remembers nothing.

The only module that imports mlflow, and it does so when a tracker is opened. Without MLFLOW_TRACKING_URI the store is
`mlflow.db` (SQLite) with its artifacts in `mlruns/`, both in the project's folder.
"""

from __future__ import annotations

import json
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from typing_extensions import override

from limoe.config import MachineParams
from limoe.errors import UserError
from limoe.files import exclusive_lock, flatten

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Experiment, Run

METRICS_PER_CALL = 1000  # MLflow's own limits for one log_batch
PARAMS_PER_CALL = 100
RUNS_PER_CALL = 1000
NOT_METRICS = ("step", "time")
KEY = "limoe.key"  # the tag by which a run is found again
SQLITE = re.compile(r"sqlite(?:\+\w+)?:///(?!:memory:)([^?]+)")
PARENT = "mlflow.parentRunId"  # MLflow's own: its UI nests a run under the one that this names


class Tracker:
    """Remembers nothing: what `machine.tracking: none` opens, and the shape of every tracker. A context manager: one run."""

    run_id: str | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """End the run: FINISHED, or FAILED (KILLED if interrupted) when the body raised."""

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Record settings; nested mappings become dotted names. The same value again is fine, another one raises."""

    def set_tags(self, tags: Mapping[str, Any]) -> None:
        """Set tags, as text; a tag set again takes the new value."""

    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Record metrics: each row has `step`, `time` (ms since 1970) and, under any other name, a number.

        A row sent again with its own time, as after a resume, is not counted twice.
        """

    def log_dict(self, value: Any, name: str) -> None:
        """Keep `value` as the artifact `name` (.json or .yaml)."""

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Keep a file, or a folder with all that it holds, under the run's `folder`."""

    def log_dataset(self, name: str, digest: str, source: Path) -> None:
        """Record which data the run read: its name, its hash (36 characters of it at most) and where it lies."""

    def child(self, key: str, name: str, tags: Mapping[str, Any]) -> Tracker:  # noqa: ARG002  # as in every tracker
        """A run within this one. `key` names it for good: one that was begun and did not end is gone on with."""
        return Tracker()

    def ended_children(self) -> set[str]:
        """The keys of the runs within this one that have ended well: all that was to be told of them is there."""
        return set()


class MlflowTracker(Tracker):
    """One run in MLflow. Everything is written before a call returns, and whatever goes wrong is raised."""

    def __init__(self, client: MlflowClient, experiment_id: str, run_id: str) -> None:
        self._client = client
        self._experiment_id = experiment_id
        self.run_id: str = run_id

    @override
    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        status = "FINISHED" if kind is None else "FAILED" if issubclass(kind, Exception) else "KILLED"
        self._client.set_terminated(self.run_id, status)

    @override
    def log_params(self, params: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        flat = [Param(name, str(value)) for name, value in flatten(params).items()]
        for start in range(0, len(flat), PARAMS_PER_CALL):
            self._client.log_batch(self.run_id, params=flat[start : start + PARAMS_PER_CALL], synchronous=True)

    @override
    def set_tags(self, tags: Mapping[str, Any]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()], synchronous=True)

    @override
    def log_rows(self, rows: Sequence[Mapping[str, float]]) -> None:
        from mlflow.entities import Metric

        metrics = [
            Metric(name, float(value), int(row["time"]), int(row["step"]))
            for row in rows
            for name, value in row.items()
            if name not in NOT_METRICS
        ]
        for start in range(0, len(metrics), METRICS_PER_CALL):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + METRICS_PER_CALL], synchronous=True)

    @override
    def log_dict(self, value: Any, name: str) -> None:
        self._client.log_dict(self.run_id, value, name)

    @override
    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        self._client.log_artifact(self.run_id, str(path), folder)

    @override
    def log_dataset(self, name: str, digest: str, source: Path) -> None:
        from mlflow.entities import Dataset, DatasetInput

        where = json.dumps({"uri": str(source)})
        self._client.log_inputs(self.run_id, [DatasetInput(Dataset(name, digest[:36], "local", where))])

    @override
    def child(self, key: str, name: str, tags: Mapping[str, Any]) -> Tracker:
        mine = {PARENT: self.run_id, KEY: key}
        found = next((run.info.run_id for run in _runs(self._client, self._experiment_id, mine)), None)
        run_id = _continued(self._client, found) or _begun(self._client, self._experiment_id, name, {**tags, **mine})
        return MlflowTracker(self._client, self._experiment_id, run_id)

    @override
    def ended_children(self) -> set[str]:
        runs = _runs(self._client, self._experiment_id, {PARENT: self.run_id})
        return {run.data.tags[KEY] for run in runs if run.info.status == "FINISHED" and KEY in run.data.tags}


def open_tracker(
    machine: MachineParams, root: Path, experiment: str, run_name: str, run_id: str | None = None, key: str | None = None
) -> Tracker:
    """The tracker that `machine.tracking` asks for, its run begun; `run_id` continues that run if the store still has it.

    `key` does the same where the id may not have reached the disk: the run of the experiment that was begun with this key.
    UserError if the experiment was deleted in MLflow, which takes no runs until it is restored.
    """
    if machine.tracking == "none":
        return Tracker()
    with _creating(store_uri(root)):
        client = _connect(root)
        experiment_id = _experiment(client, experiment, root)
    tags = {} if key is None else {KEY: key}
    if key is not None:
        run_id = next((run.info.run_id for run in _runs(client, experiment_id, tags)), None)
    run_id = _continued(client, run_id) or _begun(client, experiment_id, run_name, tags)
    return MlflowTracker(client, experiment_id, run_id)


def store_uri(root: Path) -> str:
    """Where runs are kept: MLFLOW_TRACKING_URI, or SQLite in the project's folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{root.resolve() / 'mlflow.db'}"


def database(uri: str) -> Path | None:
    """The file of an SQLite store, as its address has it; None for any other store."""
    found = SQLITE.match(uri)
    return Path(found[1]) if found else None


def _connect(root: Path) -> MlflowClient:
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when mlflow is imported
    from mlflow import MlflowClient

    logging.getLogger("alembic").setLevel(logging.WARNING)  # that a store was created is no news
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it logs tracebacks of what it also raises
    return MlflowClient(store_uri(root), store_uri(root))


def _creating(uri: str) -> AbstractContextManager[None]:
    """Two processes that create one SQLite database both fail: the second waits for the first, whichever projects they are of."""
    if (file := database(uri)) is None:
        return nullcontext()
    return exclusive_lock(file.with_name(f"{file.name}.lock"), "MLflow's set-up", wait=True)


def _experiment(client: MlflowClient, name: str, root: Path) -> str:
    found = client.get_experiment_by_name(name) or _created(client, name, root)
    if found.lifecycle_stage != "active":
        raise UserError(f"the MLflow experiment {name!r} is deleted: restore it (mlflow experiments restore) or name another")
    return str(found.experiment_id)


def _created(client: MlflowClient, name: str, root: Path) -> Experiment:
    """A new experiment; that of another client, if it was quicker."""
    from mlflow.exceptions import MlflowException

    local = not os.environ.get("MLFLOW_TRACKING_URI")
    try:
        return client.get_experiment(client.create_experiment(name, (root.resolve() / "mlruns").as_uri() if local else None))
    except MlflowException as error:
        found = client.get_experiment_by_name(name) if error.error_code == "RESOURCE_ALREADY_EXISTS" else None
        if found is None:
            raise
        return found


def _continued(client: MlflowClient, run_id: str | None) -> str | None:
    """`run_id`, running again; None if there is none, or it or the store was removed since."""
    from mlflow.exceptions import MlflowException

    if run_id is None:
        return None
    try:
        if client.get_run(run_id).info.lifecycle_stage == "deleted":  # in the UI: another run begins
            return None
        client.update_run(run_id, status="RUNNING")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None
    return run_id


def _begun(client: MlflowClient, experiment_id: str, run_name: str, tags: Mapping[str, Any]) -> str:
    told = {name: str(value) for name, value in tags.items()}
    return str(client.create_run(experiment_id, run_name=run_name, tags=told).info.run_id)


def _runs(client: MlflowClient, experiment_id: str, tags: Mapping[str, str]) -> Iterator[Run]:
    """The experiment's runs that carry these tags; deleted ones are not among them."""
    wanted = " and ".join(f"tags.`{name}` = '{value}'" for name, value in tags.items())
    token = None
    while True:
        page = client.search_runs([experiment_id], wanted, max_results=RUNS_PER_CALL, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
