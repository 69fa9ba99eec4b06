"""Arrays of the user's own."""

import numpy as np
import pytest

from compress_cli.data.datasets import Dataset
from compress_cli.data.datasets.npz import Npz
from compress_cli.errors import DataError


def arrays(samples=100, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (samples, 3, 4, 4)).astype(np.uint8),
        "row": rng.normal(5, 2, (samples, 6)),
        "tokens": rng.integers(0, 50, (samples, 7)),
        "label": rng.integers(0, 4, samples).astype(np.int16),
        "price": rng.normal(size=samples),
    }


@pytest.fixture
def train(tmp_path):
    np.savez(tmp_path / "train.npz", **arrays())
    return tmp_path / "train.npz"


def test_one_file_is_split(train):
    dataset = Npz(train=train, inputs=("image",))
    splits = {name: dataset.split(name) for name in ("train", "val", "test")}
    assert 65 <= len(splits["train"]) <= 75
    np.testing.assert_array_equal(np.sort(np.concatenate([each.index for each in splits.values()])), np.arange(100))
    for each in splits.values():
        np.testing.assert_array_equal(each.inputs["image"], arrays()["image"][each.index])
        np.testing.assert_array_equal(each.targets["label"], arrays()["label"][each.index])


def test_a_test_file_is_used_whole(train, tmp_path):
    np.savez(tmp_path / "test.npz", **arrays(30, seed=1))
    dataset = Npz(train=train, test=tmp_path / "test.npz", inputs=("image",))
    np.testing.assert_array_equal(dataset.split("test").inputs["image"], arrays(30, seed=1)["image"])
    assert len(dataset.split("train")) + len(dataset.split("val")) == 100
    assert not {*dataset.split("test").index} & {*dataset.split("train").index, *dataset.split("val").index}


def test_signature_of_several_inputs(train):
    dataset = Npz(train=train, inputs=("image", "row", "tokens"))
    inputs = dataset.signature().inputs
    rows = dataset.split("train").inputs["row"]
    assert {name: (each.shape, each.dtype) for name, each in inputs.items()} == {
        "image": ((3, 4, 4), "float32"),
        "row": ((6,), "float32"),
        "tokens": ((7,), "int64"),
    }
    np.testing.assert_allclose(inputs["row"].mean, rows.mean(axis=0), rtol=1e-5)
    assert inputs["tokens"].mean == ()
    assert dataset.signature().heads["logits"].size == 4
    assert rows.dtype == np.float32
    assert Npz(train=train, inputs=("row",), normalise=False).signature().inputs["row"].mean == ()


def test_heads_follow_the_targets(train):
    named = Npz(train=train, inputs=("row",), classes=("a", "b", "c", "d", "e"))
    assert named.signature().heads["logits"].classes == ("a", "b", "c", "d", "e")
    both = Npz(train=train, inputs=("row",), targets=("label", "price")).signature().heads
    assert {name: each.size for name, each in both.items()} == {"label_output": 4, "price_output": 1}


def test_the_content_counts_not_the_place(train, tmp_path):
    before = Npz(train=train, inputs=("image",)).fingerprint()
    elsewhere = tmp_path / "elsewhere.npz"
    elsewhere.write_bytes(train.read_bytes())
    assert Npz(train=elsewhere, inputs=("image",)).fingerprint() == before
    assert Npz(train=elsewhere, inputs=("image",), split_seed=1).fingerprint() != before
    np.savez(elsewhere, **arrays(seed=5))
    changed = Npz(train=elsewhere, inputs=("image",))
    assert changed.fingerprint() != before
    assert set(changed.split("train").inputs["image"].ravel()) <= set(arrays(seed=5)["image"].ravel())


def write(path, how):
    match how:
        case "truncated":
            np.savez(path, **arrays())
            path.write_bytes(path.read_bytes()[:-400])
        case "text":
            path.write_text("no arrays")
        case "bare":
            with path.open("wb") as file:
                np.save(file, np.zeros(3))
        case "objects":
            np.savez(path, image=np.array([{"a": 1}], object), label=np.zeros(1, int))
        case "lengths":
            np.savez(path, image=np.zeros((3, 1, 2, 2), np.uint8), label=np.zeros(4, int))
        case "nan":
            np.savez(path, image=np.array([[np.nan]]), label=np.zeros(1, int))
        case "other":
            np.savez(path, picture=np.zeros((3, 2)), label=np.zeros(3, int))
    return Npz(train=path, inputs=("image",))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("missing", "train: there is no file"),
        ("truncated", "or is damaged"),
        ("text", "is no .npz file"),
        ("bare", "one bare array"),
        ("objects", "Python objects, which are never loaded"),
        ("lengths", r"share their first axis.*image \(3, 1, 2, 2\), label \(4,\)"),
        ("nan", "array 'image' holds NaN"),
        ("other", r"holds no array 'image' \(it holds: picture, label\)"),
    ],
)
def test_files_that_will_not_do(tmp_path, how, said):
    with pytest.raises(DataError, match=said) as error:
        write(tmp_path / "x.npz", how).split("train")
    assert "x.npz" in str(error.value)


def test_from_a_recipe(train):
    made = Dataset.model_validate({"type": "npz", "train": "train.npz", "inputs": ["image"]}, context={"base": train.parent})
    assert made == Npz(train=train, inputs=("image",))
