"""Arrays of the user's own, by name, from NumPy's `.npz` files."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from compress_cli.errors import DataError


def read(path: Path, names: tuple[str, ...] | None = None) -> dict[str, np.ndarray]:
    """Arrays by name (default: all there are), which share their first axis, the samples.

    DataError where the file or an array is missing or damaged, holds Python objects, or is of another length.
    """
    try:
        with path.open("rb") as raw:
            if raw.read(6) == b"\x93NUMPY":
                raise DataError(f"{path}: holds one bare array; save arrays by name with numpy.savez")
        with np.load(path, allow_pickle=False) as file:
            held = file.files
            lacking = [name for name in names or () if name not in held]
            if lacking or not held:
                wanted = f"array '{lacking[0]}'" if lacking else "arrays"
                raise DataError(f"{path}: holds no {wanted} (it holds: {', '.join(held) or 'none'})")
            arrays = {name: np.asarray(file[name]) for name in (names if names is not None else held)}
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        pickled = "allow_pickle" in str(error) and zipfile.is_zipfile(path)
        reason = "holds Python objects, which are never loaded" if pickled else "is no .npz file, or is damaged"
        raise DataError(f"{path}: {reason}; save plain arrays with numpy.savez") from None
    if len({each.shape[:1] for each in arrays.values()}) > 1 or any(each.ndim == 0 for each in arrays.values()):
        told = ", ".join(f"{name} {each.shape}" for name, each in arrays.items())
        raise DataError(f"{path}: arrays should share their first axis, the samples: {told}")
    return arrays
