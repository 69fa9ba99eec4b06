"""What a model takes and gives: named inputs and heads, with shapes, number types and normalisation."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Input(BaseModel):
    """One named input, described for a single sample."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...]
    """Without the sample axis: (channels, height, width) for an image, (length,) for tokens, (features,) for a row."""
    dtype: str = "float32"
    """NumPy's name of the number type the model takes; images are float32 in the data's raw range."""
    mean: tuple[float, ...] = ()
    """Per channel (axis 0 of `shape`), in the raw range, from the train split; empty: the input is not normalised."""
    deviation: tuple[float, ...] = ()


class Head(BaseModel):
    """One named output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    size: int
    """Values per sample (or per position): classes, or regression targets."""
    classes: tuple[str, ...] = ()
    """Names of the classes, in order; empty where there are none."""


class Signature(BaseModel):
    """Everything a model has to know of the data it is built for; kept in every checkpoint."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    inputs: dict[str, Input]
    heads: dict[str, Head]
