"""Smaller architectures for a budget: the given one narrower or shallower, or another of the registry that suits the data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from compress_cli.data.signature import Signature
from compress_cli.errors import CompressError
from compress_cli.networks import proof, restore
from compress_cli.networks.models import Model
from compress_cli.plugin import find
from compress_cli.pruning.cost import Cost

WIDTHS = ("widths", "hidden", "width", "stem", "channels", "maps", "factors", "embedding", "last")
"""Settings that say how wide an architecture is, whatever its own word for it."""
SCALES = tuple(1.5 * 0.9**step for step in range(36))  # from 1.5 to 0.04 of the widths
SHALLOWER = 0.55  # of the depth, at most
LARGE_PICTURE = 64  # pixels of a side, from which on a plain stack of convolutions costs too much


@dataclass(frozen=True)
class Size:
    """What an architecture costs."""

    parameters: int
    macs: int


def size(model: Model, signature: Signature) -> Size | None:
    """Of an architecture for this data; None where it does not fit the data."""
    try:
        restored = restore.build(model, signature, 0)
        cost = Cost(restored.network.body, proof.example(restored.signature))
    except (CompressError, RuntimeError, ValueError):
        return None
    return Size(cost.parameters(), cost.macs())


def scaled(model: Model, scale: float) -> Model | None:
    """The architecture with all its widths times `scale`, rounded as processors like them; None where it can't be so."""
    settings = model.model_dump()
    changed = {name: _scaled(settings[name], scale) for name in WIDTHS if name in settings and settings[name] is not None}
    return _with(model, changed) if changed else None


def _scaled(value: Any, scale: float) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_scaled(item, scale) for item in value)
    return round(value * scale, 3) if isinstance(value, float) else rounded(value * scale)


def rounded(width: float) -> int:
    """To a multiple of 16, 8, 4 or 2, by the width: vector units run full, and are not wasted on narrow layers."""
    step = 16 if width >= 48 else 8 if width >= 16 else 4 if width >= 6 else 2
    return max(2, step * round(width / step))


def _with(model: Model, changed: dict[str, Any]) -> Model | None:
    try:
        settings = {name: getattr(model, name) for name in type(model).model_fields}
        return type(model).model_validate({**settings, **changed})
    except ValidationError:
        return None


def within(model: Model, signature: Signature, largest: Size) -> Model | None:
    """The widest version of an architecture that has at most this size; None where none has."""

    def fits(scale: float) -> bool:
        candidate = scaled(model, scale)
        cost = size(candidate, signature) if candidate else None
        return cost is not None and cost.parameters <= largest.parameters and cost.macs <= largest.macs

    low, high = 0, len(SCALES) - 1
    if not fits(SCALES[high]):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(SCALES[middle]) else (middle + 1, high)
    return scaled(model, SCALES[low])


def shallower(model: Model) -> Model | None:
    """The architecture with about half its blocks; None where it has no say in them."""
    for name, values in _fewer(model):
        for value in values:
            candidate = _with(model, {name: value})
            if candidate is not None:
                return candidate
    return None


def _fewer(model: Model) -> Iterator[tuple[str, list[Any]]]:
    settings = model.model_dump()
    depth, blocks, convs = (settings.get(name) for name in ("depth", "blocks", "convs"))
    if isinstance(depth, int) and depth > 1:
        yield "depth", list(range(max(1, round(depth * SHALLOWER)), 0, -1))
    if isinstance(blocks, int) and blocks > 1:
        yield "blocks", [max(1, blocks // 2)]
    if isinstance(blocks, tuple | list) and max(blocks) > 1:
        yield "blocks", [tuple(max(1, block // 2) for block in blocks)]
    if isinstance(convs, int) and convs > 1:
        yield "convs", [max(1, convs // 2)]


def of_registry(signature: Signature) -> Model | None:
    """An architecture that suits the data, wide: to be narrowed to the budget. None where none is known to."""
    if len(signature.inputs) != 1 or len(signature.heads) != 1:
        return None
    (spec,), (head,) = signature.inputs.values(), signature.heads.values()
    if len(head.shape) != 1 or None in spec.shape[1:]:
        return None
    settings: dict[str, Any] = {}
    if len(spec.shape) == 3 and spec.dtype.startswith("float"):
        side = min(length or 0 for length in spec.shape[1:])
        if side < 8:
            return None
        if side >= LARGE_PICTURE:
            settings = {"type": "mobilenet_v2"}
        else:
            settings = {"type": "convnet", "widths": (64, 128, 256, 512)[: 4 if side >= 24 else 3], "convs": 1}
    elif len(spec.shape) == 1 and spec.dtype.startswith("float"):
        settings = {"type": "mlp", "hidden": (512, 256)}
    elif len(spec.shape) == 1 and spec.values:
        settings = {"type": "text_cnn"}
    return _of(settings) if settings else None


def _of(settings: dict[str, Any]) -> Model | None:
    cls: Callable[..., Any] = find(Model, settings["type"])
    model = cls(**{name: value for name, value in settings.items() if name != "type"})
    return model if isinstance(model, Model) else None
