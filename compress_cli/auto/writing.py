"""The decision as a recipe with a reason for every stage and value, each with the measured figure that it stands on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from compress_cli.auto import formats, text
from compress_cli.auto.decider import LOSES
from compress_cli.auto.decision import Decision
from compress_cli.auto.formats import Measured
from compress_cli.auto.request import Request, duration
from compress_cli.auto.students import Sized
from compress_cli.auto.subject import Subject
from compress_cli.auto.text import Stage
from compress_cli.auto.training_settings import AWARE_RATE, EPOCHS_A_VIEW, EPOCHS_AN_AWARE, MOST
from compress_cli.auto.workshop import File
from compress_cli.measurement.machine import machine
from compress_cli.statistics.gate import sort_of

MARK = "# Written by `compress auto`"


def recipe(request: Request, subject: Subject, decision: Decision, settings: Mapping[str, Any], given: str) -> str:
    """The text of the recipe; `given` is the model's path as the recipe writes it."""
    head = [MARK, *text.comment("\n".join(_head(request, subject, decision)))]
    fields = [f"{name}: {text.flow(value)}" for name, value in settings.items()]
    gates = [
        *text.comment(
            "The goals, judged on test at the unfavourable end of the interval: exit code 5 where one does not hold."
        ),
        "gates:",
        *(f"  - {text.flow(goal.promise)}" for goal in request.goals),
    ]
    if decision.chosen:
        fields += _within(request, decision)
    blocks = [head, fields, gates, ["stages:", *_separated(list(_stages(request, subject, decision, given)))]]
    return text.joined(blocks)


def _within(request: Request, decision: Decision) -> list[str]:
    """The recipe's time, and why it is that."""
    assert decision.chosen is not None
    rehearsal = decision.chosen.rehearsal
    table = f", a view of the table {duration(rehearsal.table_s)}" if rehearsal.table_s else ""
    why = (
        f"What was left of {duration(request.within_s)} when this was decided: epochs and views are fitted to it. An epoch "
        f"takes about {duration(rehearsal.epoch_s)} here{table}."
    )
    return [*text.comment(why), f"within: {clock(decision.left_s)}"]


def clock(seconds: float) -> str:
    """`43m10s`, as a recipe writes a time; a second at least."""
    minutes, rest = divmod(max(1, int(seconds)), 60)
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"


def _separated(stages: list[Stage]) -> list[str]:
    lines: list[str] = []
    for number, entry in enumerate(stages):
        lines += ([""] if number else []) + text.stage(entry)
    return lines


def _head(request: Request, subject: Subject, decision: Decision) -> Iterator[str]:
    row, primary = decision.given.report.rows[0], request.task.primary
    latency = f"{row.latency.p50_ms.value:.3g} ms" if row.latency else "unknown"
    macs = f"{row.macs / 1e6:.3g} million multiply-accumulates" if row.macs else "multiply-accumulates unknown"
    value = row.metrics[primary]
    here = machine()
    threads = f"{request.timing.threads} thread(s)" if request.timing.threads else f"{here['cores']} core(s)"
    yield f"Goals:   {', '.join(goal.promise for goal in request.goals)}; within {duration(request.within_s)}"
    yield f"Machine: {here['processor']}, {threads}, batch {request.timing.batch}: latencies hold here alone"
    yield (
        f"Given:   {subject.what}: {decision.given.bytes / 1e3:.1f} kB, {latency}, {macs}; {primary} "
        f"{number(primary, value.value)} [{number(primary, value.low)}, {number(primary, value.high)}] on val"
    )
    yield "Tried on val, which alone decided; test was not looked at:"
    for one in decision.tried:
        brief = f" after {decision.brief[one.name]} epoch(s)" if one.name in decision.compared else ""
        yield f"  {one.name}{brief}: {_figures(one, primary)}"
    for size in _last_sizes(decision):
        yield (
            f"  {size.name}: {size.problem}" if size.problem else f"  {size.name}, its files before any training: {_size(size)}"
        )
    if decision.skipped:
        yield f"  not tried for lack of time: {', '.join(decision.skipped)}"


