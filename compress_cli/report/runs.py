"""Several runs side by side: models aligned by the names of their stages."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress_cli.report import Report, Row, html, markdown
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING

Say = Callable[[Row, Report], tuple[str, str]]
"""A figure of a row, and its interval or remark."""


class Named(BaseModel):
    """One of the runs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """The recipe, with the folder where two runs share it."""
    report: Report


class Runs(BaseModel):
    """Several runs, in the order they were named."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    runs: list[Named]
    same_machine: bool
    """Whether latencies were measured on one machine, with one ONNX Runtime: otherwise they are not comparable."""


def side_by_side(reports: Sequence[tuple[str, Report]]) -> Runs:
    """Folder and report of each run."""
    recipes = [report.recipe for _, report in reports]
    named = [
        Named(name=report.recipe if recipes.count(report.recipe) == 1 else f"{report.recipe} ({folder})", report=report)
        for folder, report in reports
    ]
    machines = [report.machine for _, report in reports if report.machine]
    return Runs(runs=named, same_machine=all(machine == machines[0] for machine in machines))


def show(runs: Runs, console: Console | None = None) -> None:
    """Print one column for each run. Default: standard output."""
    out = console or Console(highlight=False, markup=False)
    headings, lines = _grid(runs)
    out.width = max(out.width, 100, 26 + 24 * len(runs.runs))
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column, heading in enumerate(headings):
        table.add_column(write.printable(heading), justify="right" if column > 1 else "left", overflow="fold", max_width=36)
    for line in lines:
        table.add_row(*(Text(write.printable(" ".join(filter(None, cell)))) for cell in line))
    out.print(table)
    out.print()
    for remark in _remarks(runs):
        out.print(write.printable(remark), style="dim")


def as_markdown(runs: Runs) -> str:
    """For a pull request."""
    headings, lines = _grid(runs)
    cells = [[markdown.plain(" ".join(filter(None, cell))) for cell in line] for line in lines]
    table = markdown.table([markdown.plain(heading) for heading in headings], cells)
    return "\n".join(["# Runs side by side", "", *table, "", *(markdown.plain(remark) for remark in _remarks(runs))]) + "\n"


def as_html(runs: Runs) -> str:
    """A page that opens offline."""
    headings, lines = _grid(runs)
    cells = [[f"{html.text(value)} <small>{html.text(small)}</small>" for value, small in line] for line in lines]
    remarks = "".join(f"<p>{html.text(remark)}</p>" for remark in _remarks(runs))
    return html.document("Runs side by side", ["<h1>Runs side by side</h1>", remarks, html.table(headings, cells, words=2)])


def _grid(runs: Runs) -> tuple[list[str], list[list[tuple[str, str]]]]:
    """Headings, and a line for each figure of each stage name; a run without that stage has `-` there."""
    reports = [run.report for run in runs.runs]
    shown = {row.name for report in reports for row in report.files}  # a stage whose file a later one made, too, is left out
    names = [name for name in dict.fromkeys(row.name for report in reports for row in report.rows) if name in shown]
    lines = [
        [("run", ""), ("baseline", ""), *((report.baseline, "") for report in reports)],
        [("", ""), ("seed", ""), *((str(report.seed), "") for report in reports)],
    ]
    for name in names:
        rows = [next((row for row in report.rows if row.name == name), None) for report in reports]
        for number, (title, say) in enumerate(_figures(runs).items()):
            cells = [say(row, report) if row else (NOTHING, "") for row, report in zip(rows, reports, strict=True)]
            lines.append([(name if number == 0 else "", ""), (title, ""), *cells])
    return ["stage", "", *(run.name for run in runs.runs)], lines


def _figures(runs: Runs) -> dict[str, Say]:
    reports = [run.report for run in runs.runs]
    primaries = dict.fromkeys(report.primary for report in reports if report.primary)
    metrics = dict.fromkeys(name for report in reports for row in report.rows for name in row.metrics)
    secondary = [name for name in metrics if name not in primaries]
    figures: dict[str, Say] = {write.title(name): _metric(name) for name in primaries}
    figures["change"] = _change
    for name in secondary:
        figures |= {write.title(name): _metric(name), write.title(f"{name}_change"): _secondary_change(name)}
    figures |= {"file": _file, "smaller": _smaller, "MACs": _macs, "faster": _faster}
    return figures | ({"latency": _latency} if runs.same_machine else {})


def _metric(name: str) -> Say:
    def say(row: Row, report: Report) -> tuple[str, str]:
        return write.cell(name, row.metrics.get(name))

    return say


def _secondary_change(name: str) -> Say:
    def say(row: Row, report: Report) -> tuple[str, str]:
        return write.cell(name, row.secondary_changes.get(name), signed=True)

    return say


def _change(row: Row, report: Report) -> tuple[str, str]:
    value, interval = write.cell(report.primary, row.change, signed=True)
    return value, f"{interval} {row.change_verdict or ''}".strip()


def _file(row: Row, report: Report) -> tuple[str, str]:
    return write.size(row.size_bytes), ""


def _smaller(row: Row, report: Report) -> tuple[str, str]:
    return write.times(row.compression_ratio), ""


def _macs(row: Row, report: Report) -> tuple[str, str]:
    return write.count(row.macs), ""


def _faster(row: Row, report: Report) -> tuple[str, str]:
    value, interval = write.speedup(row)
    return value, f"{interval} {row.verdict or ''}".strip()


def _latency(row: Row, report: Report) -> tuple[str, str]:
    return write.latency(row)


def _remarks(runs: Runs) -> list[str]:
    remarks = [f"{run.name}: {write.conditions(run.report)}" for run in runs.runs]
    if not runs.same_machine:
        remarks.append("Latencies were measured on different machines, so they are left out; each speed-up is of one machine.")
    baselines = dict.fromkeys(run.report.baseline for run in runs.runs)
    if len(baselines) > 1:
        remarks.append("The runs have different baselines: change, smaller and faster are each against the run's own.")
    return remarks
