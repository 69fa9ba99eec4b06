"""Inputs for a file that is timed without data: of the shapes it declares, or that the user states."""

from __future__ import annotations

import math

import numpy as np

from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.measurement.sessions import WITHOUT_NUMPY, Feeds, Port, Session
from compress_cli.settings import suggest

MOST_VALUES = 10**9


def synthetic(
    session: Session,
    batch: int,
    shapes: dict[str, tuple[int, ...]] | None = None,
    values: dict[str, float] | None = None,
    seed: int = 0,
) -> Feeds:
    """Inputs of the shapes that the file states: noise for real numbers, zeros for whole ones (which may be indices).

    shapes: of inputs whose axes the file leaves open. values: what fills an input. ArtifactError where nothing tells a shape,
    or where a stated shape is not the file's or is too large.
    """
    random = np.random.default_rng(seed)
    feeds = {}
    for name, port in session.inputs.items():
        shape = (shapes or {}).get(name) or _shape(session, name, batch)
        if len(shape) != len(port.shape) or any(
            declared not in (None, stated) for declared, stated in zip(port.shape, shape, strict=True)
        ):
            raise ArtifactError(f"{session.path}: input '{name}' is {port}, which {shape} is not")
        if math.prod(shape) > MOST_VALUES:
            raise ArtifactError(f"{session.path}: input '{name}' of {port} is too large to generate")
        if port.dtype in WITHOUT_NUMPY or port.dtype not in np.sctypeDict:  # the latter knows types of other libraries
            raise ArtifactError(
                f"{session.path}: input '{name}' takes {port.dtype}, which no synthetic input can have; export it with float32 "
                "inputs, or name data with --data"
            )
        feeds[name] = _array(port, shape, (values or {}).get(name), random)
    return feeds


def shapes(session: Session, options: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """`--shape image=1x3x224x224`: RecipeError for another form, or an input that there is not. An axis may be 0 long."""
    stated = {}
    for option in options:
        name, _, axes = option.rpartition("=")
        sizes = axes.split("x")
        if not name or not all(size.isascii() and size.isdigit() and int(size) < 10**6 for size in sizes):
            raise RecipeError(f"--shape {option}: is not of the form input=1x3x224x224")
        stated[_input(session, name, f"--shape {option}")] = tuple(map(int, sizes))
    return stated


def values(session: Session, options: tuple[str, ...]) -> dict[str, float]:
    """`--value sr=16000`: RecipeError for another form, an input that there is not, or a number that its type does not hold."""
    stated = {}
    for option in options:
        name, _, number = option.rpartition("=")
        port = session.inputs[_input(session, name, f"--value {option}")]
        try:
            stated[name] = float(number)
        except ValueError:
            raise RecipeError(f"--value {option}: is not of the form input=number, such as sr=16000") from None
        if port.dtype not in WITHOUT_NUMPY and port.dtype in np.sctypeDict and not _holds(np.dtype(port.dtype), stated[name]):
            raise RecipeError(f"--value {option}: input '{name}' takes {port.dtype}, which does not hold {number}")
    return stated


def _input(session: Session, name: str, option: str) -> str:
    if name not in session.inputs:
        raise RecipeError(f"{option}: the file has no input '{name}'; {suggest(name, list(session.inputs))}")
    return name


def _holds(dtype: np.dtype, number: float) -> bool:
    if dtype.kind == "b":
        return number in (0, 1)
    if dtype.kind not in "iu":
        return True
    limits = np.iinfo(dtype)
    return number.is_integer() and limits.min <= number <= limits.max


def _shape(session: Session, name: str, batch: int) -> tuple[int, ...]:
    """The declared shape with `batch` samples; ArtifactError where another axis is open."""
    port, batch_axis = session.inputs[name], session.batch_axes.get(name)
    if any(size is None and axis != batch_axis for axis, size in enumerate(port.shape)):
        raise ArtifactError(
            f"{session.path}: input '{name}' is {port}; give its shape with --shape {name}=..., or name data with --data"
        )
    return tuple(batch if size is None else size for size in port.shape)


def _array(port: Port, shape: tuple[int, ...], value: float | None, random: np.random.Generator) -> np.ndarray:
    if value is not None:
        return np.full(shape, value).astype(port.dtype)
    return (random.random(shape) if port.dtype.startswith("float") else np.zeros(shape)).astype(port.dtype)
