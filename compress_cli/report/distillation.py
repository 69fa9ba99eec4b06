"""What seeds and controls tell, in words."""

from __future__ import annotations

from compress_cli.report import Report
from compress_cli.report import figures as write
from compress_cli.statistics.repeats import Distilled, Spread

SAYS = {
    "helped": "the teacher helped",
    "hurt": "the teacher hurt",
    "no difference shown": "the teacher did not help, as far as these samples tell",
}


def told(report: Report) -> list[tuple[str, str]]:
    """Row name and sentence: what each teacher was worth, then how far figures spread over the seeds."""
    name = report.primary
    return [
        *((each.row, _worth(name, each)) for each in report.distilled),
        *((each.row, _spread(name, each)) for each in report.spread),
    ]


def _worth(name: str, each: Distilled) -> str:
    seeds = f"seeds {_list(each.seeds)}" if len(each.seeds) > 1 else "one seed, so the spread over seeds is not known"
    change = f"{write.metric(name, each.difference.value, True)} {write.interval(name, each.difference, True)}"
    said = f"{SAYS[each.verdict]}: {write.title(name)} {change} against the same training without it ({seeds}); "
    if each.gap_closed is None:
        return f"{said}gap closed: not defined, {_no_gap(each)}"
    by_seed = (
        f" ({', '.join(f'{gap:.2f}' for gap in each.gaps_closed)} by seed)" if each.gaps_closed and len(each.seeds) > 1 else ""
    )
    return f"{said}gap to '{each.teacher}' closed: {each.gap_closed:.2f}{by_seed}"


def _no_gap(each: Distilled) -> str:
    """Why there is nothing to close."""
    if each.headroom is None:
        return "no teacher was measured on all that the student does"
    if each.headroom.low <= 0 <= each.headroom.high:
        return "teacher and control differ by no more than their noise"
    return f"the teacher '{each.teacher}' is itself worse than the control"


def _spread(name: str, each: Spread) -> str:
    values = ", ".join(write.metric(name, value) for value in each.values)
    return (
        f"{write.title(name)} over seeds {_list(each.seeds)}: mean {write.metric(name, each.mean)}, "
        f"standard deviation {write.spread(name, each.deviation)} ({values})"
    )


def _list(seeds: list[int]) -> str:
    return ", ".join(map(str, seeds))
