"""Execute a plan: skip what is up to date, run the rest, commit whole artifacts, leave a record for the report."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path

import torch

from compress_cli import stopping
from compress_cli.errors import ArtifactError, Interrupted, ResourceError, StageError
from compress_cli.measurement import sessions
from compress_cli.pipeline import attempt as attempts
from compress_cli.pipeline import executor, lock, overlaps, smoke, summary
from compress_cli.pipeline.attempt import Attempt
from compress_cli.pipeline.estimate import MEMORY, Estimates
from compress_cli.pipeline.executor import Listener, Workspace
from compress_cli.pipeline.paces import Paces
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.schedule import Schedule
from compress_cli.pipeline.step import Step
from compress_cli.pipeline.summary import Outcome
from compress_cli.progress import Progress
from compress_cli.store import disk, durable, run_index, seal
from compress_cli.store.artifact import REMEDY, Artifact, Source, UnreadableError
from compress_cli.store.record import LOCK, RECORD, Record
from compress_cli.store.saves import Saves
from compress_cli.store.store import Store

LOG = "log.jsonl"
FILES = (LOG, RECORD, LOCK, "fitted.json", "report.json", "report.md", "report.html")
"""The files that a run writes into its folder; links come in addition."""


@dataclass
class Run:
    """One execution of a plan."""

    plan: Plan
    store: Store
    directory: Path  # runs/<recipe>
    listener: Listener
    force: frozenset[str] = frozenset()
    repair: bool = False  # make damaged artifacts again, instead of raising an error
    schedule: Schedule = field(default_factory=Schedule)
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # key -> the stored artifact
    cached: set[str] = field(default_factory=set)  # keys of steps that did not run
    damaged: dict[str, str] = field(default_factory=dict)  # keys of steps whose artifact was not whole -> what was found
    problems: dict[str, str] = field(default_factory=dict)  # keys of measuring steps that could not run -> why
    at_work: tuple[Step, Saves] | None = None  # the last step that was begun

    def execute(self) -> Record:
        """Run the steps that are not up to date. An error, or Paused, leaves every complete artifact in place."""
        self.check()
        begun = time.monotonic()
        with self._explained():
            run_index.enter(self.store, self.directory, [step.key for step in self.plan.steps])
            self._rehearse()
            doubts = overlaps.told(self.plan, self.store.root / MEMORY, self.listener)
            self.schedule.advance(self)
        store = os.path.relpath(self.store.root.resolve(), self.directory.resolve())
        outcome = Outcome(self.artifacts, self.cached, self.problems)
        record = summary.record(self.plan, outcome, store, time.monotonic() - begun, doubts)
        seal.unseal(self.directory)
        record.write(self.directory)
        lock.write(self.plan.recipe, self.directory)
        seal.seal(self.directory, {step.name: step.key for step in self._linked() if step.key in self.artifacts})
        return record

    def check(self) -> None:
        """Refuse what would fail later: absent data, a stage or a device that there is not, a folder that can't be written."""
        if self.plan.missing_data:
            raise ArtifactError(self.plan.missing_data)
        _ = self.forced_keys  # refuses the name of a stage that there is not
        executor.device(self.plan.recipe.device)
        if self.plan.recipe.threads:
            torch.set_num_threads(self.plan.recipe.threads)
        for step in self._linked():
            if os.path.lexists(link := self.directory / step.name) and not link.is_symlink():
                kind = durable.kind_of(link)
                raise ArtifactError(f"{link}: is a {kind}, in the way of the link to stage '{step.name}'; move it elsewhere")
        _writable(self.directory)
        durable.require_folder(self.store.root / MEMORY)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Interrupts, and errors of the system that the user can fix, report which results are saved."""
        stopping.explain(lambda: f"interrupted; {self._kept()}")
        try:
            yield
        except KeyboardInterrupt as stop:
            raise Interrupted(f"interrupted; {self._kept()}", stop.args) from None
        except OSError as error:
            lack = disk.lack(error, self.store.root)
            if lack is None:
                raise
            raise ResourceError(f"{lack}\n{self._kept()}") from error

    def _rehearse(self) -> None:
        """Before the first long stage: try every stage on two batches, and ask for the disk space that the run needs."""
        present = {step.key: artifact for step in self.plan.steps if (artifact := self.current(step))}
        for step in self.plan.steps:
            for line in self.damaged.get(step.key, "").splitlines():
                self.listener.progress(step, Progress("repair", 0, 0, note=f"damaged: {line.removesuffix(f'; {REMEDY}')}"))
        missing = [step for step in self.plan.steps if step.key not in present]
        if any(step.stage.long for step in missing):
            trials = smoke.rehearse(self.plan, self.listener, present, self.store.root / MEMORY)
            disk.require(Estimates(self.plan.recipe, self.store, trials).disk_needed(missing), self.store.root)

    def current(self, step: Step) -> Artifact | None:
        """The step's artifact if it is whole, unforced, and made of the inputs that are there now.

        ArtifactError where it is there but damaged; in a repair it counts as not there.
        """
        if step.key in self.forced_keys:
            return None
        try:
            return self._whole(step)
        except ArtifactError as error:
            if not self.repair or isinstance(error, UnreadableError):
                raise
            self.damaged.setdefault(step.key, str(error))
            return None

    def _whole(self, step: Step) -> Artifact | None:
        artifact = self.store.get(step.key)
        if artifact is None:
            return None
        inputs: dict[str, list[Source]] = {}
        for role, steps in step.inputs.items():
            sources = [source for source in map(self._input, steps) if source]
            if len(sources) < len(steps):
                return None
            inputs[role] = executor.recorded(sources)
        if inputs != artifact.manifest.inputs:
            return None
        artifact.verify()
        return artifact

    @cached_property
    def forced_keys(self) -> set[str]:
        """Keys, since two stages, or a stage and an implied step, may be one step; RecipeError for an unknown stage."""
        names = {self.plan.step(name).name for name in self.force}
        return {step.key for step in (*self.plan.stages, *self.plan.repeated) if (step.variant_of or step.name) in names}

    def _input(self, step: Step) -> Artifact | None:
        return self.artifacts.get(step.key) or self.current(step)

    def make_one(self, step: Step) -> None:
        """Make one step of the plan, whose inputs are there: what a job of `execute` does in a process of its own."""
        self.check()
        with self._explained():
            for source in step.sources:
                artifact = self._whole(source)
                if artifact is None:
                    raise ArtifactError(f"stage '{step.name}' needs '{source.name}', which is no longer in the store")
                self.artifacts[source.key] = artifact
            if self.current(step) is None:
                self._make(step)

    def settled(self, step: Step) -> bool:
        """Whether nothing is left to do for a step: it is up to date, or can't be made since another failed."""
        if step.key in self.artifacts or step.key in self.problems:
            return True
        missing = [source for source in step.sources if source.key in self.problems]
        if missing:
            self.problems[step.key] = self.problems[missing[0].key]
            return True
        artifact = self.current(step)
        if artifact is None:
            return False
        self.artifacts[step.key] = artifact
        self.cached.add(step.key)
        self._link(step)
        self.listener.ended(step, True, 0.0, "")
        return True

    def advance(self, step: Step) -> None:
        """Make a step's artifact be there, or note why a measuring step can't."""
        if self.settled(step):
            return
        self.listener.begins(step, smoke=False)
        self.at_work = None
        begun = time.monotonic()
        try:
            self.artifacts[step.key] = self._make(step)
            self._link(step)
        except StageError as error:
            self.failed(step, error)
        self.listener.ended(step, step.key in self.cached, time.monotonic() - begun, self.problems.get(step.key, ""))

    def made_elsewhere(self, step: Step, seconds: float) -> None:
        """Take up the artifact that a job made."""
        artifact = self._whole(step)
        if artifact is None:
            raise StageError(
                f"stage '{step.name}' was made elsewhere, but is not in {self.store.root}; do both see the same files?"
            )
        self.artifacts[step.key] = artifact
        self._link(step)
        self.listener.ended(step, False, seconds, "")

    def failed(self, step: Step, error: StageError) -> None:
        """Note that a measuring step can't be made; StageError for another, which ends the run."""
        if step.key in self.plan.needed or isinstance(error, ResourceError):
            raise StageError(f"stage '{step.name}' failed: {error}\n{self._kept()}") from error
        self.problems[step.key] = str(error)

    def _make(self, step: Step) -> Artifact:
        inputs = {role: tuple(self.artifacts[source.key] for source in steps) for role, steps in step.inputs.items()}

        def waits(holder: str) -> None:
            self.listener.progress(step, Progress("wait", 0, 0, note=f"waits for {holder}, which works on it"))

        with self.store.working(step.key, waits) as output, (self.directory / LOG).open("a") as log:
            made_elsewhere = self.current(step)
            if made_elsewhere is not None:  # another run held the lock and finished it
                self.store.leave(step.key)
                self.cached.add(step.key)
                return made_elsewhere

            def tell(progress: Progress) -> None:
                self.listener.progress(step, progress)
                if progress.epoch_ended or progress.note:
                    event = {"step": step.name, "epoch": progress.epoch, **progress.figures, "note": progress.note}
                    print(json.dumps(event), file=log, flush=True)

            def say(note: str) -> None:
                tell(Progress("resume", 0, 1, note=note))

            saved = self.store.saves(step.key)
            attempt = attempts.begin(self._attempt(step, inputs), output, saved, say)
            if not attempt.finished(output):
                with self.schedule.making(step), executor.threads(attempt.threads):
                    hooks = partial(self.schedule.pauses, step), partial(self.store.share, step.key)
                    saves = Saves(saved, self.plan.recipe.save, say, *hooks)
                    self.at_work = step, saves
                    saves.processes = self.schedule.processes(self.plan, step, inputs, attempt.threads, say)
                    workspace = Workspace(output, self.store.root / MEMORY, tell, saves, processes=saves.processes)
                    executor.perform(self.plan.recipe, step, inputs, workspace)
            artifact = self.store.commit(step.key)
            if "processes" not in artifact.manifest.environment:
                self._paces.note_run(step, artifact)
            return artifact

    @cached_property
    def _paces(self) -> Paces:
        """Where it is noted what steps took."""
        return Paces(self.store.root / MEMORY, self.plan.recipe)

    def _attempt(self, step: Step, inputs: executor.Inputs) -> Attempt:
        return Attempt(
            processes=self.schedule.count(step),
            forced=step.key in self.forced_keys,
            inputs={role: executor.recorded(sources) for role, sources in inputs.items()},
            device=executor.named(executor.device(self.plan.recipe.device)),
            libraries=executor.libraries(),
            threads=torch.get_num_threads(),
            processor=str(sessions.machine()["processor"]),
        )

    def _link(self, finished: Step) -> None:
        """`runs/<recipe>/<stage name>` leads into the store; equal stages share one artifact."""
        for step in (step for step in self._linked() if step.key == finished.key):
            seal.link(self.directory / step.name, self.artifacts[step.key].directory)

    def _linked(self) -> list[Step]:
        """The steps that get a link in the run's folder."""
        return [*self.plan.stages, *self.plan.repeated, *(row.step for row in self.plan.variants)]

    def _kept(self) -> str:
        whole = [step.name for step in self.plan.stages if step.key in self.artifacts]
        kept = f"kept: {', '.join(whole)}" if whole else "no stage was finished before it"
        if self.at_work and self.at_work[1].progress:
            kept += f", and '{self.at_work[0].name}' up to {self.at_work[1].progress}"
        return f"{kept}; the same command goes on from there"


def _writable(directory: Path) -> None:
    """ArtifactError where the run's folder can't be made or written, or holds something else where a file belongs."""
    for name in FILES:
        durable.require_file(directory / name)
        durable.require_file(durable.partial_path(directory / name))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / LOG).touch()
    except OSError as error:
        raise disk.unwritable(error, directory, "; choose another folder with --output") from None
