"""The outcome of a search as one HTML page that opens offline: the front as a plot, what fields are worth, all trials."""

from __future__ import annotations

from functools import partial

from compress_cli.report import html
from compress_cli.report.html import text
from compress_cli.report.plots import BOTTOM, HEIGHT, LEFT, RIGHT, TOP, WIDTH, Axis, Bar, axis, bars, frame, svg
from compress_cli.search import tables
from compress_cli.search.outcome import Outcome, TrialOutcome
from compress_cli.search.tables import Table

LEGEND = (("s2", "on the front"), ("s0", "keeps every gate"), ("even", "breaks a gate"))


def render(outcome: Outcome) -> str:
    """The whole page."""
    plots = "".join(f"<figure>{plot}</figure>" for plot in (_plane(outcome), _progress(outcome)) if plot)
    parts = [
        f"<h1>Search: {text(outcome.study)}</h1>",
        *(f"<p>{text(sentence)}</p>" for sentence in tables.summary(outcome)),
        f'<div class="plots">{plots}</div>' if plots else "",
        f"<h2>Best</h2><p>{text(tables.verdict(outcome))}</p>{_table(tables.front(outcome))}",
        f"<h2>What each field is worth</h2>{_importances(outcome)}{_table(tables.importances(outcome), words=2)}",
        f"<h2>Trials</h2>{_table(tables.trials(outcome), words=2)}",
        *(f"<p>{text(line)}</p>" for line in tables.problems(outcome)),
    ]
    return html.document(f"compress tune: {outcome.study}", parts)


def _table(shown: Table, words: int = 1) -> str:
    return html.table(shown.headings, [[text(cell) for cell in line] for line in shown.lines], words) if shown.lines else ""


def _plane(outcome: Outcome) -> str:
    """Complete trials by size and by the task's metric, or by the two objectives; the front joined by a line."""
    aims = outcome.goal.objectives if len(outcome.goal.objectives) == 2 else ("size", "accuracy")
    complete = [trial for trial in outcome.trials if trial.figures]
    if len(complete) < 2:
        return ""
    across, up = ([trial.figures.value(aim) for trial in complete if trial.figures] for aim in aims)
    labels = [partial(tables.objective, aim, outcome=outcome) for aim in aims]
    x = axis(outcome.goal.title(aims[0]), across, LEFT, WIDTH - RIGHT, labels[0], spread=True)
    y = axis(outcome.goal.title(aims[1]), up, HEIGHT - BOTTOM, TOP, labels[1])
    places = {trial.number: (x.at(a), y.at(b)) for trial, a, b in zip(complete, across, up, strict=True)}
    marks = []
    if len(outcome.goal.objectives) == 2 and len(outcome.front) > 1:
        path = " ".join("{:.1f},{:.1f}".format(*places[number]) for number in outcome.front)
        marks.append(f'<polyline class="line s2 dashed" points="{path}"/>')
    marks += [_dot(trial, places[trial.number], outcome) for trial in sorted(complete, key=lambda each: each.feasible)]
    marks += _names(outcome, places)
    kinds = {_kind(trial, outcome) for trial in complete}
    legend = "".join(
        f'<li><span class="key {kind}"></span>{"best" if words == "on the front" and len(outcome.front) == 1 else words}</li>'
        for kind, words in LEGEND
        if kind in kinds
    )
    return svg(f"{y.title} against {x.title}", [*frame(x, y), *marks]) + f'<ul class="legend">{legend}</ul>'


def _kind(trial: TrialOutcome, outcome: Outcome) -> str:
    return "s2" if trial.number in outcome.front else "s0" if trial.feasible else "even"


def _dot(trial: TrialOutcome, place: tuple[float, float], outcome: Outcome) -> str:
    chosen = ", ".join(f"{name}: {value}" for name, value in trial.values.items())
    size = 6 if trial.number == outcome.best else 4
    return (
        f'<g class="{_kind(trial, outcome)}"><title>{text(f"trial {trial.number}: {chosen}")}</title>'
        f'<circle class="dot" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="{size}"/></g>'
    )


def _names(outcome: Outcome, places: dict[int, tuple[float, float]]) -> list[str]:
    """Numbers of trials on the front, left out where two would cover each other; that of the best always stands."""
    drawn, taken = [], list[tuple[float, float]]()
    for number in sorted(outcome.front, key=lambda each: each != outcome.best):
        across, up = places[number]
        if all(abs(across - a) > 22 or abs(up - b) > 13 for a, b in taken):
            taken.append((across, up))
            to_left = across > WIDTH - RIGHT - 30
            position = f'x="{across + (-9 if to_left else 9):.1f}" y="{max(up - 7, 10):.1f}"'
            drawn.append(f'<text class="label s2" {position} text-anchor="{"end" if to_left else "start"}">{number}</text>')
    return drawn


def _progress(outcome: Outcome) -> str:
    """The first objective of complete trials by their number, and the best feasible one so far."""
    complete = [trial for trial in outcome.trials if trial.figures]
    if len(complete) < 2:
        return ""
    aim = outcome.goal.objectives[0]
    known = {trial.number: trial.figures.value(aim) for trial in complete if trial.figures}
    x = axis("trial", [float(number) for number in known], LEFT, WIDTH - RIGHT, "{:.0f}".format, pad=0.02)
    y = axis(
        outcome.goal.title(aim),
        list(known.values()),
        HEIGHT - BOTTOM,
        TOP,
        partial(tables.objective, aim, outcome=outcome),
        True,
    )
    better = max if outcome.goal.directions[0] == "maximize" else min
    path, best = list[str](), list[float]()
    for trial in complete:
        if trial.feasible:
            best.append(better([*best[-1:], known[trial.number]]))
            if len(best) > 1:
                path.append(_point(x, y, trial.number, best[-2]))
            path.append(_point(x, y, trial.number, best[-1]))
    line = f'<polyline class="line s2" points="{" ".join(path)}"><title>best so far</title></polyline>' if path else ""
    dots = [_dot(trial, (x.at(trial.number), y.at(known[trial.number])), outcome) for trial in complete]
    return svg(f"{y.title} by trial", [*frame(x, y), line, *dots])


def _point(x: Axis, y: Axis, number: float, value: float) -> str:
    return f"{x.at(number):.1f},{y.at(value):.1f}"


def _importances(outcome: Outcome) -> str:
    """Bars for each objective."""
    figures, titles = [], {aim: outcome.goal.title(aim) for aim in outcome.goal.objectives}
    for aim, shares in outcome.importances.items():
        ordered = sorted(shares.items(), key=lambda pair: -pair[1])
        names = dict(zip(outcome.fields, tables.short(list(outcome.fields)), strict=True))
        steps = [Bar(names[name], (share, share, share), f"{100 * share:.0f}%") for name, share in ordered]
        title = f"share of the variance of {titles[aim]}"
        figures.append(f"<figure>{bars(steps, title, lambda value: f'{100 * value:.0f}%', 'higher')}</figure>")
    return "".join(figures)
