"""Similarity of the layers of two models."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field, model_validator

from compress_cli.context import Context
from compress_cli.data import samples
from compress_cli.data.batch import from_arrays
from compress_cli.data.datasets import Split, SplitName
from compress_cli.errors import StageError
from compress_cli.networks import features, restore
from compress_cli.progress import Progress
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage
from compress_cli.statistics.findings import Findings, Line
from compress_cli.store.artifact import Artifact, Checkpoint, Table


class Similarity(Stage):
    """Compare layers of two checkpoints by linear centred kernel alignment (Kornblith et al. 2019, arXiv:1905.00414).

    1 where one layer's features are a rotation and scaling of the other's, near 0 where they are unrelated; widths may
    differ.
    """

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint,), previous=False),
    }
    shared: ClassVar[dict[str, int]] = {"features": features.VERSION}
    splits: ClassVar[tuple[SplitName, ...]] = ("test",)

    start: str | None = Field(None, description="the stage whose checkpoint is compared; default: the one before")
    teacher: str | None = Field(None, description="the stage whose checkpoint it is compared with")
    layers: Many[str] = Field(min_length=1, description="layers, by name or position among the outermost")
    teacher_layers: Many[str] = Field(
        (), description="the teacher's layers to compare with, in the same order; default: the same names"
    )
    samples: int = Field(512, ge=2, le=4096, description="test samples, drawn by seed and sample id")
    batch: int = Field(64, ge=1, description="samples that run at once")

    @model_validator(mode="after")
    def _pairs(self) -> Self:
        if self.teacher_layers and len(self.teacher_layers) != len(self.layers):
            raise ValueError(f"'teacher_layers' has {len(self.teacher_layers)} names for {len(self.layers)} layers")
        return self

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        return Table

    def run(self, context: Context) -> dict[str, Any]:
        split = samples.drawn(context.split("test", self.batch), self.samples, context.seed)
        teacher_layers = self.teacher_layers or self.layers
        start, teacher = (
            _features(context.inputs[role][0], tuple(dict.fromkeys(layers)), split, self.batch)
            for role, layers in (("start", self.layers), ("teacher", teacher_layers))
        )
        lines = []
        for done, (layer, teacher_layer) in enumerate(zip(self.layers, teacher_layers, strict=True), 1):
            name = layer if layer == teacher_layer else f"{layer} ~ {teacher_layer}"
            lines.append(Line(name=name, cells=[linear_cka(start[layer], teacher[teacher_layer])]))
            context.log(Progress("similarity", done, len(self.layers)))
        Findings(
            title=f"Similarity to {context.inputs['teacher'][0].manifest.stage.get('name') or 'the teacher'}, layer by layer",
            about=f"Linear CKA of the layers' outputs on {len(split)} test samples (Kornblith et al. 2019): 1 where they are "
            "rotations of each other, near 0 where they are unrelated. It is biased upwards where a layer has more values than "
            "there are samples.",
            side="PyTorch",
            what="layer",
            columns=["cka"],
            lines=lines,
        ).write(context.output)
        return {line.name: line.cells[0] for line in lines}


def linear_cka(x: np.ndarray, y: np.ndarray) -> float:
    """Of features (N, p) and (N, q) of the same samples; StageError where one never varies."""
    left, right = _gram(x), _gram(y)
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    if size == 0:
        raise StageError("a layer's features are the same for every sample: its similarity is undefined")
    return float((left * right).sum() / size)


def _gram(features: np.ndarray) -> np.ndarray:
    """(N, N) inner products of the samples' features, each feature centred."""
    centred = features.astype(np.float64)
    centred -= centred.mean(axis=0)
    return np.asarray(centred @ centred.T)


def _features(artifact: Artifact, layers: tuple[str, ...], split: Split, batch: int) -> dict[str, np.ndarray]:
    """Layer -> (N, values a sample)."""
    restored = restore.checkpoint(artifact)
    chunks: dict[str, list[np.ndarray]] = {layer: [] for layer in layers}
    with torch.no_grad(), features.observe(restored.network, layers) as seen:
        for part in samples.parts(split, batch):
            inputs = from_arrays(part.inputs, {}, part.index)
            outputs = features.outputs(restored.network, restored.signature, inputs, layers, seen)
            for layer in layers:
                chunks[layer].append(outputs.features[layer].flatten(1).numpy())
    return {layer: np.concatenate(arrays) for layer, arrays in chunks.items()}
