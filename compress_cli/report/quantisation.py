"""What rounding did to each layer: a table, and how the worst ones lie on their grids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from compress_cli.report import Report, Row, plots
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.report.html import table, text
from compress_cli.report.layers import FLOAT_BITS, QuantisedLayer
from compress_cli.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

HEADINGS = ["layer", "operator", "weights", "bits", "range", "clipped %", "SQNR, dB", "bytes", "input bits", "input range",
            "clipped %"]  # fmt: skip
SUMMARY = ["model", "layers", "bits of weights", "bytes", "least SQNR, dB", "most weights clipped %", "most inputs clipped %"]
FEW = 32  # values of a grid that are drawn as lines through the whole plot; more are ticks below it
SHOWN = 12  # float parts that are listed


def section(report: Report, facts: Mapping[str, Mapping[str, Any]]) -> str:
    """`facts`: row name -> what its stage noted. Empty where no layer was quantised."""
    parts = [_model(row, facts.get(row.name, {})) for row in report.rows if row.layers]
    if not any(parts):
        return ""
    about = (
        "<p>Of the weights and of what goes into each layer: bits, range, the share that the range cuts off, signal over "
        "quantisation noise, bytes of codes, tables and scales. A layer of 32 bits stays float.</p>"
    )
    return f"<h2>Quantised layers</h2>{about}{''.join(parts)}"


def _model(row: Row, facts: Mapping[str, Any]) -> str:
    drawn = "".join(f"<figure>{plot}</figure>" for plot in _plots(facts.get("distributions")))
    grids = (
        f"<p>The layers whose weights lost most. Lines, or the ticks below, are the values of the grid; where channels have "
        f'scales of their own, those of the largest.</p><div class="plots">{drawn}</div>'
        if drawn
        else ""
    )
    rows = table(HEADINGS, [_cells(layer) for layer in row.layers], words=2)
    wide = f"<details{' open' if len(row.layers) <= FEW else ''}><summary>{len(row.layers)} layers</summary>{rows}</details>"
    return f"<h3>{text(row.title)}</h3>{_floating(row)}{wide}{grids}"


def _floating(row: Row) -> str:
    """What computes in float, with its share of the time and of the bytes."""
    if not row.floating:
        return ""
    lines = [
        [text(part.name), text(part.operator), f"{100 * part.time_share:.1f}", f"{100 * part.bytes_share:.1f}"]
        for part in row.floating[:SHOWN]
    ]
    more = len(row.floating) - SHOWN
    rest = f"<p>and {more} more</p>" if more > 0 else ""
    return f"<p>{text(write.floating(row))}</p>{table(['float', 'operator', 'time %', 'bytes %'], lines, words=2)}{rest}"


def _cells(layer: QuantisedLayer) -> list[str]:
    return [
        text(layer.layer),
        text(layer.operator),
        write.count(layer.weights),
        str(layer.weight_bits),
        _range(layer.weight_range),
        _percent(layer.weight_clipped),
        _number(layer.weight_sqnr_db, ".1f"),
        _number(layer.bytes, ","),
        _number(layer.activation_bits, "d"),
        _range(layer.activation_range),
        _percent(layer.activation_clipped),
    ]


def _range(ends: Sequence[float] | None) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}" if ends and len(ends) == 2 else NOTHING


def _percent(share: float | None) -> str:
    return NOTHING if share is None else f"{100 * share:.2f}"


def _number(value: float | None, form: str) -> str:
    return NOTHING if value is None else f"{value:{form}}"


def summary(row: Row) -> list[str]:
    """Cells below `SUMMARY`: its layers in a line, with the worst of each figure and the layer that has it."""
    counts = Counter(layer.weight_bits for layer in row.layers)
    bits = [f"{'float' if width == FLOAT_BITS else width}: {count}" for width, count in sorted(counts.items(), reverse=True)]
    rounded = [layer for layer in row.layers if not layer.is_float]

    def worst(figures: Iterable[tuple[float | None, str]], sign: int, form: str) -> str:
        known = [(sign * figure, name) for figure, name in figures if figure is not None]
        figure, name = max(known, key=lambda pair: pair[0], default=(0.0, ""))
        return f"{sign * figure:{form}} ({name})" if known else NOTHING

    return [
        row.title,
        str(len(row.layers)),
        ", ".join(bits),
        f"{sum(layer.bytes or 0 for layer in row.layers):,}",
        worst(((layer.weight_sqnr_db, layer.layer) for layer in rounded), -1, ".1f"),
        worst(((_hundredfold(layer.weight_clipped), layer.layer) for layer in rounded), 1, ".2f"),
        worst(((_hundredfold(layer.activation_clipped), layer.layer) for layer in rounded), 1, ".2f"),
    ]


def _hundredfold(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _plots(distributions: Any) -> Iterator[str]:
    for entry in distributions if isinstance(distributions, list) else []:
        yield _plot(entry)


def _plot(entry: Mapping[str, Any]) -> str:
    """A histogram with the values of its grid."""
    shares: Sequence[float] = entry["shares"]
    (low, high), grid = entry["edges"], _grid(entry["grid"])
    x = plots.axis(entry["kind"], [low, high, *grid[:1], *grid[-1:]], LEFT, WIDTH - RIGHT, lambda value: f"{value:.3g}", pad=0)
    y = plots.axis("share", [0.0, max([*shares, 1e-9])], HEIGHT - BOTTOM, TOP, lambda value: f"{value:.3g}", pad=0)
    bottom, step = HEIGHT - BOTTOM, (high - low) / len(shares)
    lines = []
    for value in grid:
        top = TOP if len(grid) <= FEW else bottom - 8
        pixel = f"{x.at(value):.1f}"
        lines.append(f'<line class="level" x1="{pixel}" x2="{pixel}" y1="{top}" y2="{bottom}"/>')
    corners = [(low, 0.0)]
    for number, share in enumerate(shares):
        corners += [(low + number * step, share), (low + (number + 1) * step, share)]
    path = " ".join(f"{x.at(a):.1f},{y.at(b):.1f}" for a, b in [*corners, (high, 0.0)])
    scales = f", {entry['scales']} scales" if entry.get("scales", 1) > 1 else ""
    caption = f"{entry['layer']}: {entry['kind']}, {len(grid)} values{scales}"
    area = f'<polygon class="area s0" points="{path}"/>'
    return f"<figcaption><b>{text(caption)}</b></figcaption>{plots.svg(caption, [*plots.frame(x, y), area, *lines])}"


def _grid(told: Mapping[str, Any]) -> list[float]:
    if "values" in told:
        return sorted(told["values"])
    low, high, count = told["low"], told["high"], told["count"]
    return [low + (high - low) * number / (count - 1) for number in range(count)]
