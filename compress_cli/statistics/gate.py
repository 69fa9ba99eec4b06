"""Gates: promises about the figures of a run, checked at the unfavourable end of the interval."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from compress_cli.errors import RecipeError
from compress_cli.settings import Settings, suggest
from compress_cli.statistics.intervals import Estimate

Outcome = Literal["met", "not met", "undecided", "not measured"]
Sort = Literal["bytes", "ms", "count", "share", "number"]

SORTS: dict[str, Sort] = {
    "size_bytes": "bytes",
    "parameters": "count",
    "macs": "count",
    "latency_ms": "ms",
    "latency_p90_ms": "ms",
    "latency_p99_ms": "ms",
    "throughput_per_s": "count",
    "latency_ratio": "number",
    "speedup": "number",
    "size_ratio": "number",
    "compression_ratio": "number",
    "parameters_ratio": "number",
    "macs_ratio": "number",
    "agreement": "share",
    "churn": "share",
    "right_to_wrong": "share",
    "wrong_to_right": "share",
    "worst_class_drop": "share",
    "ece": "share",
    "kl": "number",
}
"""Quantities that every run has. A `..._ratio` is this model's / the baseline's; `speedup` and `compression_ratio` are the
baseline's / this model's. Others are the task's metrics, each with `CHANGES`, and the figures of a stage that makes a table
(`robustness.noise_3_accuracy`)."""
CHANGES = ("_drop", "_worse", "_change")
"""Of any metric against the baseline: `_drop` and `_worse` are how much worse it became, whichever way is better; `_change`
is signed."""
UNITS: dict[Sort, dict[str, float]] = {
    "bytes": {"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "ms": {"": 1, "us": 1e-3, "ms": 1, "s": 1e3},
    "count": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "share": {"": 1, "%": 1e-2},
    "number": {"": 1},
}
AGAINST_BASELINE = ("_ratio", *CHANGES, "speedup", "agreement", "churn", "_to_wrong", "_to_right", "kl")
PROMISE = re.compile(
    r"\s*(?:(?P<row>[^<>=\s]+)\.)?(?P<quantity>\w+)\s*(?P<sign><=|>=)\s*"
    r"(?P<number>[-+]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?)\s*(?P<unit>[A-Za-z%]*)\s*"
)
ROUNDING = 1e-12  # a difference of shares, such as 0.98 - 0.97, is off by less


class Terms(NamedTuple):
    """The parts of a promise."""

    row: str  # empty: the last model of the run
    quantity: str
    at_most: bool
    limit: float  # in bytes, milliseconds, a share of 1


class Gate(Settings):
    """A promise such as `accuracy_drop<=0.01` or `int8.size_bytes<=200kB`; the latter is about the stage `int8`."""

    promise: str = Field(description="accuracy_drop<=0.01, latency_ratio<=0.5, int8.size_bytes<=200kB, ...")
    undecided: Literal["fail", "pass"] = Field("fail", description="what it means that the limit lies within the interval")

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"promise": value} if isinstance(value, str) else value

    @field_validator("promise")
    @classmethod
    def _understood(cls, promise: str) -> str:
        _terms(promise)
        return promise

    @property
    def terms(self) -> Terms:
        return _terms(self.promise)

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: Any, handler: Any) -> dict[str, Any]:
        return {"anyOf": [{"type": "string"}, handler(schema)]}


class GateResult(BaseModel):
    """The outcome of a gate."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    promise: str
    row: str
    outcome: Outcome
    passes: bool
    value: float | None = None
    low: float | None = None
    high: float | None = None
    """The interval at 95%, of timings against the baseline at 99%; equal to the value for what is counted."""
    needs: int | None = None
    """About how many more samples (or rounds of timing) would decide it; None where none or no number would."""
    reason: str = ""
    """Why it was not measured."""


def parse(text: str) -> Gate:
    """A gate of the command line; RecipeError where it can't be understood."""
    try:
        _terms(text)
    except ValueError as error:
        raise RecipeError(f"--gate '{text}': {error}") from None
    return Gate(promise=text)


