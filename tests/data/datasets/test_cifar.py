"""CIFAR: the binary format, files that are not there or damaged."""

import numpy as np
import pytest

from compress_cli.data.datasets._cifar import Archive
from compress_cli.data.datasets.cifar10 import ARCHIVE as TEN
from compress_cli.data.datasets.cifar10 import Cifar10
from compress_cli.data.datasets.cifar100 import ARCHIVE as HUNDRED
from compress_cli.data.datasets.cifar100 import CLASSES, Cifar100
from compress_cli.errors import DataError

SMALL = Archive("https://x.org/a.tar.gz", "0", "folder", ("one.bin", "two.bin"), "three.bin", records=2, labels=2)


def picture(red, green, blue, corner=0):
    """Bytes of one picture of one colour, as the format's description has it: a plane a colour, row by row."""
    planes = [bytearray([value] * 1024) for value in (red, green, blue)]
    planes[0][31] = corner  # red, end of the first row: the upper right corner
    return b"".join(map(bytes, planes))


def whole(root, dataset, archive, classes):
    """The dataset with files of the published length under root, labels going round."""
    folder = root / archive.folder
    folder.mkdir(parents=True)
    for name, count in [*((name, archive.records) for name in archive.train), (archive.test, 10_000)]:
        rows = np.zeros((count, archive.labels + 3072), np.uint8)
        rows[:, archive.labels - 1] = np.arange(count) % classes
        rows[:, archive.labels] = 200
        (folder / name).write_bytes(rows.tobytes())
    return dataset(root=root)


def test_records_are_labels_then_three_planes(tmp_path):
    files = tuple(tmp_path / name for name in ("one.bin", "two.bin", "three.bin"))
    files[0].write_bytes(bytes([3, 70]) + picture(10, 20, 30, corner=99) + bytes([4, 71]) + picture(1, 2, 3))
    files[1].write_bytes(bytes([5, 72]) + picture(4, 5, 6) + bytes([6, 73]) + picture(7, 8, 9))
    images, labels = SMALL.read(files, "train")
    assert labels.tolist() == [70, 71, 72, 73]  # the finer of the two
    assert images.dtype == np.uint8
    assert images.shape == (4, 3, 32, 32)
    assert images[:, :, 5, 5].tolist() == [[10, 20, 30], [1, 2, 3], [4, 5, 6], [7, 8, 9]]
    assert images[0, 0, 0].tolist() == [10] * 31 + [99]


@pytest.mark.parametrize("size", [0, 3074, 2 * 3074 - 1, 2 * 3074 + 1, 2 * 3073])
def test_a_file_of_another_length_is_refused(tmp_path, size):
    for name in ("one.bin", "two.bin", "three.bin"):
        (tmp_path / name).write_bytes(bytes(size))
    files = SMALL.find((tmp_path,), "cifar")
    with pytest.raises(DataError, match=rf"one.bin: has {size} bytes where 2 pictures are 6148: .* unpack the archive again"):
        SMALL.read(files, "train")


@pytest.mark.parametrize(("dataset", "archive"), [(Cifar10, TEN), (Cifar100, HUNDRED)])
def test_data_not_at_hand_says_what_to_fetch(tmp_path, monkeypatch, dataset, archive):
    monkeypatch.delenv("COMPRESS_DATA", raising=False)
    for use in (dataset().fingerprint, dataset().signature, lambda: dataset().split("test")):
        with pytest.raises(DataError, match=f"COMPRESS_DATA is not set; unpack {archive.url} .md5 {archive.md5}. and set"):
            use()
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    (tmp_path / "cifar-100-python").mkdir()  # the pickled version, as torchvision downloads it
    with pytest.raises(DataError, match=f"{archive.test} in {tmp_path}/{archive.folder}; unpack"):
        dataset().fingerprint()


def test_splits_of_ten_classes(tmp_path, monkeypatch):
    dataset = whole(tmp_path, Cifar10, TEN, 10)
    train, val, test = (dataset.split(name) for name in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (45_000, 5000, 10_000)
    assert np.bincount(val.targets["label"]).tolist() == [500] * 10
    assert len({*train.index, *val.index, *test.index}) == 60_000
    assert {name: len(Cifar10(root=tmp_path, val="none").split(name)) for name in ("train", "val")} == {
        "train": 50_000,
        "val": 0,
    }
    signature = dataset.signature()
    assert signature.inputs["image"].mean == (200 / 1024, 0, 0)
    assert signature.heads["logits"].classes[3] == "cat"
    monkeypatch.setenv("COMPRESS_DATA", str(tmp_path))
    assert Cifar10().fingerprint() == dataset.fingerprint() != Cifar10(val="none").fingerprint()


def test_there_are_a_hundred_classes_by_the_alphabet():
    assert len(set(CLASSES)) == 100
    assert list(CLASSES) == sorted(CLASSES)


@pytest.mark.parametrize("dataset", [Cifar10, Cifar100])
@pytest.mark.parametrize("val", [0, 50_000, "some"])
def test_sizes_of_val_that_make_no_sense(dataset, val):
    with pytest.raises(ValueError, match="val"):
        dataset(val=val)
