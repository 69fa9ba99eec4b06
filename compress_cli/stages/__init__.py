"""Stages: typed settings in, one artifact out."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from compress_cli.artifact import Artifact
from compress_cli.datasets import Dataset, Split, SplitName
from compress_cli.plugin import Plugin
from compress_cli.progress import Log
from compress_cli.tasks import Task


@dataclass(frozen=True)
class Role:
    """One input of a stage: which kinds of artifact will do, and where it comes from if the recipe names none."""

    kinds: tuple[type[Artifact], ...]
    previous: bool = True  # the result of the stage before
    optional: bool = False  # may stay empty; then `previous` is False
    many: bool = False  # the recipe may list several


@dataclass(frozen=True)
class Context:
    """All a stage may use besides its settings; a new field needs a reason."""

    inputs: dict[str, tuple[Artifact, ...]]  # by role; empty = not given
    output: Path  # empty, or what an interrupted try left for resuming; becomes the artifact
    dataset: Dataset
    task: Task
    device: str  # "cpu", "cuda", "cuda:1"
    seed: int
    log: Log
    scratch: Path  # the store's memory of choices that are made once per machine (precision)
    limit: int | None = None  # at most this many training steps and batches anywhere: the smoke run's two
    splits: tuple[SplitName, ...] = ("train", "val")  # what the stage may see
    environment: dict[str, Any] = field(default_factory=dict)  # for the manifest; a stage adds what it chose

    def split(self, name: SplitName, batch: int = 32) -> Split:
        """A split of the dataset; of a smoke run's, the first `limit` batches of that size."""
        if name not in self.splits:
            raise PermissionError(f"this stage may not see the {name} split")  # a bug of ours: choices never see test
        whole = self.dataset.split(name)
        return whole if self.limit is None else whole.take(np.s_[: self.limit * batch])


class Stage(Plugin):
    """One step of a recipe.

    A role in `consumes` has a field of the same name (str, a tuple of them for `many`, or None) that names the stage
    whose result it takes.
    """

    consumes: ClassVar[dict[str, Role]] = {}
    shared: ClassVar[dict[str, int]] = {}
    """Versions of the nouns whose change changes this stage's bytes: `{"training": training.VERSION}`."""
    long: ClassVar[bool] = False
    """Whether it may take minutes: a smoke run goes before the first of them."""

    name: str = Field("", description="what other stages and the report call it; default: the stage's type")

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        """The kind it makes of inputs of these kinds (by role)."""
        raise NotImplementedError

    def needs(self) -> dict[str, Stage]:
        """Stages it implies, by role: the plan makes steps of them, shared by key."""
        return {}

    def depends(self) -> dict[str, Any]:
        """What changes the result besides settings, inputs and data: a library's version, the machine for a timing."""
        return {}

    def run(self, context: Context) -> dict[str, Any]:
        """Fill `context.output`; return facts for the manifest."""
        raise NotImplementedError
