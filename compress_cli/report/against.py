"""An evaluation as a report of one or two rows: what gates, JUnit and the summary of a CI job are made from."""

from __future__ import annotations

from pathlib import Path

from compress_cli.errors import RecipeError
from compress_cli.measurement.evaluation import Evaluation
from compress_cli.report import figures as write
from compress_cli.report import gates as promises
from compress_cli.report import markdown, secondary
from compress_cli.report.document import Report, Row
from compress_cli.settings import suggest
from compress_cli.statistics import gate
from compress_cli.statistics.gate import AGAINST_BASELINE, SORTS, Gate
from compress_cli.statistics.intervals import Change, judge_change


def refuse(gates: tuple[Gate, ...], model: Path, baseline: Path | None) -> None:
    """RecipeError for gates that no measurement of these files could decide, before anything is measured."""
    names = _names(str(model), str(baseline) if baseline else "")
    complaints = [f"--gate '{promise.promise}': {reason}" for promise in gates if (reason := _impossible(promise, names))]
    if complaints:
        raise RecipeError("\n".join(complaints))


def report(evaluation: Evaluation, gates: tuple[Gate, ...] = ()) -> Report:
    """The evaluation's rows, the baseline's first, and its gates, checked; RecipeError for an unknown quantity."""
    against = evaluation.against
    baseline, model = _names(evaluation.model, against.baseline if against else "")
    rows = [_row(evaluation, model)]
    if against:
        rows.insert(
            0,
            Row(
                name=baseline, stage="", key="", cached=False, wall_time_s=0, metrics=against.metrics,
                latency=against.speedup.baseline, **dict(against.contents),
            ),
        )  # fmt: skip
    document = Report(
        recipe=model,
        seed=0,
        baseline=baseline,
        primary=evaluation.primary,
        better=evaluation.better.get(evaluation.primary, "higher"),
        directions=evaluation.better,
        split=evaluation.split,
        samples=evaluation.samples,
        rows=rows,
        machine=evaluation.machine,
        wall_time_s=0,
        findings=secondary(rows, (evaluation.primary,)),
    )
    names, metrics = [row.name for row in rows], list(evaluation.metrics)
    reasons = {promise: gate.impossible(promise, names, baseline, evaluation.primary, metrics) for promise in gates}
    complaints = [f"--gate '{promise.promise}': {reason}" for promise, reason in reasons.items() if reason]
    if complaints:
        raise RecipeError("\n".join(complaints))
    return document.model_copy(update={"gates": promises.judge(document, gates)})


def summary(document: Report, evaluation: Evaluation) -> str:
    """The report as Markdown: the table, on what it was measured, warnings, gates."""
    lines = markdown.render(document).splitlines()
    head = [line for line in lines if not line.startswith("Seed ")]
    text = "\n".join(head) + "\n"
    warnings = [f"- warning: {markdown.plain(warning)}" for warning in evaluation.warnings]
    return text + ("\n" + "\n".join(warnings) + "\n" if warnings else "")


def _row(evaluation: Evaluation, name: str) -> Row:
    against = evaluation.against
    row = Row(
        name=name, stage="", key="", cached=False, wall_time_s=0, metrics=evaluation.metrics,
        latency=evaluation.latency, **dict(evaluation.contents),
    )  # fmt: skip
    if against is None:
        return row
    return row.model_copy(
        update={
            "compression_ratio": against.compression_ratio,
            "change": against.change,
            "change_p": against.change_p,
            "change_verdict": _verdict(evaluation),
            "secondary_changes": against.secondary_changes,
            "predictions": against.predictions,
            "baseline_latency": against.speedup.baseline,
            "speedup": against.speedup.speedup,
            "verdict": against.speedup.verdict,
        }
    )


def _verdict(evaluation: Evaluation) -> Change | None:
    """The verdict on the primary metric's change at 95%."""
    against = evaluation.against
    if against is None or against.change is None:
        return None
    return judge_change(against.change, against.change_p, evaluation.better.get(evaluation.primary, "higher"))


def _names(model: str, baseline: str) -> tuple[str, str]:
    """Names of the rows, the baseline's (or an empty one) and the model's: of the files, in full where they are alike."""
    alike = Path(model).name == Path(baseline).name
    old, new = (baseline, model) if alike else (Path(baseline).name, Path(model).name)
    return (old, new) if old != new else (f"{old} (baseline)", new)


def _impossible(promise: Gate, names: tuple[str, str]) -> str:
    """Why a gate can't be decided, as far as that is known before the measurement."""
    baseline, model = names
    row, quantity = promise.terms.row or model, promise.terms.quantity
    if row not in filter(None, names):
        return f"'{row}' is none of the files; {suggest(row, [name for name in names if name])}"
    compared = quantity.endswith(AGAINST_BASELINE) or quantity in AGAINST_BASELINE
    if compared and not baseline:
        return f"{quantity} compares with another file; name it with --baseline"
    if compared and row == baseline and quantity in SORTS:
        return f"'{row}' is the baseline itself, so it has no {quantity}"
    return ""


def printed(document: Report) -> list[str]:
    """The gates in words, one line each."""
    return [write.printable(f"gate {write.gate(result)}") for result in document.gates]
