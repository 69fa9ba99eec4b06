"""The study of a search: trials in a database that workers and machines share, each claimed by one worker at a time.

A trial is RUNNING while a worker has it, WAITING while it is paused or queued again, then COMPLETE, or FAIL. Its notes hold
what else is known of it. Whoever works on a trial says so every few seconds; a trial whose worker fell silent is queued again.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from compress_cli.errors import ArtifactError, RecipeError
from compress_cli.search.space import Drawn
from compress_cli.store import disk, durable

if TYPE_CHECKING:
    import optuna

HEARTBEAT_S, GRACE_S = 5, 30
BUSY_S = 60.0  # how long a database that another process writes to is waited for
ATTEMPTS = 3  # at a trial whose worker died
Result = TypeVar("Result")
Direction = Literal["minimize", "maximize"]
MISSING = "`compress tune` needs Optuna, which is not installed: pip install 'compress-cli[search]'"
DRIVERS = {
    "postgresql": "'psycopg[binary]', and write postgresql+psycopg://...",
    "mysql": "pymysql, and write mysql+pymysql://... (or mysqlclient, for mysql://...)",
}


@dataclass(frozen=True)
class Trial:
    """A trial as the study holds it."""

    id: int
    number: int
    state: str  # running, waiting, complete, fail
    drawn: dict[str, Drawn]
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def paused(self) -> bool:
        return self.state == "waiting" and bool(self.notes.get("paused"))

    @property
    def rungs(self) -> dict[int, float]:
        """Rung, from 0 -> the metric on val there."""
        return {int(rung): value for rung, value in self.notes.get("rungs", {}).items()}


class Study:
    """One search in a database."""

    def __init__(self, storage: Any, study: optuna.Study, url: str):
        self.storage, self.study, self.url = storage, study, url
        self.worker = f"{platform.node()}:{os.getpid()}"

    def trials(self) -> list[Trial]:
        """All trials as they are now."""
        frozen = self._call(lambda: self.storage.get_all_trials(self.study._study_id, deepcopy=False))
        return [
            Trial(each._trial_id, each.number, each.state.name.lower(), dict(each.params), dict(each.user_attrs))
            for each in frozen
        ]

    def frozen(self) -> list[Any]:
        """All trials as Optuna has them."""
        return self._call(lambda: self.storage.get_all_trials(self.study._study_id, deepcopy=True))

    def begin(self, drawn: Mapping[str, Drawn], distributions: Mapping[str, Any]) -> Trial:
        """A new trial with these values, which this worker has."""
        from optuna.trial import TrialState, create_trial

        template = create_trial(
            state=TrialState.RUNNING, params=dict(drawn), distributions=dict(distributions), user_attrs={"worker": self.worker}
        )
        made = self._call(lambda: self.storage.create_new_trial(self.study._study_id, template_trial=template))
        self.beat(made)
        return self.trial(made)

    def trial(self, identifier: int) -> Trial:
        return next(each for each in self.trials() if each.id == identifier)

    def claim(self, trial: Trial) -> bool:
        """Take a waiting trial; False where another worker was faster."""
        from optuna.trial import TrialState

        if not self._call(lambda: self.storage.set_trial_state_values(trial.id, TrialState.RUNNING)):
            return False
        self.note(trial, worker=self.worker, paused=None)
        self.beat(trial.id)
        return True

    def wait(self, trial: Trial, paused: bool) -> None:
        """Put a trial back: paused at a rung, or queued for whoever comes first."""
        from optuna.trial import TrialState

        self.note(trial, paused=paused, worker=None)
        self._call(lambda: self.storage.set_trial_state_values(trial.id, TrialState.WAITING))

    def complete(self, trial: Trial, values: Sequence[float], constraints: Mapping[str, float]) -> None:
        from optuna.trial import TrialState

        if self.trial(trial.id).state == "complete":  # by a worker that took this one for dead: to the same bytes
            return
        for name, value in constraints.items():
            attribute = f"constraints:{name}"
            self._call(partial(self.storage.set_trial_system_attr, trial.id, attribute, value))
        self._call(lambda: self.storage.set_trial_state_values(trial.id, TrialState.COMPLETE, list(values)))

    def fail(self, trial: Trial, reason: str) -> None:
        from optuna.trial import TrialState

        self.note(trial, problem=reason)
        self._call(lambda: self.storage.set_trial_state_values(trial.id, TrialState.FAIL))

    def note(self, trial: Trial, **notes: Any) -> None:
        """Keep facts about a trial; of a finished one they stay as they are."""
        trial.notes.update(notes)
        if self.trial(trial.id).state in ("complete", "fail"):
            return
        for name, value in notes.items():
            self._call(partial(self.storage.set_trial_user_attr, trial.id, name, value))

    def beat(self, identifier: int) -> None:
        """Say that a worker is at this trial."""
        self._call(lambda: self.storage.record_heartbeat(identifier))

    @contextmanager
    def beating(self, trial: Trial) -> Iterator[None]:
        """Within, a thread says every few seconds that a worker is at this trial."""
        ended = threading.Event()

        def beat() -> None:
            while not ended.wait(HEARTBEAT_S):
                try:
                    self.beat(trial.id)
                except ArtifactError:  # the worker finds it out by itself, unless the database comes back before
                    continue

        thread = threading.Thread(target=beat, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def requeue(self, worker: str = "") -> list[Trial]:
        """Queue again what a worker left when it died: the named one's trials, or those whose worker is gone or fell silent."""
        from optuna.trial import TrialState

        stale = set() if worker else set(self._call(lambda: self.storage._get_stale_trial_ids(self.study._study_id)))
        lost = [
            trial
            for trial in self.trials()
            if trial.state == "running"
            and (trial.notes.get("worker") == worker if worker else trial.id in stale or _gone(trial.notes.get("worker")))
        ]
        for trial in lost:
            deaths = int(trial.notes.get("deaths", 0)) + 1
            self.note(trial, deaths=deaths, worker=None, paused=False)
            if deaths > ATTEMPTS:
                self.fail(trial, f"its worker died {deaths} times")
            else:
                self._call(partial(self.storage.set_trial_state_values, trial.id, TrialState.WAITING))
        return lost

    def noted(self, name: str) -> Any:
        """A fact about the whole study; None where it is not known."""
        return self._call(lambda: self.storage.get_study_user_attrs(self.study._study_id)).get(name)

    def _call(self, request: Callable[[], Result]) -> Result:
        """Ask the database; ArtifactError where it is gone."""
        if (
            file := sqlite_file(self.url)
        ) and not file.is_file():  # an open connection would write into a file that nobody finds
            raise ArtifactError(f"{file}: the study's database is gone; what its trials made is in the store")
        with translated(self.url):
            return request()


