"""Files that are whole or not there: written as `<name>.partial`, flushed to disk, renamed."""

from __future__ import annotations

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress_cli.errors import ArtifactError


def write(path: Path, content: bytes) -> None:
    """Write a file. Two processes at once take turns; a crash leaves at most `<name>.partial`, which the next write takes.

    ArtifactError where something other than a file has its name. OSError names the file.
    """
    partial = partial_path(path)
    for name in (path, partial):
        require_file(name)
    with naming(path):
        while True:
            with partial.open("ab") as out:
                fcntl.flock(out, fcntl.LOCK_EX)
                if not same_file(partial, out.fileno()):
                    continue  # the writer before renamed it
                out.truncate(0)
                crash_point("opened")
                out.write(content)
                out.flush()
                crash_point("written")
                flush_and_rename(partial, path)
            return


def require_file(path: Path) -> None:
    """ArtifactError where `path` is there and is no regular file: opening a FIFO would wait for ever."""
    kind = kind_of(path)
    if kind not in ("", "file", "link to a file"):
        raise ArtifactError(f"{path}: is a {kind}, where a file should be; move it elsewhere")


def require_folder(path: Path) -> None:
    """ArtifactError where `path` is there and is no folder."""
    kind = kind_of(path)
    if kind not in ("", "folder", "link to a folder"):
        raise ArtifactError(f"{path}: is a {kind}, where a folder should be; move it elsewhere")


def kind_of(path: Path) -> str:
    """`file`, `folder`, `link to a file`, `link to nothing`, `FIFO`, ...; empty where there is nothing."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return ""
    if not stat.S_ISLNK(mode):
        return _kind(mode)
    try:
        return f"link to a {_kind(path.stat().st_mode)}"
    except OSError:
        return "link to nothing"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFREG: "file", stat.S_IFDIR: "folder", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Errors of the system that name no file name this one: it says which disk was full."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def same_file(path: Path, handle: int) -> bool:
    """Whether a path still names the file that was opened."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except FileNotFoundError:
        return False


def partial_path(path: Path) -> Path:
    """Where a file is written until it is whole."""
    return path.with_name(f"{path.name}.partial")


def flush_and_rename(partial: Path, path: Path) -> None:
    """Give a file that was written under another name its lasting one, also through a power cut."""
    flush(partial)
    crash_point("flushed")
    os.replace(partial, path)
    crash_point("renamed")
    flush(path.parent)


def flush(path: Path) -> None:
    """Write a file's content, or the names in a folder, from the system's memory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def share(folder: Path, like: Path) -> None:
    """Give every file in `folder` the mode of the file `like`, which the umask chose.

    Libraries that write through temporary files leave mode 600, and nobody else could read the artifact.
    """
    mode = stat.S_IMODE(like.stat().st_mode)
    for path in folder.rglob("*"):
        if kind_of(path) == "file" and stat.S_IMODE(path.stat().st_mode) != mode:
            path.chmod(mode)


def mode_of_new_file(path: Path) -> int:
    """Create an empty file in place of any other; returns the mode that the umask gave it."""
    path.unlink(missing_ok=True)
    path.touch()
    return stat.S_IMODE(path.stat().st_mode)


def crash_point(name: str) -> None:
    """Marks a moment between opening and renaming at which a crash must do no harm: the tests end the process there."""
