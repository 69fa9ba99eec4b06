"""Time a model, against a baseline where there is one."""

from __future__ import annotations

import time
from typing import Any, ClassVar

from pydantic import Field

from compress_cli.context import Context
from compress_cli.data.datasets import SplitName
from compress_cli.measurement import clients, latency, measure, profile, sessions
from compress_cli.measurement.profile import FloatPart
from compress_cli.progress import Progress
from compress_cli.stages import Role, Stage
from compress_cli.store.artifact import Artifact, Comparison, OnnxModel

FEWEST = 3  # runs of a profile


class Compare(Stage):
    """Time a model file against a baseline, in turn within one run: latency, speed-up with interval, verdict.

    A run compares each of its models with the recipe's baseline by itself. Without a baseline a model is timed alone.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "baseline": Role((OnnxModel,), previous=False, optional=True),
        "start": Role((OnnxModel,)),
    }
    shared: ClassVar[dict[str, int]] = {"latency": latency.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("test",)
    task_dependent: ClassVar[bool] = False
    version: ClassVar[int] = 2  # what computes in float beside integers, and its share of the time

    baseline: str | None = Field(None, description="the stage whose model is the measure of the other")
    start: str | None = Field(None, description="the stage whose model is timed; default: the one before")
    conditions: latency.TimingConditions = Field(latency.TimingConditions(), description="on what, how and how long")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Comparison

    def depends(self) -> dict[str, Any]:
        return dict(sessions.machine())

    @property
    def timed(self) -> bool:
        return True

    def run(self, context: Context) -> dict[str, Any]:
        how = self.conditions
        split = context.split("test", how.batch)
        models = [context.inputs[role][0] for role in ("start", "baseline") if context.inputs.get(role)]
        opened = [sessions.open_stored(model, how.threads, how.session) for model in models]
        feeds = [measure.sample(session, split, how.batch) for session in opened]
        model, speedup = opened[0], None

        def report(done: int, total: int) -> None:
            context.log(Progress("time in turn", done, total))

        if len(opened) > 1:
            speedup = latency.compare(opened[1], model, (feeds[1], feeds[0]), how.seconds, context.seed, how.caches, report)
        timing = measure.Timing(
            machine=sessions.machine(),
            session=how.session,
            latency=speedup.model if speedup else latency.latency(model, feeds[0], how.seconds, how.caches, report),
            load=clients.load(model, feeds[0], how.concurrency, how.seconds) if how.concurrency > 1 else None,
            speedup=speedup,
            floating=self._floating(model, feeds[0], context),
        )
        (context.output / measure.COMPARISON).write_text(timing.model_dump_json(indent=1) + "\n")
        if speedup is None:
            return {"latency_ms": timing.latency.p50_ms.value}
        return {"speedup": speedup.speedup.value, "verdict": speedup.verdict}

    def _floating(self, model: sessions.Session, feeds: sessions.Feeds, context: Context) -> list[FloatPart] | None:
        """None of a file without integers. A profile takes as long as the timing at most."""
        if context.limit is not None or not profile.has_integers(model.path):
            return None
        begin = time.perf_counter()
        model.run(feeds)
        runs = int(self.conditions.seconds / max(time.perf_counter() - begin, 1e-9))
        how = self.conditions
        return profile.profile(model.path, feeds, how.threads, how.session, min(max(runs, FEWEST), profile.RUNS)).floating
