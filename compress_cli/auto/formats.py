"""Number formats without training: each measured on val, the gentlest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from compress_cli.auto.journal import Journal
from compress_cli.auto.promises import Budget
from compress_cli.auto.request import Request
from compress_cli.auto.workshop import Workshop
from compress_cli.errors import CompressError, Interrupted, ResourceError
from compress_cli.report import Report
from compress_cli.statistics.gate import Gate, GateResult

INTEGERS_PAY = 1.05  # a speed-up asked for beyond which only integer arithmetic can help
INT8 = "int8"
ROOM = 1.1  # by how much a format's best case may miss a size and still be tried: files hold more than weights


@dataclass(frozen=True)
class Format:
    """A way to store and compute numbers."""

    name: str  # of the stage
    quantizer: Mapping[str, Any] | None  # None: float
    smaller: float  # at best
    faster: bool  # whether it can be faster than float on a CPU
    what: str
    budget: Mapping[str, float] | None = None

    def stages(self, start: str) -> list[dict[str, Any]]:
        """The stages that make a file of this format of the stage `start`; the last one is the export."""
        export = {"type": "export", "name": "onnx"}
        if self.quantizer is None:
            return [{**export, "start": start}]
        stage: dict[str, Any] = {"type": "quantize", "name": self.name, "start": start}
        if dict(self.quantizer) != {"type": "static_int8"}:
            stage["quantizer"] = dict(self.quantizer)
        if self.budget:
            stage["budget"] = dict(self.budget)
        return [stage, export]


WEIGHTS = Format("int8_weights", {"type": "weight_only", "bits": 8}, 4.0, False, "weights of 8 bits, computed in float")


@dataclass(frozen=True)
class Measured:
    """A file's figures on val, and how it stands to each goal."""

    name: str
    size_bytes: int
    speedup: float
    latency_ms: float
    metric: float
    drop: float  # of the primary metric, against the given model
    goals: tuple[GateResult, ...]
    problem: str = ""  # why there are none of these

    @property
    def holds(self) -> bool:
        return not self.problem and all(goal.outcome == "met" for goal in self.goals)

    @property
    def missed(self) -> list[GateResult]:
        return [goal for goal in self.goals if goal.outcome == "not met"]

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Measured:
        goals = tuple(GateResult.model_validate(goal) for goal in document["goals"])
        return cls(**{**document, "goals": goals})


def choices(request: Request, budget: Budget, trainable: bool, matrix_products: bool) -> list[Format]:
    """The formats worth a try for these goals, the gentlest first; int8 always, which the others are held against. Where
    nothing can be trained all of them: the nearest is what there will be."""
    reduced = {"reduce_range": True} if request.target == "portable" else {}
    static = {"type": "auto" if matrix_products or not trainable else "static_int8", **reduced}
    drop = budget.drop if budget.drop is not None and budget.drop > 0 else None
    known = [
        Format("float", None, 1.0, False, "the given model as a file, for a start"),
        Format("float16", {"type": "float16"}, 2.0, False, "weights in half precision, computed in float"),
        WEIGHTS,
        Format("int8", static, 4.0, True, "8-bit integers from end to end, calibrated and not trained"),
        Format(
            "int4_weights", {"type": "weight_only", "bits": 4}, 8.0, False, "weights of 4 bits in blocks, computed in float"
        ),
    ]
    if drop is not None and not matrix_products:
        kept = {"type": "static_int8", **reduced}
        what = "8-bit integers, the most sensitive layers back in float until the loss on val is allowed"
        known.insert(4, Format("mixed", kept, 4.0, True, what, {"accuracy_drop": round(drop / 2, 6)}))
    needed, quick = 1 / budget.bytes_share, 1 / budget.latency_share
    return [
        choice
        for choice in known
        if choice.name in ("float", "int8") or not (trainable or request.students)
        or (choice.smaller * ROOM >= needed and (choice.faster or quick < INTEGERS_PAY))
    ]  # fmt: skip


def trained_in(known: Sequence[Format]) -> list[Format]:
    """The formats that a trained model may ship in, the gentlest first: float, weights of 8 bits that are computed in float,
    and 8-bit integers. Which one is smaller and faster depends on the model: small ones gain nothing from integer kernels."""
    by_name = {one.name: one for one in (WEIGHTS, *known)}
    return [by_name[name] for name in ("float", WEIGHTS.name, INT8)]


def measured(shop: Workshop, journal: Journal, choice: Format, given: Mapping[str, Any], file: Path) -> Measured:
    """The format's figures on val; with a problem where the model can't have it."""

    def work() -> dict[str, Any]:
        try:
            made = shop.make(f"format_{choice.name}", [given, *choice.stages("given")])
        except (ResourceError, Interrupted):
            raise
        except CompressError as error:
            reason = str(error).partition("\n")[0].removeprefix(f"stage '{choice.name}' failed: ")
            return figures(choice.name, None, reason)
        return figures(choice.name, shop.judged(made["onnx"].file("model.onnx"), file))

    return Measured.of(journal.remember(f"format {choice.name}", work))


def figures(name: str, report: Report | None, problem: str = "") -> dict[str, Any]:
    """What a report of two rows says of its last one, ready for JSON."""
    if report is None:
        empty = {"size_bytes": 0, "speedup": 0.0, "latency_ms": 0.0, "metric": 0.0, "drop": 0.0, "goals": []}
        return {"name": name, **empty, "problem": problem}
    row, sign = report.rows[-1], 1 if report.better == "higher" else -1
    value = row.metrics[report.primary].value
    return {
        "name": name,
        "size_bytes": row.size_bytes,
        "speedup": row.speedup.value if row.speedup else 1.0,
        "latency_ms": row.latency.p50_ms.value if row.latency else 0.0,
        "metric": value,
        "drop": -sign * row.change.value if row.change else 0.0,
        "goals": [goal.model_dump(mode="json") for goal in report.gates],
        "problem": "",
    }


def nearest(tried: Sequence[Measured]) -> Measured:
    """Of files of which none keeps all goals, the one that misses fewest, then least."""
    possible = [one for one in tried if not one.problem]
    return min(possible, key=lambda one: (len(one.missed), sum(map(shortfall, one.missed)), one.drop))


def shortfall(goal: GateResult) -> float:
    """How far a goal is missed, as a share of its limit."""
    limit = Gate(promise=goal.promise).terms.limit
    return abs((goal.value or 0.0) - limit) / max(abs(limit), 1e-9)
