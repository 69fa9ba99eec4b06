"""Class numbers: how many classes there are, and labels that can't be numbers of theirs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import numpy as np
from pydantic import BeforeValidator

from compress_cli.errors import DataError
from compress_cli.settings import Many

LEFT_OUT = -100  # the label of positions that losses leave out
MOST = 10_000_000  # classes


def _checked(value: Any) -> Any:
    """A setting as it was written, lists as tuples; ValueError in one sentence, where a union would make one for each type."""
    if isinstance(value, dict):
        return {target: _checked(classes) for target, classes in value.items()}
    if isinstance(value, int) and not isinstance(value, bool):
        if not 2 <= value <= MOST:
            raise ValueError(f"must be from 2 to {MOST} classes (got {value})")
        return value
    if not isinstance(value, list | tuple) or not all(isinstance(name, str) for name in value):
        raise ValueError("must be how many classes there are, or a list of their names (in quotes where they are numbers)")
    if len(value) == 1:
        raise ValueError(f"names one class, '{value[0]}'; a classifier needs at least two")
    twice = [name for position, name in enumerate(value) if name in value[:position]]
    if twice:
        raise ValueError(f"names '{twice[0]}' twice")
    return tuple(value)


Classes = Annotated[int | Many[str], BeforeValidator(_checked)]
"""How many classes there are, or their names in the order of their numbers; an empty list says neither."""

ClassesByTarget = Annotated[int | Many[str] | dict[str, int | Many[str]], BeforeValidator(_checked)]
"""The same of the only target, or of several by their names."""


def names(classes: int | tuple[str, ...], labels: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """The names of the classes that labels, by the file they come from, are numbers of; DataError where some can't be.

    Without `classes` every number from 0 to the largest label has to occur: a wrong label must not make classes.
    """
    count = classes if isinstance(classes, int) else len(classes)
    if not count:
        return tuple(map(str, range(_counted(labels))))
    for source, values in labels.items():
        wrong = np.argwhere((values >= count) | ((values < 0) & (values != LEFT_OUT)))
        if len(wrong):
            raise DataError(
                f"{source}: label {values[tuple(wrong[0])]} in row {wrong[0][0]} is out of range for {count} classes "
                f"(0 to {count - 1})"
            )
    return classes if isinstance(classes, tuple) else tuple(map(str, range(classes)))


def _counted(labels: Mapping[str, np.ndarray]) -> int:
    """How many classes there are by their labels; DataError where a number is missing."""
    present = {source: values[values >= 0] for source, values in labels.items() if (values >= 0).any()}
    if not present:
        return 1
    source = max(present, key=lambda name: int(present[name].max()))
    largest = int(present[source].max())
    if largest == 0:
        raise DataError(f"{source}: all labels are 0, one class; set the dataset's 'classes' to how many there are")
    values = labels[source]
    row = np.argwhere(values == largest)[0][0]
    missing = _first_missing(largest, list(present.values()))
    if missing is not None:
        raise DataError(
            f"{source}: label {largest} in row {row} would make {largest + 1} classes, but label {missing} never occurs; "
            "correct the labels, or set the dataset's 'classes' to how many classes there are, or to their names"
        )
    return largest + 1


def _first_missing(largest: int, labels: list[np.ndarray]) -> int | None:
    """The smallest number up to `largest` that is none of the labels; memory for as many as there are labels."""
    most = min(largest, sum(values.size for values in labels))
    occurs = np.zeros(most + 1, bool)
    for values in labels:
        occurs[values[values <= most]] = True
    missing = np.flatnonzero(~occurs)
    return int(missing[0]) if len(missing) else None
