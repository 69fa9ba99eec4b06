"""Workers: where the long steps of a run are made when they are not made one after the other in its own process.

A job means "make this key": whoever does it takes the key's lock in the store, goes on from its last save, and leaves a whole
artifact. A job that is done twice, or lost and started again, gives the same result.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from pydantic import BaseModel, ConfigDict

from compress_cli.plugin import Plugin
from compress_cli.settings import Settings


class Job(BaseModel):
    """One step of a recipe, for another process or machine that sees the same files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Path
    overrides: tuple[str, ...] = ()
    within: str = ""  # `--within` of the command
    plugins: tuple[Path, ...] = ()
    directory: Path  # the run's
    store: str  # a folder or a bucket
    key: str
    name: str  # of the step
    threads: int | None  # None: as the recipe says
    forced: bool = False  # a fresh result is wanted although there is one
    repair: bool = False


class Outcome(BaseModel):
    """How a job ended."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    code: int  # as an exit code: 0, 2, 3, 4, 130, 143; 1 is a bug
    message: str = ""
    resource: bool = False  # the machine lacked disk, memory or a permission


class Handle(ABC):
    """A job that was started."""

    @abstractmethod
    def outcome(self) -> Outcome | None:
        """How it ended; None while it waits or works."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to save its state and to end."""


class Workers(Plugin):
    """Processes, here or elsewhere, that see the store and the run's folder under the same paths."""

    here: ClassVar[bool] = False
    """Whether they share this machine, so that nothing may be timed while they work."""

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many jobs may be started at once."""

    def check(self) -> None:
        """RecipeError, before anything runs, where this machine can't have such workers."""

    @abstractmethod
    def start(self, job: Job, folder: Path) -> Handle:
        """Start a job, which keeps its own files in `folder`; StageError where the workers can't be reached."""


class Choice(Settings):
    """Workers by name or with their settings, as the command line gives them."""

    workers: Workers
