"""Smaller architectures for a budget: the given one narrower or shallower, or another of the registry that suits the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from compress_cli.data.signature import Signature
from compress_cli.errors import CompressError, RecipeError
from compress_cli.networks import proof, restore
from compress_cli.networks.models import Model
from compress_cli.plugin import find
from compress_cli.pruning.cost import Cost

FACTORS = tuple(2.0 ** (-step / 8) for step in range(41))  # of the widths, from 1 to a thirty-second
HALF = 0.55  # of the depth, at most
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


def _with(model: Model, changed: dict[str, Any]) -> Model | None:
    try:
        settings = {name: getattr(model, name) for name in type(model).model_fields}
        return type(model).model_validate({**settings, **changed})
    except ValidationError:
        return None


def within(model: Model, signature: Signature, largest: Size) -> Model | None:
    """The widest version of an architecture that has at most this size; None where none has."""
    low, high = 0, len(FACTORS) - 1
    if not _fits(_scaled(model, FACTORS[high]), signature, largest):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(_scaled(model, FACTORS[middle]), signature, largest) else (middle + 1, high)
    return _scaled(model, FACTORS[low])


def _scaled(model: Model, factor: float) -> Model | None:
    """The architecture with all its widths times a factor; None where it can't be so."""
    try:
        return model if factor == 1 else model.scaled(factor)
    except (RecipeError, ValueError):
        return None


def _fits(model: Model | None, signature: Signature, largest: Size) -> bool:
    cost = size(model, signature) if model else None
    return cost is not None and cost.parameters <= largest.parameters and cost.macs <= largest.macs


def with_fewer_blocks(model: Model, signature: Signature, largest: Size) -> Model | None:
    """The deepest version of an architecture, as wide as it is, that has at most this size; where none has, half its depth
    with narrower layers. None where it has no say in its depth, or nothing fits."""
    versions = shallower(model)
    for _, version in versions:
        if _fits(version, signature, largest):
            return version
    half = next((version for share, version in versions if share <= HALF), None)
    return within(half, signature, largest) if half else None


def shallower(model: Model) -> list[tuple[float, Model]]:
    """The architecture with a share of its layers or blocks, the deepest first; empty where it has no say in them."""
    settings = model.model_dump()
    for name in ("depth", "blocks", "convs"):
        value = settings.get(name)
        most = max(value, default=0) if isinstance(value, tuple | list) else value
        if isinstance(most, int) and most > 1:
            versions = ((left / most, _with(model, {name: _fewer(value, left / most)})) for left in range(most - 1, 0, -1))
            return [(share, version) for share, version in versions if version is not None]
    return []


def _fewer(value: Any, share: float) -> Any:
    return tuple(_fewer(part, share) for part in value) if isinstance(value, tuple | list) else max(1, round(value * share))


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
