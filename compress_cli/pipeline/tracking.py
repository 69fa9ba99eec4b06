"""Tracking: a run's progress and its report, passed on to the recipe's trackers.

A tracker that can't be reached when the run begins stops it before any work is done. One that is lost later is said so and left
behind: no figure of a tracker is worth a training.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from compress_cli.errors import CompressError, Interrupted, RecipeError, StageError
from compress_cli.fault import plugins_raise
from compress_cli.pipeline.executor import Listener
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.step import Step
from compress_cli.pipeline.trackers import Ending, TrackedRun, Tracking
from compress_cli.progress import TRAINING_FIGURES, Progress
from compress_cli.report import Report, Row
from compress_cli.store import disk, durable
from compress_cli.store.seal import REPORTS

IDENTITIES = "tracking.json"  # in the run's folder until the run is done: under which an interrupted run goes on


class Tracked:
    """A listener that tells another one everything, and the recipe's trackers what they show."""

    def __init__(self, plan: Plan, directory: Path, listener: Listener):
        self.plan, self.directory, self.listener = plan, directory, listener
        self.trackings: dict[int, Tracking] = {}  # by the tracker's place in the recipe

    def __enter__(self) -> Tracked:
        if not self.plan.recipe.tracking:
            return self
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk.unwritable(error, self.directory, "; choose another folder with --output") from None
        identities = self._remembered()
        recipe = self.plan.recipe
        settings = dict(_flat({name: value for name, value in recipe.written().items() if name != "tracking"}))
        for place, tracker in enumerate(recipe.tracking):
            identity = identities.get(f"{place} {tracker.type}", "")
            run = TrackedRun(recipe.name, self.directory, settings, identity)
            try:
                with plugins_raise(StageError):
                    self.trackings[place] = tracker.open(run)
            except (CompressError, OSError) as error:
                self._end("failed")
                kind = RecipeError if isinstance(error, RecipeError) else StageError
                raise kind(recipe.complaint(("tracking", place), str(error))) from error
        kept = {f"{place} {self._type(place)}": tracking.identity for place, tracking in self.trackings.items()}
        durable.write(self.directory / IDENTITIES, json.dumps(kept, indent=1).encode())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        stopped = isinstance(error, Interrupted | KeyboardInterrupt)
        self._end("interrupted" if stopped else "failed" if error else "finished")
        if error is None:
            (self.directory / IDENTITIES).unlink(missing_ok=True)

    def begins(self, step: Step, smoke: bool) -> None:
        self.listener.begins(step, smoke)

    def progress(self, step: Step, progress: Progress) -> None:
        self.listener.progress(step, progress)
        if progress.epoch_ended:
            figures = {name if name in TRAINING_FIGURES else f"val/{name}": value for name, value in progress.figures.items()}
            self._tell(step, lambda tracking: tracking.epoch(step.name, progress.epoch, figures))

    def ended(self, step: Step, cached: bool, seconds: float, problem: str) -> None:
        self.listener.ended(step, cached, seconds, problem)

    def results(self, report: Report) -> None:
        """Pass on the figures of the report, and its files, which are written by now."""
        models = {row.name: _figures(row, report.split) for row in report.rows}
        gates = {f"{result.promise} ({result.row})": result.outcome for result in report.gates}
        files = [self.directory / name for name in REPORTS if (self.directory / name).is_file()]
        self._tell(self.plan.steps[-1], lambda tracking: tracking.results(models, gates, files))

    def _tell(self, step: Step, call: Callable[[Tracking], None]) -> None:
        """Each tracker; one that fails is left behind, and the user is told."""
        for place, tracking in list(self.trackings.items()):
            try:
                with plugins_raise(StageError):
                    call(tracking)
            except (CompressError, OSError) as error:
                del self.trackings[place]
                note = f"{error}; nothing more is sent to tracker '{self._type(place)}'"
                self.listener.progress(step, Progress("track", 0, 0, note=note))

    def _end(self, ending: Ending) -> None:
        self._tell(self.plan.steps[-1], lambda tracking: tracking.close(ending))
        self.trackings = {}

    def _type(self, place: int) -> str:
        return self.plan.recipe.tracking[place].type

    def _remembered(self) -> dict[str, str]:
        """Tracker -> identity, of an interrupted run in this folder."""
        path = self.directory / IDENTITIES
        durable.require_file(path)
        try:
            return dict(json.loads(path.read_bytes())) if path.is_file() else {}
        except (ValueError, TypeError):
            return {}  # a crash while it was written: the run is shown as a new one


def _figures(row: Row, split: str) -> dict[str, float]:
    """What the report says of a model, by the gates' names; metrics as `test/accuracy`."""
    known = {
        "size_bytes": row.size_bytes,
        "compression_ratio": row.compression_ratio,
        "parameters": row.parameters,
        "macs": row.macs,
        "latency_ms": row.latency.p50_ms.value if row.latency else None,
        "speedup": row.speedup.value if row.speedup else None,
    }
    metrics = {f"{split}/{name}": estimate.value for name, estimate in row.metrics.items()}
    return metrics | {name: float(value) for name, value in known.items() if value is not None}


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`{"stages": [{"ratio": 0.5}]}` as `stages.0.ratio`, 0.5."""
    if isinstance(value, dict | list) and value:
        for key, entry in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _flat(entry, f"{path}.{key}" if path else str(key))
    else:
        yield path, value
