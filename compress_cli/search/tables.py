"""A search's figures as people read them: sentences and tables that every report shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from compress_cli.pipeline.searched import Aim
from compress_cli.report import figures as write
from compress_cli.report.figures import NOTHING
from compress_cli.search.objectives import Figures
from compress_cli.search.outcome import Outcome, TrialOutcome


class Table(NamedTuple):
    headings: list[str]
    lines: list[list[str]]


def summary(outcome: Outcome) -> list[str]:
    """What was searched, how far it came, and what going on from saves was worth, in sentences."""
    goal = outcome.goal
    wanted = " and ".join(
        {"size": "a small file", "latency": "low latency", "accuracy": f"good {goal.primary}"}[aim] for aim in goal.objectives
    )
    promises = ", ".join(gate.promise for gate in goal.gates)
    kept = f", with every gate kept ({promises})" if promises else ""
    counts = [
        f"{count} {state}" for state in ("complete", "paused", "queued", "at work", "failed") if (count := outcome.count(state))
    ]
    end = " A gate counts as kept where the unfavourable end of its interval keeps it, as in a run." if goal.gates else ""
    feasible = f"; every gate is kept by {sum(each.feasible for each in outcome.trials)}" if goal.gates else ""
    sentences = [
        f"Looked for {wanted}{kept}, measured on val: models are chosen by these figures, so the ones on test will be a little "
        f"worse.{end}",
        f"{_count(len(outcome.trials), 'trial')}: {', '.join(counts)}{feasible}. "
        f"{outcome.seconds:.0f} s of work, {_count(outcome.epochs, 'epoch')} trained.",
    ]
    if outcome.importances and (others := outcome.count("paused") + outcome.count("failed")):
        sentences.append(
            f"What each field is worth is told from the {_count(outcome.count('complete'), 'complete trial')} alone; what the "
            f"{others} paused and failed ones would have shown is not in it."
        )
    if outcome.not_repeated:
        share = outcome.not_repeated / (outcome.epochs + outcome.not_repeated)
        sentences.append(
            f"{_count(outcome.continued, 'trial')} went on from a save instead of anew: {outcome.not_repeated} epochs were not "
            f"trained again ({100 * share:.0f}% of what starting anew would have taken)."
        )
    if outcome.untrained:
        paused = _count(outcome.count("paused"), "trial")
        sentences.append(f"{paused} that stayed paused left {outcome.untrained} epochs of the longest training untrained.")
    if goal.timed and outcome.count("complete"):
        sentences.append(
            "Models were timed one at a time, while the search's other workers on that machine waited; other programs did not."
        )
    died = sum(each.deaths for each in outcome.trials)
    if died:
        sentences.append(f"{_count(died, 'time')} a worker died at a trial, which was queued again.")
    return sentences


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def short(fields: Sequence[str]) -> list[str]:
    """`learning_rate` for `student.training.optimizer.learning_rate`: the fewest last parts that no other field ends with.

    A position keeps the list's name, and `when` its stage's."""

    def shortest(field: str) -> str:
        parts = field.split(".")
        for count in range(1, len(parts)):
            ending = ".".join(parts[-count:])
            clear = not parts[-count].isdecimal() and ending != "when"
            if clear and not any(other != field and f".{other}".endswith(f".{ending}") for other in fields):
                return ending
        return field

    return [shortest(field) for field in fields]


def verdict(outcome: Outcome) -> str:
    """Which trial was chosen, or which came nearest."""
    if outcome.best is not None:
        chosen = outcome.trial(outcome.best)
        two = ", nearest to the best of both objectives" if len(outcome.goal.objectives) > 1 else ""
        why = ", the one that --trial names" if outcome.named else two
        breaks = "" if chosen.feasible else f" It breaks: {_broken(chosen)}."
        return f"Trial {chosen.number}{why}: {_chosen(chosen)}. Written to {outcome.written}.{breaks}"
    if outcome.nearest is not None:
        nearest = outcome.trial(outcome.nearest)
        return (
            f"No trial keeps every gate. The nearest is trial {nearest.number}: {_chosen(nearest)}. It breaks: "
            f"{_broken(nearest)}."
        )
    return "No trial is complete."


def _broken(trial: TrialOutcome) -> str:
    assert trial.figures is not None
    return "; ".join(write.gate(result) for result in trial.figures.gates if not result.passes)


def _chosen(trial: TrialOutcome) -> str:
    return ", ".join(f"{name}: {value}" for name, value in trial.values.items())


def front(outcome: Outcome) -> Table:
    """Feasible trials that no other one beats; the nearest where none is feasible."""
    numbers = outcome.front or ([outcome.nearest] if outcome.nearest is not None else [])
    fields = list(outcome.fields)
    lines = []
    for number in numbers:
        trial = outcome.trial(number)
        name = f"{number} (written)" if number == outcome.best else str(number)
        lines.append([name, *_figures(trial.figures, outcome), *(trial.values[field] for field in fields)])
    return Table(["trial", *_headings(outcome), *short(fields)], lines)


def importances(outcome: Outcome) -> Table:
    """Searched field, its values, and the share of each objective's variance that it explains."""
    lines = []
    for field, values in outcome.fields.items():
        shares = [outcome.importances.get(aim, {}).get(field) for aim in outcome.goal.objectives]
        lines.append([field, values, *(NOTHING if share is None else f"{100 * share:.0f}" for share in shares)])
    return Table(
        ["field", "values", *(f"% of the variance of {outcome.goal.title(aim)}" for aim in outcome.goal.objectives)], lines
    )


