"""The size of a model file on disk and in a download."""

from __future__ import annotations

import importlib
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import onnx

from compress_cli.errors import ArtifactError
from compress_cli.onnx_graph import files

PIECE = 1 << 20
LARGEST = 2 * 10**9  # bytes that are compressed to be counted: some 40 MB are a second
GZIP_LEVEL, ZSTD_LEVEL = 6, 3  # the programs' own defaults
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def model_files(path: Path, model: onnx.ModelProto) -> list[Path]:
    """The file and its external data; ArtifactError where a part is missing, or would lie outside its folder."""
    parts = [path, *files.external_files(path, model)]
    for part in parts:
        if not part.is_file():
            raise ArtifactError(f"{path}: its weights lie in another file, which is missing: {part}")
    return parts


def size_bytes(path: Path) -> int:
    """Bytes of the file, external data included."""
    return sum(part.stat().st_size for part in model_files(path, files.load(path)))


def compressed_bytes(paths: list[Path]) -> tuple[int | None, int | None, str]:
    """Bytes under gzip and zstd at their usual levels, each file by itself; None where they are not known, and why not."""
    size = sum(path.stat().st_size for path in paths)
    if size > LARGEST:
        return None, None, f"it takes too long for {size} bytes"
    gzip = sum(_count(path, zlib.compressobj(GZIP_LEVEL, wbits=31)) for path in paths)
    try:
        zstd: Any = importlib.import_module(ZSTD)
    except ImportError:
        return gzip, None, "zstd needs `pip install compress-cli[zstd]`"
    return gzip, sum(_count(path, zstd.ZstdCompressor(level=ZSTD_LEVEL)) for path in paths), ""


def _count(path: Path, compressor: Any) -> int:
    return sum(len(compressor.compress(piece)) for piece in _pieces(path)) + len(compressor.flush())


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            yield piece
