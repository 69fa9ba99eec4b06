"""Picture files as arrays."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from compress_cli.errors import DataError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})


def read(path: Path, channels: int, height: int, width: int) -> np.ndarray:
    """The picture as uint8 (channels, height, width), 0..255, upright, resized to fill (bilinear).

    One channel is its brightness, three are red, green and blue. DataError where it is missing, damaged or no picture.
    """
    mode = {1: "L", 3: "RGB"}.get(channels)
    if mode is None:
        raise DataError(f"{path}: a picture has 1 or 3 channels, not the {channels} that are asked for")
    try:
        with Image.open(path) as opened:
            upright = ImageOps.exif_transpose(opened)
            if upright.mode.startswith("I;16"):  # Pillow would clip 16 bits instead of scaling them
                upright = Image.fromarray((np.asarray(upright) >> 8).astype(np.uint8))
            resized = upright.convert(mode).resize((width, height), Image.Resampling.BILINEAR)
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file") from None
    except UnidentifiedImageError:
        raise DataError(f"{path}: is not a picture that can be read here") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path}: the picture is damaged ({error})") from None
    pixels = np.asarray(resized)
    return np.ascontiguousarray(pixels[None] if channels == 1 else pixels.transpose(2, 0, 1))


def found(folder: Path) -> list[Path]:
    """Picture files anywhere under a folder, by name; hidden ones are left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def png(pixels: np.ndarray, longest: int) -> bytes:
    """uint8 (channels, height, width) as a PNG file; what is longer than `longest` pixels is scaled down."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    image.thumbnail((longest, longest))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return out.getvalue()
