"""Measure a model file on a split."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
import onnxruntime
from pydantic import Field

from compress_cli import graph, measure, runtime
from compress_cli.artifact import Artifact, Measurement, OnnxModel
from compress_cli.context import Context
from compress_cli.datasets import SplitName
from compress_cli.stages import Role, Stage


class Measure(Stage):
    """Measure a model file on a split: the task's metrics with intervals, parameters, multiply-accumulates, bytes.

    A run measures each of its models on the test split by itself; write this stage for the val split.
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((OnnxModel,))}
    shared: ClassVar[dict[str, int]] = {"measure": measure.VERSION, "graph": graph.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("val", "test")
    seeded: ClassVar[bool] = False

    start: str | None = Field(None, description="the stage whose model is measured; default: the one before")
    split: Literal["test", "val"] = Field("test", description="the samples to measure on")
    batch: int = Field(128, ge=1, description="samples in one run; the result does not depend on it")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Measurement

    def depends(self) -> dict[str, Any]:
        return {"onnxruntime": onnxruntime.__version__}

    def run(self, context: Context) -> dict[str, Any]:
        path = context.inputs["start"][0].file("model.onnx")
        split = context.split(self.split, self.batch)
        result = measure.evaluate(runtime.open_session(path), split, context.task, self.batch, context.log, context.saves)
        figures = measure.Figures(
            split=self.split,
            samples=len(split),
            primary=context.task.primary,
            metrics=result.metrics,
            contents=graph.contents(path),
        )
        (context.output / measure.MEASUREMENT).write_text(figures.model_dump_json(indent=1) + "\n")
        heads = {f"head.{name}": each for name, each in result.heads.items()}
        arrays: dict[str, Any] = {"index": result.index, "correct": result.correct, **heads}
        np.savez_compressed(context.output / measure.PREDICTIONS, **arrays)
        return {name: estimate.value for name, estimate in result.metrics.items()}
