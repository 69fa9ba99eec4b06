"""Run a model file over a split."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import onnxruntime
from pydantic import Field

from compress_cli.context import Context
from compress_cli.data.datasets import SplitName
from compress_cli.measurement import input_range, measure, sessions
from compress_cli.progress import Progress
from compress_cli.stages import Role, Stage
from compress_cli.stages._work import Work
from compress_cli.store.artifact import Artifact, OnnxModel, Predictions


class Predict(Stage):
    """Run a model file over a split and keep its outputs for each sample.

    The stage `measure` implies it. It does not depend on the task: another metric is computed from the stored outputs.
    """

    consumes: ClassVar[dict[str, Role]] = {"start": Role((OnnxModel,))}
    shared: ClassVar[dict[str, int]] = {"measure": measure.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("val", "test")
    seed_dependent: ClassVar[bool] = False
    task_dependent: ClassVar[bool] = False

    start: str | None = Field(None, description="the stage whose model is run; default: the one before")
    split: Literal["test", "val"] = Field("test", description="the samples to run it on")
    conditions: measure.RunConditions = Field(measure.RunConditions(), description="how it is run")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Predictions

    def depends(self) -> dict[str, Any]:
        return {"onnxruntime": onnxruntime.__version__}

    def run(self, context: Context) -> dict[str, Any]:
        how = self.conditions
        split = context.split(self.split, how.batch)
        model = context.inputs["start"][0]
        session = sessions.open_stored(model, how.threads, how.session)
        work = Work()
        with work.over(len(split), len(context.whole(self.split))):
            heads = measure.predict(session, split, how.batch, context.log, context.saves)
        measure.keep(context.output / measure.PREDICTIONS, {"index": split.index}, heads)
        doubt = input_range.warning(session, measure.sample(session, split, input_range.LOOKED_AT))
        if doubt:
            context.log(Progress("measure", len(split), len(split), note=doubt))
        remarks = context.dataset.remarks()
        return {
            "samples": len(split),
            **work.facts(),
            **({"notes": [doubt]} if doubt else {}),
            **({"data": list(remarks)} if remarks else {}),
        }
