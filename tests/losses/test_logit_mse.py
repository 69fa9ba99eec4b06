import numpy as np
import pytest

from compress_cli.losses.logit_mse import LogitMse


def test_equals_the_formula(make, make_batch, run, random):
    s, t, u = random.randn(3, 5, 10)
    value = run(LogitMse(), make(s), (make(t), make(u)), make_batch(5))
    assert value == pytest.approx((((s - t) ** 2).mean() + ((s - u) ** 2).mean()) / 2)


def test_standardised_logits_have_no_size(make, make_batch, run, random):
    s, t = random.randn(2, 5, 10)
    a, b = ((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) for z in (s, t))
    value = run(LogitMse(standardise=True), make(3 * s + 2), make(t), make_batch(5))
    assert value == pytest.approx(((a - b) ** 2).mean())


def test_masked_positions_do_not_count(make, make_batch, run):
    s, t = np.zeros((1, 2, 3)), np.array([[[1.0, 2.0, 100.0], [3.0, 4.0, 100.0]]])
    value = run(LogitMse(mask="m"), make(s), make(t), make_batch(1, m=[[1, 1, 0]]))
    assert value == pytest.approx((1 + 4 + 9 + 16) / 4)
