"""A worker: takes trials of a study one by one until there is nothing left to do, or the time is over."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress_cli import stopping
from compress_cli.search import promotion, sampling
from compress_cli.search.study import Trial
from compress_cli.search.trial import attempt
from compress_cli.search.watch import OutOfTime, Workshop, standing
from compress_cli.store import disk, durable

IDLE_S = 1.0  # between two looks at what the others have done
LOCK = "study.lock"


def work(shop: Workshop, trials: int, seed: int, sampler: str = "auto") -> None:
    """Work until the study has so many trials and none is left to go on, or until the shop's deadline."""
    while time.monotonic() < shop.deadline:
        stopping.check()
        with _alone(shop.folder.parent), shop.computing():
            trial = _next(shop, trials, seed, sampler)
        if trial is not None:
            try:
                with shop.computing():
                    attempt(shop, trial)
            except OutOfTime:
                return
        elif any(each.state == "running" for each in shop.study.trials()):
            time.sleep(IDLE_S)
        else:
            return


def _next(shop: Workshop, trials: int, seed: int, sampler: str) -> Trial | None:
    """The trial to work on, claimed: one that a worker left, one that is promoted, or a new one; None where there is none."""
    for lost in shop.study.requeue():
        shop.say(f"trial {lost.number}: its worker is gone; queued again")
    everything = shop.study.trials()
    for trial in everything:
        if trial.state == "waiting" and not trial.paused and shop.study.claim(trial):
            shop.say(f"trial {trial.number}: goes on")
            return trial
    fresh = [trial for trial in everything if trial.state != "fail" or not trial.notes.get("problem")]
    at_work = any(trial.state == "running" for trial in everything)
    new = len(everything) < trials and not _hopeless(everything)
    for trial in promotable(shop, everything, last=not at_work and not new):
        if shop.study.claim(trial):
            shop.say(f"trial {trial.number}: promoted, goes on from rung {max(trial.rungs) + 1}")
            return trial
    if not new:
        return None
    proposed = sampling.proposed(shop.study, shop.space, shop.goal, seed, sampler)
    if proposed is None:
        return _last_chance(shop, fresh, at_work)
    drawn, which = proposed
    known = {dimension.name: sampling.distribution(dimension) for dimension in shop.space.dimensions}
    trial = shop.study.begin(drawn, known)
    shop.study.note(trial, sampler=which)
    shop.say(f"trial {trial.number}: {', '.join(f'{name}: {text}' for name, text in shop.space.words(drawn).items())}")
    return trial


def promotable(shop: Workshop, trials: list[Trial], last: bool) -> list[Trial]:
    """Paused trials that are among the better ones of the rung they wait at, those at the highest rung first.

    last: nothing else is left to do; then the best of a rung goes on however few reached it, unless one of it already did.
    """
    paused: dict[int, dict[int, Trial]] = {}
    for trial in trials:
        if trial.paused and trial.rungs:
            paused.setdefault(max(trial.rungs), {})[trial.number] = trial
    chosen: list[Trial] = []
    for rung in sorted(paused, reverse=True):
        row = ""  # gates on the last model, by whichever name
        standings = {trial.number: mine for trial in trials if (mine := standing(shop, trial, rung, row))}
        better = promotion.promoted(standings, shop.settings.promote, at_least=1 if last else 0)
        chosen += [
            paused[rung][number] for number in promotion.ranked(standings) if number in better and number in paused[rung]
        ]
    return chosen


def _last_chance(shop: Workshop, trials: list[Trial], at_work: bool) -> Trial | None:
    """Every combination was tried: what is paused may still be promoted."""
    for trial in promotable(shop, trials, last=not at_work):
        if shop.study.claim(trial):
            return trial
    return None


def _hopeless(trials: list[Trial]) -> bool:
    """Whether the first trials all failed: so would the others."""
    return len(trials) >= sampling.STARTUP and all(trial.state == "fail" for trial in trials)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Within, no other worker of this machine takes a trial; machines that share a study may begin a trial more than asked."""
    durable.require_folder(folder)
    durable.require_file(folder / LOCK)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("a")
    except OSError as error:
        raise disk.unwritable(error, folder, "; choose another folder with --output") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
