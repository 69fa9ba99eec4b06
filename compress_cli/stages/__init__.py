"""Stages: typed settings in, one artifact out."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field

from compress_cli.context import Context
from compress_cli.data.datasets import SplitName
from compress_cli.plugin import Plugin
from compress_cli.settings import Many, NotInKey
from compress_cli.store.artifact import Artifact


def _one_word(name: str) -> str:
    if not re.fullmatch(r"(\w[\w-]{0,99})?", name):
        raise ValueError(f"must be one word of letters, digits, '_' and '-', at most 100 of them (got {name[:80]!r})")
    if len(name.encode()) > 200:
        raise ValueError(f"must name a file, which can't be longer than 200 bytes in UTF-8 (got {name[:80]!r})")
    return name


def _different(seeds: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"a seed occurs twice in {list(seeds)}: the second run would be the first one again")
    return seeds


Name = Annotated[str, AfterValidator(_one_word), NotInKey()]
"""Names a link in the run's folder, next to `run.json`; a part of `--set` paths and of names such as `teacher.onnx`."""
Seeds = Annotated[Many[Annotated[int, Field(ge=0, lt=2**32)]], AfterValidator(_different), NotInKey()]


@dataclass(frozen=True)
class Role:
    """One input of a stage: which kinds of artifact will do, and where it comes from if the recipe names none."""

    kinds: tuple[type[Artifact], ...]
    previous: bool = True  # the result of the stage before
    optional: bool = False  # may stay empty; then `previous` is False
    many: bool = False  # the recipe may list several


class Stage(Plugin):
    """One step of a recipe.

    A role in `consumes` has a field of the same name (str, a tuple of them for `many`, or None) that names the stage
    whose result it takes.
    """

    consumes: ClassVar[dict[str, Role]] = {}
    shared: ClassVar[dict[str, int]] = {}
    """Versions of the nouns whose change changes this stage's bytes: `{"training": training.VERSION}`."""
    splits: ClassVar[tuple[SplitName, ...]] = ("train", "val")
    """The splits that it may read; only measurements read `test`."""
    long: ClassVar[bool] = False
    """Whether it may take minutes: a smoke run goes before the first of them."""

    seed_dependent: ClassVar[bool] = True
    """Whether the seed changes its result; one result of a stage that is not serves every seed."""
    task_dependent: ClassVar[bool] = True
    """Whether the task changes its result; one result of a stage that is not serves every task."""

    name: Name = Field("", description="the stage's name in the recipe and the report; default: its type")
    when: Annotated[bool, NotInKey()] = Field(
        True, description="false leaves the stage out; what would take its result takes what the stage itself starts from"
    )
    seeds: Seeds = Field(
        (),
        description="repeat this stage and the later ones with each of these seeds; the report shows the first one's figures, "
        "and the spread; a single seed replaces the recipe's",
    )

    @abstractmethod
    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        """The kind it makes of inputs of these kinds (by role)."""

    def check_sources(self, sources: dict[str, tuple[Stage, ...]]) -> None:
        """RecipeError where the stages whose results it takes (by role) do not make what it needs of them."""

    def demands(self) -> str:
        """What it demands of every layer's weights for good, in words; empty where of none, or perhaps not of all."""
        return ""

    def check_history(self, earlier: Sequence[Stage]) -> None:
        """RecipeError where the model that it goes on with can't be what it needs; `earlier` made that, the latest first."""

    def needs(self) -> dict[str, Stage]:
        """Stages it implies, by role: the plan makes steps of them, shared by key."""
        return {}

    @property
    def timed(self) -> bool:
        """Whether it measures time: nothing else may work on the machine meanwhile."""
        return False

    @property
    def distributed(self) -> bool:
        """Whether several processes may make it together: all run it, alike but for their shares of the samples.

        Nothing else that it does may depend on time or on chance, unless the first process decides it for all.
        """
        return False

    def controls(self) -> dict[str, Stage]:
        """Stages whose models the report compares with this one's, by suffix; they take their inputs from the same roles."""
        return {}

    def depends(self) -> dict[str, Any]:
        """What changes the result apart from settings, inputs and data: a library's version, the machine for a timing."""
        return {}

    @abstractmethod
    def run(self, context: Context) -> dict[str, Any]:
        """Fill `context.output`; return facts for the manifest."""
