"""Bits of each layer, chosen on val so that a promise holds."""

from __future__ import annotations

import glob
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from compress_cli.errors import RecipeError, StageError
from compress_cli.measurement.latency import Speedup
from compress_cli.progress import Log, Progress
from compress_cli.quantization.overrides import Override
from compress_cli.quantization.quantizers import Quantizer
from compress_cli.stages._assignment import Option, assign
from compress_cli.stages._budget import WIDTHS, Budget

ROUNDS = 8  # files that are written until one fits a size: what a graph adds to its weights is known from the last one


@dataclass(frozen=True)
class Search:
    """How a search tries an assignment."""

    quantize: Callable[[Quantizer, Path], dict[str, Any]]  # writes a file, returns its facts
    noise: Callable[[Path], float]  # squared error of a file's outputs on val, as a share of the float outputs' squares
    drop: Callable[[Path], float]  # how much worse a file is than the float one by the task's metric on val
    size: Callable[[Path], int]  # bytes of a file as it ships
    float_size: Callable[[], int]  # of the float file
    speedup: Callable[[Path], Speedup]  # of a file over the float one
    log: Log


def keep(budget: Budget, quantizer: Quantizer, search: Search, output: Path) -> dict[str, Any]:
    """Write the file that keeps the budget and changes the outputs least; its facts, with the sensitivity of each layer that
    was tried. RecipeError or StageError where no assignment keeps it."""
    return _Choice(quantizer, search, output).kept(budget)


