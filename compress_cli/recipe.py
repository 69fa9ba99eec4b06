"""Recipe: what the user wrote, checked, with every complaint pointing at its line."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, PrivateAttr, ValidationError

from compress_cli.datasets import Dataset
from compress_cli.document import Document, Key
from compress_cli.errors import RecipeError
from compress_cli.gate import Gate
from compress_cli.latency import TimingConditions
from compress_cli.measure import RunConditions
from compress_cli.plugin import find
from compress_cli.saves import Saving
from compress_cli.settings import Many, Settings
from compress_cli.stages import Stage
from compress_cli.tasks import Task


def _classification() -> Task:
    task = find(Task, "classification")()
    assert isinstance(task, Task)
    return task


Given = TypeVar("Given", bound=Settings)
NAME = r"\w[\w.-]*"  # of a recipe: it becomes a folder


class Recipe(Settings):
    """One file: the data, the task, and the stages in order."""

    name: str = Field("", pattern=rf"^({NAME})?$", description="names the run's folder; default: the file's name")
    seed: int = Field(0, ge=0, lt=2**32, description="seed of everything random but the dataset's split")
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda or cuda:1")
    threads: int | None = Field(None, ge=1, le=1024, description="CPU threads for training; default: all cores")
    dataset: Dataset = Field(description="where samples come from")
    task: Task = Field(default_factory=_classification, description="what counts as good")
    baseline: str | None = Field(None, description="the stage the report compares with; default: the first model")
    save: Saving = Field(Saving(), description="how often a stage at work is saved; changes no result")
    gates: Many[Gate] = Field((), description="promises about the result; a run that breaks one ends with exit code 5")
    measure: RunConditions = Field(RunConditions(), description="how models are run to be measured")
    compare: TimingConditions = Field(TimingConditions(), description="how models are timed")
    stages: Many[Stage] = Field(min_length=1, description="what to do, in order")

    _document: Document = PrivateAttr()

    @property
    def path(self) -> Path:
        return self._document.path

    def complaint(self, loc: Sequence[Key], reason: str) -> str:
        """`recipe.yaml:12: stages[2].teacher: reason`"""
        return f"{self._document.place(loc)}: {reason}"


def load(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read, override and check a recipe; RecipeError with all complaints at once."""
    document = Document.read(path)
    for assignment in overrides:
        document.set(assignment)
    data = document.data()
    if not isinstance(data, dict):
        raise RecipeError(f"{path}:1: a recipe is a mapping with 'dataset' and 'stages'; `compress init` writes a starter")
    try:
        recipe = Recipe.model_validate(data, context={"base": path.parent})
    except ValidationError as error:
        lines = [f"{document.place(each['loc'])}: {_reason(each)}" for each in _causes(error.errors(include_url=False))]
        raise RecipeError("\n".join(lines)) from None
    if not recipe.name:
        if not re.fullmatch(NAME, path.stem):
            raise RecipeError(f"{path}: '{path.stem}' can't name the run's folder; give the recipe a 'name'")
        recipe = recipe.model_copy(update={"name": path.stem})
    recipe._document = document
    return recipe


def setting(contract: type[Given], text: str, option: str) -> Given:
    """Settings given on the command line: a plugin's name, or a mapping as JSON or YAML; RecipeError names the option."""
    document = Document.parse(text, option)
    try:
        return contract.model_validate(document.data(), context={"base": Path()})
    except ValidationError as error:
        lines = [f"{document.place(each['loc'])}: {_reason(each)}" for each in _causes(error.errors(include_url=False))]
        raise RecipeError("\n".join(lines)) from None


def _causes(errors: Sequence[Any]) -> list[Any]:
    """Without "too short" of a list whose entries were refused one by one."""
    places = [each["loc"] for each in errors]
    return [
        each
        for each in errors
        if each["type"] != "too_short"
        or not any(len(p) > len(each["loc"]) and p[: len(each["loc"])] == each["loc"] for p in places)
    ]


_WORDS = {
    "missing": "is required",
    "tuple_type": "must be a list",
    "bool_type": "must be true or false",
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text (put it in quotes)",
    "finite_number": "must be a finite number",
    "dict_type": "must be a mapping of fields",
    "model_type": "must be a mapping of fields",
    "model_attributes_type": "must be a mapping of fields",
}
_BOUNDS = ("greater_than", "less_than", "too_short", "too_long", "multiple_of", "string_pattern_mismatch", "literal_error")


def _reason(error: Any) -> str:
    """Pydantic's finding in the words of a recipe: `must be less than 1 (got 1.5)`."""
    kind, given = error["type"], error["input"]
    message = _WORDS.get(kind)
    if message is None:
        message = error["msg"].removeprefix("Value error, ").replace("Input should be ", "must be ")
        if message.startswith(("Tuple should", "List should", "String should")):
            message = "must " + message.partition(" should ")[2]
    plain = isinstance(given, str | int | float | bool) or given is None
    shows = kind in _WORDS or kind.startswith(_BOUNDS)
    return f"{message} (got {_yaml(given)})" if plain and shows and kind != "missing" else message


def _yaml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return "nothing" if value is None else repr(value)[:80]
