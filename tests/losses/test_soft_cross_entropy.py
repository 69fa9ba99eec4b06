import numpy as np
import pytest
import torch

from compress_cli.losses.soft_cross_entropy import SoftCrossEntropy
from compress_cli.losses.soft_targets import SoftTargets


def log_softmax(z):
    return z - np.log(np.exp(z).sum(1, keepdims=True))


@pytest.mark.parametrize("standardise", [False, True])
def test_equals_the_formula(make, make_batch, run, random, standardise):
    s, t = random.randn(2, 5, 10)
    value = run(SoftCrossEntropy(temperature=3.0, standardise=standardise), make(s), make(t), make_batch(5))
    if standardise:
        s, t = ((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) for z in (s, t))
    entropies = -9 * (np.exp(log_softmax(t / 3)) * log_softmax(s / 3)).sum(1)
    assert value == pytest.approx(entropies.mean())


def test_gradient_is_that_of_soft_targets(make, make_batch, random):
    s, t = random.randn(2, 5, 10)
    gradients = []
    for loss in (SoftCrossEntropy(temperature=3.0), SoftTargets(temperature=3.0)):
        student = make(s)
        student.heads["y"].requires_grad_()
        loss(student, (make(t),), make_batch(5), torch.nn.Identity()).backward()
        gradients.append(student.heads["y"].grad)
    torch.testing.assert_close(*gradients)


def test_one_logit_and_mask(make, make_batch, run, random):
    s, t = random.randn(2, 3, 1, 4)
    mask = np.array([[1, 1, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    p, q = (1 / (1 + np.exp(-z[:, 0])) for z in (t, s))
    entropies = -(p * np.log(q) + (1 - p) * np.log(1 - q))
    assert run(SoftCrossEntropy(mask="m"), make(s), make(t), make_batch(3, m=mask)) == pytest.approx(
        entropies[mask == 1].mean()
    )
