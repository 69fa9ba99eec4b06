"""Execute a plan: skip what is up to date, run the rest, commit whole artifacts, leave a record for the report."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import yaml

from compress_cli import artifact
from compress_cli.artifact import Artifact, Comparison, Measurement, Source
from compress_cli.context import Context
from compress_cli.errors import ArtifactError, CompressError, Interrupted, RecipeError, StageError
from compress_cli.plan import Plan, Row, Step
from compress_cli.progress import Progress
from compress_cli.recipe import Recipe
from compress_cli.record import Record
from compress_cli.record import Row as RecordRow
from compress_cli.store import Store

SMOKE_BATCHES = 2
LIBRARIES = ("torch", "torchao", "torch-pruning", "onnx", "onnxruntime", "onnxscript", "numpy")
LOG, LOCK = "log.jsonl", "recipe.lock.yaml"


class Listener(Protocol):
    """Whoever shows what goes on."""

    def begins(self, step: Step, smoke: bool) -> None: ...
    def progress(self, step: Step, progress: Progress) -> None: ...
    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None: ...


@dataclass(frozen=True)
class Trial:
    """What a smoke run learned of a step: seconds and bytes, projected to the whole stage where it says how."""

    step: Step
    seconds: float
    bytes: int
    memory: int  # the process's peak so far, in bytes


@dataclass
class Run:
    """One execution of a plan."""

    plan: Plan
    store: Store
    directory: Path  # runs/<recipe>
    listener: Listener
    force: frozenset[str] = frozenset()
    artifacts: dict[str, Artifact] = field(default_factory=dict)  # key -> what is there now
    cached: set[str] = field(default_factory=set)  # keys of steps that did not run
    problems: dict[str, str] = field(default_factory=dict)  # keys of measuring steps that could not run -> why
    device: str = field(init=False)

    def __post_init__(self) -> None:
        self.device = device(self.plan.recipe.device)
        if self.plan.recipe.threads:
            torch.set_num_threads(self.plan.recipe.threads)

    def execute(self) -> Record:
        """Run what is not up to date. Errors leave every whole artifact in place."""
        if self.plan.missing_data:
            raise ArtifactError(self.plan.missing_data)
        for name in self.force:
            self.plan.step(name)
        begun = time.monotonic()
        make_folder(self.directory)
        try:
            if any(step.stage.long and self.current(step) is None for step in self.plan.steps):
                smoke(self.plan, self.listener)
            for step in self.plan.steps:
                self._advance(step)
        except KeyboardInterrupt as signal:
            raise Interrupted(f"interrupted; {self._kept()}", signal.args) from None
        self._link()
        rows = [self._row(row) for row in self.plan.rows]
        recipe = self.plan.recipe
        store = os.path.relpath(self.store.root.resolve(), self.directory.resolve())
        record = Record(
            recipe=recipe.name,
            store=store,
            seed=recipe.seed,
            baseline=self.plan.baseline,
            rows=rows,
            wall_time_s=time.monotonic() - begun,
        )
        record.write(self.directory)
        _lock(recipe, self.directory / LOCK)
        return record

    def _advance(self, step: Step) -> None:
        """Make a step's artifact be there, or note why a measuring step can't."""
        missing = [each for each in _sources(step) if each.key in self.problems]
        if missing:
            self.problems[step.key] = self.problems[missing[0].key]
            return
        found = self.current(step)
        if found is not None:
            self.artifacts[step.key] = found
            self.cached.add(step.key)
            self.listener.ended(step, True, 0.0, "")
            return
        self.listener.begins(step, smoke=False)
        begun = time.monotonic()
        try:
            self.artifacts[step.key] = self._make(step)
        except StageError as error:
            if not step.implied:
                raise StageError(f"stage '{step.name}' failed: {error}\n{self._kept()}") from error
            self.problems[step.key] = str(error)
        self.listener.ended(step, False, time.monotonic() - begun, self.problems.get(step.key, ""))

    def current(self, step: Step) -> Artifact | None:
        """The step's artifact if it is whole, unforced, and made of the inputs that are there now.

        ArtifactError where it is there but damaged."""
        if step.name in self.force and not step.implied:
            return None
        found = self.store.get(step.key)
        if found is None:
            return None
        inputs = {role: [self._input(each) for each in steps] for role, steps in step.inputs.items()}
        there = {role: [each for each in sources if each] for role, sources in inputs.items()}
        if there != inputs or {role: _recorded(sources) for role, sources in there.items()} != found.manifest.inputs:
            return None
        found.verify()
        return found

    def _input(self, step: Step) -> Artifact | None:
        return self.artifacts.get(step.key) or self.current(step)

    def _make(self, step: Step) -> Artifact:
        inputs = {role: tuple(self.artifacts[each.key] for each in steps) for role, steps in step.inputs.items()}
        with self.store.working(step.key) as output, (self.directory / LOG).open("a") as log:
            made_elsewhere = None if step.name in self.force else self.current(step)
            if made_elsewhere is not None:  # another run held the lock and finished it
                shutil.rmtree(output)
                return made_elsewhere

            def tell(progress: Progress) -> None:
                self.listener.progress(step, progress)
                if progress.epoch_ended or progress.note:
                    event = {"step": step.name, "epoch": progress.epoch, **progress.figures, "note": progress.note}
                    print(json.dumps(event), file=log, flush=True)

            context = _context(self.plan, step, inputs, output, self.device, self.store.root / ".machine", tell)
            begun = time.monotonic()
            facts = _running(step, context)
            _finish(step, context, facts, time.monotonic() - begun)
            return self.store.commit(step.key)

    def _link(self) -> None:
        """`runs/<recipe>/<stage name>` leads into the store."""
        for step in self.plan.stages:
            link, target = self.directory / step.name, self.artifacts[step.key].directory.resolve()
            fresh = self.directory / f".{step.name}.link"
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(os.path.relpath(target, self.directory.resolve()), target_is_directory=True)
            if link.is_dir() and not link.is_symlink():
                raise ArtifactError(f"{link}: is in the way of the link to stage '{step.name}'; move it elsewhere")
            os.replace(fresh, link)

    def _row(self, row: Row) -> RecordRow:
        def there(step: Step | None) -> str | None:
            return step.key if step and step.key in self.artifacts else None

        return RecordRow(
            name=row.step.name,
            stage=row.step.stage.type,
            key=row.step.key,
            cached=row.step.key in self.cached,
            onnx=there(row.onnx),
            measurement=there(row.measurement),
            comparison=there(row.comparison),
            reason=self.problems.get(row.measurement.key, ""),
        )

    def _kept(self) -> str:
        whole = [step.name for step in self.plan.stages if step.key in self.artifacts]
        kept = f"kept: {', '.join(whole)}" if whole else "no stage was finished before it"
        return f"{kept}; the same command goes on from there"


def smoke(plan: Plan, listener: Listener) -> list[Trial]:
    """Take every stage through two batches on random weights, in a folder that is thrown away.

    What can't work is found in seconds: RecipeError with the stage's line. Returns what it cost, step by step."""
    trials: list[Trial] = []
    with tempfile.TemporaryDirectory(prefix="compress-smoke-") as folder:
        made: dict[str, Artifact] = {}
        for step in plan.steps:
            sources = _sources(step)
            if issubclass(step.kind, Measurement | Comparison) or any(each.key not in made for each in sources):
                continue
            listener.begins(step, smoke=True)
            output = Path(folder, step.key)
            output.mkdir()
            inputs = {role: tuple(made[each.key] for each in steps) for role, steps in step.inputs.items()}
            context = _context(
                plan, step, inputs, output, device(plan.recipe.device), Path(folder), lambda progress: None, SMOKE_BATCHES
            )
            begun = time.monotonic()
            try:
                facts = _running(step, context)
            except StageError as error:
                if step.implied:
                    listener.ended(step, False, time.monotonic() - begun, str(error))
                    continue
                reason = f"stage '{step.name}' can't work (tried on {SMOKE_BATCHES} batches): {error}"
                raise RecipeError(plan.recipe.complaint(step.loc, reason)) from error
            except RecipeError as error:
                raise RecipeError(plan.recipe.complaint(step.loc, str(error))) from error
            seconds = time.monotonic() - begun
            _finish(step, context, facts, seconds)
            whole = artifact.read(output)
            assert whole is not None
            made[step.key] = whole
            projected = seconds + max(0, facts.get("planned_steps", 0) - SMOKE_BATCHES) * facts.get("seconds_per_step", 0.0)
            size = sum(each.bytes for each in whole.manifest.files.values())
            trials.append(Trial(step, projected, size, _peak_memory()))
            listener.ended(step, False, seconds, "")
    return trials


def device(wanted: str) -> str:
    """The device a recipe means; RecipeError for a GPU that is not there."""
    there = torch.cuda.is_available()
    if wanted == "auto":
        return "cuda" if there else "cpu"
    if wanted.startswith("cuda") and not there:
        raise RecipeError(f"device '{wanted}': PyTorch sees no CUDA device here; use 'cpu' or 'auto'")
    return wanted


def make_folder(directory: Path) -> None:
    """ArtifactError where the run's folder can't be made or written."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / LOG).touch()
    except OSError as error:
        raise ArtifactError(f"{directory}: can't be written ({error.strerror}); choose another folder with --output") from None


