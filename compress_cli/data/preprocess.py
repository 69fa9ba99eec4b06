"""Pictures as a model from elsewhere wants them: scaled, shifted, turned."""

from __future__ import annotations

from typing import Literal, cast

import numpy as np
from PIL import Image
from pydantic import Field, ValidationError

from compress_cli.data import arrays
from compress_cli.data.datasets import Split
from compress_cli.errors import RecipeError
from compress_cli.settings import Many, Settings


class Preprocess(Settings):
    """What is done to pictures (N, channels, height, width), in the order of these fields."""

    size: int | None = Field(None, ge=1, le=4096, description="pixels a side that pictures are resized to (bilinear)")
    colour: Literal["rgb", "bgr"] = Field("rgb", description="order of the channels")
    scale: float = Field(1.0, gt=0, description="factor of the raw values: 1/255 for bytes that become 0..1")
    mean: Many[float] = Field((), description="taken off each channel after scaling: 0.485:0.456:0.406")
    std: Many[float] = Field((), description="each channel is divided by it: 0.229:0.224:0.225")
    layout: Literal["nchw", "nhwc"] = Field("nchw", description="order of the axes")

    def apply(self, images: np.ndarray) -> np.ndarray:
        """float32, in the layout. RecipeError where there are other channels than means."""
        if images.ndim != 4:
            raise RecipeError(f"--preprocess is for pictures (N, channels, height, width), not {images.shape}")
        if self.size and images.shape[2:] != (self.size, self.size):
            images = np.stack([_resized(each, self.size) for each in images])
        if self.colour == "bgr":
            images = images[:, ::-1]
        real = images.astype(np.float32) * np.float32(self.scale)
        for values, of in ((self.mean, np.subtract), (self.std, np.divide)):
            if values and len(values) not in (1, real.shape[1]):
                raise RecipeError(f"--preprocess: {len(values)} values for pictures of {real.shape[1]} channels")
            if values:
                real = of(real, np.asarray(values, np.float32)[:, None, None])
        return real if self.layout == "nchw" else np.ascontiguousarray(real.transpose(0, 2, 3, 1))


def parse(text: str) -> Preprocess:
    """`scale=1/255,mean=0.485:0.456:0.406,layout=nhwc`; RecipeError says which part is wrong."""
    given: dict[str, object] = {}
    for part in filter(None, (each.strip() for each in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals:
            raise RecipeError(f"--preprocess {part}: is not of the form name=value")
        if name in given:
            raise RecipeError(f"--preprocess {name}: is given twice")
        given[name] = _value(name, value)
    try:
        made = Preprocess.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"][:1]))
        raise RecipeError(f"--preprocess {place}: {first['msg'].replace('Input should be', 'must be')}") from None
    if 0 in made.std:
        raise RecipeError("--preprocess std: can't be 0; values are divided by it")
    return made


def prepared(split: Split, wanted: Preprocess) -> Split:
    """The split with its pictures prepared when they are asked for: a batch at a time."""
    inputs = {
        name: cast(np.ndarray, _Prepared(each, wanted)) if each.ndim == 4 else each for name, each in split.inputs.items()
    }
    return Split(inputs, split.targets, split.index)


class _Prepared:
    """Looks like the array of prepared pictures."""

    def __init__(self, raw: np.ndarray, wanted: Preprocess):
        self._raw, self._wanted = raw, wanted
        first = wanted.apply(raw[:1])
        self.shape, self.dtype, self.ndim = (len(raw), *first.shape[1:]), first.dtype, first.ndim

    def __len__(self) -> int:
        return len(self._raw)

    def __getitem__(self, rows: slice) -> np.ndarray:
        made = self._wanted.apply(self._raw[rows])
        arrays.release(self._raw)
        return made


def _value(name: str, text: str) -> object:
    """Numbers for what takes them, with fractions; RecipeError otherwise."""
    try:
        match name:
            case "size":
                return int(text)
            case "scale":
                return _number(text)
            case "mean" | "std":
                return [_number(each) for each in text.split(":")]
    except (ValueError, ZeroDivisionError):
        raise RecipeError(f"--preprocess {name}: '{text}' is no number") from None
    return text.lower()


def _number(text: str) -> float:
    top, _, bottom = text.partition("/")
    return float(top) / float(bottom or 1)


def _resized(image: np.ndarray, size: int) -> np.ndarray:
    """One picture (channels, height, width), each channel by itself."""
    planes = [Image.fromarray(plane).resize((size, size), Image.Resampling.BILINEAR) for plane in image]
    return np.stack([np.asarray(each) for each in planes])