def sort_of(quantity: str) -> Sort:
    """The unit of a quantity."""
    if quantity in SORTS:
        return SORTS[quantity]
    return "share" if changed(quantity)[0].removesuffix("_vs_baseline").endswith("accuracy") else "number"


def changed(quantity: str) -> tuple[str, str]:
    """The metric whose change a quantity is, and which of `CHANGES`: (`accuracy`, `_drop`); (quantity, "") for another."""
    kind = next((end for end in CHANGES if quantity.endswith(end)), "")
    return quantity.removesuffix(kind), kind


def impossible(gate: Gate, rows: list[str], baseline: str, primary: str, metrics: list[str], tables: Sequence[str] = ()) -> str:
    """Why a gate could never be decided on a run with these models and tables; empty where it can. Which figures a table has
    is known only once it is made."""
    row, quantity = gate.terms.row or (rows[-1] if rows else ""), gate.terms.quantity
    if row in tables:
        return ""
    if row not in rows:
        return f"'{row}' is no model of this run; {suggest(row, [*rows, *tables])}" if rows else "this run makes no model"
    measured = dict.fromkeys(filter(None, (primary, *metrics)))
    known = [*SORTS, *metrics, *(f"{metric}{kind}" for metric in measured for kind in CHANGES)]
    if quantity not in known:
        return f"there is no quantity '{quantity}'; {suggest(quantity, known)}"
    if row == baseline and quantity.endswith(AGAINST_BASELINE):
        return f"'{row}' is the baseline itself, so it has no {quantity}; name another stage (STAGE.{quantity}) or baseline"
    return ""


def judge(gate: Gate, row: str, figure: Estimate | float | None, reason: str = "") -> GateResult:
    """Met only where the whole interval keeps the promise, not met where all of it breaks it."""
    if figure is None:
        return GateResult(promise=gate.promise, row=row, outcome="not measured", passes=False, reason=reason)
    value, low, high = (figure.value, figure.low, figure.high) if isinstance(figure, Estimate) else (figure,) * 3
    limit, slack = gate.terms.limit, ROUNDING * max(1.0, abs(gate.terms.limit))
    worst, best = (high - limit, low - limit) if gate.terms.at_most else (limit - low, limit - high)
    outcome: Outcome = "met" if worst <= slack else "not met" if best > slack else "undecided"
    needs = _needs(figure, limit) if outcome == "undecided" and isinstance(figure, Estimate) else None
    passes = outcome == "met" or (outcome == "undecided" and gate.undecided == "pass")
    return GateResult(
        promise=gate.promise, row=row, outcome=outcome, passes=passes, value=value, low=low, high=high, needs=needs
    )  # fmt: skip


def _needs(figure: Estimate, limit: float) -> int | None:
    """More samples until the interval, which narrows with their square root, ends at the limit.

    With few samples the longer side of an interval near 0 or 1 is far longer than the other, with many both are alike: half of
    the whole tells more than the side that the limit is on.
    """
    distance, half = abs(figure.value - limit), (figure.high - figure.low) / 2
    if distance < ROUNDING or not math.isfinite(half):
        return None
    return max(1, math.ceil(figure.samples * ((half / distance) ** 2 - 1)))


@lru_cache
def _terms(promise: str) -> Terms:
    """Parse a promise; ValueError where it is malformed."""
    match = PROMISE.fullmatch(promise)
    if match is None:
        raise ValueError(
            "is not of the form quantity<=limit or quantity>=limit, such as accuracy_drop<=0.01, latency_ratio<=0.5 or "
            "int8.size_bytes<=200kB"
        )
    quantity, unit = match["quantity"], match["unit"]
    sort = sort_of(quantity)
    if unit not in UNITS[sort]:
        units = ", ".join(unit for unit in UNITS[sort] if unit)
        raise ValueError(f"{quantity} takes {f'one of the units {units}' if units else 'no unit'}, not '{unit}'")
    limit = float(match["number"]) * UNITS[sort][unit]
    if not math.isfinite(limit):
        raise ValueError(f"{match['number']} is too large")
    if sort == "share" and abs(limit) > 1:
        raise ValueError(f"{quantity} is a share of 1; for percent write {match['number']}%")
    return Terms(match["row"] or "", quantity, match["sign"] == "<=", limit)
