"""Several trainings in turn within one stage, which resumes in the one that was interrupted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from compress_cli.context import Context
from compress_cli.errors import StageError
from compress_cli.store.saves import Save, Saves

_ARRAY = "round/"


class Rounds:
    """The saves of a stage whose trainings follow each other: each training sees its own alone."""

    def __init__(self, context: Context):
        self.context, self.save = context, context.saves.load()
        self.first = int(self.save.document["round"]) if self.save else 1
        """The round to begin with, counted from 1: earlier ones are done."""
        self.results: list[dict[str, Any]] = self.save.document["results"] if self.save else []
        """What the rounds that are done have noted; plain data."""
        self.arrays = (
            {name.removeprefix(_ARRAY): array for name, array in self.save.arrays.items() if name.startswith(_ARRAY)}
            if self.save
            else {}
        )
        """What the interrupted round began with; empty where none was interrupted."""
        self.noted: dict[str, Any] = self.save.document.get("noted", {}) if self.save else {}
        """The same, of plain data."""

    def interrupted(self, number: int) -> bool:
        """Whether that round was begun, and what it began with is known."""
        return self.save is not None and number == self.first

    def context_of(
        self, number: int, begun_with: dict[str, np.ndarray] | None = None, noted: dict[str, Any] | None = None
    ) -> Context:
        """The context of one round, which resumes where it was interrupted. Arrays and plain data that the round begins with
        are in each of its saves."""
        save = self.save if self.interrupted(number) else None
        document = {"round": number, "results": list(self.results), **({"noted": noted} if noted else {})}
        return replace(self.context, saves=_RoundSaves(self.context.saves, save, document, begun_with or {}))


class _RoundSaves(Saves):
    """The saves of one round: they hold which it is, and what it began with."""

    def __init__(self, saves: Saves, save: Save | None, document: dict[str, Any], arrays: dict[str, np.ndarray]):
        super().__init__(None, saves.saving, saves.warn)
        self._saves, self._save_of_round, self._document = saves, save, document
        self._arrays = {f"{_ARRAY}{name}": array for name, array in arrays.items()}
        self.progress, self.earlier_s = saves.progress, saves.earlier_s

    def load(self, arrays: bool = True) -> Save | None:
        save = self._save_of_round
        if save is None:
            return None
        own = {name: array for name, array in save.arrays.items() if not name.startswith(_ARRAY)}
        return Save(own, save.document, save.progress)

    def forget(self, reason: str) -> None:
        self._saves.forget(reason)
        if self._document["round"] > 1:  # the rounds before are lost with the saves
            raise StageError(f"{reason}; the saves of its rounds were removed: the same command begins anew")

    def step(self, state: Callable[[], Save | None], epoch_ended: bool = False) -> None:
        def with_round() -> Save | None:
            save = state()
            if save is None:
                return None
            progress = f"round {self._document['round']}, {save.progress}"
            return Save({**save.arrays, **self._arrays}, {**save.document, **self._document}, progress)

        self._saves.step(with_round, epoch_ended)
        self.progress = self._saves.progress