def trials(outcome: Outcome) -> Table:
    """Every trial."""
    lines = []
    for trial in outcome.trials:
        gates = NOTHING
        if trial.figures and outcome.goal.gates:
            broken = [result.promise for result in trial.figures.gates if not result.passes]
            gates = f"breaks {', '.join(broken)}" if broken else "kept"
        state = trial.state
        if trial.rungs and trial.state == "paused":
            state = f"paused at {write.metric(outcome.goal.primary, trial.rungs[max(trial.rungs)])}"
        lines.append(
            [
                str(trial.number),
                state,
                *_figures(trial.figures, outcome),
                *([gates] if outcome.goal.gates else []),
                str(trial.epochs),
                str(trial.not_repeated or NOTHING),
                f"{trial.seconds:.0f} s",
                *trial.values.values(),
            ]
        )
    headings = [
        "trial",
        "state",
        *_headings(outcome),
        *(["gates"] if outcome.goal.gates else []),
        "epochs",
        "not repeated",
        "time",
    ]
    return Table([*headings, *short(list(outcome.fields))], lines)


def problems(outcome: Outcome) -> list[str]:
    """Trials that failed, each with why."""
    return [f"Trial {trial.number} failed: {trial.problem.splitlines()[0]}" for trial in outcome.trials if trial.problem]


def _headings(outcome: Outcome) -> list[str]:
    timed = ["latency"] if outcome.goal.timed else []
    return [write.title(outcome.goal.primary), "file", *timed]


def _figures(figures: Figures | None, outcome: Outcome) -> list[str]:
    name, timed = outcome.goal.primary, outcome.goal.timed
    if figures is None:
        return [NOTHING] * (3 if timed else 2)
    metric = f"{write.metric(name, figures.metric)} [{write.metric(name, figures.low)}, {write.metric(name, figures.high)}]"
    faster = "" if figures.speedup is None else f" ({write.times(figures.speedup)} as fast)"
    return [metric, write.size(figures.size_bytes), *([f"{write.milliseconds(figures.latency_ms)}{faster}"] if timed else [])]


def objective(aim: Aim, value: float, outcome: Outcome) -> str:
    """One objective's value on an axis."""
    if aim == "size":
        return write.size(round(value))
    return write.metric(outcome.goal.primary, value) if aim == "accuracy" else f"{value:.3g}"
