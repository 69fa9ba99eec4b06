"""Files that are whole or not there: written beside their place, flushed to disk, renamed."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path


def write(path: Path, content: bytes) -> None:
    """Write a file. Two processes at once take turns; a crash leaves at most `<name>.partial`, which the next write takes."""
    partial = partial_path(path)
    while True:
        with partial.open("ab") as out:
            fcntl.flock(out, fcntl.LOCK_EX)
            if not same_file(partial, out.fileno()):
                continue  # who held it before has given it its name
            out.truncate(0)
            reached("opened")
            out.write(content)
            out.flush()
            reached("written")
            settle(partial, path)
        return


def same_file(path: Path, handle: int) -> bool:
    """Whether a path still names the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def partial_path(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f"{path.name}.partial")


def settle(partial: Path, path: Path) -> None:
    """Give a file that was written beside its place its name, for good."""
    flush(partial)
    reached("flushed")
    os.replace(partial, path)
    reached("renamed")
    flush(path.parent)


def flush(path: Path) -> None:
    """Make a file's content, or the names in a folder, last through a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def reached(place: str) -> None:
    """Marks a moment between opening and renaming at which a crash must do no harm: the tests end the process there."""