class _Choice:
    """The layers whose bits are open: those that the quantizer rounds and no override speaks of."""

    def __init__(self, quantizer: Quantizer, search: Search, output: Path):
        self.quantizer, self.search, self.output = quantizer, search, output
        self.whole = search.quantize(quantizer, output)  # facts of all layers as the quantizer takes them
        named = [override.layers for override in quantizer.overrides]
        self.layers = {
            entry["layer"]: entry
            for entry in self.whole["layers"]
            if entry["weight_bits"] < 32 and not any(fnmatchcase(entry["layer"], pattern) for pattern in named)
        }
        low, high = quantizer.weight_bits
        widths = [width for width in WIDTHS if low <= width <= high]
        self.widths = widths if len(widths) > 1 else []

    def kept(self, budget: Budget) -> dict[str, Any]:
        what, limit = budget.promise
        if what == "accuracy_drop":
            return self.accurate(limit)
        if not self.layers:
            raise RecipeError(f"budget.{what}: overrides say the bits of every layer, so that there is nothing to choose")
        if what == "bits":
            return self.narrow(limit)
        if what in ("speedup", "latency_ms"):
            return self.fast(what, limit)
        return self.small(what, limit)

    def write(self, bits: Mapping[str, int | None]) -> dict[str, Any]:
        """Write the file in which these layers have these bits, and the others as the quantizer takes them."""
        return self.search.quantize(_with(self.quantizer, bits), self.output)

    def bits(self, chosen: Mapping[str, Option]) -> dict[str, int | None]:
        """Layer -> bits, of the layers that are not as the quantizer takes them."""
        return {layer: option.bits for layer, option in chosen.items() if self.widths or option.bits is None}

    def accurate(self, promise: float) -> dict[str, Any]:
        """Layers return to float, the most sensitive first, until the metric is good enough."""
        layers, search, output = list(self.layers), self.search, self.output
        drop, facts = search.drop(output), self.whole
        if drop <= promise:
            return {**facts, "budget": {"accuracy_drop": drop, "returned_to_float": []}}
        noise = {}
        for number, layer in enumerate(layers):
            self.write({other: None for other in layers if other != layer})
            noise[layer] = search.noise(output)
            search.log(Progress("sensitivity", number + 1, len(layers)))
        worst_first = sorted(layers, key=lambda layer: -noise[layer])
        failing, holding, tried = 0, len(layers), dict[int, tuple[float, dict[str, Any]]]()
        while holding - failing > 1:
            count = (failing + holding) // 2 if tried else failing + 1  # one layer is often enough
            facts = self.write(dict.fromkeys(worst_first[:count]))
            tried[count] = (search.drop(output), facts)
            failing, holding = (failing, count) if tried[count][0] <= promise else (count, holding)
        if holding == len(layers):
            least = tried[holding - 1][0] if holding - 1 in tried else drop
            raise StageError(
                f"budget.accuracy_drop: {promise:g} is not kept by any assignment: with all layers but one in float the loss "
                f"on val is {least:.4f}; allow more, or ship the float file"
            )
        facts = self.write(dict.fromkeys(worst_first[:holding]))
        return {
            **facts,
            "budget": {"accuracy_drop": tried[holding][0], "returned_to_float": worst_first[:holding]},
            "sensitivity": noise,
        }

    def narrow(self, bits: float) -> dict[str, Any]:
        """The least noise of all assignments with so many bits on average."""
        counts = {layer: entry["weights"] for layer, entry in self.layers.items()}
        options, noise = self.sensitivity(lambda layer, width: width * counts[layer])
        total = sum(counts.values())
        chosen = assign(options, bits * total)
        assert chosen is not None  # a budget below the narrowest is refused with the recipe
        mean = sum(option.cost for option in chosen.values()) / total
        return {**self.write(self.bits(chosen)), "budget": {"bits": mean}, "sensitivity": noise}

    def small(self, what: str, limit: float) -> dict[str, Any]:
        """The least noise of all assignments whose file is no larger."""
        most = int(limit) if what == "bytes" else int(self.search.float_size() / limit)
        options, noise = self.sensitivity(lambda layer, width: self.search.size(self.output))  # few bits need more nodes
        if not self.widths:
            for layer, (own,) in options.items():
                entry = self.layers[layer]
                options[layer].append(Option(None, own.cost - entry["bytes"] + 4 * entry["weights"], 0.0))
        narrowest = {layer: min(choices, key=lambda option: option.cost) for layer, choices in options.items()}
        tried: dict[tuple[Option, ...], int] = {}
        best, chosen = dict[str, Option](), narrowest
        while tuple(chosen.values()) not in tried and len(tried) < ROUNDS:
            self.write(self.bits(chosen))
            size = tried[tuple(chosen.values())] = self.search.size(self.output)
            if size <= most and _noise(chosen) <= _noise(best or narrowest):
                best = chosen
            around = size - sum(option.cost for option in chosen.values())  # what costs of single layers leave out
            chosen = assign(options, most - around) or narrowest
        if not best:
            least = min(tried.values())
            ratio = self.search.float_size() / least
            raise RecipeError(
                f"budget.{what}: {_asked(what, limit)} is out of reach: the smallest file of the quantizer "
                f"'{self.quantizer.type}' has {least} bytes, {ratio:.2f}x smaller than the float one; "
                f"allow {'so many' if what == 'bytes' else 'less'}, or take a quantizer with fewer bits"
            )
        facts = self.write(self.bits(best))
        size = self.search.size(self.output)
        return {
            **facts,
            "budget": {"bytes": size, "compression_ratio": self.search.float_size() / size, "largest": most},
            "sensitivity": noise,
        }

    def fast(self, what: str, limit: float) -> dict[str, Any]:
        """The layers return to float that make the outputs better for the least time, as many as the speed allows."""
        search, output, layers = self.search, self.output, list(self.layers)

        def tried(count: int) -> bool:
            if count not in speeds:
                self.write(dict.fromkeys(order[:count]))
                speeds[count] = search.speedup(output)
            return _is_reached(what, limit, speeds[count])

        speeds, noise = {0: search.speedup(output)}, search.noise(output)
        base = 1 / speeds[0].speedup.value
        gains: dict[str, dict[str, float]] = {}
        for number, layer in enumerate(layers if len(layers) > 1 else []):
            self.write({layer: None})
            time = 1 / search.speedup(output).speedup.value - base
            gains[layer] = {"noise": max(0.0, noise - search.noise(output)), "time": time}
            search.log(Progress("sensitivity", number + 1, len(layers)))
        order = sorted(gains, key=lambda layer: _worth(**gains[layer]), reverse=True)
        quicker = sum(gain["time"] <= 0 for gain in gains.values())  # in float; they are the first
        holding = next((count for count in (quicker, 0) if count < len(layers) and tried(count)), None)
        if holding is not None:
            failing = max(holding + 1, len(order))  # one layer has to stay
            while failing - holding > 1:
                count = (failing + holding) // 2
                failing, holding = (failing, count) if tried(count) else (count, holding)
            while holding is not None:
                facts = self.write(dict.fromkeys(order[:holding]))
                reached = speeds[holding] = search.speedup(output)  # anew: of several measurements the luckiest was taken
                if _is_reached(what, limit, reached):
                    break
                holding = holding - 1 if holding else None
        if holding is None:
            best = max(speeds.values(), key=lambda speed: speed.speedup.value)
            raise RecipeError(
                f"budget.{what}: {_asked(what, limit)} is out of reach: the fastest assignment, measured here, is "
                f"{_reached(what, best)}; ask for less, or take a smaller model"
            )
        return {
            **facts,
            "budget": {
                "speedup": [reached.speedup.low, reached.speedup.value, reached.speedup.high],
                "latency_ms": reached.model.p50_ms.value, "returned_to_float": order[:holding],
            },
            "sensitivity": gains,
        }  # fmt: skip

    def sensitivity(self, cost: Callable[[str, int], float]) -> tuple[dict[str, list[Option]], dict[str, dict[int, float]]]:
        """Of each layer its options, and the noise of each: that of a file in which it alone has so many bits, the last one
        written. `cost` gives the option's cost."""
        options: dict[str, list[Option]] = {layer: [] for layer in self.layers}
        noise: dict[str, dict[int, float]] = {layer: {} for layer in self.layers}
        for number, (layer, entry) in enumerate(self.layers.items()):
            others: dict[str, int | None] = {other: None for other in self.layers if other != layer}
            for width in self.widths or [entry["weight_bits"]]:
                self.write(others | ({layer: width} if self.widths else {}))
                noise[layer][width] = self.search.noise(self.output)
                options[layer].append(Option(width, cost(layer, width), noise[layer][width]))
            self.search.log(Progress("sensitivity", number + 1, len(self.layers)))
        return options, noise


