"""Teachers: models that a student learns from, opened from artifacts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from compress_cli.data.batch import Batch, Outputs
from compress_cli.plugin import Plugin, find, names
from compress_cli.store.artifact import Artifact

Opened = Callable[[Batch], Outputs]
"""A teacher that computes its outputs for a batch: evaluation mode, no gradient, on the batch's device."""


class Teacher(Plugin):
    """Opens artifacts of the kinds that it takes."""

    takes: ClassVar[tuple[type[Artifact], ...]]

    @abstractmethod
    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        """A callable that also observes `layers`; RecipeError where a layer is unknown or can't be observed."""

    def check(self, artifact: Artifact, index: np.ndarray) -> None:
        """DataError where it has no outputs for some of these samples; only tables lack any."""


def teacher_for(artifact: Artifact) -> Teacher:
    """The teacher plugin that takes this kind of artifact."""
    for name in names(Teacher):
        teacher = find(Teacher, name)
        if issubclass(teacher, Teacher) and isinstance(artifact, teacher.takes):
            return teacher()
    raise TypeError(f"no teacher takes a {artifact.manifest.kind}")  # the plan lets none through
