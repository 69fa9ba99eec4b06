"""Arrays of the user's own, by name, from NumPy's `.npz` files."""

from __future__ import annotations

import math
import os
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from compress_cli.errors import DataError

DAMAGED = (ValueError, EOFError, OSError, LookupError, NotImplementedError, RuntimeError, SyntaxError, TypeError,
           RecursionError, zlib.error, zipfile.BadZipFile)  # fmt: skip
"""What reading a damaged archive raises, an entry that is encrypted or packed in a way unknown here included."""


def read(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name (default: all there are), which share their first axis, the samples.

    Nothing is unpacked before the archive's directory and the array's own header agree on a size that fits in memory.
    DataError where the file or an array is missing or damaged, holds Python objects, or is of another length.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(6) == b"\x93NUMPY":
                raise DataError(f"{path}: holds one bare array; save arrays by name with numpy.savez")
        with zipfile.ZipFile(path) as archive:
            held = {each.filename.removesuffix(".npy"): each for each in archive.infolist()}
            lacking = [name for name in names or () if name not in held]
            if lacking or not held:
                wanted = f"array '{lacking[0]}'" if lacking else "arrays"
                raise DataError(f"{path}: holds no {wanted} (it holds: {', '.join(held)[:200] or 'none'})")
            chosen = {name: held[name] for name in (names if names is not None else held)}
            _fits(path, [each.file_size for each in chosen.values()])
            arrays = {}
            for name, entry in chosen.items():
                with archive.open(entry) as file:
                    arrays[name] = _array(file, entry.file_size, f"{path}: array '{name}'")
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except PermissionError as error:
        raise DataError(f"{path}: can't be read ({error.strerror})") from None
    except DAMAGED:
        raise DataError(f"{path}: is no .npz file, or is damaged; save plain arrays with numpy.savez") from None
    if len({each.shape[:1] for each in arrays.values()}) > 1 or any(each.ndim == 0 for each in arrays.values()):
        told = ", ".join(f"{name} {each.shape}" for name, each in arrays.items())
        raise DataError(f"{path}: arrays should share their first axis, the samples: {told}")
    return arrays


def _fits(path: Path, sizes: list[int]) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if sum(sizes) > memory:
        raise DataError(f"{path}: would unpack to {sum(sizes)} bytes, and this machine has {memory} bytes of memory")


def _array(file: IO[bytes], size: int, what: str) -> np.ndarray:
    """One array of an archive, `size` bytes with its header; DataError where the header promises anything else."""
    version = npy.read_magic(file)
    header = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}.get(version)
    if header is None:
        raise DataError(f"{what}: is of a version of NumPy's format that is not known here ({version})")
    try:
        shape, fortran, dtype = header(file)
    except (MemoryError, tokenize.TokenError):  # two ways in which Python's parser refuses what is nested too deeply
        raise DataError(f"{what}: has a header that can't be read; it is damaged") from None
    if dtype.hasobject:
        raise DataError(f"{what}: holds Python objects, which are never loaded; save plain arrays with numpy.savez")
    start, promised = file.tell(), math.prod(shape) * dtype.itemsize
    if dtype.itemsize == 0 or any(axis < 0 for axis in shape) or promised != size - start:
        raise DataError(f"{what}: its header promises {promised} bytes, and {size - start} are there; it is damaged")
    content = bytearray(promised)
    view, done = memoryview(content), 0
    while done < promised:
        piece = file.read(min(promised - done, 1 << 24))
        if not piece:
            raise DataError(f"{what}: ends after {done} of {promised} bytes; it is damaged")
        view[done : done + len(piece)] = piece
        done += len(piece)
    flat = np.frombuffer(content, dtype)
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)