def _with(quantizer: Quantizer, bits: Mapping[str, int | None]) -> Quantizer:
    """The quantizer with these bits for these layers; None is float."""
    more = tuple(
        Override(layers=glob.escape(layer), weights="float" if width is None else width) for layer, width in bits.items()
    )
    return quantizer.model_copy(update={"overrides": (*quantizer.overrides, *more)})


def _noise(chosen: Mapping[str, Option]) -> float:
    return sum(option.noise for option in chosen.values())


def _worth(noise: float, time: float) -> tuple[bool, float]:
    """What sorts layers: those that are no slower in float, and then noise per time."""
    return (time <= 0, noise if time <= 0 else noise / time)


def _is_reached(what: str, limit: float, speed: Speedup) -> bool:
    return speed.speedup.low >= limit if what == "speedup" else speed.model.p50_ms.high <= limit


def _asked(what: str, limit: float) -> str:
    unit = {"bytes": " bytes", "compression_ratio": "x", "speedup": "x", "latency_ms": " ms"}[what]
    return f"{limit:g}{unit}" if what != "bytes" else f"{int(limit)}{unit}"


def _reached(what: str, speed: Speedup) -> str:
    if what == "speedup":
        return f"{speed.speedup.value:.2f}x [{speed.speedup.low:.2f}, {speed.speedup.high:.2f}] as fast as the float file"
    p50 = speed.model.p50_ms
    return f"{p50.value:.3g} ms [{p50.low:.3g}, {p50.high:.3g}]"
