"""Samples for calibration: which, and how they reach a model."""

import numpy as np
import pytest
import torch

from compress_cli.data import samples
from compress_cli.data.datasets import Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import StageError


def split(index):
    index = np.asarray(index)
    pixels = index.astype(np.uint8)[:, None, None, None] * np.ones((1, 1, 2, 2), np.uint8)
    return Split({"image": pixels}, {"label": index % 2}, index)


def test_drawn_by_seed_and_sample_id_whatever_the_order():
    forward, backward = split(np.arange(50)), split(np.arange(50)[::-1])
    chosen = samples.drawn(forward, 10, seed=3).index
    assert len(set(chosen)) == 10
    assert set(samples.drawn(backward, 10, seed=3).index) == set(chosen)
    assert set(samples.drawn(forward, 10, seed=4).index) != set(chosen)
    assert len(samples.drawn(forward, 1000, seed=3)) == 50


def test_nothing_to_draw_from():
    with pytest.raises(StageError, match="no samples"):
        samples.drawn(split([]), 5, seed=0)


def test_parts_and_tensors():
    parts = list(samples.parts(split(np.arange(5)), 2))
    assert [len(part) for part in parts] == [2, 2, 1]
    signature = Signature(inputs={"image": Input(shape=(1, 2, 2))}, heads={"y": Head(shape=(2,))})
    (image,) = samples.tensors(parts[1], signature)
    assert image.dtype == torch.float32
    assert image[:, 0, 0, 0].tolist() == [2.0, 3.0]
