import numpy as np
import pytest
import torch
from scipy.special import softmax

from compress_cli.errors import RecipeError
from compress_cli.losses.dkd import Dkd


def by_hand(s, t, label, alpha, beta, temperature):
    p, q = softmax(t / temperature), softmax(s / temperature)
    rest = np.arange(len(p)) != label
    b_t, b_s = np.array([p[label], p[rest].sum()]), np.array([q[label], q[rest].sum()])
    p_rest, q_rest = p[rest] / p[rest].sum(), q[rest] / q[rest].sum()
    tckd, nckd = (b_t * np.log(b_t / b_s)).sum(), (p_rest * np.log(p_rest / q_rest)).sum()
    return temperature**2 * (alpha * tckd + beta * nckd)


def test_equals_the_formula(make, make_batch, run, random):
    s, t = random.randn(2, 6, 5) * 2
    labels = random.randint(5, size=6)
    value = run(Dkd(alpha=0.7, beta=3.0, temperature=2.0), make(s), make(t), make_batch(6, labels))
    assert value == pytest.approx(np.mean([by_hand(*sample, 0.7, 3.0, 2.0) for sample in zip(s, t, labels, strict=True)]))


def test_standardised_logits(make, make_batch, run, random):
    s, t = random.randn(2, 6, 5)
    labels = random.randint(5, size=6)
    value = run(Dkd(standardise=True, temperature=2.0), make(3 * s + 1), make(t), make_batch(6, labels))
    s, t = ((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) for z in (s, t))
    assert value == pytest.approx(np.mean([by_hand(*sample, 1, 8, 2) for sample in zip(s, t, labels, strict=True)]))


def test_with_beta_one_minus_p_it_is_kl(make, make_batch, run, random):
    s, t = random.randn(2, 1, 5)
    p, q = softmax(t[0]), softmax(s[0])
    loss = Dkd(alpha=1.0, beta=1 - p[2], temperature=1.0)
    assert run(loss, make(s), make(t), make_batch(1, [2])) == pytest.approx((p * np.log(p / q)).sum())


def test_dense_heads_skip_left_out_labels_and_masked_positions(make, make_batch, run, random):
    s, t = random.randn(2, 2, 4, 3)
    labels, mask = np.array([[0, 3, -100], [1, 2, 2]]), np.array([[1, 1, 1], [0, 1, 0]])
    visible = [(0, 0), (0, 1), (1, 1)]
    expected = np.mean([by_hand(s[n, :, i], t[n, :, i], labels[n, i], 1, 8, 4) for n, i in visible])
    assert run(Dkd(mask="m"), make(s), make(t), make_batch(2, labels, m=mask)) == pytest.approx(expected)


def test_sure_logits_stay_finite(make, make_batch):
    student = make(np.array([[1e4, 0, -1e4]], np.float32))
    student.heads["y"].requires_grad_()
    value = Dkd()(student, (make(np.array([[-1e4, 0, 1e4]], np.float32)),), make_batch(1, [0]), torch.nn.Identity())
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(student.heads["y"].grad).all()


def test_one_logit_is_refused(make, make_batch, run):
    with pytest.raises(RecipeError, match="the loss 'dkd' needs a head of two classes or more"):
        run(Dkd(), make([[1.0]]), make([[1.0]]), make_batch(1, [0]))