def _last_sizes(decision: Decision) -> list[Sized]:
    """The last size of each candidate."""
    chosen = {decision.chosen.name: decision.chosen} if decision.chosen else {}
    return list({**{one.name: one for one in decision.sizes}, **chosen}.values())


def _size(one: Sized) -> str:
    """Each format's bytes and speed."""
    kept = "" if one.fits else "; none keeps size and speed"
    return "; ".join(f"{name} {_file(file)}" for name, file in one.rehearsal.files.items()) + kept


def _file(file: File) -> str:
    return f"{file.size_bytes / 1e3:.1f} kB, {file.speedup:.2f} times as fast"


def number(metric: str, value: float) -> str:
    """`91.3%`, or four digits of what is no share."""
    value += 0.0 if abs(value) > 5e-5 else -value  # no -0.00
    return f"{100 * value:.2f}%" if sort_of(metric) == "share" else f"{value:.4g}"


def _figures(one: Measured, primary: str) -> str:
    if one.problem:
        return f"not possible ({one.problem})"
    missed = ", ".join(goal.promise for goal in one.goals if goal.outcome != "met")
    stands = f"; does not hold: {missed}" if missed else "; holds all goals" if one.goals else ""
    return f"{one.size_bytes / 1e3:.1f} kB, {one.speedup:.2f} times as fast, {primary} {number(primary, one.metric)}{stands}"


def _stages(request: Request, subject: Subject, decision: Decision, given: str) -> Iterator[Stage]:
    why = f"What the others are compared with: {decision.given.bytes / 1e3:.1f} kB as a float file."
    if decision.chosen:
        why += " It teaches, and is not shipped."
    if subject.loading.get("trained_on"):
        why += " Its own run shows that it was trained on this train split, and not on val."
    yield Stage(subject.stage(given), why)
    yield from _trained(request, decision) if decision.chosen else _untrained(request, decision)
    yield Stage(
        {"type": "export", "name": "onnx"}, "What ships: one file that names its task and data (`compress eval`, no flags)."
    )


def _untrained(request: Request, decision: Decision) -> Iterator[Stage]:
    assert decision.fmt is not None
    figures = next(one for one in decision.tried if one.name == decision.fmt.name)
    said = f"{decision.fmt.what[:1].upper()}{decision.fmt.what[1:]}. On val: {_figures(figures, request.task.primary)}."
    if decision.holds:
        said += " The gentlest of the formats that keep every goal, so nothing needs to be trained."
    elif decision.undecided:
        said += " It misses no goal, and val has too few samples to be certain of all; training would not make them more."
    else:
        said += f" No format keeps every goal; this one comes nearest. {_sentence(decision.why_nothing)}".rstrip()
    for stage in decision.fmt.stages("given")[:-1]:
        yield Stage(_without_start(stage), said)


def _without_start(stage: Mapping[str, Any]) -> dict[str, Any]:
    """A stage that follows the one before it needs no `start`."""
    return {name: value for name, value in stage.items() if name != "start"}


def _sentence(reason: str) -> str:
    return f"{reason[:1].upper()}{reason[1:].rstrip('.')}." if reason else ""


def _trained(request: Request, decision: Decision) -> Iterator[Stage]:
    chosen, primary = decision.chosen, request.task.primary
    assert chosen is not None and decision.fmt is not None  # noqa: PT018
    yield Stage(training_stage(decision), "\n".join(_why_trained(request, decision)))
    if decision.aware:
        yield Stage(
            aware_stage(decision),
            f"Training goes on through the rounding to 8 bits: integers alone cost more than {LOSES:.0%} of the drop that is "
            f"promised. An epoch for every {EPOCHS_AN_AWARE} before, at {AWARE_RATE:.0%} of the learning rate from scratch.",
        )
        return
    for stage in decision.fmt.stages(chosen.name)[:-1]:
        yield Stage(_without_start(stage), " ".join(_why_format(decision, primary)))


