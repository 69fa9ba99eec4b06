"""One trial at work: an ordinary run of its recipe, measured on val, that may pause at a rung and go on later."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch

from compress_cli.errors import CompressError, Interrupted, ResourceError
from compress_cli.pipeline import plan, run, smoke
from compress_cli.pipeline.estimate import MEMORY
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.step import Step
from compress_cli.report import gates as promises
from compress_cli.search import objectives, promotion
from compress_cli.search.objectives import Goal
from compress_cli.search.space import Space
from compress_cli.search.study import Trial
from compress_cli.search.watch import OutOfTime, Watch, Workshop, goes_on
from compress_cli.store.saves import Paused

PAUSING = ("train", "distill", "prune", "quantize_aware")
"""Stages whose epochs are those of one training, counted from 1."""


def attempt(shop: Workshop, trial: Trial) -> None:
    """Work on a trial until it is complete, pauses, fails, or the time is over; its notes say what came of it.

    OutOfTime where the time is over, Interrupted where the process is to stop; the trial is queued again in both cases.
    """
    begun, done = time.monotonic(), False
    watch: Watch | None = None
    try:
        with shop.study.beating(trial):
            watch = _watch(shop, trial)
            if inherited(shop, trial, watch):
                shop.study.wait(trial, paused=True)
                done = True
                return
            try:
                outcome = _run(shop, trial, watch)
            finally:
                if not watch.gone:
                    _note(shop, trial, watch, begun)
        if watch.time_is_over:
            raise OutOfTime
        if outcome is None:
            shop.study.wait(trial, paused=True)
            shop.say(f"trial {trial.number}: pauses after epoch {watch.epoch}: {_at(watch)}")
        else:
            shop.study.note(trial, figures=outcome.model_dump(mode="json"))
            values = [outcome.value(aim) for aim in shop.goal.objectives]
            shop.study.complete(trial, values, {result.promise: amount for result, amount in _pairs(outcome)})
            shop.say(f"trial {trial.number}: {described(outcome, shop.goal)}")
        done = True
    except (Interrupted, OutOfTime, ResourceError):
        raise
    except CompressError as error:
        if watch is None or not _database_gone(shop):
            shop.study.fail(trial, str(error))
            shop.say(f"trial {trial.number}: failed: {str(error).splitlines()[0]}")
            done = True
            return
        raise
    finally:
        if not done and not _database_gone(shop):
            shop.study.wait(trial, paused=False)


def _database_gone(shop: Workshop) -> bool:
    try:
        shop.study.noted("identity")
    except CompressError:
        return True
    return False


def _pairs(outcome: objectives.Figures) -> list[Any]:
    return list(zip(outcome.gates, outcome.violations, strict=True))


def _at(watch: Watch) -> str:
    return f"{watch.shop.goal.primary} {watch.trial.rungs[watch.rungs.index(watch.epoch)]:.4g} on val"


def described(outcome: objectives.Figures, goal: Goal) -> str:
    """`accuracy 0.971, 37.1 kB; every gate is met on val`"""
    parts = [f"{goal.primary} {outcome.metric:.4g}", f"{outcome.size_bytes / 1e3:.1f} kB"]
    if outcome.speedup is not None:
        parts.append(f"{outcome.speedup:.2f} times as fast as the baseline")
    failing = [result.promise for result in outcome.gates if not result.passes]
    verdict = f"; breaks {', '.join(failing)}" if failing else "; every gate is met on val" if outcome.gates else ""
    return ", ".join(parts) + verdict


def _watch(shop: Workshop, trial: Trial) -> Watch:
    planned = plan.plan(shop.space.recipe(trial.drawn), "val")
    long = longest(planned, shop.space)
    epochs = getattr(long.stage, "training").epochs if long else 0  # noqa: B009 - not all stages have it
    rungs = promotion.rung_epochs(shop.settings.rungs, epochs) if long else ()
    watch = Watch(shop, trial, long, rungs, planned.rows[-1].step.name)
    shop.study.note(trial, long=long.key if long else "", epochs=epochs)
    return watch


def _run(shop: Workshop, trial: Trial, watch: Watch) -> objectives.Figures | None:
    """The figures of a trial's run; None where it paused."""
    planned = objectives.judged(plan.plan(shop.space.recipe(trial.drawn), "val"), shop.goal)
    directory = shop.folder / str(trial.number)
    work = run.Run(planned, shop.store, directory, watch, schedule=watch)
    work.check()
    watch.size = _size(work, planned, watch)
    try:
        work.execute()
    except Paused:
        if watch.gone:
            raise watch.gone from None
        return None
    shop.study.note(trial, keys={step.name: step.key for step in planned.steps})
    return objectives.figures(promises.collect(directory), shop.goal)


