import numpy as np
import pytest

from compress_cli.losses import Pair
from compress_cli.losses.contrastive import Contrastive

ONE = (Pair(student="a", teacher="b"),)


def between(features):
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.linalg.norm(unit[:, None] - unit[None], axis=2)


@pytest.mark.parametrize("negatives", ["hardest", "all"])
def test_by_label(make, make_batch, run, random, negatives):
    s, labels = random.randn(6, 4), np.array([0, 1, 1, 0, 2, 1])
    d, size = between(s), range(6)
    near = [d[i, j] ** 2 for i in size for j in size if i != j and labels[i] == labels[j]]
    far = [[max(0, 1.2 - d[i, j]) ** 2 for j in size if labels[i] != labels[j]] for i in size]
    far = [max(row) for row in far] if negatives == "hardest" else [x for row in far for x in row]
    loss = Contrastive(layers=ONE, by="label", negatives=negatives, margin=1.2)
    value = run(loss, make(a=s), (), make_batch(6, labels))
    assert value == pytest.approx((np.mean(near) + np.mean(far)) / 2)
    assert loss.teacher_layers() == ()  # so a black box can be a teacher too
    assert Contrastive(layers=ONE).teacher_layers() == ("b",)


def test_by_the_teacher_on_paper(make, make_batch, run):
    # the teacher pairs 0 with 1 and 2 with 3; the student puts 0 and 2 at one point, 1 and 3 at right angles to it
    teacher = make(b=[[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    student = make(a=[[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    value = run(Contrastive(layers=ONE), student, teacher, make_batch(4))
    assert value == pytest.approx(
        (2 + 1) / 2
    )  # d^2 = 2 for each pair; the hardest negative is at distance 0, 1 within the margin
