"""Figures as people read them, with their units."""

from __future__ import annotations

from compress_cli.onnx_graph.contents import Contents
from compress_cli.report import FindingsTable, Report, Row
from compress_cli.report.document import chain
from compress_cli.statistics.gate import CHANGES, GateResult, parse, sort_of
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.predictions import BINS, PredictionComparison

NOTHING = "-"
SPOKEN = {"sqnr_db": "SQNR, dB", "cka": "CKA"}
SIGNED = ("_change", "_vs_baseline")


def count(value: int | None) -> str:
    """289k, 1.2M: three digits, as counts of parameters and multiply-accumulates are quoted."""
    if value is None:
        return NOTHING
    for unit, size in (("G", 10**9), ("M", 10**6), ("k", 10**3)):
        if value >= 0.9995 * size:
            return f"{_digits(value / size)}{unit}"
    return str(value)


def size(value: int | None) -> str:
    """Bytes in kB (1000 bytes) or MB."""
    if value is None:
        return NOTHING
    return f"{value / 1e6:.1f} MB" if value >= 10**7 else f"{value / 1e3:.1f} kB"


def times(value: float | None) -> str:
    """A ratio: at least two decimals below 10."""
    return NOTHING if value is None else f"{value:.2f}x" if 0.1 <= value < 1 else f"{_digits(value)}x"


def milliseconds(value: float | None) -> str:
    """Three digits, so that the ratio of two latencies can be checked."""
    return NOTHING if value is None else f"{_digits(value)} ms"


def metric(name: str, value: float, signed: bool = False) -> str:
    """Shares in percent, everything else in its own unit; what rounds to 0 has no sign."""
    sign = "+" if signed or name.endswith(SIGNED) else "-"
    number = f"{100 * value:{sign}.1f}" if sort_of(name) == "share" else f"{value:{sign}.4g}"
    return number if float(number) else number.lstrip("+-")


def spread(name: str, value: float) -> str:
    """A standard deviation, with one digit more than the metric."""
    return f"{100 * value:.2f}" if name.endswith("accuracy") else f"{value:.3g}"


def interval(name: str, estimate: Estimate, signed: bool = False) -> str:
    return f"[{metric(name, estimate.low, signed)}, {metric(name, estimate.high, signed)}]"


def cell(name: str, figure: Estimate | float | None, signed: bool = False) -> tuple[str, str]:
    """A figure, and its interval where it has one."""
    if figure is None:
        return NOTHING, ""
    if isinstance(figure, Estimate):
        return metric(name, figure.value, signed), interval(name, figure, signed)
    return metric(name, figure, signed), ""


def speedup(row: Row) -> tuple[str, str]:
    """How many times as fast as the baseline, and the interval."""
    return (times(row.speedup.value), f"[{row.speedup.low:.2f}, {row.speedup.high:.2f}]") if row.speedup else (NOTHING, "")


def latency(row: Row) -> tuple[str, str]:
    """The median and, where there is a speed-up, the baseline's in the same comparison: `vs 1.05 ms`."""
    if row.latency is None:
        return NOTHING, ""
    baseline = f"vs {milliseconds(row.baseline_latency.p50_ms.value)}" if row.baseline_latency else ""
    return milliseconds(row.latency.p50_ms.value), baseline


def title(name: str) -> str:
    """A figure's name with its unit."""
    spoken = name.startswith("baseline_") or name.endswith((*CHANGES, "_vs_baseline"))
    words = SPOKEN.get(name, name.replace("_", " ") if spoken else name)
    return f"{words} %" if sort_of(name) == "share" else words


def samples(share: Estimate) -> str:
    """A share as a number of samples."""
    return str(round(share.value * share.samples))


def verdict(row: Row) -> str:
    """`worse (McNemar p = 0.012)`"""
    if row.change_verdict is None:
        return ""
    chance = "" if row.change_p is None else f" (McNemar p = {row.change_p:.2g})"
    return f"{row.change_verdict}{chance}"


def worst_class(comparison: PredictionComparison) -> str:
    """The class whose accuracy fell most: `9: -12.5`."""
    first = comparison.classes[0]
    return f"{first.name}: {metric('accuracy_change', first.change.value)}" if first.change.value < 0 else NOTHING


def prediction_headings(report: Report) -> list[str]:
    return ["model", report.primary, "agrees %", "lost", "gained", "KL", "ECE %", "worst class"]


def stage_by_stage(report: Report) -> str:
    """`accuracy, stage by stage: teacher 98.9, student -1.7 [-3.4, -0.5], int8 0.0 [-0.9, +0.9]`; empty for one model."""
    name, rows = report.primary, chain(report)
    gained = [row.gained for row in rows[1:]]
    if not gained or None in gained or name not in rows[0].metrics:
        return ""
    steps = [f"{rows[0].title} {metric(name, rows[0].metrics[name].value)}"]
    steps += [f"{row.title} {' '.join(cell(name, change, signed=True))}" for row, change in zip(rows[1:], gained, strict=True)]
    return f"{title(name)}, stage by stage: {', '.join(steps)}"


