"""What the store holds about a run's models, read and checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from compress_cli.data import arrays
from compress_cli.errors import ArtifactError
from compress_cli.measurement.measure import COMPARISON, MEASUREMENT, PREDICTION_COMPARISON, PREDICTIONS, Figures, Timing
from compress_cli.statistics.predictions import PredictionComparison
from compress_cli.store import artifact
from compress_cli.store.artifact import Artifact
from compress_cli.store.record import ModelRecord

Document = TypeVar("Document", bound=BaseModel)


@dataclass(frozen=True)
class Stored:
    """What the store holds about one row."""

    record: ModelRecord
    made: Artifact
    figures: Figures | None
    timing: Timing | None
    predictions: PredictionComparison | None
    index: np.ndarray  # (N,), empty where nothing was measured, or the model lacks the head that the task is about
    correct: np.ndarray  # (N,)
    notes: tuple[str, ...] = ()
    """What makes its figures doubtful."""

    @property
    def sources(self) -> list[str]:
        """Keys of what its stage took: what it started from before all else."""
        inputs = self.made.manifest.inputs
        return [each.key for role in ("start", *inputs) for each in inputs.get(role, [])]


def read(store: Path, row: ModelRecord) -> Stored:
    """Of one row; ArtifactError where a part of it is missing, damaged or changed."""
    keys = (row.measurement, row.comparison, row.predictions)
    measurement, comparison, answers = (artifact_of(store, key) if key else None for key in keys)
    index, correct = _predictions(measurement.file(PREDICTIONS)) if measurement else (np.empty(0), np.empty(0))
    return Stored(
        record=row,
        made=artifact_of(store, row.key),
        figures=document(measurement, MEASUREMENT, Figures) if measurement else None,
        timing=document(comparison, COMPARISON, Timing) if comparison else None,
        predictions=document(answers, PREDICTION_COMPARISON, PredictionComparison)
        if answers and PREDICTION_COMPARISON in answers.manifest.files
        else None,
        index=index,
        correct=correct,
        notes=_notes(store, measurement) if measurement else (),
    )


def artifact_of(store: Path, key: str) -> Artifact:
    """What the store holds under a key, its files checked where figures are taken from them."""
    found = artifact.read(store / key)
    if found is None:
        raise ArtifactError(f"{store / key}: the store no longer holds what this run made; run the recipe again")
    if found.manifest.kind in ("Measurement", "Comparison"):
        found.verify()
    return found


def _notes(store: Path, measurement: Artifact) -> tuple[str, ...]:
    """Notes of the run over the samples that a measurement judges."""
    sources = measurement.manifest.inputs.get("predictions", [])
    runs = [artifact.read(store / source.key) for source in sources]
    return tuple(note for run in runs if run for note in run.manifest.facts.get("notes", ()))


def document(source: Artifact, name: str, kind: type[Document]) -> Document:
    """One of an artifact's JSON files."""
    path = source.file(name)
    try:
        return kind.model_validate_json(path.read_text())
    except ValidationError as error:
        raise ArtifactError(
            f"{path}: is not of this version ({error.errors()[0]['msg']}); delete {source.directory} and run the recipe again"
        ) from None


def _predictions(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Sample ids and each sample's share of the primary metric."""
    found = arrays.read(path, ("index", "correct"))
    return found["index"], found["correct"]
