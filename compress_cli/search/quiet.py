"""Quiet for timing: while a worker times a model, the other workers of this machine wait, between two batches of theirs.

Who computes holds the lock `computing` with others. Who is to time something takes `timing`, which the others look at after
every batch, and then `computing` alone. The kernel frees both when their holder dies.
"""

from __future__ import annotations

import fcntl
import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress_cli.store import disk, durable


class Quiet:
    """One worker's part in it; the folder is that of all workers of this machine."""

    def __init__(self, folder: Path):
        self._timing, self._computing = (_opened(folder / f"{name}-{platform.node()}.lock") for name in ("timing", "computing"))

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Within, this worker computes beside others; waits until nobody times anything."""
        self._join()
        try:
            yield
        finally:
            fcntl.flock(self._computing, fcntl.LOCK_UN)

    def make_way(self) -> None:
        """Between two batches: wait while another worker times something, or is about to."""
        try:
            fcntl.flock(self._timing, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(self._computing, fcntl.LOCK_UN)
            self._join()
        else:
            fcntl.flock(self._timing, fcntl.LOCK_UN)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within `computing`: until its end no other worker computes."""
        fcntl.flock(self._computing, fcntl.LOCK_UN)  # or two that wait for each other would wait for ever
        fcntl.flock(self._timing, fcntl.LOCK_EX)
        fcntl.flock(self._computing, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.flock(self._computing, fcntl.LOCK_UN)
            fcntl.flock(self._timing, fcntl.LOCK_UN)
            self._join()

    def _join(self) -> None:
        fcntl.flock(self._timing, fcntl.LOCK_SH)
        fcntl.flock(self._computing, fcntl.LOCK_SH)
        fcntl.flock(self._timing, fcntl.LOCK_UN)


def _opened(path: Path) -> int:
    durable.require_folder(path.parent)
    durable.require_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise disk.unwritable(error, path.parent, "; name another folder with --store") from None
