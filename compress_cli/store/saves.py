"""The saves of a stage at work, from which the same command goes on instead of from the start.

A stage that takes long asks `load` where it may begin and calls `step` after every piece of work:

    save = context.saves.load()
    done = save.document["done"] if save else 0
    with stopping.held():
        for row in range(done, total):
            ...
            context.saves.step(lambda: Save({"rows": rows[: row + 1]}, {"done": row + 1}, f"row {row + 1}"))

A save has to hold all that the rest of the work depends on: the result is then the same, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load as load_bytes
from safetensors.numpy import save as save_bytes
from safetensors.numpy import save_file

from compress_cli import stopping
from compress_cli.errors import StageError
from compress_cli.processes import ALONE, Processes
from compress_cli.settings import Settings
from compress_cli.store import disk, durable

KEPT = 2
DEFAULT_S = 60.0
COST_FACTOR = 40.0  # by default at least so many times what the last save took passes before the next: 2.5% of the time
NAME = re.compile(r"(\d{8})-([0-9a-f]{64})\.safetensors")


class Saving(Settings):
    """How often a stage at work is saved. Default: every minute, and at most 2.5% of the time."""

    epochs: int | None = Field(None, ge=1, description="save after so many epochs")
    steps: int | None = Field(None, ge=1, description="save after so many steps (batches)")
    minutes: float | None = Field(None, gt=0, description="save after so many minutes")


@dataclass(frozen=True)
class Save:
    """The state of a stage at work: arrays, a JSON document, and how far the work had come ("epoch 7, step 31")."""

    arrays: dict[str, np.ndarray]
    document: dict[str, Any]
    progress: str


Pause = Callable[[bool], bool]
"""Asked after every piece of work, with whether an epoch ended, if the stage pauses here."""
Share = Callable[[Path], None]
"""Called with every save that is whole, to copy it to where other machines find it; StageError where that can't be reached."""


class Paused(Exception):
    """A stage stopped where it was asked to; its save holds all that the rest of the work needs."""