def _why_format(decision: Decision, primary: str) -> Iterator[str]:
    chosen, alone = decision.chosen, decision.alone
    assert chosen is not None and decision.fmt is not None  # noqa: PT018
    others = {name: file for name, file in chosen.rehearsal.files.items() if name != chosen.fmt}
    listed = "; ".join(f"{name} {_file(file)}" for name, file in others.items())
    compared = f" ({listed})" if listed else ""
    yield f"{decision.fmt.what[:1].upper()}{decision.fmt.what[1:]}: {_file(chosen.file)}{compared}."
    if chosen.fmt == formats.INT8 and alone and not alone.problem and decision.budget.drop is not None:
        yield f"They cost the given model {number(primary, alone.drop)} on val without any training."


def _why_trained(request: Request, decision: Decision) -> Iterator[str]:
    chosen = decision.chosen
    assert chosen is not None
    if decision.whole:
        yield f"{chosen.why}: the goals leave it its size ({_file(chosen.file)}; a real file, timed here)."
    else:
        fits = "sized so that the file is small and fast enough"
        sized = fits if chosen.fits else "no size keeps all goals; this one is near"
        format_ = f"as {chosen.fmt}: " if len(chosen.rehearsal.files) > 1 else ""
        figures = f"({format_}{_file(chosen.file)}; a real file, timed here)"
        yield f"{chosen.why}: {sized} {figures}. {_why_chosen(request, decision)}"
    if decision.training and decision.training.losses:
        yield "Its losses suit the task: one on the teacher's outputs, and one on what is true."
    if decision.training and decision.training.stored:
        yield f"The teacher's outputs are stored; where pictures change, a fixed view of them for every {EPOCHS_A_VIEW} epochs."
    if chosen.rate != 1:
        yield f"It starts with what the given model has learnt, so the learning rate is {chosen.rate:.0%} of that from scratch."


def _why_chosen(request: Request, decision: Decision) -> str:
    chosen = decision.chosen
    assert chosen is not None
    others = [figures for name, figures in decision.compared.items() if name != chosen.name]
    if not others:
        late = decision.skipped or any(one.fits and one.name != chosen.name for one in decision.sizes)
        why = "there was no time for a short training of each" if late else "no other candidate fits"
        return f"Nothing else was compared with it: {why}."
    primary = request.task.primary
    ours = number(primary, decision.compared[chosen.name].metric)
    listed = ", ".join(f"{one.name} {number(primary, one.metric)}" for one in others)
    return f"After a short training (as much time for each) it had {primary} {ours} on val: {listed}."


def training_stage(decision: Decision) -> dict[str, Any]:
    """The stage that trains what was chosen: as many epochs and views as ever pay, which the recipe's time reduces."""
    chosen = decision.chosen
    assert chosen is not None and decision.training is not None  # noqa: PT018
    stage = decision.training.stage(chosen.name, chosen.stage, chosen.rate, MOST, MOST // EPOCHS_A_VIEW)
    return _without_start(stage) if stage.get("start") == "given" else stage


def aware_stage(decision: Decision) -> dict[str, Any]:
    """The stage that trains the chosen model in integers."""
    assert decision.fmt is not None and decision.training is not None  # noqa: PT018
    quantizer = dict(decision.fmt.quantizer or {})
    stated = {} if quantizer == {"type": "static_int8"} else {"quantizer": quantizer}
    stage = {"type": "quantize_aware", "teacher": "given", **stated}
    return decision.training.stage(formats.INT8, stage, AWARE_RATE, MOST // EPOCHS_AN_AWARE, MOST // EPOCHS_A_VIEW)


def path_of(path: Path, recipe: Path) -> str:
    """A file as a recipe writes it: relative to its folder where that is short, else in full."""
    import os

    relative = os.path.relpath(path.absolute(), recipe.absolute().parent)
    return relative if relative.count("..") < 4 else str(path.absolute())
