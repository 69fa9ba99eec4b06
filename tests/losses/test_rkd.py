import itertools

import numpy as np
import pytest
import torch

from compress_cli.losses import Pair
from compress_cli.losses.rkd import Rkd

ONE = (Pair(student="a", teacher="a"),)


def huber(x, y):
    d = abs(x - y)
    return d**2 / 2 if d < 1 else d - 0.5


def by_hand(s, t):
    """(distance, angle), by loops over pairs and triples."""
    pairs = list(itertools.permutations(range(len(s)), 2))
    length = [{p: np.linalg.norm(x[p[0]] - x[p[1]]) for p in pairs} for x in (s, t)]
    mean = [np.mean(list(lengths.values())) for lengths in length]
    distance = np.mean([huber(length[0][p] / mean[0], length[1][p] / mean[1]) for p in pairs])

    def angle(x, i, j, k):
        a, b = x[i] - x[j], x[k] - x[j]
        return a @ b / np.linalg.norm(a) / np.linalg.norm(b)

    triples = itertools.permutations(range(len(s)), 3)
    return distance, np.mean([huber(angle(s, *triple), angle(t, *triple)) for triple in triples])


@pytest.mark.parametrize("size", [3, 4, 7])
def test_equals_loops_over_pairs_and_triples(make, make_batch, run, random, size):
    s, t = random.randn(size, 3, 2, 2), random.randn(size, 5)
    distance, angle = by_hand(s.reshape(size, -1), t)
    value = run(Rkd(layers=ONE), make(a=s), make(a=t), make_batch(size))
    assert value == pytest.approx(25 * distance + 50 * angle)


def test_three_points_on_paper(make, make_batch, run):
    # teacher: 3-4-5 triangle, mean 4; student: equilateral. Distances 1 against 3/4, 1, 5/4; cosines 1/2 against 0, 3/5, 4/5
    teacher = make(a=[[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    student = make(a=[[0.0, 0.0], [1.0, 0.0], [0.5, 0.75**0.5]])
    distance = run(Rkd(layers=ONE, distance_weight=1, angle_weight=0), student, teacher, make_batch(3))
    assert distance == pytest.approx((0.25**2 / 2 + 0.25**2 / 2) / 3)
    angle = run(Rkd(layers=ONE, distance_weight=0, angle_weight=1), student, teacher, make_batch(3))
    assert angle == pytest.approx((0.5**2 + 0.1**2 + 0.3**2) / 2 / 3)


def test_moving_turning_and_scaling_do_not_matter(make, make_batch, run, random):
    t = random.randn(5, 3)
    turn, _ = np.linalg.qr(random.randn(3, 3))
    assert run(Rkd(layers=ONE), make(a=4 * t @ turn + 2), make(a=t), make_batch(5)) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_equal_samples_and_small_batches_have_finite_gradients(make, make_batch, random, size):
    student = make(a=np.ones((size, 3)))
    student.features["a"].requires_grad_()
    Rkd(layers=ONE)(student, (make(a=random.randn(size, 3)),), make_batch(size), torch.nn.Identity()).backward()
    assert torch.isfinite(student.features["a"].grad).all()
