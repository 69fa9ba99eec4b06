"""Picture files as arrays: which formats are read, what is refused, how pictures are fitted to a size."""

import contextlib
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from compress_cli.data import pictures
from compress_cli.errors import DataError

NOISE = np.random.default_rng(0).integers(0, 256, (40, 60, 3)).astype(np.uint8)


@pytest.fixture
def ghostscript(tmp_path, monkeypatch):
    """A program called gs on the path; the file that it leaves when it is started."""
    (tmp_path / "bin").mkdir()
    program, trace = tmp_path / "bin" / "gs", tmp_path / "gs-was-started"
    program.write_text(f"#!/bin/sh\ntouch {trace}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    return trace


def test_postscript_under_the_name_of_a_picture_is_refused_and_starts_no_program(ghostscript, tmp_path):
    path = tmp_path / "zz.png"
    Image.fromarray(NOISE).save(path, "EPS")
    with contextlib.suppress(OSError), Image.open(path) as image:  # the trap works: it makes no picture, and leaves its trace
        image.load()
    assert ghostscript.exists()
    ghostscript.unlink()
    with pytest.raises(DataError, match=r"zz\.png: is not a picture that can be read here \(formats: BMP, GIF, JPEG"):
        pictures.read(path, 3, 8, 8)
    assert not ghostscript.exists()


@pytest.mark.parametrize("suffix", sorted(pictures.SUFFIXES))
def test_every_documented_format_is_read(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    Image.fromarray(NOISE if suffix != ".pgm" else NOISE[..., 0]).save(path)
    decoded = pictures.read(path, 3, 40, 60).transpose(1, 2, 0)
    expected = NOISE if suffix != ".pgm" else np.repeat(NOISE[..., :1], 3, axis=2)
    if suffix in (".bmp", ".png", ".ppm", ".pgm", ".tif", ".tiff"):
        np.testing.assert_array_equal(decoded, expected)
    else:
        assert np.abs(decoded.astype(int) - expected).mean() < 50  # of noise, which these formats change most


def test_a_format_is_told_by_content_and_not_by_suffix(tmp_path):
    Image.fromarray(NOISE).save(tmp_path / "x.jpg", "PNG")
    np.testing.assert_array_equal(pictures.read(tmp_path / "x.jpg", 3, 40, 60), NOISE.transpose(2, 0, 1))


@pytest.mark.parametrize("side", [9_500, 40_000])  # Pillow warns of the first and refuses the second
def test_a_small_file_that_claims_many_pixels_is_refused_before_it_is_decoded(tmp_path, side):
    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10**6))) + chunk(b"IEND", b"")
    (tmp_path / "bomb.png").write_bytes(bomb)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(DataError, match=r"bomb\.png: the picture has more than 90 million pixels; scale it down"):
            pictures.read(tmp_path / "bomb.png", 3, 8, 8)


def test_a_thin_picture_is_not_blown_up(tmp_path):
    Image.new("RGB", (1, 60_000)).save(tmp_path / "thin.png")
    with pytest.raises(DataError, match=r"the picture is too long \(1 x 60000\) to be resized to 256"):
        pictures.read(tmp_path / "thin.png", 3, 224, 224, resize=256)
    assert pictures.read(tmp_path / "thin.png", 3, 4, 4).shape == (3, 4, 4)


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"pipe\.png: is not a file"):
        pictures.read(tmp_path / "pipe.png", 3, 8, 8)
    assert pictures.find(tmp_path) == []


@pytest.mark.parametrize(("width", "height"), [(60, 40), (40, 60), (57, 41), (33, 33)])
def test_the_shorter_side_is_resized_and_the_centre_cut_out(tmp_path, width, height):
    """As torchvision's Resize(32) and CenterCrop(28): long side int(32 * long / short), offset int(round(rest / 2.0))."""
    Image.fromarray(NOISE).resize((width, height)).save(tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        short, long = min(width, height), max(width, height)
        size = (32, int(32 * long / short)) if width <= height else (int(32 * long / short), 32)
        resized = np.asarray(image.resize(size, Image.Resampling.BILINEAR))
    top, left = int(round((size[1] - 28) / 2.0)), int(round((size[0] - 28) / 2.0))  # noqa: RUF046 - as it is written there
    expected = resized[top : top + 28, left : left + 28].transpose(2, 0, 1)
    np.testing.assert_array_equal(pictures.read(tmp_path / "x.png", 3, 28, 28, resize=32), expected)


def test_a_folder_of_other_files_is_left_soon(tmp_path, monkeypatch):
    monkeypatch.setattr(pictures, "OTHER_FILES", 10)
    Image.new("L", (2, 2)).save(tmp_path / "x.png")
    for number in range(10):
        (tmp_path / f"{number}.txt").touch()
    assert [path.name for path in pictures.find(tmp_path)] == ["x.png"]
    for number in range(10, 15):
        (tmp_path / f"{number}.txt").touch()
    with pytest.raises(DataError, match="holds more than 10 files that are no pictures"):
        pictures.find(tmp_path)


def test_a_folder_that_can_not_be_read_is_said(tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scandir = os.scandir

    def _closed(path):
        if os.fspath(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", _closed)
    with pytest.raises(DataError, match=r"closed: can't be read \(Permission denied\)"):
        pictures.find(tmp_path)
