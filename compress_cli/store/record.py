"""A run's record for its report: `run.json` in the run's folder, naming steps and store entries."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from compress_cli.errors import ArtifactError
from compress_cli.statistics.gate import Gate
from compress_cli.store import durable
from compress_cli.store.artifact import UnreadableError, unreadable

RECORD = "run.json"
TRIALS = "trials"  # in the folder of a search: the runs of its trials
LOCK = "recipe.lock.yaml"
LIMITS = "limits.json"  # what limits the promises of a run, where a command has found that out


class ModelRecord(BaseModel):
    """One stage of a run and the store entries about it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str  # the stage's name in the recipe
    stage: str  # the stage's type
    key: str  # its artifact in the store
    cached: bool  # it was up to date and did not run
    onnx: str | None = None  # key of the OnnxModel it was measured through; equal to `key` where it is one
    measurement: str | None = None  # key of its Measurement on the test split
    comparison: str | None = None  # key of its latency Comparison against the baseline
    predictions: str | None = None  # key of its Comparison with the baseline's answers
    reason: str = ""  # why there is no measurement
    seed: int = 0  # of its stage
    variant_of: str = ""  # the row that it repeats with another seed, or whose control it is
    variant: str = ""  # `control`; empty for a repetition with another seed or of another fold
    fold: int = 0  # of a cross-validation, counted from 1; 0 where there is none
    teachers: tuple[str, ...] = ()  # rows that it learnt from


class TableRecord(BaseModel):
    """One stage of a run that makes a table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    stage: str
    key: str


def search_at(directory: Path) -> str:
    """What to say where the folder of a search stands in place of a run's; empty where it is none."""
    trials = sorted((directory / TRIALS).glob(f"*/{RECORD}"), key=lambda path: (len(path.parent.name), path))
    if not trials:
        return ""
    first, last = trials[0].parent, trials[-1].parent.name
    return f"{directory}: holds a search, whose report is tune.html; its runs are those of its trials: {first} to {last}"


class Record(BaseModel):
    """A whole run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    store: str  # the store's folder, relative to the run's folder where that is possible
    seed: int
    baseline: str  # name of the row that the others are compared with
    primary: str = ""  # the metric that the whole task goes by
    better: Literal["higher", "lower"] = "higher"  # of the primary metric
    tasks: tuple[str, ...] = ()  # the primary metric of each task, where there are several
    rows: list[ModelRecord]
    tables: list[TableRecord] = []
    variants: list[ModelRecord] = []  # stages repeated with other seeds, and controls
    steps: dict[str, str] = {}
    """Name of every step, implied ones too -> key; one that could not run is not among them."""
    gates: tuple[Gate, ...] = ()  # of the recipe and of the command line
    folds: int = 0  # of a cross-validation; 0 where there is none
    doubts: tuple[str, ...] = ()  # what is wrong with the data, such as test samples that stand in train too
    fitted: str = ""  # what was fitted to the time that the recipe asks for, in a sentence; empty where it asks for none
    wall_time_s: float

    def keys(self, directory: Path) -> dict[str, str]:
        """`steps`; ArtifactError where an earlier version wrote the record, which did not note them."""
        if not self.steps:
            raise ArtifactError(f"{directory / RECORD}: names no artifacts (an earlier version wrote it); run the recipe again")
        return self.steps

    def write(self, directory: Path) -> None:
        durable.write(directory / RECORD, (self.model_dump_json(indent=1) + "\n").encode())

    @classmethod
    def read(cls, directory: Path) -> Record:
        """The record of the run in `directory`; ArtifactError where there is none or it can't be read."""
        path = directory / RECORD
        durable.require_file(path)
        if not path.is_file():
            raise ArtifactError(
                search_at(directory) or f"{directory}: holds no run ({RECORD} is missing); `compress run` makes one"
            )
        try:
            return cls.parse(path.read_text(encoding="utf-8"), path)
        except PermissionError as error:
            raise UnreadableError(f"{path}: {unreadable(path, error)}") from None
        except (UnicodeDecodeError, OSError) as error:
            raise ArtifactError(f"{path}: can't be read ({error}); run the recipe again") from None

    @classmethod
    def parse(cls, text: str, path: Path) -> Record:
        """The record in the text of a file; ArtifactError, naming the file, where it is none."""
        try:
            record = cls.model_validate_json(text)
        except (ValidationError, ValueError) as error:
            raise ArtifactError(f"{path}: can't be read ({str(error).splitlines()[0]}); run the recipe again") from None
        if "\0" in record.store:
            raise ArtifactError(f"{path}: can't be read (its store is no folder's name); run the recipe again")
        return record
