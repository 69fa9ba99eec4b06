"""Recipe: what the user wrote, checked, with every complaint pointing at its line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, PrivateAttr

from compress_cli.data.datasets import Dataset
from compress_cli.data.tasks import Task
from compress_cli.document import Document, Key
from compress_cli.errors import RecipeError
from compress_cli.measurement.latency import TimingConditions
from compress_cli.measurement.measure import RunConditions
from compress_cli.pipeline import searched
from compress_cli.pipeline.searched import SearchSettings
from compress_cli.pipeline.time_limit import Within
from compress_cli.pipeline.trackers import Tracker
from compress_cli.plugin import find
from compress_cli.settings import Many, Settings
from compress_cli.stages import Stage
from compress_cli.statistics.gate import Gate
from compress_cli.store.saves import Saving


def _classification() -> Task:
    task = find(Task, "classification")()
    assert isinstance(task, Task)
    return task


NAME = r"\w[\w.-]*"  # of a recipe: it becomes a folder


class Recipe(Settings):
    """One file: the data, the task, and the stages in order."""

    name: str = Field("", pattern=rf"^({NAME})?$", description="names the run's folder; default: the file's name")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything random but the dataset's split")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads for training; default: all cores")
    dataset: Dataset = Field(description="where samples come from")
    task: Task = Field(default_factory=_classification, description="what counts as good")
    folds: int | None = Field(
        None,
        ge=2,
        le=100,
        description="cross-validation: run every stage once for each of so many parts of the samples, tested on that part and "
        "trained on the others; the report shows each and the means, which gates are about",
    )
    baseline: str | None = Field(None, description="the stage the report compares with; default: the first model")
    save: Saving = Field(Saving(), description="how often a stage at work is saved; changes no result")
    gates: Many[Gate] = Field((), description="promises about the result; a run that breaks one ends with exit code 5")
    measure: RunConditions = Field(RunConditions(), description="how models are run to be measured")
    compare: TimingConditions = Field(TimingConditions(), description="how models are timed")
    tracking: Many[Tracker] = Field((), description="programs that show the run's curves and figures; they change no result")
    search: SearchSettings = Field(SearchSettings(), description="what `compress tune` looks for; a run reads none of it")
    within: Within = Field(
        None,
        description="time that the run may take, such as 60m: epochs and views are fitted to what steps take on this machine; "
        "those written are the most",
    )
    stages: Many[Stage] = Field(min_length=1, description="what to do, in order")

    _document: Document = PrivateAttr()

    @property
    def path(self) -> Path:
        return self._document.path

    def written(self) -> Any:
        """The fields as the user wrote them, overrides included."""
        return self._document.data()

    def complaint(self, loc: Sequence[Key], reason: str) -> str:
        """`recipe.yaml:12: stages[2].teacher: reason`"""
        return f"{self._document.location(loc)}: {reason}"


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe; RecipeError with all complaints at once."""
    return checked(read(path, overrides))


def read(path: Path, overrides: Sequence[str] = ()) -> Document:
    """A recipe's document with fields overridden; RecipeError where it is not YAML, or no mapping."""
    document = Document.read(path)
    for assignment in overrides:
        document.set(assignment)
    if not isinstance(document.data(), dict):
        raise RecipeError(f"{path}:1: a recipe is a mapping with 'dataset' and 'stages'; `compress init` writes a starter")
    return document


def checked(document: Document) -> Recipe:
    """The recipe in a document; RecipeError with all complaints at once, or where it leaves fields to a search."""
    path = document.path
    searched.refuse(document)
    recipe = document.settings(Recipe, path.parent)
    if not recipe.name:
        if not re.fullmatch(NAME, path.stem):
            raise RecipeError(f"{path}: '{path.stem}' can't name the run's folder; give the recipe a 'name'")
        recipe = recipe.model_copy(update={"name": path.stem})
    recipe._document = document
    return recipe
