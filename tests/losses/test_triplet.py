import itertools

import numpy as np
import pytest

from compress_cli.losses import Pair
from compress_cli.losses.triplet import Triplet

ONE = (Pair(student="a", teacher="b"),)


def between(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.linalg.norm(unit[:, None] - unit[None], axis=2)


def by_hand(d, together, negatives, margin):
    terms = []
    for i, j in itertools.permutations(range(len(d)), 2):
        strangers = [k for k in range(len(d)) if k != i and not together(i, k)]
        if together(i, j) and strangers:
            near = [min(d[i, k] for k in strangers)] if negatives == "hardest" else [d[i, k] for k in strangers]
            terms += [max(0, margin + d[i, j] - distance) for distance in near]
    return np.mean(terms) if terms else 0.0


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_by_label(make, make_batch, run, random, negatives):
    s, labels = random.randn(7, 4), np.array([0, 1, 1, 2, 0, 1, 3])
    loss = Triplet(layers=ONE, by="label", negatives=negatives, margin=0.3)
    value = run(loss, make(a=s), (), make_batch(7, labels))
    assert value == pytest.approx(by_hand(between(s), lambda i, j: labels[i] == labels[j], negatives, 0.3))
    assert loss.teacher_layers() == ()


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_by_the_teachers_neighbours(make, make_batch, run, random, negatives):
    s, t = random.randn(7, 4), random.randn(7, 9)
    near = np.argsort(between(t), axis=1)[:, 1:3]  # on the unit sphere, near is similar
    loss = Triplet(layers=ONE, neighbours=2, negatives=negatives)
    value = run(loss, make(a=s), make(b=t), make_batch(7))
    assert value == pytest.approx(by_hand(between(s), lambda i, j: j in near[i], negatives, 1.0))
    assert loss.teacher_layers() == ("b",)


def test_more_neighbours_than_there_are_samples(make, make_batch, run, random):
    s, t = random.randn(3, 4), random.randn(3, 9)
    assert run(Triplet(layers=ONE, neighbours=5), make(a=s), make(b=t), make_batch(3)) == 0  # all belong together


def test_padding_is_left_out_by_label_too(make, make_batch, run, random):
    s, labels = random.randn(5, 4, 3), [0, 1, 0, 1, 1]
    batch = make_batch(5, labels, m=np.arange(4) < np.full((5, 1), 2))
    value = run(Triplet(layers=ONE, by="label", mask="m"), make(a=s), (), batch)
    assert value == pytest.approx(run(Triplet(layers=ONE, by="label"), make(a=s[:, :2]), (), batch))
    assert value != pytest.approx(run(Triplet(layers=ONE, by="label"), make(a=s), (), batch))


def test_three_points_on_paper(make, make_batch, run):
    # a and b at 90 degrees (sqrt 2); c opposite to a (2 from a, sqrt 2 from b)
    points = make(a=[[2.0, 0.0], [0.0, 1.0], [-3.0, 0.0]])
    value = run(Triplet(layers=ONE, by="label"), points, (), make_batch(3, [0, 0, 1]))
    assert value == pytest.approx(((1 + 2**0.5 - 2) + 1) / 2)


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2]])
def test_a_batch_without_triplets_costs_nothing(make, make_batch, run, random, labels):
    for negatives in ("hardest", "all"):
        loss = Triplet(layers=ONE, by="label", negatives=negatives)
        assert run(loss, make(a=random.randn(3, 2)), (), make_batch(3, labels)) == 0