def about_predictions(report: Report) -> str:
    """What the figures that compare predictions mean, in a sentence or two."""
    return (
        f"Compared with {report.baseline}, sample by sample. Agrees: both name the same class, right or wrong. Lost, gained: "
        "samples that went from right to wrong, from wrong to right. KL: mean divergence from the baseline's probabilities, in "
        f"nats. ECE: expected calibration error, {BINS} bins of equal width. Worst class: the one whose accuracy fell most."
    )


def numbers(row: Row) -> str:
    """The number type that most parameters are stored in."""
    return next(iter(row.kinds), NOTHING)


def conditions(report: Report) -> str:
    """On what, where and how it was measured, in one sentence."""
    over = f", each in one of {report.folds} folds, whose means these are" if report.folds else ""
    sentence = f"{report.samples} {report.split} samples{over}; intervals of {report.primary or 'metrics'} hold with 95%"
    timed = next((row.latency for row in report.rows if row.latency), None)
    if timed:
        machine = report.machine
        fold = ", of the first fold" if report.folds else ""
        threads = f"{timed.threads} thread{'s' if timed.threads > 1 else ''}"
        sentence += (
            f"{', of speed-up with 99%' if report.baseline else ''}. Latency: median for "
            f"{'one run' if timed.batch is None else f'a batch of {timed.batch}'} with {threads} of ONNX Runtime "
            f"{machine.get('onnxruntime')} and {timed.caches} caches on {machine.get('processor')}{fold}"
        )
    if any(row.baseline_latency for row in report.rows):
        sentence += "; each model was timed in turn with the baseline, whose median in that comparison follows 'vs'"
    return ". ".join([sentence, *(f"{remark[:1].upper()}{remark[1:]}" for remark in report.data)]) + "."


def remarks(report: Report) -> list[tuple[str, str]]:
    """Row name, or `dataset`, and remark: notes, and reasons for what could not be measured."""
    pairs = [("dataset", doubt) for doubt in report.doubts] + ([("time", report.fitted)] if report.fitted else [])
    for row in report.files:
        reasons = {"not measured": row.reason, "multiply-accumulates unknown": row.macs_unknown}
        remarks = [row.note, floating(row), *(f"{what}: {why}" for what, why in reasons.items() if why)]
        pairs += [(row.title, remark) for remark in remarks if remark]
    return pairs


def floating(row: Row) -> str:
    """`float: 12% of the time, 4% of the bytes, most of it in conv1 (Conv), fc (Gemm)`; empty where nothing is, or all."""
    parts = row.floating or []
    if not parts:
        return ""
    time_share, bytes_share = (sum(getattr(part, name) for part in parts) for name in ("time_share", "bytes_share"))
    named = ", ".join(f"{part.name} ({part.operator})" for part in parts[:3])
    return f"float beside its integers: {time_share:.0%} of the time, {bytes_share:.0%} of the bytes; first of all {named}"


def gate(result: GateResult) -> str:
    """`accuracy_drop<=0.01 (int8): undecided: 0.004 [-0.002, 0.011]; needs about 210 more samples`"""
    sentence = f"{result.promise} ({result.row}): {result.outcome}"
    if result.value is None or result.low is None or result.high is None:
        return f"{sentence}: {result.reason}"
    quantity = parse(result.promise).terms.quantity
    sort, timed = sort_of(quantity), quantity.startswith(("latency", "speedup"))
    unit = {"bytes": " bytes", "ms": " ms"}.get(sort, "")
    number = "{:,.0f}" if sort in ("bytes", "count") else "{:.4g}"
    sentence += f": {number.format(result.value)}{unit}"
    if result.low != result.high:
        sentence += f" [{number.format(result.low)}, {number.format(result.high)}]"
    if result.needs is not None:
        sentence += f"; needs about {result.needs:,} more {'rounds of timing' if timed else 'samples'}"
    elif result.outcome == "undecided":
        sentence += "; the value lies on the limit, which no number of samples can decide"
    return f"{sentence} (the gate lets it pass)" if result.outcome == "undecided" and result.passes else sentence


def heading(table: FindingsTable) -> str:
    """`onnx: robustness (stage 'robustness')`"""
    title = table.findings.title
    return f"{table.model}: {title[:1].lower()}{title[1:]} (stage '{table.name}')" if table.model else title


def printable(text: str) -> str:
    """Names come from files: no control characters reach the terminal."""
    return "".join(character if character.isprintable() else "?" for character in text)


def _digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    exponent = int(f"{value:.2e}".partition("e")[2])  # after rounding: 9.999 has the digits of 10
    return f"{value:.{max(0, 2 - exponent)}f}"


def compressed(contents: Contents) -> str:
    """Bytes under gzip and zstd, and why one of them is not known."""
    known = {"gzip": contents.gzip_bytes, "zstd": contents.zstd_bytes}
    sizes = [f"{size(count)} under {name}" for name, count in known.items() if count is not None]
    return "; ".join([", ".join(sizes), contents.compressed_unknown]).strip("; ")


def activations(contents: Contents) -> str:
    """The estimate of what values between operators take, or why there is none."""
    if contents.peak_activation_bytes is None:
        return f"unknown: {contents.peak_activation_unknown}"
    return f"about {size(contents.peak_activation_bytes)} a sample at most"