def _gone(worker: str | None) -> bool:
    """Whether a worker of this machine has ended."""
    host, _, process = (worker or "").rpartition(":")
    return (
        host == platform.node()
        and process.isdecimal()
        and not Path(f"/proc/{process}").exists()
        and Path("/proc/self").exists()
    )


def opened(url: str, name: str, directions: Sequence[Direction], identity: Mapping[str, Any]) -> Study:
    """The study of that name, made where there is none.

    RecipeError where it belongs to another search (it says which field differs), where Optuna or a driver is missing, or the
    URL is none; ArtifactError where the database can't be reached.
    """
    try:
        import optuna
    except ImportError:
        raise RecipeError(MISSING) from None
    optuna.logging.set_verbosity(logging.ERROR)
    file = sqlite_file(url)
    if file:
        durable.require_folder(file.parent)
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk.unwritable(error, file.parent, "; name another database with --storage") from None
    options: dict[str, Any] = {"connect_args": {"timeout": BUSY_S}} if file else {"pool_pre_ping": True}
    with translated(url), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # heartbeats outside of `optimize` are meant
        storage = optuna.storages.RDBStorage(url, engine_kwargs=options, heartbeat_interval=HEARTBEAT_S, grace_period=GRACE_S)
        study = optuna.create_study(storage=storage, study_name=name, directions=[*directions], load_if_exists=True)
    made = Study(storage, study, url)
    earlier = made.noted("identity")
    if earlier is None:
        made._call(lambda: storage.set_study_user_attr(study._study_id, "identity", json.loads(json.dumps(identity))))
    elif difference := differs(earlier, json.loads(json.dumps(identity))):
        raise RecipeError(
            f"the study '{name}' in {shown(url)} was made by another recipe: {difference}; name another with "
            "--study, or delete it"
        )
    return made


def differs(before: Any, now: Any, place: str = "") -> str:
    """`stages.0.training.epochs was 5 and is 7`: the first difference of two documents; empty where they agree."""
    if isinstance(before, dict) and isinstance(now, dict):
        for key in sorted({*before, *now}):
            if found := differs(before.get(key), now.get(key), f"{place}.{key}" if place else key):
                return found
        return ""
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return next(
            (found for at, pair in enumerate(zip(before, now, strict=True)) if (found := differs(*pair, f"{place}.{at}"))), ""
        )
    return "" if before == now else f"{place} was {json.dumps(before)[:80]} and is {json.dumps(now)[:80]}"


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite database; None for another, and for one in memory."""
    scheme, _, path = url.partition(":///")
    return Path(path) if scheme.startswith("sqlite") and path and path != ":memory:" else None


def shown(url: str) -> str:
    """A database's URL without the password in it."""
    scheme, separator, rest = url.partition("://")
    account, at, place = rest.rpartition("@")
    return f"{scheme}{separator}{account.partition(':')[0]}{at}{place}"


@contextmanager
def translated(url: str) -> Iterator[None]:
    """Errors of the database as the user can act on them."""
    import sqlalchemy.exc
    from optuna.exceptions import OptunaError, StorageInternalError

    try:
        yield
    except (ImportError, sqlalchemy.exc.NoSuchModuleError) as error:
        driver = DRIVERS.get(url.partition(":")[0].partition("+")[0], "the driver of that database")
        raise RecipeError(f"{shown(url)}: its driver is missing ({error}): pip install {driver}") from None
    except sqlalchemy.exc.ArgumentError:
        raise RecipeError(
            f"--storage {shown(url)}: is no database's URL, such as sqlite:///study.db or postgresql://host/name"
        ) from None
    except (sqlalchemy.exc.SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ or error
        reason = str(getattr(cause, "orig", None) or cause).strip().split("\n")[0]
        raise ArtifactError(
            f"the study's database {shown(url)} can't be used: {reason}; nothing but the trials at work is lost, and they go "
            "on from their last save with the same command once it is back"
        ) from None
    except OptunaError as error:
        if isinstance(error, ValueError | TypeError):
            raise
        raise ArtifactError(f"{shown(url)}: is of another version of Optuna: {error}") from None
