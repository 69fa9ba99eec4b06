"""Measure a model file on a split."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from compress_cli.context import Context
from compress_cli.data.datasets import Split, SplitName
from compress_cli.measurement import measure
from compress_cli.onnx_graph import contents
from compress_cli.plugin import find
from compress_cli.stages import Role, Stage
from compress_cli.stages._work import Work
from compress_cli.statistics import charts
from compress_cli.store.artifact import Artifact, Measurement, OnnxModel


class Measure(Stage):
    """Measure a model file on a split: the task's metrics with intervals, parameters, multiply-accumulates, bytes.

    Of a model without the head that the task is about, such as one of several teachers, only its size is measured.
    A run measures each of its models on the test split by itself; write this stage for the val split.
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((OnnxModel,))}
    shared: ClassVar[dict[str, int]] = {"measure": measure.VERSION, "contents": contents.VERSION, "charts": charts.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("val", "test")
    seed_dependent: ClassVar[bool] = False

    start: str | None = Field(None, description="the stage whose model is measured; default: the one before")
    split: Literal["test", "val"] = Field("test", description="the samples to measure on")
    conditions: measure.RunConditions = Field(measure.RunConditions(), description="how it is run")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Measurement

    def needs(self) -> dict[str, Stage]:
        predict = find(Stage, "predict").model_validate({"split": self.split, "conditions": self.conditions})
        assert isinstance(predict, Stage)
        return {"predictions": predict}

    def run(self, context: Context) -> dict[str, Any]:
        split = context.split(self.split, self.conditions.batch)
        heads = measure.kept(context.inputs["predictions"][0].file(measure.PREDICTIONS), split)
        own = {name: values.shape[1:] for name, values in heads.items()}  # a model may have heads that no data propose
        context.task.check_split(context.dataset.signature().offered(own), split)
        split = Split(split.inputs, split.truth(), split.index)  # read once
        reason = measure.lacking(context.task, heads)
        nothing = measure.Result(context.task.primary, {}, {}, {}, np.empty(0))
        work = Work()
        with work.over(len(split), len(context.whole(self.split))):
            result = nothing if reason else measure.judge(heads, split, context.task)
        metrics = result.metrics
        sizes = {name: values.shape for name, values in split.typical(1).inputs.items()}
        figures = measure.Figures(
            split=self.split,
            samples=len(split),
            primary=result.primary,
            metrics=metrics,
            better=result.better,
            shares=result.shares,
            contents=contents.contents(context.inputs["start"][0].file("model.onnx"), sizes),
            reason=reason,
        )
        (context.output / measure.MEASUREMENT).write_text(figures.model_dump_json(indent=1) + "\n")
        measure.keep_result(context.output, result, measure.charts_of(heads, split, context.task, context.dataset.signature()))
        return {**{name: estimate.value for name, estimate in metrics.items()}, **work.facts()}
