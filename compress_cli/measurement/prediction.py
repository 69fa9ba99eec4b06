"""Answers of a file to the user's own inputs: class names with probabilities, or numbers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from compress_cli.data import arrays, pictures
from compress_cli.data.datasets import Split
from compress_cli.errors import ArtifactError, DataError, RecipeError
from compress_cli.measurement import measure
from compress_cli.measurement.sessions import Session
from compress_cli.onnx_graph.card import Card
from compress_cli.settings import suggest

CLASSIFICATION = "classification"


@dataclass(frozen=True)
class Answer:
    """The answer of a file to one input: classes, or numbers where it does not classify."""

    input: str
    classes: list[tuple[str, float]] | None = None
    """Class name and probability, the likeliest first."""
    numbers: list[float] | None = None


def predict(session: Session, source: Path, head: str, top: int, batch: int) -> list[Answer]:
    """The answers to a picture, to every picture in a folder, or to every sample in a `.npz`: the `top` likeliest classes,
    or the numbers of a regression."""
    names, split = _arrays(source, session) if source.suffix == ".npz" else _pictures(source, session)
    heads = measure.predict(session, split, batch, lambda progress: None)
    card = Card.from_metadata(session.metadata)
    chosen = _head(session, head, card, heads)
    outputs = heads[chosen]
    if _regression(chosen, card, outputs):
        rows = outputs.reshape(len(outputs), -1).astype(np.float64).tolist()
        return [Answer(name, numbers=row) for name, row in zip(names, rows, strict=True)]
    probabilities = _probabilities(session, chosen, outputs)
    class_names = card.classes.get(chosen, ()) if card else ()
    labels = class_names if len(class_names) == probabilities.shape[1] else tuple(map(str, range(probabilities.shape[1])))
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top]
    return [
        Answer(name, [(labels[position], float(row[position])) for position in best])
        for name, row, best in zip(names, probabilities, order, strict=True)
    ]


def _head(session: Session, head: str, card: Card | None, heads: dict[str, np.ndarray]) -> str:
    """The output to answer from: the user's, the card's, or the only one; RecipeError where none of these is there."""
    of_task = str(card.task.get("head", "")) if card else ""  # a teacher of another task has a card, but not that head
    asked = head or (of_task if of_task in heads else "")
    if asked and asked not in heads:
        raise RecipeError(f"{session.path}: there is no output '{asked}'; {suggest(asked, list(heads))}")
    if not asked and len(heads) > 1:
        raise RecipeError(f"{session.path}: name the output to answer from by --head ({', '.join(heads)})")
    return asked or next(iter(heads))


def _regression(head: str, card: Card | None, outputs: np.ndarray) -> bool:
    """Whether an output holds numbers rather than class scores: one number a sample, or the card's task names no classes."""
    if outputs.ndim == 1 or (outputs.ndim == 2 and outputs.shape[1] == 1):
        return True
    names_classes = card is None or bool(card.classes.get(head)) or card.task.get("type", CLASSIFICATION) == CLASSIFICATION
    return outputs.ndim == 2 and not names_classes


def _probabilities(session: Session, head: str, scores: np.ndarray) -> np.ndarray:
    """(N, classes). Scores that already are probabilities stay as they are."""
    if scores.ndim != 2 or scores.dtype.kind != "f":
        raise ArtifactError(
            f"{session.path}: output '{head}' is {scores.dtype} (N{''.join(f', {axis}' for axis in scores.shape[1:])}); "
            "classes need real numbers (N, classes)"
        )
    wide = scores.astype(np.float64)
    if (wide >= 0).all() and np.allclose(wide.sum(axis=1), 1, atol=1e-3):
        return wide
    powers = np.exp(wide - wide.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def _pictures(source: Path, session: Session) -> tuple[list[str], Split]:
    """One picture or those of a folder, in the size that the file takes; values stay 0..255."""
    if not source.exists():
        raise DataError(f"{source}: there is no such file or folder")
    name, port = next(iter(session.inputs.items()))
    if len(session.inputs) > 1 or len(port.shape) != 4 or port.shape[1] not in (1, 3):
        takes = ", ".join(f"{name}: {port}" for name, port in session.inputs.items())
        raise ArtifactError(f"{session.path}: does not take pictures (it takes {takes}); give arrays in a .npz")
    channels, height, width = port.shape[1:]
    if channels is None or height is None or width is None:
        raise ArtifactError(f"{session.path}: leaves the size of pictures open ({port}); give arrays in a .npz")
    files = pictures.find(source) if source.is_dir() else [source]
    if not files:
        raise DataError(f"{source}: holds no pictures ({', '.join(sorted(pictures.SUFFIXES))})")
    images = np.stack([pictures.read(path, channels, height, width) for path in files])
    names = [path.relative_to(source).as_posix() if source.is_dir() else str(path) for path in files]
    return names, Split({name: images}, {}, np.arange(len(files)))


def _arrays(source: Path, session: Session) -> tuple[list[str], Split]:
    """Arrays by the file's input names; the only array, whatever its name, where the file takes one input."""
    stored = arrays.read(source)
    inputs = stored if len(stored) == 1 else {name: array for name, array in stored.items() if name in session.inputs}
    if len(inputs) != len(session.inputs):
        raise DataError(f"{source}: holds arrays {', '.join(stored)}; the file takes {', '.join(session.inputs)}")
    count = len(next(iter(inputs.values())))
    return [f"{source}[{position}]" for position in range(count)], Split(inputs, {}, np.arange(count))