def _size(work: run.Run, planned: Plan, watch: Watch) -> float | None:
    """Bytes of the last model's file: its own, or that of the smoke run, whose weights are random."""
    last = planned.rows[-1].onnx
    present = {step.key: artifact for step in planned.steps if (artifact := work.current(step))}
    if last.key in present:
        return float(sum(file.bytes for name, file in present[last.key].manifest.files.items() if name == "model.onnx"))
    missing = [step for step in planned.steps if step.key not in present]
    if not any(step.stage.long for step in missing):
        return None
    exported = replace(planned, stages=(*planned.stages, planned.rows[-1].onnx))  # a smoke run takes no implied step by itself
    tried = smoke.rehearse(exported, watch, present, watch.shop.store.root / MEMORY)
    return next((float(each.bytes) for each in tried if each.key == last.key), None)


def _note(shop: Workshop, trial: Trial, watch: Watch, begun: float) -> None:
    """Add an attempt's work to what the trial's earlier ones did."""
    notes = trial.notes
    shop.study.note(
        trial,
        seconds=notes.get("seconds", 0.0) + time.monotonic() - begun,
        trained=notes.get("trained", 0) + watch.trained,
        not_repeated=notes.get("not_repeated", 0) + watch.went_on_from,
        continued=notes.get("continued", 0) + (watch.went_on_from > 0),
        made=notes.get("made", 0) + watch.made,
        shared=watch.shared,
        threads=torch.get_num_threads(),
    )


def inherited(shop: Workshop, trial: Trial, watch: Watch) -> bool:
    """Whether the trial pauses before it begins: another one with the same long training did, and is not among the better.

    What that one showed at its rungs counts for both.
    """
    if watch.long is None or trial.rungs:
        return False
    twins = [
        each for each in shop.study.trials() if each.notes.get("long") == watch.long.key and each.rungs and each.id != trial.id
    ]
    if not twins or any(each.state == "complete" for each in twins):
        return False
    furthest = max(twins, key=lambda each: len(each.rungs))
    rungs = {str(rung): metric for rung, metric in furthest.rungs.items()}
    shop.study.note(trial, rungs=rungs, size=furthest.notes.get("size"))
    paused = furthest.paused and not goes_on(shop, trial, max(furthest.rungs), watch.goal_row)
    if paused:
        shop.say(f"trial {trial.number}: pauses beside trial {furthest.number}, whose training is the same")
    return paused


def longest(planned: Plan, space: Space) -> Step | None:
    """The training with the most epochs of those that the search changes, which is where trials pause; None where there is
    none, or stages are repeated, with seeds or folds."""
    if planned.folds or planned.repeated:
        return None
    places = [dimension.field.loc for dimension in space.dimensions]
    touched = {loc[1] for loc in places}
    switched = min((int(loc[1]) for loc in places if loc[-1] == "when"), default=10**6)
    varied = set[str]()
    for step in planned.steps:
        if step.loc[1] in touched or int(step.loc[1]) > switched or any(source.key in varied for source in step.sources):
            varied.add(step.key)
    trainings = [
        step
        for step in planned.stages
        if step.key in varied and step.stage.type in PAUSING and getattr(step.stage, "training", None) is not None
    ]
    return max(trainings, key=lambda step: step.stage.training.epochs, default=None)  # type: ignore[attr-defined]
