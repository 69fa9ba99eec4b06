import numpy as np
import pytest
import torch
from scipy.special import softmax

from compress_cli.losses.dist import Dist


def by_hand(s, t, beta, gamma):
    inter = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s, t, strict=True)])
    intra = np.mean([1 - np.corrcoef(a, b)[0, 1] for a, b in zip(s.T, t.T, strict=True)])
    return beta * inter + gamma * intra


def test_equals_pearson_of_numpy(make, make_batch, run, random):
    s, t = random.randn(2, 7, 5)
    value = run(Dist(beta=1.5, gamma=0.5, temperature=2.0), make(s), make(t), make_batch(7))
    assert value == pytest.approx(4 * by_hand(softmax(s / 2, axis=1), softmax(t / 2, axis=1), 1.5, 0.5))


def test_standardised_logits(make, make_batch, run, random):
    s, t = random.randn(2, 7, 5)
    p, q = (softmax((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) / 2, axis=1) for z in (s, t))
    value = run(Dist(temperature=2.0, standardise=True), make(3 * s + 2), make(t), make_batch(7))
    assert value == pytest.approx(4 * by_hand(p, q, 2, 2))


def test_dense_heads_count_unmasked_positions_as_samples(make, make_batch, run, random):
    s, t = random.randn(2, 3, 4, 5)
    mask = (random.rand(3, 5) > 0.4).astype(np.int64)
    p, q = (np.moveaxis(softmax(z, axis=1), 1, -1)[mask == 1] for z in (s, t))
    assert run(Dist(temperature=1.0, mask="m"), make(s), make(t), make_batch(3, m=mask)) == pytest.approx(by_hand(p, q, 2, 2))


def test_one_sample_has_no_spread_and_a_finite_gradient(make, make_batch, random):
    student = make(random.randn(1, 4))
    student.heads["y"].requires_grad_()
    Dist()(student, (make(random.randn(1, 4)),), make_batch(1), torch.nn.Identity()).backward()
    assert torch.isfinite(student.heads["y"].grad).all()
