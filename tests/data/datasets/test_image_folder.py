"""Picture files in one folder a class."""

import shutil

import numpy as np
import pytest
from PIL import Image

from compress_cli.data import pictures
from compress_cli.data.datasets.image_folder import ImageFolder
from compress_cli.errors import DataError


def fill(folder, classes=("cat", "dog"), count=10):
    rng = np.random.default_rng(0)
    for place, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (9, 7, 3)).astype(np.uint8)
            pixels[..., place] += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def root(tmp_path):
    return fill(tmp_path / "pets")


def test_classes_are_folders(root):
    dataset = ImageFolder(root=root, height=8, width=6)
    assert dataset.signature().heads["logits"].classes == ("cat", "dog")
    assert dataset.signature().inputs["image"].shape == (3, 8, 6)
    splits = [dataset.split(name) for name in ("train", "val", "test")]
    assert [len(each) for each in splits] == [14, 2, 4]
    assert sorted(np.concatenate([each.index for each in splits])) == list(range(20))
    for each in splits:  # red cats, green dogs
        brightest = each.inputs["image"].mean(axis=(2, 3)).argmax(axis=1)
        np.testing.assert_array_equal(brightest, each.targets["label"])


def test_folders_of_splits(tmp_path):
    root = tmp_path / "pets"
    fill(root / "train")
    fill(root / "test", count=3)
    dataset = ImageFolder(root=root)
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [18, 2, 6]
    fill(root / "val", classes=("cat", "cow"), count=1)
    with pytest.raises(DataError, match=r"val/cow/0.png: is in no folder of a class \(cat, dog\)"):
        dataset.split("val")


def test_the_fingerprint_knows_content_and_not_place(root, tmp_path):
    before = ImageFolder(root=root).fingerprint()
    shutil.copytree(root, tmp_path / "copy")
    copy = ImageFolder(root=tmp_path / "copy")
    assert copy.fingerprint() == before
    Image.fromarray(np.zeros((5, 5, 3), np.uint8)).save(tmp_path / "copy" / "cat" / "0.png")
    assert copy.fingerprint() != before
    assert ImageFolder(root=root, height=16).fingerprint() != before


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: shutil.rmtree(root), "there is no folder .*set its 'root'"),
        (lambda root: shutil.rmtree(root / "cat"), r"at least two classes \(it holds 1\)"),
        (lambda root: [each.unlink() for each in root.rglob("*.png")], "holds no pictures"),
        (lambda root: Image.new("RGB", (4, 4)).save(root / "stray.png"), "stray.png: is in no folder of a class"),
        (lambda root: (root / "cat" / "0.png").write_bytes(b"no picture"), "cat/0.png: is not a picture"),
    ],
)
def test_folders_that_will_not_do(root, change, said):
    change(root)
    with pytest.raises(DataError, match=said):
        ImageFolder(root=root).split("train")


def test_a_truncated_picture(root):
    path = root / "cat" / "0.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(DataError, match="the picture is damaged"):
        pictures.read(path, 3, 8, 8)


def test_pixels_survive_when_the_size_fits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 5)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(pictures.read(tmp_path / "grey.png", 1, 4, 5), pixels[None])
    np.testing.assert_array_equal(pictures.read(tmp_path / "grey.png", 3, 4, 5), np.stack([pixels] * 3))


def test_sixteen_bits_are_scaled(tmp_path):
    Image.fromarray(np.full((2, 2), 0x80FF, np.uint16)).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(pictures.read(tmp_path / "deep.png", 1, 2, 2), np.full((1, 2, 2), 0x80))
