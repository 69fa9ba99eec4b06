"""MLflow."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field

from compress_cli.errors import RecipeError, StageError
from compress_cli.pipeline.trackers import Ending, Figures, TrackedRun, Tracker, Tracking

STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",  # of 7, which keep a training waiting for minutes when the server is gone
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
}
MOST_PARAMETERS = 100  # in one call, as the server demands
LONGEST_PARAMETER = 6000  # characters


class Mlflow(Tracker):
    """A run of an MLflow experiment: the recipe's fields as parameters, curves and figures as metrics, the report as artifacts.

        tracking:
          - {type: mlflow, server: "sqlite:///mlflow.db", experiment: keywords}

    A run that was interrupted goes on as the same MLflow run. Needs `pip install compress-cli[mlflow]`.
    """

    server: str = Field(min_length=1, description="its tracking URI: http://host:5000, sqlite:///mlflow.db, databricks")
    experiment: str = Field("compress", min_length=1, description="made where there is none of that name")

    def open(self, run: TrackedRun) -> Tracking:
        for name, value in QUIET.items():
            os.environ.setdefault(name, value)
        try:
            from mlflow import MlflowClient
        except ImportError:
            raise RecipeError("tracker mlflow: needs `pip install compress-cli[mlflow]`") from None
        with _told(self.server):
            client = MlflowClient(tracking_uri=self.server)
            known = client.get_experiment_by_name(self.experiment)
            experiment = known.experiment_id if known else client.create_experiment(self.experiment)
            return _Run(client, self.server, _again(client, run.identity) or _begun(client, experiment, run))


def _again(client: Any, identity: str) -> str:
    """The interrupted run; empty where its experiment's owner has deleted it, or it is on another server."""
    from mlflow.exceptions import MlflowException

    if not identity:
        return ""
    try:
        deleted = client.get_run(identity).info.lifecycle_stage == "deleted"
    except MlflowException:
        return ""
    if deleted:
        return ""
    client.update_run(identity, status="RUNNING")
    return identity


def _begun(client: Any, experiment: str, run: TrackedRun) -> str:
    from mlflow.entities import Param

    identity = client.create_run(experiment, run_name=run.name).info.run_id
    parameters = [Param(name, str(value)[:LONGEST_PARAMETER]) for name, value in run.settings.items()]
    for first in range(0, len(parameters), MOST_PARAMETERS):
        client.log_batch(identity, params=parameters[first : first + MOST_PARAMETERS])
    return str(identity)


class _Run(Tracking):
    """A run at an MLflow server."""

    def __init__(self, client: Any, server: str, identity: str):
        self.client, self.server, self.identity = client, server, identity

    def epoch(self, stage: str, epoch: int, figures: Figures) -> None:
        self._log({f"{stage}/{name}": figure for name, figure in figures.items()}, epoch)

    def results(self, models: Mapping[str, Figures], gates: Mapping[str, str], files: Sequence[Path]) -> None:
        for model, figures in models.items():
            self._log({f"{model}/{name}": figure for name, figure in figures.items()}, 0)
        with _told(self.server):
            for number, (promise, outcome) in enumerate(gates.items(), 1):
                self.client.set_tag(self.identity, f"gate {number}", f"{promise}: {outcome}")
            for file in files:
                self.client.log_artifact(self.identity, str(file))

    def close(self, ending: Ending) -> None:
        with _told(self.server):
            self.client.set_terminated(self.identity, STATUS[ending])

    def _log(self, figures: Figures, step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        with _told(self.server):
            self.client.log_batch(self.identity, [Metric(name, figure, now, step) for name, figure in figures.items()])


@contextmanager
def _told(server: str) -> Iterator[None]:
    """The library's errors as one line of ours."""
    from mlflow.exceptions import MlflowException

    try:
        yield
    except (MlflowException, ImportError) as error:  # a database's driver may be missing
        reason = str(error).partition("\n")[0]
        raise StageError(f"tracker mlflow: {server}: {reason}") from error
