import numpy as np
import pytest

from compress_cli.losses.hard_labels import HardLabels


def test_is_cross_entropy_with_the_teachers_class_and_needs_no_labels(make, make_batch, run, random):
    s, t = random.randn(2, 5, 10)
    entropies = np.log(np.exp(s).sum(1)) - s[np.arange(5), t.argmax(1)]
    assert run(HardLabels(), make(s), make(t), make_batch(5)) == pytest.approx(entropies.mean())


def test_dense_and_masked(make, make_batch, run, random):
    s, t = random.randn(2, 2, 4, 3)
    decided = np.take_along_axis(s, t.argmax(1)[:, None], 1)[:, 0]
    entropies = np.log(np.exp(s).sum(1)) - decided
    mask = np.array([[1, 0, 1], [0, 0, 1]])
    assert run(HardLabels(mask="m"), make(s), make(t), make_batch(2, m=mask)) == pytest.approx(entropies[mask == 1].mean())


def test_one_logit(make, make_batch, run):
    value = run(HardLabels(), make([[0.7], [1.5]]), make([[0.2], [-0.1]]), make_batch(2))
    assert value == pytest.approx((np.log1p(np.exp(-0.7)) + np.log1p(np.exp(1.5))) / 2)
