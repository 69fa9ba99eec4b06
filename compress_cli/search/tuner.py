"""A whole search: opens the study, sets workers to it, replaces those that die, and hands the outcome over."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from compress_cli import stopping
from compress_cli.errors import ArtifactError, CompressError, Interrupted, RecipeError, StageError
from compress_cli.pipeline.estimate import MEMORY
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.recipe import NAME
from compress_cli.search import objectives, study
from compress_cli.search.quiet import Quiet
from compress_cli.search.space import Space
from compress_cli.search.space import load as load_space
from compress_cli.search.study import Study
from compress_cli.search.watch import Workshop
from compress_cli.search.worker import work
from compress_cli.store import bucket
from compress_cli.store.record import TRIALS

REPLACED = 3  # times the number of workers, so many that died are replaced
ERRORS = (1, 2, 3, 4)  # exit codes of workers that another worker would end with too
LOOK_S = 0.2
PATIENCE_S = 20.0  # with workers that were told to stop


class Order(BaseModel):
    """What a search was asked for; a worker gets it as JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: Path
    overrides: tuple[str, ...] = ()
    output: Path = Path("runs")
    store: str | None = None  # a folder or a bucket
    storage: str = ""  # the database's URL; empty: a file in the search's folder
    study: str = ""  # its name; empty: the recipe's
    objectives: tuple[str, ...] = ()
    trials: int = 40
    workers: int = 1
    sampler: str = "auto"
    seconds: float | None = None  # that the search may take
    plugins: tuple[Path, ...] = ()
    quiet: bool = False


