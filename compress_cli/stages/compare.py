"""Time a model against a baseline."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import Field

from compress_cli import latency, measure, runtime
from compress_cli.artifact import Artifact, Comparison, OnnxModel
from compress_cli.context import Context
from compress_cli.datasets import SplitName
from compress_cli.stages import Role, Stage


class Compare(Stage):
    """Time a model file against a baseline, in turn within one run: latency, speed-up with interval, verdict.

    A run compares each of its models with the recipe's baseline by itself.
    """

    consumes: ClassVar[dict[str, Role]] = {"baseline": Role((OnnxModel,), previous=False), "start": Role((OnnxModel,))}
    shared: ClassVar[dict[str, int]] = {"latency": latency.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("test",)

    baseline: str | None = Field(None, description="the stage whose model is the measure of the other")
    start: str | None = Field(None, description="the stage whose model is timed; default: the one before")
    batch: int = Field(1, ge=1, description="samples in one run")
    threads: int | None = Field(None, ge=1, description="threads of ONNX Runtime; default: the cores at hand")
    seconds: float = Field(0.7, gt=0, le=600, description="time for the timing; more makes the interval narrower")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Comparison

    def depends(self) -> dict[str, Any]:
        return dict(runtime.machine())

    def run(self, context: Context) -> dict[str, Any]:
        baseline, model = (
            runtime.open_session(context.inputs[role][0].file("model.onnx"), self.threads) for role in ("baseline", "start")
        )
        split = context.split("test", self.batch)
        feeds = (measure.sample(baseline, split, self.batch), measure.sample(model, split, self.batch))
        speedup = latency.compare(baseline, model, feeds, self.seconds, context.seed)
        timing = measure.Timing(machine=runtime.machine(), speedup=speedup)
        (context.output / measure.COMPARISON).write_text(timing.model_dump_json(indent=1) + "\n")
        return {"speedup": speedup.speedup.value, "verdict": speedup.verdict}
