"""Ctrl-C and SIGTERM: finish the current piece of work, then stop; within a time limit whatever the process is doing.

Within `held` a first signal waits: for `check`, which a loop calls wherever it can be left, or for the end. Elsewhere it
raises KeyboardInterrupt at once. What takes longer than `PATIENCE_S` is broken off, and a library that does not come back
from a call is left by the process after `LIMIT_S`: nothing but work is lost, since files are whole or not there.
"""

from __future__ import annotations

import _thread
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

PATIENCE_S, LIMIT_S = 3.0, 4.5  # from the first signal on
TWICE_S = 0.2  # a second Ctrl-C that comes sooner is the first one, passed on by a wrapper
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143}


class _Stop:
    """The signal that this process received, if any, and whether it may interrupt now."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.held = 0
        self.overdue = False
        self.message: Callable[[], str] = lambda: "interrupted"


_stop = _Stop()


@contextmanager
def listening() -> Iterator[None]:
    """Handle both signals as the module's docstring describes; in the main thread only."""
    global _stop
    _stop, before = _Stop(), {number: signal.signal(number, _signalled) for number in CODES}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    fd_before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watch = threading.Thread(target=_watch, args=(reader, _stop), daemon=True)
    watch.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(fd_before)
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(writer)  # ends the watch
        watch.join()


def requested() -> bool:
    """Whether a signal asked this process to stop."""
    return _stop.signal is not None


def check() -> None:
    """KeyboardInterrupt where a signal waits."""
    if _stop.signal is not None:
        raise KeyboardInterrupt(_stop.signal.name)


@contextmanager
def held() -> Iterator[None]:
    """Within, a signal waits for `check` or for the end; not for longer than `PATIENCE_S`."""
    _stop.held += 1
    try:
        yield
    finally:
        _stop.held -= 1
    if not _stop.held:
        check()


def explain(message: Callable[[], str]) -> None:
    """Set the message for a process that has to end while a library does not return."""
    _stop.message = message


def _signalled(number: int, frame: FrameType | None) -> None:
    first, _stop.signal = _stop.signal is None, _stop.signal or signal.Signals(number)
    if _stop.overdue or (first and not _stop.held):
        raise KeyboardInterrupt(_stop.signal.name)


def _watch(reader: int, stop: _Stop) -> None:
    """Wait for signals in a thread, since the main one may be deep in a library; their numbers arrive in a pipe."""
    try:
        while (first := _next_signal(reader)) not in CODES:
            if not first:
                return
        begun = time.monotonic()
        while (passed := time.monotonic() - begun) < LIMIT_S:
            if passed >= PATIENCE_S and not stop.overdue:
                stop.overdue = True
                _thread.interrupt_main(signal.Signals(first))
            if not select.select([reader], [], [], (LIMIT_S if stop.overdue else PATIENCE_S) - passed)[0]:
                continue
            second = _next_signal(reader)
            if not second:
                return
            if second == signal.SIGINT and time.monotonic() - begun > TWICE_S and not stop.overdue:
                _leave(first, "ended at once")
        _leave(first, stop.message())
    finally:
        os.close(reader)


def _next_signal(reader: int) -> int:
    """The number of the next signal; 0 where nobody will send one any more."""
    number = os.read(reader, 1)
    return number[0] if number else 0


def _leave(number: int, message: str) -> None:
    cursor = "\x1b[?25h" if sys.stderr.isatty() else ""  # a progress bar hides it
    os.write(2, f"{cursor}error: {message}\n".encode())
    os._exit(CODES[signal.Signals(number)])
