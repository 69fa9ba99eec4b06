"""Steps that do not wait for each other, made at once by workers: seeds, controls, students of one teacher.

Long steps go to workers as soon as what they need is there. The others are made here meanwhile, those that measure time only
while no worker is busy on this machine.
"""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from compress_cli import stopping
from compress_cli.errors import ArtifactError, CompressError, Interrupted, RecipeError, ResourceError, StageError
from compress_cli.pipeline import job as jobs
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.run import Run
from compress_cli.pipeline.schedule import Schedule
from compress_cli.pipeline.step import Step
from compress_cli.pipeline.workers import Handle, Job, Outcome, Workers
from compress_cli.progress import Progress
from compress_cli.store import durable

POLL_S = 0.2
FAREWELL_S = 30.0  # that jobs get to save their state


@dataclass
class Parallel(Schedule):
    """A run's long steps as jobs of workers."""

    workers: Workers
    recipe: Path
    overrides: tuple[str, ...] = ()
    plugins: tuple[Path, ...] = ()
    within: str = ""
    at_work: dict[str, AtWork] = field(default_factory=dict)  # by key
    looked_for: set[str] = field(default_factory=set)  # keys of steps that were ready: the store is asked once for each

    def advance(self, run: Run) -> None:
        """Make all steps of the run's plan. An error stops the other jobs, which save their state first."""
        steps = list(run.plan.steps)
        folder = run.directory / jobs.FOLDER
        durable.require_folder(folder)
        folder.mkdir(exist_ok=True)
        try:
            while steps := [step for step in steps if step.key not in run.artifacts and step.key not in run.problems]:
                begun = self._begin(run, steps)
                ended = self._collect(run)
                if not begun and not ended and not self._one_here(run, steps):
                    stopping.check()
                    time.sleep(POLL_S)
        except BaseException:
            self._stop()
            raise
        shutil.rmtree(folder)  # after a failure it stays, for its logs

    def _begin(self, run: Run, steps: list[Step]) -> bool:
        """Give workers what they can begin; whether there was anything."""
        begun = False
        for step in steps:
            if step.key in self.at_work or not _ready(run, step):
                continue
            unknown = step.key not in self.looked_for
            self.looked_for.add(step.key)
            if unknown and run.settled(step):
                begun = True
            elif self._is_for_workers(step) and len(self.at_work) < self.workers.slots:
                run.listener.begins(step, smoke=False)
                handle = self.workers.start(self._job(run, step), run.directory / jobs.FOLDER)
                self.at_work[step.key] = AtWork(step, handle, _Tail(jobs.progress_path(self._job(run, step))))
                begun = True
        return begun

    def _collect(self, run: Run) -> bool:
        """Pass on the progress of jobs, and take up the results of those that ended; whether any did."""
        ended = False
        for key, work in list(self.at_work.items()):
            work.tell(run.listener)
            outcome = work.handle.outcome()
            if outcome is None:
                continue
            ended = True
            del self.at_work[key]
            work.tell(run.listener)
            if outcome.code == 0:
                run.made_elsewhere(work.step, time.monotonic() - work.begun_s)
            else:
                self._failed(run, work, outcome)
        return ended

    def _failed(self, run: Run, work: AtWork, outcome: Outcome) -> None:
        """The error of a job, as it would have been here."""
        kinds: dict[int, type[CompressError]] = {2: RecipeError, 3: ArtifactError}
        if outcome.code in kinds:
            raise kinds[outcome.code](outcome.message)
        if outcome.code == 4:
            run.failed(work.step, (ResourceError if outcome.resource else StageError)(outcome.message))
            run.listener.ended(work.step, False, time.monotonic() - work.begun_s, outcome.message)
            return
        if outcome.code in (130, 143):
            raise Interrupted(f"the job of stage '{work.step.name}' was stopped; the same command goes on from its last save")
        raise RuntimeError(f"stage '{work.step.name}', in a process of its own:\n{outcome.message}")

    def _one_here(self, run: Run, steps: list[Step]) -> bool:
        """Make one step in this process; whether there was one that may be made now."""
        busy = bool(self.at_work) and self.workers.here
        for step in steps:
            if step.key in self.at_work or self._is_for_workers(step) or not _ready(run, step):
                continue
            if not (step.stage.timed and busy):
                run.advance(step)
                return True
        return False

    def _is_for_workers(self, step: Step) -> bool:
        return step.stage.long and not step.stage.timed

    def _job(self, run: Run, step: Step) -> Job:
        return Job(
            recipe=self.recipe.resolve(),
            overrides=self.overrides,
            within=self.within,
            plugins=tuple(path.resolve() for path in self.plugins),
            directory=run.directory.resolve(),
            store=run.store.name,
            key=step.key,
            name=step.name,
            threads=run.plan.recipe.threads,
            forced=step.key in run.forced_keys,
            repair=run.repair,
        )

    def _stop(self) -> None:
        """Ask the jobs to save and end, and wait for those of this machine."""
        for work in self.at_work.values():
            work.handle.stop()
        deadline = time.monotonic() + (FAREWELL_S if self.workers.here else 0.0)
        while time.monotonic() < deadline and not all(work.handle.outcome() for work in self.at_work.values()):
            time.sleep(POLL_S)


@dataclass
class AtWork:
    """A step that a worker makes."""

    step: Step
    handle: Handle
    reports: _Tail
    begun_s: float = field(default_factory=time.monotonic)

    def tell(self, listener: Listener) -> None:
        """What it reported since the last time."""
        for report in self.reports.read():
            listener.progress(self.step, report)


class _Tail:
    """The lines that another process appends to a file, each once."""

    def __init__(self, path: Path):
        durable.require_file(path)
        path.unlink(missing_ok=True)
        self.path, self.position = path, 0

    def read(self) -> list[Progress]:
        try:
            with self.path.open("rb") as file:
                file.seek(self.position)
                *lines, rest = file.read().split(b"\n")
                self.position = file.tell() - len(rest)
        except FileNotFoundError:
            return []
        return [Progress(**json.loads(line)) for line in lines]


def _ready(run: Run, step: Step) -> bool:
    return all(source.key in run.artifacts or source.key in run.problems for source in step.sources)
