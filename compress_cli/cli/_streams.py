"""Standard output and standard error of a command: what happens where nobody takes them, and what a line may begin with."""

from __future__ import annotations

import errno
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

from compress_cli.errors import CompressError, ReaderGone, ResourceError

WORKFLOW_COMMAND = re.compile(r"^(\s*)::", re.MULTILINE)
"""At the start of a line GitHub takes `::error::...` for a command of the workflow, whoever wrote the line."""


class Output:
    """Standard output. No line begins with `::`; ReaderGone where nobody reads it, ResourceError where its disk is full."""

    def __init__(self, stream: TextIO):
        self.stream = stream
        self.used = False  # whether anything was written
        self.failure: CompressError | None = None
        self._at_start = True  # of a line

    def write(self, text: str) -> int:
        if text == "":
            return 0
        harmless = WORKFLOW_COMMAND.sub(r"\1: :", text)
        if not self._at_start and text.startswith("::"):
            harmless = text[:2] + harmless[3:]
        self.used = True
        self._at_start = not text.rpartition("\n")[2].strip() and ("\n" in text or self._at_start)
        self._attempt(lambda: self.stream.write(harmless))
        return len(text)

    def flush(self) -> None:
        self._attempt(self.stream.flush)

    def finish(self) -> None:
        """Raise what went wrong, also where a library that wrote passed over it."""
        self.flush()
        if self.failure:
            raise self.failure

    def _attempt(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            _discard(self.stream)
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        gone = error.errno == errno.EPIPE
        self.failure = ReaderGone() if gone else ResourceError(f"standard output can't be written: {error.strerror}")
        raise self.failure from error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class Notes(Output):
    """Standard error. Where nobody takes it (its disk is full, its reader is gone) the command goes on without."""

    def _failed(self, error: OSError) -> None:
        """The stream leads nowhere from now on."""


@contextmanager
def guarded() -> Iterator[Output]:
    """Give a command the two streams; yield standard output. A stream that was closed leads nowhere."""
    for number in (0, 1, 2):
        _open(number)
    before = sys.stdout, sys.stderr
    output = Output(sys.stdout or open(os.devnull, "w"))  # noqa: SIM115 - until the process ends
    sys.stdout, sys.stderr = output, Notes(sys.stderr or open(os.devnull, "w"))  # type: ignore[assignment] # noqa: SIM115
    try:
        yield output
    finally:
        sys.stdout, sys.stderr = before


def _open(number: int) -> None:
    """Make a closed descriptor lead nowhere: the next file to be opened would get its number, and a library's messages."""
    try:
        os.fstat(number)
    except OSError:
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _discard(stream: TextIO) -> None:
    """Let a stream that fails lead nowhere, so that nothing fails again when the process ends and flushes it."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
