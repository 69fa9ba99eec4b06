"""What a machine may lack while a stage writes: room, permission, a disk that takes anything at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
from pathlib import Path

from compress_cli.errors import ResourceError

LACKS = {
    errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO, errno.EMFILE,
    errno.ENAMETOOLONG,
}  # fmt: skip
"""Errors that the user can mend; any other is a bug of ours."""
FULL = {errno.ENOSPC, errno.EDQUOT}


def lack(error: OSError, place: Path) -> ResourceError | None:
    """What to tell of an error while something was written at `place`; None where it is no lack but a bug."""
    if error.errno not in LACKS:
        return None
    where = str(error.filename or place)
    if error.errno not in FULL:
        return ResourceError(f"{where}: {error.strerror}")
    there = next((each for each in (Path(where), *Path(where).parents) if each.exists()), place)
    return ResourceError(
        f"{where}: {error.strerror}: {amount(shutil.disk_usage(there).free)} are free there; make room, or name another place "
        "with --store (or TMPDIR for what is thrown away)"
    )


def require(needed: int, folder: Path) -> None:
    """ResourceError where so many bytes will not fit beside `folder`."""
    there = next(each for each in (folder, *folder.absolute().parents) if each.exists())
    free = shutil.disk_usage(there).free
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


def told(text: str, path: Path) -> OSError | None:
    """The error of the system in a message of a library that words it its own way: `... (os error 28)`."""
    found = re.search(r"os error (\d+)", text)
    return OSError(int(found[1]), os.strerror(int(found[1])), str(path)) if found else None