@dataclass(frozen=True)
class Tuner:
    """A search on this machine."""

    order: Order
    space: Space
    plan: Plan  # of the first values
    goal: objectives.Goal
    say: Callable[[str], None]

    @classmethod
    def of(cls, order: Order, say: Callable[[str], None]) -> Tuner:
        """RecipeError, before anything runs, for all that can't be searched."""
        if order.trials < 1:
            raise RecipeError(f"--trials {order.trials}: a search needs one trial at least")
        if order.workers < 1:
            raise RecipeError(f"--workers {order.workers}: a search needs one worker at least")
        if order.seconds is not None and order.seconds <= 0:
            raise RecipeError("--within: must be above 0, such as 30m or 2h")
        if order.study and not re.fullmatch(NAME, order.study):
            raise RecipeError(
                f"--study {order.study}: names a folder; letters, digits, '.', '-' and '_', and a letter or digit first"
            )
        space = load_space(order.recipe, order.overrides)
        plans = space.plans()
        if plans[0].missing_data:
            raise ArtifactError(plans[0].missing_data)
        if plans[0].recipe.within:
            raise RecipeError(
                plans[0].recipe.complaint(
                    ("within",),
                    "fits the epochs of a run to a time, and trials train the epochs that stand in the recipe, so that they "
                    "can be compared; take it out here (--set within=null), and give the search its time with --within",
                )
            )
        return cls(order, space, plans[0], objectives.goal(plans[0], order.objectives), say)

    @property
    def folder(self) -> Path:
        """The search's own, beside the run's."""
        return self.order.output / f"{self.order.study or self.plan.recipe.name}.tune"

    @property
    def url(self) -> str:
        return self.order.storage or f"sqlite:///{(self.folder / 'study.db').resolve()}"

    def study(self) -> Study:
        recipe = self.plan.recipe
        known = {
            key: value for key, value in self.space.document.data().items() if key not in ("name", "save", "threads", "search")
        }
        everything = {
            "recipe": known,
            "data": recipe.dataset.fingerprint(),
            "rungs": recipe.search.model_dump(mode="json", exclude={"objectives"}),
            "plugins": [_source(path) for path in self.order.plugins],
            **objectives.identity(self.goal),
        }
        name = self.order.study or recipe.name
        return study.opened(self.url, name, self.goal.directions, everything)

    def workshop(self, opened: Study) -> Workshop:
        store = bucket.opened(self.order.store, self.order.output)
        deadline = float("inf") if self.order.seconds is None else time.monotonic() + self.order.seconds
        quiet = Quiet(store.root / MEMORY) if self.goal.timed else None
        return Workshop(self.space, opened, self.goal, store, self.folder / TRIALS, self.say, deadline, quiet)

    def search(self) -> Study:
        """Work until all trials are made, or the time is over; returns the study."""
        opened = self.study()
        present = opened.trials()
        if present:
            count = f"{len(present)} trial" if len(present) == 1 else f"{len(present)} trials"
            self.say(
                f"the study '{opened.study.study_name}' has {count} already; this search goes on from there, beside "
                "whoever else works on it"
            )
        if self.order.workers == 1:
            work(self.workshop(opened), self.order.trials, self.plan.recipe.seed, self.order.sampler)
        else:
            self._oversee(opened)
        return opened

    def _oversee(self, opened: Study) -> None:
        """Start workers; whatever one that died was at is queued again at once, and another takes its place."""
        end = None if self.order.seconds is None else time.monotonic() + self.order.seconds
        at_work, replaced = [self._start(end) for _ in range(self.order.workers)], 0
        try:
            while at_work:
                time.sleep(LOOK_S)
                stopping.check()
                for process in [process for process in at_work if process.poll() is not None]:
                    at_work.remove(process)
                    if process.returncode == 0:
                        continue
                    for lost in opened.requeue(f"{platform.node()}:{process.pid}"):
                        self.say(f"trial {lost.number}: its worker died (exit {process.returncode}); queued again")
                    if process.returncode in ERRORS:
                        raise _reason(process.returncode)
                    if replaced < REPLACED * self.order.workers:
                        replaced += 1
                        at_work.append(self._start(end))
                    elif not at_work:
                        raise StageError(
                            f"{replaced + self.order.workers} workers died, the last with exit {process.returncode} "
                            "(-9 where memory ran out: try fewer --workers); the same command goes on with their trials"
                        )
        except KeyboardInterrupt as stop:
            with suppress(KeyboardInterrupt):  # which comes again while workers are slow to save
                _end(at_work)
            raise Interrupted(
                "interrupted; trials at work were saved and queued: the same command goes on with them", stop.args
            ) from None
        finally:
            _end(at_work)

    def _start(self, end: float | None) -> subprocess.Popen[bytes]:
        seconds = None if end is None else max(0.1, end - time.monotonic())
        order = self.order.model_copy(update={"workers": 1, "seconds": seconds})
        command = [sys.executable, "-P", "-m", "compress_cli", "tune", str(order.recipe), "--order", order.model_dump_json()]
        return subprocess.Popen(command, env={**os.environ, **self._threads()}, stdout=subprocess.DEVNULL)

    def _threads(self) -> dict[str, str]:
        """Workers share the cores, unless the recipe or the environment says how many threads each takes."""
        if self.plan.recipe.threads or "OMP_NUM_THREADS" in os.environ:
            return {}
        return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // self.order.workers))}


def serve(order: Order, say: Callable[[str], None]) -> None:
    """What a worker process does."""
    parent, tuner = os.getppid(), Tuner.of(order, say)
    shop = tuner.workshop(tuner.study())
    with _while_parent_lives(parent):
        work(shop, order.trials, tuner.plan.recipe.seed, order.sampler)


@contextmanager
def _while_parent_lives(parent: int) -> Iterator[None]:
    """Within, this process is told to stop, as by SIGTERM, once the one that started it is gone."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(1.0):
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGTERM)
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()


def _end(processes: list[subprocess.Popen[bytes]]) -> None:
    """Tell workers to stop, and wait until they have saved what they were at."""
    for process in processes:
        if process.poll() is None:
            process.terminate()
    end = time.monotonic() + PATIENCE_S
    for process in processes:
        try:
            process.wait(max(0.1, end - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _reason(code: int) -> CompressError:
    """The error of a worker, whose message it has printed itself."""
    kind = {2: RecipeError, 3: ArtifactError, 4: StageError}.get(code, CompressError)
    return kind("a worker ended with this error; what it was at is queued, and the same command goes on")


def _source(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
