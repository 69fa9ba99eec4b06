"""The processes that make some steps of a run together: the first one runs the recipe and calls the others to each training.

    compress run recipe.yaml --processes 2
    torchrun --nproc-per-node 2 -m compress_cli run recipe.yaml

The first process alone measures, exports, writes and prints. The others run the stage of a training too, each with its share of
every batch, and throw their copy of the result away.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO

from torch import distributed as dist

from compress_cli import stopping
from compress_cli.errors import ArtifactError, CompressError, RecipeError, StageError
from compress_cli.pipeline import executor
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.rendezvous import DONE, ENDED, POLL_S, WAIT_S, Failure, Hello, Messages, Order, Place
from compress_cli.pipeline.schedule import Schedule
from compress_cli.pipeline.step import Step
from compress_cli.processes import ALONE, Processes
from compress_cli.together import Together

EXPLAINED_S = 3.0  # within which a process that fails says why
PATIENCE_S = 20.0  # after which a user hears what is waited for
FAREWELL_S, LOST_S = 10.0, 2.0  # that the others get to end, and where one of them is lost
KINDS: dict[int, type[CompressError]] = {2: RecipeError, 3: ArtifactError}


@dataclass
class Crew(Schedule):
    """The processes of a run, as the first of them sees the others: they train together, step after step."""

    place: Place
    messages: Messages
    children: dict[int, Child] = field(default_factory=dict)  # rank -> process, where this one started them
    orders: int = 0
    greeted: bool = False
    lost: str = ""  # why there is no going on with them

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *error: object) -> None:
        """Let the others end."""
        self.messages.set(ENDED, DONE)
        if dist.is_initialized():
            dist.destroy_process_group()
        deadline = time.monotonic() + (LOST_S if self.lost else FAREWELL_S)
        while time.monotonic() < deadline and not all(map(self._left, range(1, self.place.count))):
            time.sleep(POLL_S)
        for child in self.children.values():
            child.end()

    def count(self, step: Step) -> int:
        """All, where the step's stage can be shared."""
        return self.place.count if step.stage.distributed else 1

    def processes(
        self, planned: Plan, step: Step, inputs: executor.Inputs, threads: int, say: Callable[[str], None]
    ) -> Processes:
        """All, ready to make a step together; this one alone where the step's stage can't be shared."""
        if not step.stage.distributed:
            return ALONE
        if self.lost:
            raise StageError(self.lost)
        self._greet(planned, say)
        sources = {role: [s.model_dump() for s in executor.recorded(artifacts)] for role, artifacts in inputs.items()}
        order = Order(key=step.key, name=step.name, inputs=sources, threads=threads)
        self.orders += 1
        self.messages.set(f"order/{self.orders}", order.model_dump_json())
        for rank in range(1, self.place.count):
            self._wait_for(rank, f"ready/{self.orders}/{rank}", f" for stage '{step.name}'", say)
        if not dist.is_initialized():
            self.place.join(self.messages, executor.device(planned.recipe.device))
        return Together(0, self.place.count, self.place.local_rank, self.explain)

    def explain(self) -> str:
        """Why another process is gone, if that is known; nothing more can be made together then."""
        reason = self._loss()
        self.lost = reason or f"one of the {self.place.count} processes is gone"
        return reason

    def _loss(self) -> str:
        deadline = time.monotonic() + EXPLAINED_S
        while time.monotonic() < deadline:
            for rank in range(1, self.place.count):
                if message := self._failure(rank):
                    return message[1]
            time.sleep(POLL_S)
        return ""

    def _greet(self, planned: Plan, say: Callable[[str], None]) -> None:
        """Before the first training: all others are there, and are of this run."""
        if self.greeted:
            return
        own = Hello.of(planned)
        for rank in range(1, self.place.count):
            self._wait_for(rank, f"hello/{rank}", "", say)
            other = Hello.model_validate_json(self.messages.get(f"hello/{rank}"))
            if difference := own.difference(other):
                raise RecipeError(f"process {rank}, on {other.machine}, {difference}")
        self.greeted = True

    def _wait_for(self, rank: int, message: str, purpose: str, say: Callable[[str], None]) -> None:
        """StageError where it does not come; the error of the other process where that failed."""
        begun, told = time.monotonic(), False
        while not self.messages.check([message]):
            if failed := self._failure(rank):
                code, text = failed
                raise KINDS.get(code, StageError)(text)
            if not told and time.monotonic() > begun + PATIENCE_S:
                told = True
                say(f"waits for process {rank} of {self.place.count}, counted from 0, at {self.place.host}:{self.place.port}")
            if time.monotonic() > begun + WAIT_S:
                raise StageError(
                    f"process {rank} of {self.place.count} has not come{purpose} within {WAIT_S:.0f} s; was it "
                    f"started, and can it reach {self.place.host}:{self.place.port}?"
                )
            stopping.check()
            time.sleep(POLL_S)

    def _failure(self, rank: int) -> tuple[int, str] | None:
        """The exit code and the message of a process that failed."""
        who = f"process {rank} of {self.place.count}, counted from 0"
        if self.messages.check([f"failed/{rank}"]):
            failure = Failure.model_validate_json(self.messages.get(f"failed/{rank}"))
            return failure.code, f"{who}, on {failure.machine}: {failure.message}"
        reason = self.children[rank].died() if rank in self.children else ""
        return (4, f"{who}: {reason}") if reason else None

    def _left(self, rank: int) -> bool:
        return self.messages.check([f"left/{rank}"]) or (
            rank in self.children and self.children[rank].process.poll() is not None
        )


@dataclass
class Child:
    """Another process of this machine, started by this one."""

    process: subprocess.Popen[bytes]
    log: IO[bytes]

    def died(self) -> str:
        """Why it ended; empty while it works."""
        code = self.process.poll()
        if code is None:
            return ""
        if code < 0:
            return f"was killed by signal {signal.Signals(-code).name}, as happens when memory runs out"
        self.log.seek(0)
        return f"ended with exit code {code}: {self.log.read().decode(errors='replace').strip()[-4000:]}"

    def end(self) -> None:
        """End it if it has not ended by itself."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.log.close()


def crew(place: Place) -> Crew:
    """The other processes, which somebody else starts, such as torchrun."""
    return Crew(place, place.connect())


def started(count: int, arguments: Sequence[str]) -> Crew:
    """So many processes of this machine with this one, which start with these arguments of `compress`."""
    place = Place(rank=0, count=count, local_rank=0, host="127.0.0.1", port=_free_port())
    found = Crew(place, place.connect())
    for rank in range(1, count):
        environment = place.model_copy(update={"rank": rank, "local_rank": rank}).environment()
        log = tempfile.TemporaryFile()  # noqa: SIM115 - the child has it until it ends
        # In a session of its own: a Ctrl-C reaches this process alone, which the others follow.
        command = [sys.executable, "-m", "compress_cli", *arguments]
        process = subprocess.Popen(
            command,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        found.children[rank] = Child(process, log)
    return found


def threads_each(count: int) -> int:
    """How many threads each of so many processes of this machine takes."""
    return max(1, (os.cpu_count() or 1) // count)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
