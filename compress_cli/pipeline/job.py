"""A job at work: one step of a recipe made in a process of its own, here or on another machine.

python -m compress_cli.pipeline.job JOB.json OUTCOME.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

from compress_cli import plugin, stopping
from compress_cli.errors import ArtifactError, CompressError, ResourceError
from compress_cli.pipeline.workers import Job, Outcome
from compress_cli.progress import Progress
from compress_cli.store import durable

FOLDER = ".jobs"  # in the run's folder while its jobs work


class Reports:
    """A listener that writes progress into a file, for the process that waits for the job."""

    def __init__(self, path: Path):
        self.path = path

    def begins(self, step: Any, smoke: bool) -> None:
        pass

    def progress(self, step: Any, progress: Progress) -> None:
        with self.path.open("a") as file:
            print(json.dumps(dataclasses.asdict(progress)), file=file)

    def ended(self, step: Any, cached: bool, seconds: float, problem: str) -> None:
        pass


def progress_path(job: Job) -> Path:
    """Where a job's progress is written, a JSON object a line."""
    return job.directory / FOLDER / f"{job.key}.progress"


def make(job: Job) -> Outcome:
    """Make the job's step, and say how that ended; never raises but for a signal that comes twice."""
    try:
        with stopping.listening():
            _make(job)
    except CompressError as error:
        return Outcome(code=error.exit_code, message=str(error), resource=isinstance(error, ResourceError))
    except KeyboardInterrupt as stop:
        return Outcome(code=143 if "SIGTERM" in stop.args else 130, message="interrupted")
    except Exception:
        return Outcome(code=1, message=traceback.format_exc())
    return Outcome(code=0)


def _make(job: Job) -> None:
    from compress_cli.pipeline import fitting, plan, recipe, time_limit
    from compress_cli.pipeline.run import Run
    from compress_cli.store.bucket import opened

    for path in job.plugins:
        plugin.register(path)
    loaded = recipe.load(job.recipe, job.overrides)
    if job.within:
        loaded = loaded.model_copy(update={"within": time_limit.of_option(job.within, loaded.within)})
    planned = plan.plan(loaded)
    if loaded.within and (known := fitting.recorded(planned, job.directory)):
        planned = known.plan
    if job.threads:
        planned = replace(planned, recipe=planned.recipe.model_copy(update={"threads": job.threads}))
    step = next((step for step in planned.steps if step.key == job.key), None)
    if step is None:
        raise ArtifactError(f"{job.recipe}: no longer has the step '{job.name}' as it was; was the recipe or its data changed?")
    forced = frozenset({step.variant_of or step.name}) if job.forced else frozenset[str]()
    store = opened(job.store, job.directory.parent)
    Run(planned, store, job.directory, Reports(progress_path(job)), forced, job.repair).make_one(step)


if __name__ == "__main__":
    ended = make(Job.model_validate_json(Path(sys.argv[1]).read_bytes()))
    durable.write(Path(sys.argv[2]), ended.model_dump_json().encode())
    sys.exit(ended.code)