def _context(
    plan: Plan,
    step: Step,
    inputs: dict[str, tuple[Artifact, ...]],
    output: Path,
    where: str,
    memory: Path,
    log: Any,
    limit: int | None = None,
) -> Context:
    recipe = plan.recipe
    environment: dict[str, Any] = {
        "device": where,
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    return Context(
        inputs=inputs,
        output=output,
        dataset=recipe.dataset,
        task=recipe.task,
        device=where,
        seed=recipe.seed,
        log=log,
        key=step.key,
        memory=memory,
        limit=limit,
        splits=step.stage.splits,
        environment=environment,
    )


def _running(step: Step, context: Context) -> dict[str, Any]:
    """The stage's facts; running out of memory is the user's to mend, not a bug."""
    try:
        return step.stage.run(context)
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise StageError(
            f"out of memory ({str(error).splitlines()[0] if str(error) else 'no more to be had'}); use a smaller batch"
        ) from error
    except OSError as error:
        if isinstance(error, CompressError) or error.errno is None:
            raise
        raise StageError(f"{error.filename or context.output}: {error.strerror}") from error


def _finish(step: Step, context: Context, facts: dict[str, Any], seconds: float) -> None:
    inputs = {
        role: [Source(key=each.manifest.key, digest=each.digest) for each in sources]
        for role, sources in context.inputs.items()
    }
    artifact.write_manifest(
        context.output,
        step.kind,
        step.key,
        step.stage.model_dump(mode="json"),
        facts,
        inputs,
        {**context.environment, "peak_memory_bytes": _peak_memory()},
        seconds,
    )


def _lock(recipe: Recipe, path: Path) -> None:
    """Write the recipe as it was understood: every default filled in, overrides applied, paths absolute."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: plain(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [plain(each) for each in value]
        return str(value.absolute()) if isinstance(value, Path) else value

    libraries = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES)
    header = f"# {recipe.path.name} as it was run, with {libraries}\n"
    path.write_text(header + yaml.safe_dump(plain(recipe.model_dump()), sort_keys=False, allow_unicode=True))


def _peak_memory() -> int:
    """Of the process so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _recorded(sources: Sequence[Artifact]) -> list[Source]:
    return [Source(key=each.manifest.key, digest=each.digest) for each in sources]


def _sources(step: Step) -> Sequence[Step]:
    return [each for steps in step.inputs.values() for each in steps]
