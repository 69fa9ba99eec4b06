"""Any process of a run but the first: it waits until a training begins, computes its share, and writes nothing that stays."""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from torch import distributed as dist

from compress_cli.errors import ArtifactError, CompressError, ResourceError, StageError
from compress_cli.pipeline import executor
from compress_cli.pipeline.estimate import MEMORY
from compress_cli.pipeline.executor import Workspace
from compress_cli.pipeline.plan import Plan
from compress_cli.pipeline.rendezvous import DONE, ENDED, POLL_S, Failure, Hello, Messages, Order, Place, machine
from compress_cli.pipeline.step import Step
from compress_cli.store.artifact import Artifact
from compress_cli.store.saves import Saves
from compress_cli.store.store import Store
from compress_cli.together import Together

LOOK_S = 0.5  # between two looks at whether the first process ended
PATIENCE_S = 10.0  # after a signal: the first process, which gets one too, saves its state and ends
EXPLAINED_S = 15.0  # within which the first process tells of this one's error


def take_part(place: Place, made: Callable[[], tuple[Plan, Store]]) -> NoReturn:
    """Take part in a run until its first process ends; then this one does. It says nothing: the first one tells of errors.

    made: the plan and the store, as the command line has them.
    """
    CrewMember(place, Path(tempfile.mkdtemp(prefix="compress-"))).work(made)


@dataclass
class CrewMember:
    """One of the other processes."""

    place: Place
    folder: Path  # its own, which goes with it

    def work(self, made: Callable[[], tuple[Plan, Store]]) -> NoReturn:
        reader = _signals()
        try:
            messages = self.place.connect()
            threading.Thread(target=self._watch, args=(self.place.connect(), reader), daemon=True).start()
        except StageError as error:
            self._leave(4, f"error: process {self.place.rank}: {error}")
        try:
            planned, artifacts = made()
            self._serve(messages, planned, artifacts)
        except CompressError as error:
            failure = Failure(
                machine=machine(), message=str(error), code=error.exit_code, resource=isinstance(error, ResourceError)
            )
        except Exception:
            failure = Failure(machine=machine(), message=traceback.format_exc(), code=1)
        with suppress(RuntimeError):
            messages.set(f"failed/{self.place.rank}", failure.model_dump_json())
        time.sleep(EXPLAINED_S)  # the watch ends this process as soon as the first one has told of it
        self._leave(failure.code, f"error: process {self.place.rank}, on {failure.machine}: {failure.message}")

    def _serve(self, messages: Messages, planned: Plan, artifacts: Store) -> NoReturn:
        """Make every step that the first process orders."""
        if planned.missing_data:
            raise ArtifactError(planned.missing_data)
        messages.set(f"hello/{self.place.rank}", Hello.of(planned).model_dump_json())
        number = 1
        while True:
            while not messages.check([f"order/{number}"]):
                time.sleep(POLL_S)
            order = Order.model_validate_json(messages.get(f"order/{number}"))
            step = _ordered(order, planned)
            inputs = _inputs(order, step, artifacts)
            messages.set(f"ready/{number}/{self.place.rank}", DONE)
            if not dist.is_initialized():
                self.place.join(messages, executor.device(planned.recipe.device))
            self._make(planned, step, inputs, order, artifacts.root / MEMORY)
            number += 1

    def _make(self, plan: Plan, step: Step, inputs: executor.Inputs, order: Order, memory: Path) -> None:
        output = self.folder / step.key
        output.mkdir()
        place = self.place
        processes = Together(place.rank, place.count, place.local_rank)
        workspace = Workspace(output, memory, saves=Saves(processes=processes), processes=processes)
        with executor.threads(order.threads):
            executor.perform(plan.recipe, step, inputs, workspace)
        shutil.rmtree(output)

    def _watch(self, messages: Messages, reader: int) -> None:
        """End this process when the first one ends, or is gone, whatever the main thread is doing."""
        deadline = float("inf")
        while time.monotonic() < deadline:
            try:
                if messages.check([ENDED]):
                    with suppress(RuntimeError):
                        messages.set(f"left/{self.place.rank}", DONE)
                    self._leave(0)
            except RuntimeError:
                self._leave(4, f"error: process {self.place.rank} of {self.place.count}: the first process is gone")
            if select.select([reader], [], [], LOOK_S)[0]:
                os.read(reader, 64)
                deadline = min(deadline, time.monotonic() + PATIENCE_S)
        self._leave(143)

    def _leave(self, code: int, message: str = "") -> NoReturn:
        shutil.rmtree(self.folder, ignore_errors=True)
        if message:
            sys.stderr.write(f"{message}\n")
            sys.stderr.flush()
        os._exit(code)


def _ordered(order: Order, planned: Plan) -> Step:
    """The step that is meant."""
    for step in planned.steps:
        if step.key == order.key:
            return step
    raise ArtifactError(f"has no stage '{order.name}' as the first process has it: was the recipe or its data changed?")


def _inputs(order: Order, step: Step, artifacts: Store) -> executor.Inputs:
    """The results that the step begins with, from the store that all processes see; ArtifactError where it is another."""
    inputs: dict[str, tuple[Artifact, ...]] = {}
    for role, steps in step.inputs.items():
        sources = [artifacts.get(source.key) for source in steps]
        present = tuple(source for source in sources if source)
        if [source.model_dump() for source in executor.recorded(present)] != order.inputs[role]:
            names = ", ".join(source.name for source in steps)
            raise ArtifactError(
                f"'{names}' is not in {artifacts.name} as the first process has it; all processes need one store: a folder "
                "that their machines share, or s3://..."
            )
        inputs[role] = present
    return inputs


def _signals() -> int:
    """Take over Ctrl-C and SIGTERM, which the first process answers for all; a pipe that tells of them."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader
