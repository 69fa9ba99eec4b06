"""Bounds of time and memory for inspecting files of strangers."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from compress_cli.errors import ArtifactError

MEMORY_BYTES, MEMORY_FACTOR = 2 * 10**9, 10
"""The memory that reading a file may take: a constant, and a multiple of its size."""
TIME_S, RATE = 60, 20_000_000
"""Seconds that it may last: so many, and one more for so many bytes."""

AVAILABLE = hasattr(os, "fork") and sys.platform == "linux"  # elsewhere memory can't be limited, or forking is not safe
if AVAILABLE:
    import resource

_is_limited = False  # whether this process is the child


def bounded(path: Path, read: Callable[[], str]) -> str:
    """What `read` gives, run in a process of its own that ends when it takes too long or too much memory.

    A few hundred bytes can make shape inference fill any memory or never end, and it can't be interrupted. ArtifactError
    where the process hits a limit or crashes, or `read` raises one.
    """
    if not AVAILABLE:
        return read()
    size = path.stat().st_size if path.is_file() else 0
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of threads: those of ONNX Runtime hold no lock between runs
        child = os.fork()
    if child == 0:
        _answer(read, size, writing)
    os.close(writing)
    try:
        with open(reading, encoding="utf-8", closefd=True) as pipe:
            answer = pipe.read()
    except BaseException:
        os.kill(child, signal.SIGKILL)
        raise
    finally:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == -signal.SIGALRM:
        raise ArtifactError(f"{path}: inspecting it takes more than {_seconds(size)} s; it is damaged, or made to do so")
    if status:
        raise ArtifactError(f"{path}: inspecting it fails ({_death(status)}); it is damaged, or made to do so")
    return _result(path, json.loads(answer))


def extend(size: int) -> None:
    """Allow the process that reads a file as much more as `size` further bytes on disk take."""
    if not _is_limited:
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    more = soft + MEMORY_FACTOR * size
    resource.setrlimit(resource.RLIMIT_AS, (more if hard == resource.RLIM_INFINITY else min(more, hard), hard))
    signal.alarm(signal.alarm(0) + size // RATE + 1)


def _answer(read: Callable[[], str], size: int, writing: int) -> NoReturn:
    """The child: write what `read` gives, or raises, and end."""
    global _is_limited
    _is_limited, status = True, 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_seconds(size))
        limit = _virtual_bytes() + MEMORY_BYTES + MEMORY_FACTOR * size
        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))
        with open(writing, "w", encoding="utf-8") as pipe:
            json.dump(_outcome(read), pipe)
        status = 0
    finally:
        os._exit(status)


def _outcome(read: Callable[[], str]) -> dict[str, str]:
    try:
        return {"result": read()}
    except ArtifactError as error:
        return {"refused": str(error)}
    except MemoryError:
        return {"memory": ""}
    except Exception:
        return {"bug": traceback.format_exc()}


def _result(path: Path, outcome: dict[str, str]) -> str:
    if "refused" in outcome:
        raise ArtifactError(outcome["refused"])
    if "memory" in outcome:
        raise ArtifactError(f"{path}: inspecting it takes more memory than its size explains; it is damaged, or made to do so")
    if "bug" in outcome:
        raise RuntimeError(f"inspecting {path} failed:\n{outcome['bug']}")
    return outcome["result"]


def _seconds(size: int) -> int:
    return TIME_S + size // RATE


def _virtual_bytes() -> int:
    """Address space that this process has already."""
    return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()


def _death(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit code {status}"
