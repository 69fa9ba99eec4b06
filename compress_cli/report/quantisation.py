"""What rounding did to each layer: a table, and how the worst ones lie on their grids."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from compress_cli.report import Report, Row, plots
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.report.html import table, text
from compress_cli.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH

HEADINGS = ["layer", "operator", "weights", "bits", "range", "clipped %", "SQNR, dB", "bytes", "input bits", "input range",
            "clipped %"]  # fmt: skip
FEW = 32  # values of a grid that are drawn as lines through the whole plot; more are ticks below it
SHOWN = 12  # float parts that are listed


def section(report: Report, facts: Mapping[str, Mapping[str, Any]]) -> str:
    """Row name -> what its stage noted; empty where no layer was quantised."""
    parts = [_model(row, facts.get(row.name, {})) for row in report.rows]
    if not any(parts):
        return ""
    about = (
        "<p>Of the weights and of what goes into each layer: bits, range, the share that the range cuts off, signal over "
        "quantisation noise, bytes of codes, tables and scales. A layer of 32 bits stays float.</p>"
    )
    return f"<h2>Quantised layers</h2>{about}{''.join(parts)}"


def _model(row: Row, facts: Mapping[str, Any]) -> str:
    entries = facts.get("layers")
    layers = [entry for entry in entries if _is_layer(entry)] if isinstance(entries, list) else []
    if not layers:
        return ""
    drawn = "".join(f"<figure>{plot}</figure>" for plot in _plots(facts.get("distributions")))
    grids = (
        f"<p>The layers whose weights lost most. Lines, or the ticks below, are the values of the grid; where channels have "
        f'scales of their own, those of the largest.</p><div class="plots">{drawn}</div>'
        if drawn
        else ""
    )
    rows = table(HEADINGS, [_cells(entry) for entry in layers], words=2)
    wide = f"<details{' open' if len(layers) <= FEW else ''}><summary>{len(layers)} layers</summary>{rows}</details>"
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


def _is_layer(entry: Any) -> bool:
    return isinstance(entry, dict) and isinstance(entry.get("weight_bits"), int) and isinstance(entry.get("layer"), str)


def _cells(entry: Mapping[str, Any]) -> list[str]:
    return [
        text(entry["layer"]),
        text(str(entry.get("operator", ""))),
        write.count(entry.get("weights")),
        str(entry["weight_bits"]),
        _range(entry.get("weight_range")),
        _percent(entry.get("weight_clipped")),
        _number(entry.get("weight_sqnr_db"), ".1f"),
        NOTHING if entry.get("bytes") is None else f"{entry['bytes']:,}",
        str(entry.get("activation_bits", NOTHING)),
        _range(entry.get("activation_range")),
        _percent(entry.get("activation_clipped")),
    ]


def _range(ends: Any) -> str:
    return f"{ends[0]:.3g} to {ends[1]:.3g}" if isinstance(ends, list) and len(ends) == 2 else NOTHING


def _percent(share: Any) -> str:
    return NOTHING if share is None else f"{100 * share:.2f}"


def _number(value: Any, form: str) -> str:
    return NOTHING if value is None else f"{value:{form}}"


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
