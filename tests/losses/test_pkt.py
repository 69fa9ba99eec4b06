import numpy as np
import pytest

from compress_cli.losses import Pair
from compress_cli.losses.pkt import Pkt

ONE = (Pair(student="a", teacher="a"),)


def neighbours(features):
    flat = features.reshape(len(features), -1)
    unit = flat / np.linalg.norm(flat, axis=1, keepdims=True)
    kernel = (unit @ unit.T + 1) / 2
    return [[kernel[i, j] / (kernel[i].sum() - kernel[i, i]) for j in range(len(flat)) if j != i] for i in range(len(flat))]


def test_equals_the_formula(make, make_batch, run, random):
    s, t = random.randn(6, 3, 2, 2), random.randn(6, 5)
    p, q = np.array(neighbours(t)), np.array(neighbours(s))
    expected = (p * np.log(p / q)).sum() / 6
    assert run(Pkt(layers=ONE), make(a=s), make(a=t), make_batch(6)) == pytest.approx(expected, rel=1e-5)


def test_opposite_samples_are_no_neighbours_and_stay_finite(make, make_batch, run):
    line = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.1]])
    assert np.isfinite(run(Pkt(layers=ONE), make(a=line), make(a=line[::-1].copy()), make_batch(3)))
    assert run(Pkt(layers=ONE), make(a=line), make(a=line), make_batch(3)) == pytest.approx(0, abs=1e-9)
