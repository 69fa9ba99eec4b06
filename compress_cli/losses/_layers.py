"""Pairs of layers, one of the student and one of the teacher, and their features."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field
from torch import Tensor

from compress_cli.data.batch import Batch, Outputs
from compress_cli.losses._averages import required, unmasked
from compress_cli.losses._projection import channel_axis
from compress_cli.settings import Many, Settings


def _text(setting: object) -> object:
    return str(setting) if type(setting) is int else setting


def _both(setting: object) -> object:
    return {"student": setting, "teacher": setting} if isinstance(setting, str) or type(setting) is int else setting


Layer = Annotated[str, BeforeValidator(_text, json_schema_input_type=str | int)]


class Pair(Settings):
    """Two layers that are compared. In YAML one name does where both networks call it the same."""

    student: Layer = Field(description="the student's layer: a name such as layer3, or a position such as -2")
    teacher: Layer = Field(description="the teacher's layer")


Layers = Many[Annotated[Pair, BeforeValidator(_both, json_schema_input_type=str | int | Pair)]]


def matched(
    student: Outputs, teachers: tuple[Outputs, ...], layers: tuple[Pair, ...], batch: Batch | None = None, mask: str = ""
) -> list[tuple[Tensor, Tensor]]:
    """(student's features, teacher's without gradient) of every teacher and pair of layers, teachers outermost.

    With a batch and the name of its mask, both are 0 at masked positions. A layer that was not observed is the training
    loop's fault: KeyError.
    """
    pairs = []
    for teacher in required(teachers):
        for layer in layers:
            student_features = student.features[layer.student]
            teacher_features = teacher.features[layer.teacher].detach().to(student_features.dtype)
            pairs.append((student_features, teacher_features))
    return [(visible(s, batch, mask), visible(t, batch, mask)) for s, t in pairs] if batch else pairs


def visible(features: Tensor, batch: Batch, mask: str) -> Tensor:
    """Tokens (N, T, C) or images (N, C, H, W) with 0 at masked positions."""
    if not mask:
        return features
    axis = channel_axis(features)
    counts = unmasked(batch, mask, features.select(axis, 0))
    return features.where(counts.unsqueeze(axis) > 0, 0)
