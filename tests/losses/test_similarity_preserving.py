import numpy as np
import pytest

from compress_cli.losses import Pair
from compress_cli.losses.similarity_preserving import SimilarityPreserving

ONE = (Pair(student="a", teacher="a"),)


def similarity(features):
    flat = features.reshape(len(features), -1)
    gram = flat @ flat.T
    return gram / np.sqrt((gram**2).sum(1))[:, None]


def test_equals_the_formula(make, make_batch, run, random):
    s, t = random.randn(6, 3, 4, 4), random.randn(6, 5)
    expected = ((similarity(s) - similarity(t)) ** 2).sum() / 36
    assert run(SimilarityPreserving(layers=ONE), make(a=s), make(a=t), make_batch(6)) == pytest.approx(expected)


def test_two_samples_by_hand(make, make_batch, run):
    # student: G = I; teacher: both samples alike, rows (1, 1)/sqrt(2)
    value = run(SimilarityPreserving(layers=ONE), make(a=np.eye(2)), make(a=np.ones((2, 3))), make_batch(2))
    assert value == pytest.approx((2 * (1 - 0.5**0.5) ** 2 + 2 * 0.5) / 4)
