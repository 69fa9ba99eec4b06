"""Teachers: what a student learns from, opened from an artifact."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import ClassVar

import numpy as np

from compress_cli.data.batch import Batch, Outputs
from compress_cli.plugin import Plugin, find, names
from compress_cli.store.artifact import Artifact

Opened = Callable[[Batch], Outputs]
"""A teacher at work: evaluation mode, no gradient, outputs on the batch's device."""


class Teacher(Plugin):
    """Opens the artifacts it takes."""

    takes: ClassVar[tuple[type[Artifact], ...]]

    @abstractmethod
    def open(self, artifact: Artifact, layers: tuple[str, ...], device: str) -> Opened:
        """A callable that also observes `layers`; RecipeError where a layer is unknown or can't be observed."""

    def check(self, artifact: Artifact, index: np.ndarray) -> None:
        """DataError where it can't answer for all of these samples; most answer for any."""


def teacher_for(artifact: Artifact) -> Teacher:
    """The teacher plugin that takes this kind of artifact."""
    for name in names(Teacher):
        found = find(Teacher, name)
        if issubclass(found, Teacher) and isinstance(artifact, found.takes):
            return found()
    raise TypeError(f"no teacher takes a {artifact.manifest.kind}")  # the plan lets none through
