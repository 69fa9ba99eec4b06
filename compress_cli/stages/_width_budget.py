"""Widths that a budget chooses: the widest model whose exported file is small, or fast, enough."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import torch
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from compress_cli.context import Context
from compress_cli.errors import RecipeError
from compress_cli.measurement import example, latency, sessions
from compress_cli.measurement.latency import TimingConditions
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.onnx_graph import storage
from compress_cli.plugin import find
from compress_cli.progress import Progress
from compress_cli.settings import NotInKeyAtDefault, Settings
from compress_cli.stages import Stage
from compress_cli.statistics.gate import UNITS
from compress_cli.store.artifact import Artifact, Checkpoint, Draft
from compress_cli.store.saves import Saves

VERSION = 1  # raise it when the same budget gives other widths

STEPS = 8  # factors between a width and its double
NARROWEST, WIDEST = 2.0**-6, 4.0  # factors of the model's widths that are tried
REMEMBERED = "latencies.json"


def _amount(units: dict[str, float]) -> Callable[[Any], Any]:
    def read(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        number = value.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ").strip()
        unit = value[len(value.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")) :]
        try:
            return float(number) * units[unit]
        except (KeyError, ValueError):
            raise ValueError(f"must be a number with one of the units {', '.join(filter(None, units))}") from None

    return read


class WidthBudget(Settings):
    """What the model may cost as a file; its widths are multiplied by one factor, the largest that the budget allows."""

    bytes: Annotated[float | None, BeforeValidator(_amount(UNITS["bytes"]), json_schema_input_type=float | str | None)] = Field(
        None, gt=0, description="of the exported file, at most: 40 kB"
    )
    latency: Annotated[float | None, BeforeValidator(_amount(UNITS["ms"]), json_schema_input_type=float | str | None)] = Field(
        None, gt=0, description="of the exported file in ONNX Runtime on this machine, median, at most: 0.2 ms"
    )
    file: Literal["float32", "int8"] = Field(
        "float32", description="which file: as the stage export writes the model, or as it does after a stage quantize"
    )
    timing: Annotated[TimingConditions, NotInKeyAtDefault()] = Field(
        TimingConditions(), description="how latency is measured where it is the budget"
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        if (self.bytes is None) == (self.latency is None):
            raise ValueError("budget: give one of 'bytes' and 'latency'")
        return self

    @property
    def limit(self) -> float:
        """In bytes or milliseconds."""
        return self.bytes or self.latency or 0.0

    def worded(self, cost: float) -> str:
        """A cost in the unit of the budget."""
        return f"{cost:.0f} bytes" if self.bytes else f"{cost:.4g} ms"


def depends(budget: WidthBudget) -> dict[str, Any]:
    """What changes the widths apart from settings: the versions of what writes the file, and for a latency the machine."""
    stages = {name: find(Stage, name).version for name in ("export", "quantize")}
    timed = {**sessions.machine(), "latency": latency.VERSION} if budget.latency else {}
    return {"width_budget": VERSION, **stages, **timed}


def fitted(
    model: Model, budget: WidthBudget, context: Context, inputs: tuple[str, ...], heads: tuple[str, ...]
) -> tuple[Model, dict[str, Any]]:
    """The model with the widest layers that the budget allows, and for the manifest how it was chosen.

    RecipeError where the narrowest model costs more: what that costs.
    """
    choices = _choices(model)
    first = min(range(len(choices)), key=lambda number: abs(math.log(choices[number][0])))
    costs = _Costs(budget, context, inputs, heads)
    if context.limit is not None:  # a smoke run sees what can't be, and tries the rest as the recipe names it
        if budget.bytes and costs.least_bytes(choices[0][1]) > budget.bytes:
            raise RecipeError(_unreachable(budget, costs.least_bytes(choices[0][1]), choices[0][1], "more than "))
        return choices[first][1], {}
    tried: dict[int, float] = {}

    def cost(number: int) -> float:
        processes = context.processes  # the first alone measures a latency, while the others wait
        tried[number] = processes.same(costs.of(choices[number][1]) if processes.rank == 0 else 0.0)
        context.log(Progress("budget", len(tried), len(tried), note=""))
        return tried[number]

    def fixed(number: int, paid: float) -> float:
        return paid - costs.least_bytes(choices[number][1]) if budget.bytes else 0.0

    chosen = widest(len(choices), first, cost, budget.limit, fixed)
    if chosen is None:
        raise RecipeError(_unreachable(budget, tried[0], choices[0][1]))
    factor, found = choices[chosen]
    settings = {name: getattr(found, name) for name in found.width_fields}
    facts: dict[str, Any] = {
        "asked": budget.limit,
        "unit": "bytes" if budget.bytes else "ms",
        "file": budget.file,
        "got": tried[chosen],
        "factor": round(factor, 4),
        "widths": {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()},
        "tried": {f"{choices[number][0]:.4f}": value for number, value in sorted(tried.items())},
    }
    listed = ", ".join(f"{name} {value}" for name, value in facts["widths"].items() if value is not None)
    note = f"{listed}: the widest within {budget.worded(budget.limit)} as {budget.file} ({budget.worded(tried[chosen])})"
    context.log(Progress("budget", 1, 1, note=note))
    return found, {"budget": facts, "notes": [note]}


def narrower(model: Model) -> list[Model]:
    """What a budget may leave of a model: itself first, the narrowest last."""
    return [model, *(found for factor, found in reversed(_choices(model)) if factor < 1)]


def widest(
    count: int, first: int, cost: Callable[[int], float], limit: float, fixed: Callable[[int, float], float]
) -> int | None:
    """The last of `count` choices whose cost, which rises with its number, is within the limit; None where none is.

    It begins with `first`, and goes on where the cost would be if it grew with the square of the width, but for a part that
    is `fixed`: of a choice with that cost."""
    low, high, number = -1, count, first
    while high - low > 1:
        paid = cost(number)
        constant = min(fixed(number, paid), 0.9 * paid)
        low, high = (number, high) if paid <= limit else (low, number)
        ratio = max(limit - constant, 1e-3 * paid) / (paid - constant)
        step = math.floor(STEPS / 2 * math.log2(ratio))
        number = min(max(number + (max(1, step) if paid <= limit else min(-1, step)), low + 1), high - 1)
    return low if low >= 0 else None


def _choices(model: Model) -> list[tuple[float, Model]]:
    """Factor -> the model with all widths times it, ascending; those with equal widths once, by the factor nearest to 1."""
    low, high = (round(STEPS * math.log2(end)) for end in (NARROWEST, WIDEST))
    made: list[tuple[float, Model]] = []
    for exponent in range(low, high + 1):
        factor = 2 ** (exponent / STEPS)
        try:
            scaled = model if exponent == 0 else model.scaled(factor)
        except ValidationError:  # these widths do not go with the model's other settings
            continue
        if made and made[-1][1] == scaled:
            made.pop()
        made.append((factor, scaled))
    model.scaled(1.0)  # one that can't be scaled says so
    return made


def _unreachable(budget: WidthBudget, least: float, model: Model, more: str = "") -> str:
    widths = ", ".join(f"{name} {getattr(model, name)}" for name in model.width_fields if getattr(model, name) is not None)
    return (
        f"budget: {budget.worded(budget.limit)} is out of reach: the narrowest '{model.type}' of this depth ({widths}) takes "
        f"{more}{budget.worded(least)} as {budget.file}; ask for that, or take a shallower model"
    )


class _Costs:
    """What models cost as files."""

    def __init__(self, budget: WidthBudget, context: Context, inputs: tuple[str, ...], heads: tuple[str, ...]):
        self._budget, self._context = budget, context
        self._signature = context.dataset.signature().narrowed(inputs, heads)

    def least_bytes(self, model: Model) -> float:
        """Below what its file takes: its matrices and filters alone."""
        body = restore.build(model, self._signature, 0).network.body
        weights = sum(parameter.numel() for parameter in body.parameters() if parameter.dim() > 1)
        return weights * (1 if self._budget.file == "int8" else 4)

    def of(self, model: Model) -> float:
        """Bytes, or milliseconds: measured once on this machine and then remembered."""
        if self._budget.bytes:
            return self._file(model, lambda path: float(storage.size_bytes(path)))
        key = self._key(model)
        known = _recall(self._context.memory)
        if key not in known:
            _remember(self._context.memory, key, self._file(model, self._latency))
        return _recall(self._context.memory).get(key, math.inf)

    def _latency(self, path: Path) -> float:
        timing = self._budget.timing
        session = sessions.open_session(path, timing.threads, timing.session)
        feeds = example.synthetic(session, timing.batch)
        return latency.latency(session, feeds, timing.seconds, timing.caches).p50_ms.value

    def _key(self, model: Model) -> str:
        subject = [
            model.model_dump(mode="json"), self._signature.model_dump(mode="json"), self._budget.file,
            self._budget.timing.model_dump(mode="json"), sessions.machine(), latency.VERSION, VERSION,
        ]  # fmt: skip
        return hashlib.sha256(json.dumps(subject, sort_keys=True, default=str).encode()).hexdigest()

    def _file(self, model: Model, measured: Callable[[Path], float]) -> float:
        """A measurement of the file that the stages would make of the model, with weights as different as trained ones."""
        with tempfile.TemporaryDirectory(prefix="compress-budget-") as folder:
            restored = restore.build(model, self._signature, 0)
            generator = torch.Generator().manual_seed(0)
            for name, tensor in restored.network.body.state_dict().items():
                if tensor.is_floating_point():
                    noise = torch.rand(tensor.shape, generator=generator)
                    tensor.add_((0.5 + noise) * (0.1 if "var" in name else 0.01))
            made: Artifact = _committed(Path(folder, "start"), Checkpoint, lambda at: restore.save(restored, at))
            for name in ("quantize", "export") if self._budget.file == "int8" else ("export",):
                made = self._run(name, made, Path(folder, name))
            return measured(made.file("model.onnx"))

    def _run(self, name: str, start: Artifact, folder: Path) -> Artifact:
        stage = find(Stage, name)()
        assert isinstance(stage, Stage)
        context = replace(
            self._context, inputs={"start": (start,)}, output=folder, saves=Saves(), transfer=None, log=lambda progress: None,
            environment={},
        )  # fmt: skip
        return _committed(folder, stage.produces({"start": (type(start),)}), lambda at: stage.run(context))


def _committed(folder: Path, kind: type[Artifact], write: Callable[[Path], Any]) -> Artifact:
    folder.mkdir()
    write(folder)
    artifact: Artifact = Draft(kind, "budget", {}, {}).commit(folder)
    return artifact


def _recall(memory: Path) -> dict[str, float]:
    """Earlier latencies; a file that can't be read counts as missing."""
    try:
        known = json.loads((memory / REMEMBERED).read_text())
    except (OSError, ValueError):
        return {}
    entries = known.items() if isinstance(known, dict) else ()
    return {key: float(value) for key, value in entries if isinstance(value, int | float)}


def _remember(memory: Path, key: str, value: float) -> None:
    memory.mkdir(parents=True, exist_ok=True)
    partial = memory / f"{REMEMBERED}.{os.getpid()}"
    partial.write_text(json.dumps({**_recall(memory), key: value}, indent=1) + "\n")
    os.replace(partial, memory / REMEMBERED)
