"""What datasets share: stratified splits and statistics."""

import numpy as np
import pytest

from compress_cli.data.datasets import channel_statistics, stratified


def test_every_class_has_its_share():
    labels = np.random.RandomState(0).permutation(np.repeat([0, 1, 2], [500, 300, 40]))
    rows = stratified(labels, {"test": 0.25, "val": 0.1, "train": 0.65}, seed=3)
    assert {name: [int((labels[part] == label).sum()) for label in range(3)] for name, part in rows.items()} == {
        "test": [125, 75, 10],
        "val": [50, 30, 4],
        "train": [325, 195, 26],
    }
    np.testing.assert_array_equal(np.sort(np.concatenate(list(rows.values()))), np.arange(840))


def test_small_classes_are_not_left_out():
    rows = stratified(np.repeat(np.arange(100), 2), {"test": 0.2, "val": 0.1, "train": 0.7}, seed=0)
    assert {name: len(part) for name, part in rows.items()} == {"test": 40, "val": 20, "train": 140}


def test_the_seed_decides_and_samples_stay_where_they_were():
    labels = np.arange(100) % 4
    shares = {"test": 0.5, "train": 0.5}
    again, other = stratified(labels, shares, 0)["test"], stratified(labels, shares, 1)["test"]
    np.testing.assert_array_equal(stratified(labels, shares, 0)["test"], again)
    assert not np.array_equal(again, other)
    # fixed for ever: a sample that moved from train to test would spoil every stored model
    assert again[:8].tolist() == [4, 5, 6, 7, 8, 11, 17, 20]


@pytest.mark.parametrize("shape", [(2500, 3, 4, 5), (2500, 6), (2500, 2, 7)])
def test_statistics_are_numpys(shape):
    values = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    mean, deviation = channel_statistics(values)
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    np.testing.assert_allclose(mean, values.mean(axis=axes), rtol=1e-9)
    np.testing.assert_allclose(deviation, values.std(axis=axes), rtol=1e-9)


def test_a_constant_channel_is_not_divided_by_zero():
    assert channel_statistics(np.full((5, 1, 2, 2), 7, np.uint8)) == ((7.0,), (1.0,))
