"""Memory that goes from one training step to the next, instead of back to the system and out again."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**31 - 1  # bytes: as much as mallopt can be told
_LARGEST = 32 * 2**20  # bytes of one block: as much as glibc would raise its own threshold to


@contextmanager
def retained_heap() -> Iterator[None]:
    """Keep freed memory while training on a CPU, then give it back.

    At the end of a step nearly everything is free, and glibc returns the top of its heap to the system; getting it back
    costs a fault for each page, up to an eighth of a small network's step. Other C libraries are left alone.
    """
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    if library is None or not hasattr(library, "mallopt") or not hasattr(library, "malloc_trim"):
        yield
        return
    library.mallopt(_TRIM_THRESHOLD, _MOST)
    library.mallopt(_MMAP_THRESHOLD, _LARGEST)
    try:
        yield
    finally:
        library.malloc_trim(0)
