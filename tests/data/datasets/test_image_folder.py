"""Picture files in one folder a class."""

import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from compress_cli.data import pictures
from compress_cli.data.datasets.image_folder import ImageFolder
from compress_cli.errors import DataError


def fill(folder, classes=("cat", "dog"), count=10):
    rng = np.random.default_rng(0)
    for channel, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            pixels = rng.integers(0, 100, (9, 7, 3)).astype(np.uint8)
            pixels[..., channel] += 150
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
    assert [len(split) for split in splits] == [14, 2, 4]
    assert sorted(np.concatenate([split.index for split in splits])) == list(range(20))
    for split in splits:  # red cats, green dogs
        brightest = split.inputs["image"].mean(axis=(2, 3)).argmax(axis=1)
        np.testing.assert_array_equal(brightest, split.targets["label"])


def test_folders_of_splits(tmp_path):
    root = tmp_path / "pets"
    fill(root / "train")
    fill(root / "test", count=3)
    dataset = ImageFolder(root=root)
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [18, 2, 6]
    fill(root / "val", classes=("cat", "cow"), count=1)
    with pytest.raises(DataError, match=r"val/cow: is the folder of no class; .*\(classes: cat, dog\)"):
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
    ("change", "reason"),
    [
        (lambda root: shutil.rmtree(root), "there is no folder .*set its 'root'"),
        (lambda root: shutil.rmtree(root / "cat"), r"at least two classes \(it holds 1\)"),
        (lambda root: [path.unlink() for path in root.rglob("*.png")], "holds no pictures"),
        (lambda root: Image.new("RGB", (4, 4)).save(root / "stray.png"), "stray.png: is in no folder of a class"),
        (lambda root: Image.new("L", (4, 4)).save(root / "cat" / "0.png", "EPS"), "cat/0.png: is not a picture"),
        (lambda root: (root / "cow").mkdir(), "cow: holds no pictures"),
        (lambda root: (root / "train").mkdir(), "cat: holds pictures, but .* is divided into train; splits are called"),
        (lambda root: (root / "cat" / "0.png").write_bytes(b"no picture"), "cat/0.png: is not a picture"),
    ],
)
def test_folders_that_will_not_do(root, change, reason):
    change(root)
    with pytest.raises(DataError, match=reason):
        ImageFolder(root=root).split("train")


def test_a_folder_of_test_pictures_is_enough_to_measure(tmp_path):
    dataset = ImageFolder(root=fill(tmp_path / "pets" / "test", count=3).parent, height=8, width=6)
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [0, 0, 6]
    signature = dataset.signature()
    assert (signature.inputs["image"].mean, signature.heads["logits"].classes) == ((), ("cat", "dog"))


def test_all_pictures_may_be_for_measuring(root):
    dataset = ImageFolder(root=root, val_share=0.0, test_share=1.0)
    assert [len(dataset.split(name)) for name in ("train", "val", "test")] == [0, 0, 20]
    with pytest.raises(ValidationError, match="with val_share it must not exceed 1"):
        ImageFolder(root=root, test_share=1.0)


def test_only_the_split_asked_for_is_decoded(tmp_path):
    root = fill(tmp_path / "pets" / "train").parent
    fill(root / "test", count=3)
    (root / "train" / "cat" / "0.png").write_bytes(b"no picture")
    dataset = ImageFolder(root=root, normalise=False)
    assert len(dataset.split("test")) == 6
    assert dataset.signature().inputs["image"].mean == ()
    with pytest.raises(DataError, match="is not a picture"):
        dataset.split("train")


def test_a_linked_class_folder_is_read(root, tmp_path):
    (root / "cat").rename(tmp_path / "elsewhere")
    (root / "cat").symlink_to(tmp_path / "elsewhere")
    assert len(ImageFolder(root=root, val_share=0.0, test_share=1.0).split("test")) == 20


