"""Digits: the split, and a fingerprint that needs no scikit-learn."""

import subprocess
import sys

import numpy as np
from sklearn.datasets import load_digits

from compress_cli.data.datasets import Dataset
from compress_cli.data.datasets.digits import Digits


def test_splits_hold_every_digit_once():
    splits = {name: Digits().split(name) for name in ("train", "val", "test")}
    assert {name: len(split) for name, split in splits.items()} == {"train": 1078, "val": 252, "test": 467}
    np.testing.assert_array_equal(np.sort(np.concatenate([split.index for split in splits.values()])), np.arange(1797))
    loaded = load_digits()
    for split in splits.values():
        np.testing.assert_array_equal(split.targets["label"], loaded.target[split.index])
        np.testing.assert_allclose(split.inputs["image"][:, 0], loaded.images[split.index] * 255 / 16, atol=0.5)
        assert split.inputs["image"].dtype == np.uint8
        assert np.bincount(split.targets["label"]).min() > 0.8 * len(split) / 10


def test_signature():
    signature = Digits().signature()
    train = Digits().split("train").inputs["image"]
    assert signature.inputs["image"].shape == (1, 8, 8)
    assert np.allclose(signature.inputs["image"].mean, train.mean())
    assert signature.heads["logits"].classes == tuple("0123456789")


def test_another_seed_is_another_dataset():
    first, second = Digits(), Digits(split_seed=1)
    assert first.fingerprint() != second.fingerprint()
    assert not np.array_equal(first.split("test").index, second.split("test").index)


def test_the_fingerprint_needs_no_scikit_learn():
    code = (
        "import sys; from compress_cli.data.datasets.digits import Digits; print(Digits().fingerprint());"
        "assert 'sklearn' not in sys.modules and 'torch' not in sys.modules"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == Digits().fingerprint()


def test_survives_dump_and_load():
    dataset = Dataset.model_validate({"type": "digits", "split_seed": 4})
    assert Dataset.model_validate(dataset.model_dump()) == dataset == Digits(split_seed=4)
