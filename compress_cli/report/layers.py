"""The layers of a quantised model: bits, range, what the range cuts off, signal over noise, bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

FLOAT_BITS = 32


class QuantisedLayer(BaseModel):
    """What rounding did to one layer. What its stage did not note is None."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True)

    layer: str
    operator: str = ""
    weights: int | None = None
    weight_bits: int
    """32 where it stays float."""
    weight_range: list[float] | None = None
    """The smallest and the largest number that its codes stand for."""
    weight_clipped: float | None = None
    """Share of the weights beyond the range."""
    weight_sqnr_db: float | None = None
    """Signal over quantisation noise of the weights; None where they are exact."""
    bytes: int | None = None
    """Of codes, tables and scales."""
    activation_bits: int | None = None
    """Of the values that go into it; None where they stay float."""
    activation_range: list[float] | None = None
    activation_clipped: float | None = None

    @property
    def is_float(self) -> bool:
        """Whether it was left as it is."""
        return self.weight_bits == FLOAT_BITS


def quantised_layers(facts: Mapping[str, Any]) -> list[QuantisedLayer]:
    """Those of what a stage noted; empty where it quantised nothing: other stages call other things layers."""
    entries = facts.get("layers")
    if not isinstance(entries, list):
        return []
    try:
        return [QuantisedLayer.model_validate(entry) for entry in entries]
    except ValidationError:
        return []
