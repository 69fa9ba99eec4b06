"""Fashion-MNIST: the file format, files that are not there or damaged; the real files where they are at hand."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest

from compress_cli.data.datasets.fashion_mnist import KNOWN, FashionMnist, read_idx
from compress_cli.errors import DataError

HERE = Path(os.environ.get("COMPRESS_DATA", "nowhere"), "fashion-mnist")
real = [pytest.mark.slow, pytest.mark.skipif(not HERE.is_dir(), reason="Fashion-MNIST is not at hand")]


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + b"".join(each.to_bytes(4, "big") for each in array.shape) + array.tobytes()


@pytest.mark.parametrize("shape", [(5,), (5, 2, 3)])
def test_idx_files(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    (tmp_path / "plain").write_bytes(idx(array))
    (tmp_path / "packed.gz").write_bytes(gzip.compress(idx(array)))
    np.testing.assert_array_equal(read_idx(tmp_path / "plain"), array)
    np.testing.assert_array_equal(read_idx(tmp_path / "packed.gz"), array)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a", b"text that is no array", "not an IDX file"),
        ("a", b"", "not an IDX file"),
        ("a", idx(np.zeros((5, 2), np.uint8))[:-3], "holds 7 values instead of 10"),
        ("a.gz", gzip.compress(idx(np.zeros((500, 20), np.uint8)), mtime=0)[:-20], "can't be unpacked"),
        ("a.gz", b"not packed", "can't be unpacked"),
    ],
)
def test_damaged_idx_files(tmp_path, name, content, reason):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reason):
        read_idx(tmp_path / name)


def test_data_not_at_hand_says_what_to_set(tmp_path, monkeypatch):
    monkeypatch.delenv("COMPRESS_DATA", raising=False)
    for use in (FashionMnist().fingerprint, FashionMnist().signature, lambda: FashionMnist().split("test")):
        with pytest.raises(DataError, match=r"COMPRESS_DATA is not set.*'root', or COMPRESS_DATA"):
            use()
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    with pytest.raises(DataError, match=f"train-images-idx3-ubyte.gz is missing .not in {tmp_path}/fashion-mnist"):
        FashionMnist().fingerprint()


def test_another_file_of_that_name_is_refused(tmp_path):
    for name in KNOWN:
        (tmp_path / name).write_bytes(idx(np.zeros((10, 28, 28), np.uint8)))
    with pytest.raises(DataError, match="is damaged, or not the published file"):
        FashionMnist(root=tmp_path).fingerprint()


@pytest.mark.parametrize("val", [0, 60_000, "some"])
def test_sizes_of_val_that_make_no_sense(val):
    with pytest.raises(ValueError, match="val"):
        FashionMnist(val=val)


@pytest.mark.parametrize("_", [pytest.param(0, marks=real)])
def test_the_real_files(_, tmp_path):
    whole, none = FashionMnist(root=HERE), FashionMnist(root=HERE, val="none")
    train, val, test = (whole.split(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test), len(none.split("train")), len(none.split("val"))) == (55000, 5000, 10000, 60000, 0)
    assert np.bincount(val.targets["label"]).tolist() == [500] * 10
    assert len({*train.index, *val.index, *test.index}) == 70_000
    # mean and deviation as published all over: 0.2860, 0.3530 of 1
    image = none.signature().inputs["image"]
    assert (image.mean[0] / 255, image.deviation[0] / 255) == pytest.approx((0.2860, 0.3530), abs=1e-4)
    unpacked = tmp_path / "FashionMNIST" / "raw"
    unpacked.mkdir(parents=True)
    for name in KNOWN:
        (unpacked / name).write_bytes(gzip.decompress((HERE / f"{name}.gz").read_bytes()))
    assert FashionMnist(root=tmp_path).fingerprint() == whole.fingerprint() != none.fingerprint()
