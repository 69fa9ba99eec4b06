"""Two models' answers, sample by sample."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError

from compress_cli.context import Context
from compress_cli.data.datasets import Split, SplitName
from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.measurement import measure
from compress_cli.stages import Role, Stage
from compress_cli.statistics import predictions
from compress_cli.store.artifact import Artifact, Comparison, Measurement


class ComparePredictions(Stage):
    """Hold a model's answers against a baseline's: agreement, churn, change of each class, calibration, divergence.

    A run does it for each of its models by itself. Nothing is measured again: it takes what was predicted before. Of inputs
    that are pictures, those that changed sides are kept for the report.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "baseline": Role((Measurement,), previous=False),
        "start": Role((Measurement,)),
    }
    shared: ClassVar[dict[str, int]] = {"predictions": predictions.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("val", "test")
    seed_dependent: ClassVar[bool] = False

    baseline: str | None = Field(None, description="the stage whose measurement the other is held against")
    start: str | None = Field(None, description="the stage whose measurement is judged; default: the one before")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Comparison

    def run(self, context: Context) -> dict[str, Any]:
        before, after = (context.inputs[role][0] for role in ("baseline", "start"))
        figures = [_figures(each) for each in (before, after)]
        if figures[0].split != figures[1].split:
            raise RecipeError("both have to be measured on the same split")
        lacking = [each.reason for each in figures if each.reason]
        if lacking:
            return {"reason": lacking[0]}
        split = context.split(figures[0].split)
        pair = [
            context.task.answers(measure.kept(each.file(measure.PREDICTIONS), split), split.targets) for each in (before, after)
        ]
        if pair[0] is None or pair[1] is None:
            return {"reason": f"the task {context.task.type} names no classes"}
        found = predictions.compare_predictions(
            pair[0], pair[1], split.index, context.task.classes(context.dataset.signature())
        )
        (context.output / measure.PREDICTION_COMPARISON).write_text(found.model_dump_json(indent=1) + "\n")
        rows = predictions.changed_sides(pair[0], pair[1])
        pictures = _pictures(split)
        if pictures is not None and len(rows):
            np.savez_compressed(context.output / measure.PICTURES, index=split.index[rows], images=pictures[rows])
        return {"agreement": found.agreement.value, "churn": found.churn.value}


def _figures(measurement: Artifact) -> measure.Figures:
    path = measurement.file(measure.MEASUREMENT)
    try:
        return measure.Figures.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ArtifactError(f"{path}: is not of this version ({error.errors()[0]['msg']})") from None


def _pictures(split: Split) -> np.ndarray | None:
    """(N, channels, height, width) uint8: the first input that is a picture."""
    return next((each for each in split.inputs.values() if _shows(each)), None)


def _shows(array: np.ndarray) -> bool:
    return array.dtype == np.uint8 and array.ndim == 4 and array.shape[1] in (1, 3)
