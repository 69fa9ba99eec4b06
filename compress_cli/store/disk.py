"""What a machine may lack while a stage writes: room on the disk, permission, a disk that can be written."""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
from pathlib import Path

from compress_cli.errors import ArtifactError, CompressError, ResourceError
from compress_cli.store.scratch import in_scratch

LACKS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE,
    errno.ENAMETOOLONG, errno.ELOOP,
}  # fmt: skip
"""Errors that the user can fix; any other is a bug of ours."""
FULL = {errno.ENOSPC, errno.EDQUOT}
SHORT_WRITE = re.compile(r"^(\d+) requested and (\d+) written$")
"""NumPy's words where the system took a part of an array; it keeps neither the system's reason nor the file's name."""


def lack(error: OSError, folder: Path) -> ResourceError | None:
    """The user's error for a failed write in `folder`; None where it is a bug of ours."""
    where = Path(str(error.filename or folder))
    short = SHORT_WRITE.search(str(error)) if error.errno is None else None
    if short:
        return ResourceError(f"{where}: only {short[2]} of {short[1]} values could be written: {_room(where, folder)}")
    if error.errno not in LACKS:
        return None
    if error.errno in FULL or error.errno == errno.EFBIG:
        return ResourceError(f"{where}: {error.strerror}: {_room(where, folder)}")
    return ResourceError(f"{where}: {error.strerror}")


def _room(where: Path, folder: Path) -> str:
    """The free space of a disk or the limit of a file's size, whichever was exceeded, and the remedy."""
    existing = next((path for path in (where, *where.absolute().parents) if path.exists()), folder)
    free = f"{amount(shutil.disk_usage(existing).free)} are free there"
    another = f"name another place{_option(where, folder)}"
    largest = resource.getrlimit(resource.RLIMIT_FSIZE)[0]
    if largest == resource.RLIM_INFINITY:
        return f"{free}; make room, or {another}"
    return f"{free}, and a file may have at most {amount(largest)}; raise that with `ulimit -f`, make room, or {another}"


def _option(where: Path, folder: Path) -> str:
    """What moves the file that could not be written; empty for one that the user named."""
    if in_scratch(where):
        return " with TMPDIR"
    return " with --store" if where.is_relative_to(folder) and folder != Path() else ""


def unwritable(error: OSError, path: Path, remedy: str = "") -> CompressError:
    """What to tell where a file that the user named can't be written: ResourceError where there is no room for it."""
    if error.errno in FULL or error.errno == errno.EFBIG:
        return ResourceError(f"{path}: can't be written ({error.strerror}): {_room(path, Path())}")
    return ArtifactError(f"{path}: can't be written ({error.strerror}){remedy}")


def require(needed: int, folder: Path) -> None:
    """ResourceError where `needed` bytes do not fit on the disk of `folder`."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if needed > free:
        raise ResourceError(
            f"{folder}: this run needs about {amount(needed)} there, and {amount(free)} are free; nothing was run. "
            "Make room (`compress clean` removes what no run refers to), or name another place with --store"
        )


def amount(count: int) -> str:
    """`1.2 GB`"""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def os_error(text: str, path: Path) -> OSError | None:
    """The operating system's error, parsed from the message of a library that words it its own way: `... (os error 28)`."""
    number = re.search(r"os error (\d+)", text)
    return OSError(int(number[1]), os.strerror(int(number[1])), str(path)) if number else None
