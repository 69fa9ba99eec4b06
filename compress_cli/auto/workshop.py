"""Where candidates are made and tried: recipes of a few stages that share the store with the final one, judged on val."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_cli.auto import text
from compress_cli.auto.request import Request
from compress_cli.errors import CompressError, Interrupted, ResourceError, StageError
from compress_cli.measurement import latency, measure, sessions
from compress_cli.measurement.evaluation import EvaluationRequest, evaluate
from compress_cli.measurement.measure import Result
from compress_cli.pipeline import executor, plan, recipe
from compress_cli.pipeline.estimate import MEMORY
from compress_cli.pipeline.executor import Listener, Workspace
from compress_cli.pipeline.paces import Pace, of_run, of_trial
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.run import Run
from compress_cli.pipeline.step import Step
from compress_cli.report import Report, against
from compress_cli.store import durable
from compress_cli.store.artifact import Artifact
from compress_cli.store.scratch import scratch
from compress_cli.store.store import Store

if TYPE_CHECKING:
    from compress_cli.auto.formats import Format

STEPS = 8  # training steps of a rehearsal: enough that the first, slow one does not decide
TIMED_S = 0.4  # for one comparison of latencies, up to sixteen times as long while it is too noisy to say
GLANCE_S = 0.05  # where no goal is about speed
SPEEDS = ("speedup", "latency", "throughput")
SHARED = ("seed", "device", "threads", "dataset", "task", "measure", "compare")


@dataclass(frozen=True)
class File:
    """A written file, timed beside the given one."""

    size_bytes: int
    speedup: float  # the given file's latency / this one's
    latency_ms: float


@dataclass(frozen=True)
class Rehearsal:
    """Stages taken through a few training steps: their files are those of a real run, but for the values of the weights."""

    files: dict[str, File]  # by format
    epoch_s: float = 0.0  # of the training, val included; 0 where nothing is trained
    table_s: float = 0.0  # of one view of a table of the teacher's outputs; 0 where none is made
    other_s: float = 0.0  # of all that takes as long however long the training is
    problem: str = ""  # why there is no file

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Rehearsal:
        files = {name: File(**figures) for name, figures in document["files"].items()}
        return cls(**{**document, "files": files})


@dataclass
class Workshop:
    """Makes stages in the store and measures files on val."""

    request: Request
    settings: Mapping[str, Any]  # the recipe's fields but its stages and gates
    store: Store
    folder: Path  # of the recipes that were tried, and their runs
    listener: Listener
    known: dict[Path, Result] = field(default_factory=dict)  # files evaluated on val before

    @property
    def timed_s(self) -> float:
        about_speed = any(goal.terms.quantity.startswith(SPEEDS) for goal in self.request.goals)
        return TIMED_S if about_speed else GLANCE_S

    def planned(self, name: str, stages: Sequence[Mapping[str, Any]]) -> Plan:
        """The plan of some stages, which measures nothing: its steps have the keys that they have in the final recipe."""
        document = {**{field: self.settings[field] for field in SHARED if field in self.settings}, "stages": list(stages)}
        path = self.folder / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        durable.write(path, "".join(f"{field}: {text.flow(value)}\n" for field, value in document.items()).encode())
        planned = plan.plan(recipe.load(path))
        return replace(planned, rows=(), variants=(), gates=())

    def make(self, name: str, stages: Sequence[Mapping[str, Any]]) -> dict[str, Artifact]:
        """The artifacts of stages by name, made where the store lacks them, and resumed where they were interrupted."""
        planned = self.planned(name, stages)
        run = Run(planned, self.store, self.folder / name, self.listener, repair=True)
        run.execute()
        return {step.name: run.artifacts[step.key] for step in planned.stages}

    def judged(self, file: Path, given: Path | None) -> Report:
        """A file beside the given one on val, with the goals judged as a run judges them on test; or the given one alone."""
        request = self.request
        asked = EvaluationRequest(
            data=json.dumps(request.dataset.model_dump(mode="json", serialize_as_any=True)),
            task=json.dumps(request.task.model_dump(mode="json", serialize_as_any=True)),
            split="val",
            threads=request.timing.threads,
            latency_batch=request.timing.batch,
            caches=request.timing.caches,
            options=request.timing.session,
            seconds=self.timed_s,
        )
        result = evaluate(file, given, asked, lambda progress: None, self.known)
        return against.report(result, request.goals if given else ())

    def rehearsed(self, name: str, stages: Sequence[Mapping[str, Any]], formats: Sequence[Format], given: Path) -> Rehearsal:
        """Take stages through a few batches in a folder that is thrown away, and measure the files of the last one's model in
        each format that it can have. StageError where the stages themselves can't work, or no format can be had."""
        artifacts: dict[str, Artifact] = {}
        paces: dict[str, Pace] = {}
        files: dict[str, File] = {}
        problems: list[StageError] = []
        with scratch("auto") as folder:
            planned = self.planned(name, stages)
            self._perform(planned, artifacts, paces, folder)
            by_type = {step.stage.type: paces[step.key].each_s for step in planned.steps if step.key in paces}
            trained = paces[planned.stages[-1].key].each_s if planned.stages[-1].key in paces else 0.0
            for choice in formats:
                planned = self.planned(f"{name}_{choice.name}", [*stages, *choice.stages(str(stages[-1]["name"]))])
                try:
                    self._perform(planned, artifacts, paces, folder)
                except ResourceError:
                    raise
                except StageError as error:
                    problems.append(error)
                    continue
                files[choice.name] = self._timed(artifacts[planned.stages[-1].key].file("model.onnx"), given)
        if not files:
            raise problems[0]
        return Rehearsal(files, trained, by_type.get("teacher_table", 0.0), sum(pace.fixed_s for pace in paces.values()))

    def _perform(self, planned: Plan, artifacts: dict[str, Artifact], paces: dict[str, Pace], folder: Path) -> None:
        """Add the artifacts of a plan's steps, each tried on a few batches where it is nowhere, and the paces of those."""
        for step in planned.steps:
            if step.key in artifacts:
                continue
            stored = self.store.get(step.key)
            if stored:
                artifacts[step.key] = stored
                paces[step.key] = of_run(stored.manifest, step.stage).model_copy(update={"fixed_s": 0.0})
                continue
            begun = time.monotonic()
            artifacts[step.key] = self._tried(planned, step, artifacts, folder)
            paces[step.key] = of_trial(artifacts[step.key].manifest, time.monotonic() - begun)

    def _tried(self, planned: Plan, step: Step, artifacts: Mapping[str, Artifact], folder: Path) -> Artifact:
        self.listener.begins(step, smoke=False)
        inputs = {role: tuple(artifacts[source.key] for source in steps) for role, steps in step.inputs.items()}
        output = folder / step.key
        output.mkdir()
        try:
            return executor.perform(planned.recipe, step, inputs, Workspace(output, self.store.root / MEMORY, limit=STEPS))
        except (StageError, ResourceError, Interrupted):
            raise
        except CompressError as error:
            raise StageError(str(error)) from error

    def _timed(self, file: Path, given: Path) -> File:
        timing, val = self.request.timing, self.request.dataset.split("val")
        before, after = (sessions.open_session(path, timing.threads, timing.session) for path in (given, file))
        feeds = (measure.sample(before, val, timing.batch), measure.sample(after, val, timing.batch))
        speedup = latency.compare(before, after, feeds, self.timed_s, 0, timing.caches)
        return File(file.stat().st_size, speedup.speedup.value, speedup.model.p50_ms.value)


def training_facts(artifacts: Iterable[Artifact]) -> dict[str, Any]:
    """The facts of the last artifact that was trained."""
    return [artifact.manifest.facts for artifact in artifacts if "kept_epoch" in artifact.manifest.facts][-1]