class Saves:
    """The saves of one stage at work; the last two are kept. A smoke run has no folder and saves nothing."""

    def __init__(
        self,
        folder: Path | None = None,
        saving: Saving | None = None,
        warn: Callable[[str], None] | None = None,
        pause: Pause | None = None,
        share: Share | None = None,
        processes: Processes = ALONE,
    ):
        self.folder, self.saving, self.warn, self.pause = folder, saving or Saving(), warn or (lambda note: None), pause
        self.share, self._unshared = share, False
        self.processes = processes  # that make the stage together: all go on from the saves of the first one
        self.progress = ""  # how far the work had come at the last save
        self.earlier_s = 0.0  # seconds that earlier tries worked, up to their last save
        self._begun = self._last = time.monotonic()
        self._took, self._steps, self._epochs = 0.0, 0, 0

    def load(self, arrays: bool = True) -> Save | None:
        """The last save that is whole, or None; a damaged one is reported and removed. Without `arrays` only the first of
        several processes gets them."""
        save = self._load() if self.processes.rank == 0 else None
        return _of_first(save, self.processes, arrays) if self.processes.several else save

    def _load(self) -> Save | None:
        for path in reversed(self._paths()):
            save = _read(path)
            if save is not None:
                self.earlier_s = float(save.document.pop("spent_s"))
                self.progress = save.progress
                return save
            self.warn(f"{path.name}: is damaged; the save before it is used, where there is one")
            path.unlink()
        return None

    def forget(self, reason: str) -> None:
        """Remove all saves, and report why the stage starts again from the beginning."""
        self.warn(f"begins anew: {reason}")
        self.progress, self.earlier_s = "", 0.0
        for path in self._paths():
            path.unlink()

    def step(self, state: Callable[[], Save | None], epoch_ended: bool = False) -> None:
        """To be called after every piece of work: saves where that is due. Where the process is stopped, saves and raises
        KeyboardInterrupt; where the stage is to pause, saves and raises Paused.

        `state` is called only then; it returns None where the state is not worth keeping (numbers that overflowed).
        """
        self._steps, self._epochs = self._steps + (not epoch_ended), self._epochs + epoch_ended
        pauses = self.pause is not None and self.pause(epoch_ended)
        if self.folder is not None and (stopping.requested() or pauses or self._due()):
            self._save(state, self.folder)
        stopping.check()
        if pauses:
            raise Paused(self.progress)

    @property
    def spent_s(self) -> float:
        """Time at work, with that of earlier tries up to what they saved."""
        return self.earlier_s + time.monotonic() - self._begun

    def _due(self) -> bool:
        saving = self.saving
        passed = time.monotonic() - self._last
        if saving.epochs is saving.steps is saving.minutes is None:
            return passed >= max(DEFAULT_S, COST_FACTOR * self._took)
        return (
            (saving.epochs is not None and self._epochs >= saving.epochs)
            or (saving.steps is not None and self._steps >= saving.steps)
            or (saving.minutes is not None and passed >= 60 * saving.minutes)
        )

    def _save(self, state: Callable[[], Save | None], folder: Path) -> None:
        begun = time.monotonic()
        save = state()
        if save is not None:
            path = _write(save, folder, self._next(), self.spent_s)
            self.progress = save.progress
            self._shared(path)
            for path in self._paths()[:-KEPT]:
                path.unlink()
        self._last = time.monotonic()
        self._took, self._steps, self._epochs = self._last - begun, 0, 0

    def _shared(self, path: Path) -> None:
        """Copy a save to where other machines find it; a failure is reported once, and the next save may pass."""
        try:
            if self.share:
                self.share(path)
            self._unshared = False
        except StageError as error:
            if not self._unshared:
                self.warn(f"no other machine can go on from this save: {error}")
            self._unshared = True

    def _next(self) -> int:
        paths = self._paths()
        return number(paths[-1].name) + 1 if paths else 1

    def _paths(self) -> list[Path]:
        """Oldest first."""
        folder = self.folder.iterdir() if self.folder else ()
        return sorted(path for path in folder if NAME.fullmatch(path.name) and path.is_file())


def number(name: str) -> int:
    """Which of a step's saves a file is, from 1."""
    return int(name.partition("-")[0])


def digest(path: Path) -> str:
    """The SHA-256 of a file's content, which a save's name holds."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_first(save: Save | None, processes: Processes, arrays: bool) -> Save | None:
    """The save of the first process, for all."""
    progress = processes.same(save.progress if save else None)
    if progress is None:
        return None
    document = processes.same(save.document if save else {})
    content = processes.same_bytes(save_bytes(_in_order(save)) if save else b"") if arrays else b""
    return save or Save(load_bytes(content) if arrays else {}, document, progress)


def _in_order(save: Save) -> dict[str, np.ndarray]:
    """Its arrays as they have to lie in memory to be written."""
    return {name: np.ascontiguousarray(array).reshape(array.shape) for name, array in save.arrays.items()}


def _write(save: Save, folder: Path, position: int, spent_s: float) -> Path:
    """The file's name holds the hash of its content: a torn file is not taken for a save."""
    partial = folder / "save.partial"
    document = json.dumps({**save.document, "spent_s": spent_s}, allow_nan=False)
    durable.crash_point("save")
    arrays = _in_order(save)
    with durable.naming(partial):
        mode = durable.mode_of_new_file(partial)
        try:
            save_file(arrays, partial, {"document": document, "place": save.progress})
        except SafetensorError as error:
            raise disk.os_error(str(error), partial) or error from None
        partial.chmod(mode)
        durable.crash_point("written")
        path = folder / f"{position:08d}-{digest(partial)}.safetensors"
        durable.flush_and_rename(partial, path)
    return path


def _read(path: Path) -> Save | None:
    match = NAME.fullmatch(path.name)
    if match is None or digest(path) != match[2]:
        return None
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata()
            return Save(file.get_tensors(), json.loads(metadata["document"]), metadata["place"])
    except (SafetensorError, KeyError, ValueError):  # whole, but not written by this program
        return None
