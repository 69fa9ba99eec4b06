"""Execute a plan: skip what is up to date, run the rest, commit whole artifacts, leave a record for the report."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from compress_cli import stopping
from compress_cli.errors import ArtifactError, Interrupted, ResourceError, StageError
from compress_cli.pipeline import attempt as attempts
from compress_cli.pipeline import estimate, executor, lock
from compress_cli.pipeline.attempt import Attempt
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.smoke import smoke
from compress_cli.pipeline.step import ModelSteps, Step
from compress_cli.progress import Progress
from compress_cli.store import disk, durable, run_index, seal
from compress_cli.store.artifact import REMEDY, Artifact, Table, UnreadableError
from compress_cli.store.record import ModelRecord, Record, TableRecord
from compress_cli.store.saves import Saves
from compress_cli.store.store import Store

LOG = "log.jsonl"
MEMORY = ".machine"  # in the store: choices made once per machine


@dataclass
class Run:
    """One execution of a plan."""

    plan: Plan
    store: Store
    directory: Path  # runs/<recipe>
    listener: Listener
    force: frozenset[str] = frozenset()
    repair: bool = False  # what is damaged is made anew, instead of stopping there
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # key -> what is there now
    cached: set[str] = field(default_factory=set)  # keys of steps that did not run
    damaged: dict[str, str] = field(default_factory=dict)  # keys of steps whose artifact was not whole -> what was found
    problems: dict[str, str] = field(default_factory=dict)  # keys of measuring steps that could not run -> why
    at_work: tuple[Step, Saves] | None = None  # the last step that was begun

    def execute(self) -> Record:
        """Run what is not up to date. Errors leave every whole artifact in place."""
        recipe = self.plan.recipe
        if self.plan.missing_data:
            raise ArtifactError(self.plan.missing_data)
        self._forced()
        executor.device(recipe.device)
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        begun = time.monotonic()
        _writable(self.directory)
        durable.require_folder(self.store.root / MEMORY)
        stopping.explain(lambda: f"interrupted; {self._kept()}")
        try:
            run_index.enter(self.store, self.directory, [step.key for step in self.plan.steps])
            there = {step.key: found for step in self.plan.steps if (found := self.current(step))}
            for step in self.plan.steps:
                for line in self.damaged.get(step.key, "").splitlines():
                    self.listener.progress(step, Progress("repair", 0, 0, note=f"damaged: {line.removesuffix(f'; {REMEDY}')}"))
            if any(step.stage.long and step.key not in there for step in self.plan.steps):
                trials = smoke(self.plan, self.listener, there)
                needed = estimate.disk_needed((step for step in self.plan.steps if step.key not in there), self.store, trials)
                disk.require(needed, self.store.root)
            for step in self.plan.steps:
                self._advance(step)
        except KeyboardInterrupt as stop:
            raise Interrupted(f"interrupted; {self._kept()}", stop.args) from None
        except OSError as error:
            lack = disk.lack(error, self.store.root)
            if lack is None:
                raise
            raise ResourceError(f"{lack}\n{self._kept()}") from error
        record = Record(
            recipe=recipe.name,
            store=os.path.relpath(self.store.root.resolve(), self.directory.resolve()),
            seed=recipe.seed,
            baseline=self.plan.baseline,
            primary=recipe.task.primary,
            better=recipe.task.better,
            tasks=tuple(f"{name}_{each.primary}" for name, each in recipe.task.parts.items() if name),
            rows=[self._row(row) for row in self.plan.rows],
            tables=[
                TableRecord(name=step.name, stage=step.stage.type, key=step.key)
                for step in self.plan.stages
                if issubclass(step.kind, Table)
            ],
            variants=[self._row(row) for row in self.plan.variants],
            steps={step.name: step.key for step in self._named() if step.key in self.artifacts},
            gates=self.plan.gates,
            wall_time_s=time.monotonic() - begun,
        )
        seal.unseal(self.directory)
        record.write(self.directory)
        lock.write(recipe, self.directory)
        seal.seal(self.directory, {step.name: step.key for step in self._linked() if step.key in self.artifacts})
        return record

    def current(self, step: Step) -> Artifact | None:
        """The step's artifact if it is whole, unforced, and made of the inputs that are there now.

        ArtifactError where it is there but damaged; in a repair it counts as not there.
        """
        if step.key in self._forced():
            return None
        try:
            return self._whole(step)
        except ArtifactError as error:
            if not self.repair or isinstance(error, UnreadableError):
                raise
            self.damaged.setdefault(step.key, str(error))
            return None

    def _whole(self, step: Step) -> Artifact | None:
        found = self.store.get(step.key)
        if found is None:
            return None
        inputs = {role: [self._input(each) for each in steps] for role, steps in step.inputs.items()}
        there = {role: [each for each in sources if each] for role, sources in inputs.items()}
        if there != inputs or {role: executor.recorded(sources) for role, sources in there.items()} != found.manifest.inputs:
            return None
        found.verify()
        return found

    def _forced(self) -> set[str]:
        """Keys, since two stages, or a stage and an implied step, may be one step; RecipeError for an unknown stage."""
        names = {self.plan.step(name).name for name in self.force}
        return {step.key for step in (*self.plan.stages, *self.plan.repeated) if (step.variant_of or step.name) in names}

    def _input(self, step: Step) -> Artifact | None:
        return self.artifacts.get(step.key) or self.current(step)

    def _advance(self, step: Step) -> None:
        """Make a step's artifact be there, or note why a measuring step can't."""
        missing = [each for each in step.sources if each.key in self.problems]
        if missing:
            self.problems[step.key] = self.problems[missing[0].key]
            return
        found = self.current(step)
        if found is not None:
            self.artifacts[step.key] = found
            self.cached.add(step.key)
            self._link(step)
            self.listener.ended(step, True, 0.0, "")
            return
        self.listener.begins(step, smoke=False)
        self.at_work = None
        begun = time.monotonic()
        try:
            self.artifacts[step.key] = self._make(step)
            self._link(step)
        except StageError as error:
            if step.key in self.plan.needed or isinstance(error, ResourceError):
                raise StageError(f"stage '{step.name}' failed: {error}\n{self._kept()}") from error
            self.problems[step.key] = str(error)
        self.listener.ended(step, step.key in self.cached, time.monotonic() - begun, self.problems.get(step.key, ""))

    def _make(self, step: Step) -> Artifact:
        inputs = {role: tuple(self.artifacts[each.key] for each in steps) for role, steps in step.inputs.items()}

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
                self.at_work = step, Saves(saved, self.plan.recipe.save, say)
                with executor.threads(attempt.threads):
                    executor.perform(self.plan, step, inputs, output, self.store.root / MEMORY, tell, self.at_work[1])
            return self.store.commit(step.key)

    def _attempt(self, step: Step, inputs: executor.Inputs) -> Attempt:
        return Attempt(
            forced=step.key in self._forced(),
            inputs={role: executor.recorded(sources) for role, sources in inputs.items()},
            device=executor.named(executor.device(self.plan.recipe.device)),
            libraries=executor.libraries(),
            threads=torch.get_num_threads(),
        )

    def _link(self, made: Step) -> None:
        """`runs/<recipe>/<stage name>` leads into the store; equal stages share what was made."""
        for step in (step for step in self._linked() if step.key == made.key):
            seal.link(self.directory / step.name, self.artifacts[step.key].directory)

    def _linked(self) -> list[Step]:
        """Steps that have a link of their name in the run's folder."""
        return [*self.plan.stages, *self.plan.repeated, *(row.step for row in self.plan.variants)]

    def _named(self) -> list[Step]:
        """Every step once for each name it goes by: equal stages share a key."""
        return [*self.plan.stages, *self.plan.steps]

    def _row(self, row: ModelSteps) -> ModelRecord:
        def there(step: Step | None) -> str | None:
            return step.key if step and step.key in self.artifacts else None

        return ModelRecord(
            name=row.step.name,
            stage=row.step.stage.type,
            key=row.step.key,
            cached=row.step.key in self.cached,
            onnx=there(row.onnx),
            measurement=there(row.measurement),
            comparison=there(row.comparison),
            predictions=there(row.predictions),
            reason=self.problems.get(row.measurement.key, ""),
            seed=row.step.seed,
            variant_of=row.step.variant_of,
            variant=row.step.variant,
            teachers=tuple(each.name for each in row.step.inputs.get("teacher", ())),
        )

    def _kept(self) -> str:
        whole = [step.name for step in self.plan.stages if step.key in self.artifacts]
        kept = f"kept: {', '.join(whole)}" if whole else "no stage was finished before it"
        if self.at_work and self.at_work[1].place:
            kept += f", and '{self.at_work[0].name}' up to {self.at_work[1].place}"
        return f"{kept}; the same command goes on from there"


def _writable(directory: Path) -> None:
    """ArtifactError where the run's folder can't be made or written."""
    durable.require_file(directory / LOG)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / LOG).touch()
    except OSError as error:
        raise ArtifactError(f"{directory}: can't be written ({error.strerror}); choose another folder with --output") from None
