"""Ask a file what a picture shows: inputs from where the user has them, answers as class names with probabilities."""

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


@dataclass(frozen=True)
class Answer:
    """What a file says of one input."""

    input: str
    classes: list[tuple[str, float]]
    """Class name and probability, the likeliest first."""


def classify(session: Session, source: Path, head: str, top: int, batch: int) -> list[Answer]:
    """The `top` likeliest classes of a picture, of every picture in a folder, or of every sample in a `.npz`."""
    names, split = _arrays(source, session) if source.suffix == ".npz" else _pictures(source, session)
    heads = measure.predict(session, split, batch, lambda progress: None)
    card = Card.from_metadata(session.metadata)
    named = str(card.task.get("head", "")) if card else ""  # a teacher of another task has a card, but not that head
    asked = head or (named if named in heads else "")
    if asked and asked not in heads:
        raise RecipeError(f"{session.path}: there is no output '{asked}'; {suggest(asked, list(heads))}")
    if not asked and len(heads) > 1:
        raise RecipeError(f"{session.path}: name the output with the class scores by --head ({', '.join(heads)})")
    chosen = asked or next(iter(heads))
    shares = _probabilities(session, chosen, heads[chosen])
    known = card.classes.get(chosen, ()) if card else ()
    labels = known if len(known) == shares.shape[1] else tuple(map(str, range(shares.shape[1])))
    order = np.argsort(-shares, axis=1, kind="stable")[:, :top]
    return [
        Answer(name, [(labels[place], float(share[place])) for place in best])
        for name, share, best in zip(names, shares, order, strict=True)
    ]


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
        takes = ", ".join(f"{each}: {what}" for each, what in session.inputs.items())
        raise ArtifactError(f"{session.path}: does not take pictures (it takes {takes}); give its arrays in a .npz")
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
    found = arrays.read(source)
    held = found if len(found) == 1 else {name: each for name, each in found.items() if name in session.inputs}
    if len(held) != len(session.inputs):
        raise DataError(f"{source}: holds arrays {', '.join(found)}; the file takes {', '.join(session.inputs)}")
    count = len(next(iter(held.values())))
    return [f"{source}[{place}]" for place in range(count)], Split(held, {}, np.arange(count))
