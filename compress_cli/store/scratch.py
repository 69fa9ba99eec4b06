"""Folders under TMPDIR that are thrown away, also after a process that was killed: the next one that needs one removes them."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress_cli.errors import ResourceError

PREFIX = "compress-scratch-"
TRIED = "TMPDIR, /tmp, /var/tmp, /usr/tmp and this folder were tried"
YOUNG_S = 60.0  # a folder is made a moment before it is locked


@contextmanager
def scratch(purpose: str) -> Iterator[Path]:
    """An empty folder, locked while it is used, gone afterwards."""
    remove_abandoned()
    parent = _parent()
    if parent is None:
        raise ResourceError(f"no folder for temporary files can be written ({TRIED}); make room, or name another with TMPDIR")
    with tempfile.TemporaryDirectory(prefix=f"{PREFIX}{purpose}-", dir=parent) as folder:
        handle = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield Path(folder)
        finally:
            os.close(handle)


def _parent() -> Path | None:
    """TMPDIR or the system's folder for temporary files; None where none can be written: all disks are full."""
    try:
        return Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None


def in_scratch(path: Path) -> bool:
    return any(part.startswith(PREFIX) for part in path.parts)


def abandoned() -> list[Path]:
    """This user's scratch folders that no process holds."""
    parent = _parent()
    return [path for path in sorted(parent.glob(f"{PREFIX}*")) if _abandoned(path)] if parent else []


def remove_abandoned() -> None:
    for path in abandoned():
        shutil.rmtree(path, ignore_errors=True)  # another process may remove it at the same time


def _abandoned(path: Path) -> bool:
    try:
        status = path.lstat()
        if status.st_uid != os.getuid() or time.time() - status.st_mtime < YOUNG_S:
            return False
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # it is gone, or is no folder
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(handle)
    return True
