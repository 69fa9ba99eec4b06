"""Figures as people read them, with their units."""

from __future__ import annotations

from compress_cli.onnx_graph.contents import Contents
from compress_cli.report import FindingsTable, Report, Row
from compress_cli.report.document import chain
from compress_cli.statistics.gate import Judged, parse, sort_of
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.predictions import BINS, PredictionComparison

NOTHING = "-"
SPOKEN = {"sqnr_db": "SQNR, dB", "cka": "CKA"}


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
    return NOTHING if value is None else f"{_digits(value)}x"


def milliseconds(value: float | None) -> str:
    return NOTHING if value is None else f"{_digits(value)} ms"


def metric(name: str, value: float, signed: bool = False) -> str:
    """Shares in percent, everything else in its own unit."""
    sign = "+" if value and (signed or name.endswith("_change")) else ""
    if sort_of(name) == "share":
        return f"{100 * value:{sign}.1f}"
    return f"{value:{sign}.4g}"


def spread(name: str, value: float) -> str:
    """A standard deviation, with one digit more than the metric."""
    return f"{100 * value:.2f}" if name.endswith("accuracy") else f"{value:.3g}"


def interval(name: str, estimate: Estimate, signed: bool = False) -> str:
    return f"[{metric(name, estimate.low, signed)}, {metric(name, estimate.high, signed)}]"


def cell(name: str, found: Estimate | float | None) -> tuple[str, str]:
    """A figure, and its interval where it has one."""
    if found is None:
        return NOTHING, ""
    if isinstance(found, Estimate):
        return metric(name, found.value), interval(name, found)
    return metric(name, found), ""


def title(name: str) -> str:
    """A figure's name with its unit."""
    spoken = name.startswith("baseline_") or name.endswith(("_change", "_drop"))
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


def hurt(comparison: PredictionComparison) -> str:
    """The class that lost most: `9: -12.5`."""
    first = comparison.classes[0]
    return f"{first.name}: {metric('accuracy_change', first.change.value)}" if first.change.value < 0 else NOTHING


def prediction_headings(report: Report) -> list[str]:
    return ["model", report.primary, "agrees %", "lost", "gained", "KL", "ECE %", "hurt most"]


def way(report: Report) -> str:
    """`accuracy, stage by stage: teacher 98.9, student -1.7 [-3.4, -0.5], int8 0.0 [-0.9, +0.9]`; empty for one model."""
    name, rows = report.primary, chain(report)
    gained = [row.gained for row in rows[1:]]
    if not gained or None in gained or name not in rows[0].metrics:
        return ""
    told = [f"{rows[0].name} {metric(name, rows[0].metrics[name].value)}"]
    for row, each in zip(rows[1:], gained, strict=True):
        if each:
            told.append(f"{row.name} {metric(name, each.value, True)} {interval(name, each, True)}")
    return f"{title(name)}, stage by stage: {', '.join(told)}"


def about_predictions(report: Report) -> str:
    """What the figures that compare predictions mean, in a sentence or two."""
    return (
        f"Beside {report.baseline}, sample by sample. Agrees: both name the same class, right or wrong. Lost, gained: samples "
        "that went from right to wrong, from wrong to right. KL: mean divergence from the baseline's probabilities, in nats. "
        f"ECE: calibration error, {BINS} bins of equal width."
    )


def numbers(row: Row) -> str:
    """The number type that most parameters are stored in."""
    return next(iter(row.kinds), NOTHING)


def conditions(report: Report) -> str:
    """On what, where and how it was measured, in one sentence."""
    said = f"{report.samples} {report.split} samples; intervals of {report.primary or 'metrics'} hold with 95%"
    timed = next((row.latency for row in report.rows if row.latency), None)
    if timed:
        machine = report.machine
        threads = f"{timed.threads} thread{'s' if timed.threads > 1 else ''}"
        said += (
            f"{', of speed-up with 99%' if report.baseline else ''}. Latency of "
            f"{'one run' if timed.batch is None else f'a batch of {timed.batch}'} with {threads} and {timed.caches} caches"
            f" on {machine.get('processor')}, ONNX Runtime {machine.get('onnxruntime')}"
            f"{', each timed in turn with the baseline' if report.baseline else ''}"
        )
    return f"{said}."


def remarks(report: Report) -> list[tuple[str, str]]:
    """Row name and what has to be said of it in words."""
    found: list[tuple[str, str]] = []
    for row in report.rows:
        reasons = {"not measured": row.reason, "multiply-accumulates unknown": row.macs_unknown}
        said = [row.note, *(f"{what}: {why}" for what, why in reasons.items() if why)]
        found += [(row.name, each) for each in said if each]
    return found


def gate(judged: Judged) -> str:
    """`accuracy_drop<=0.01 (int8): undecided: 0.004 [-0.002, 0.011]; needs about 210 more samples`"""
    said = f"{judged.promise} ({judged.row}): {judged.outcome}"
    if judged.value is None or judged.low is None or judged.high is None:
        return f"{said}: {judged.reason}"
    quantity = parse(judged.promise).terms.quantity
    sort, timed = sort_of(quantity), quantity.startswith(("latency", "speedup"))
    unit = {"bytes": " bytes", "ms": " ms"}.get(sort, "")
    number = "{:,.0f}" if sort in ("bytes", "count") else "{:.4g}"
    said += f": {number.format(judged.value)}{unit}"
    if judged.low != judged.high:
        said += f" [{number.format(judged.low)}, {number.format(judged.high)}]"
    if judged.needs is not None:
        said += f"; needs about {judged.needs:,} more {'rounds of timing' if timed else 'samples'}"
    elif judged.outcome == "undecided":
        said += "; it lies on the limit, which no number of samples would decide"
    return f"{said} (which is let pass)" if judged.outcome == "undecided" and judged.passes else said


def heading(found: FindingsTable) -> str:
    """`onnx: robustness (stage 'robustness')`"""
    title = found.findings.title
    return f"{found.model}: {title[:1].lower()}{title[1:]} (stage '{found.name}')" if found.model else title


def printable(text: str) -> str:
    """Names come from files: no control characters reach the terminal."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _digits(value: float) -> str:
    """Three significant digits, never in scientific notation."""
    return (
        f"{value:.0f}"
        if value >= 99.95
        else f"{value:.1f}"
        if value >= 9.995
        else f"{value:.2f}"
        if value >= 0.1
        else f"{value:.3f}"
    )


def compressed(contents: Contents) -> str:
    """Bytes under gzip and zstd, and why one of them is not known."""
    known = {"gzip": contents.gzip_bytes, "zstd": contents.zstd_bytes}
    told = [f"{size(each)} under {name}" for name, each in known.items() if each is not None]
    return "; ".join([", ".join(told), contents.compressed_unknown]).strip("; ")


def activations(contents: Contents) -> str:
    """The estimate of what values between operators take, or why there is none."""
    if contents.peak_activation_bytes is None:
        return f"unknown: {contents.peak_activation_unknown}"
    return f"about {size(contents.peak_activation_bytes)} a sample at most"