@pytest.mark.parametrize(
    ("name", "text", "classes"),
    [
        ("classes.txt", "dog\ncow\ncat\n", ("dog", "cow", "cat")),
        ("classes.json", '["dog", "cow", "cat"]', ("dog", "cow", "cat")),
        ("classes.json", '{"cat": 2, "dog": 0, "cow": 1}', ("dog", "cow", "cat")),
        ("classes.json", '{"2": "cat", "0": "dog", "1": "cow"}', ("dog", "cow", "cat")),
        ("index.json", '{"0": ["dog", "crane"], "1": ["cow", "crane"], "2": ["cat", "tabby"]}', ("dog", "cow", "tabby")),
    ],
)
def test_a_file_of_classes_gives_the_labels_their_order(root, name, text, classes):
    (root.parent / name).write_text(text)
    dataset = ImageFolder(root=root, classes=root.parent / name)
    assert dataset.signature().heads["logits"].classes == classes
    split = dataset.split("train")
    brightest = split.inputs["image"].mean(axis=(2, 3)).argmax(axis=1)  # red cats are number 2, green dogs 0
    np.testing.assert_array_equal(split.targets["label"], np.where(brightest == 0, 2, 0))
    listed = ImageFolder(root=root, classes=("dog", "cow", "cat"))
    assert (listed.fingerprint() == dataset.fingerprint()) == (name != "index.json")  # names count, not where they are listed
    for classes in (None, ("cat", "dog")):
        assert ImageFolder(root=root, classes=classes).fingerprint() != dataset.fingerprint()


def test_synsets_of_imagenet(tmp_path):
    root = fill(tmp_path / "val", classes=("n01440764", "n01443537"), count=1)
    (tmp_path / "synsets.txt").write_text("n01443537 goldfish, Carassius auratus\nn01440764 tench, Tinca tinca\n")
    dataset = ImageFolder(root=root, classes=tmp_path / "synsets.txt", val_share=0.0, test_share=1.0)
    assert dataset.signature().heads["logits"].classes == ("goldfish, Carassius auratus", "tench, Tinca tinca")
    np.testing.assert_array_equal(dataset.split("test").targets["label"], [1, 0])


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("c.txt", "cat\ncat\n", r"c\.txt: names class 'cat' twice \(numbers 0 and 1\)"),
        ("c.txt", "cat\n\ndog\n", r"c\.txt:2: is empty"),
        ("c.txt", "cat\n", "names 1 class; a classifier needs at least two"),
        ("c.txt", "cat\ndgo\n", "dog: is the folder of no class; did you mean 'dgo'"),
        ("c.json", "{", "is not JSON"),
        ("c.json", '{"0": "cat", "2": "dog"}', "map every number from 0 on to one"),
        ("c.json", '["cat", 3]', "class 1 has no name"),
        ("none.txt", None, "there is no such file of class names"),
    ],
)
def test_files_of_classes_that_will_not_do(root, name, text, reason):
    path = root.parent / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(DataError, match=reason):
        ImageFolder(root=root, classes=path).split("train")


def test_the_centre_of_the_resized_picture(root):
    dataset = ImageFolder(root=root, height=5, width=5, resize=6)
    split = dataset.split("train")
    files = sorted(root.rglob("*.png"))
    np.testing.assert_array_equal(split.inputs["image"][0], pictures.read(files[split.index[0]], 3, 5, 5, resize=6))
    assert dataset.fingerprint() != ImageFolder(root=root, height=5, width=5).fingerprint()
    with pytest.raises(ValidationError, match="resize: must not be below height and width"):
        ImageFolder(root=root, height=224, width=224, resize=200)


@pytest.mark.parametrize("root", ["/", "/usr", "/proc"])
def test_a_folder_that_is_none_of_pictures_is_refused_soon(root):
    begun = time.perf_counter()
    with pytest.raises(DataError):
        ImageFolder(root=Path(root)).split("train")
    assert time.perf_counter() - begun < 10


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
