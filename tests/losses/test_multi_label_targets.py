import numpy as np
import pytest

from compress_cli.losses.multi_label_targets import MultiLabelTargets
from compress_cli.losses.soft_targets import SoftTargets


def test_equals_the_formula(make, make_batch, run, random):
    s, t = random.randn(2, 5, 10) * 3
    p, q = (1 / (1 + np.exp(-z / 2)) for z in (t, s))
    divergences = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    assert run(MultiLabelTargets(temperature=2.0), make(s), make(t), make_batch(5)) == pytest.approx(4 * divergences.mean())


def test_dense_heads_are_averaged_over_unmasked_positions(make, make_batch, run, random):
    s, t = random.randn(2, 3, 4, 2, 5)
    mask = (random.rand(3, 2, 5) < 0.6).astype(np.int64)
    p, q = (1 / (1 + np.exp(-z)) for z in (t, s))
    divergences = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).sum(1)
    value = run(MultiLabelTargets(temperature=1.0, mask="m"), make(s), make(t), make_batch(3, m=mask))
    assert value == pytest.approx(divergences[mask == 1].mean())


def test_one_label_is_soft_targets_of_one_logit(make, make_batch, run, random):
    s, t = random.randn(2, 5, 1)
    values = [run(loss(), make(s), make(t), make_batch(5)) for loss in (MultiLabelTargets, SoftTargets)]
    assert values[0] == pytest.approx(values[1])
