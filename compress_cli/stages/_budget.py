"""What a mixed assignment of bits has to keep."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from compress_cli.settings import NotInKeyAtDefault, Settings
from compress_cli.statistics.gate import UNITS

SEARCH = 2  # part of the key of a stage with a budget: the assignment with the least noise, not one bit after the other
WIDTHS = (8, 4, 2)  # bits that are stored as they are; 3 take the room of 4, 5 to 7 that of 8
IN_BYTES = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*")


def count_bytes(value: Any) -> Any:
    """40000 of `40 kB`; ValueError for another unit."""
    if not isinstance(value, str):
        return value
    match = IN_BYTES.fullmatch(value)
    if match is None or match[2] not in UNITS["bytes"]:
        raise ValueError(f"must be a number of bytes, such as 40000, '40 kB' or '1.5 MB' (got {value!r})")
    return round(float(match[1]) * UNITS["bytes"][match[2]])


Bytes = Annotated[
    int,
    BeforeValidator(count_bytes),
    Field(gt=0),
    WithJsonSchema({"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "examples": ["40 kB"]}]}),
]


class Budget(Settings):
    """What a mixed assignment of bits has to keep: one of these.

    Sizes are those of the file that `export` writes, card included; speeds are measured here, in ONNX Runtime, in turn with the
    float file, and kept by the unfavourable end of their interval, as gates are.
    """

    accuracy_drop: float | None = Field(
        None, ge=0, lt=1, description="largest loss of the task's metric on val (without labels: of agreement with the float "
        "model): layers return to float, the most sensitive first, until it holds",
    )  # fmt: skip
    bits: float | None = Field(
        None, ge=2, le=8, description="largest mean of the bits of all weights: each layer gets 8, 4 or 2, so that the outputs "
        "change least",
    )  # fmt: skip
    bytes: Annotated[Bytes | None, NotInKeyAtDefault()] = Field(
        None, description="largest file, such as `40 kB`: each layer gets 8, 4 or 2 bits, or, where the quantizer has one "
        "number of bits, that or float, so that the outputs change least",
    )  # fmt: skip
    compression_ratio: Annotated[float | None, NotInKeyAtDefault()] = Field(
        None, gt=1, description="bytes of the float file / bytes of this one, at least; otherwise as `bytes`"
    )
    speedup: Annotated[float | None, NotInKeyAtDefault()] = Field(
        None, gt=0, description="latency of the float file / latency of this one, at least: layers whose return to float makes "
        "the outputs better for the least time return to it, while it holds",
    )  # fmt: skip
    latency_ms: Annotated[float | None, NotInKeyAtDefault()] = Field(
        None, gt=0, description="largest median latency on this machine; otherwise as `speedup`"
    )

    @property
    def promise(self) -> tuple[str, float]:
        """What is promised, and its limit."""
        return next((name, limit) for name in type(self).model_fields if (limit := getattr(self, name)) is not None)

    @property
    def is_timed(self) -> bool:
        """Whether latency decides."""
        return self.promise[0] in ("speedup", "latency_ms")

    @model_validator(mode="after")
    def _one(self) -> Budget:
        names = list(type(self).model_fields)
        if sum(getattr(self, name) is not None for name in names) != 1:
            raise ValueError(f"set one of {', '.join(names[:-1])} and {names[-1]}")
        return self
