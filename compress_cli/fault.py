"""Who has to fix an error: one that an outside plugin raises is its author's; one that this package raises is a bug of ours."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from compress_cli.errors import CompressError
from compress_cli.plugin import Plugin

HOME = Path(__file__).parent


@contextmanager
def plugins_raise(kind: type[CompressError]) -> Iterator[None]:
    """Within, an error of a plugin from outside becomes one of `kind` that names its file and line; others stay as they are."""
    try:
        yield
    except CompressError:
        raise
    except Exception as error:
        line = location(error)
        if line is None:
            raise
        what = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise kind(f"{line}: {what} (raised by a plugin from outside)") from error


def location(error: BaseException) -> str | None:
    """`my_losses.py:12`: the line of an outside plugin that raised the error, or called the library that did; else None."""
    outside = _outside()
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename in outside:
            return f"{frame.filename}:{frame.lineno}"
        if HOME in Path(frame.filename).parents:
            return None
    return None


def _outside() -> set[str]:
    """The source files of plugins from outside that were imported, or were being imported."""
    modules = {name for name in sys.modules if name.startswith("compress_plugin_")}
    classes: list[type] = [Plugin]
    while classes:
        cls = classes.pop()
        classes += cls.__subclasses__()
        modules.add(cls.__module__)
    files = {getattr(sys.modules.get(name), "__file__", None) for name in modules}
    return {file for file in files if file and HOME not in Path(file).parents}
