import numpy as np
import pytest
from scipy.special import softmax

from compress_cli.errors import RecipeError
from compress_cli.losses.soft_targets import SoftTargets


def divergence(student, teacher, temperature):
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    return temperature**2 * (p * (np.log(p) - np.log(q))).sum(1)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_equals_kl_by_hand(make, make_batch, run, random, temperature):
    s, t = random.randn(2, 5, 10)
    assert run(SoftTargets(temperature=temperature), make(s), make(t), make_batch(5)) == pytest.approx(
        divergence(s, t, temperature).mean()
    )


def test_worked_example(make, make_batch, run):
    # t = (2/3, 1/3), s = (1/2, 1/2): KL = 2/3 log 4/3 + 1/3 log 2/3
    value = run(SoftTargets(temperature=1.0), make([[0.0, 0.0]]), make(np.log([[2.0, 1.0]])), make_batch(1))
    assert value == pytest.approx(2 / 3 * np.log(4 / 3) + 1 / 3 * np.log(2 / 3))


def test_dense_heads_are_averaged_over_unmasked_positions(make, make_batch, run, random):
    s, t = random.randn(2, 3, 4, 6)  # (N, classes, T)
    mask = (random.rand(3, 6) > 0.5).astype(np.int64)
    divergences = divergence(s, t, 4.0)  # (N, T)
    assert run(SoftTargets(), make(s), make(t), make_batch(3)) == pytest.approx(divergences.mean())
    assert run(SoftTargets(mask="m"), make(s), make(t), make_batch(3, m=mask)) == pytest.approx(divergences[mask == 1].mean())
    with pytest.raises(RecipeError, match=r"mask: the input 'm' has shape \(N, 5\); the positions have \(N, 6\)"):
        run(SoftTargets(mask="m"), make(s), make(t), make_batch(3, m=mask[:, :5]))


def test_one_logit_is_yes_against_no(make, make_batch, run, random):
    s, t = random.randn(2, 5, 1)
    both = divergence(np.c_[s, 0 * s], np.c_[t, 0 * t], 2.0).mean()  # softmax of (z, 0) is sigmoid of z
    assert run(SoftTargets(temperature=2.0), make(s), make(t), make_batch(5)) == pytest.approx(both)


def test_several_teachers_count_alike(make, make_batch, run, random):
    s, t, u = random.randn(3, 5, 10)
    value = run(SoftTargets(), make(s), (make(t), make(u)), make_batch(5))
    assert value == pytest.approx((divergence(s, t, 4.0).mean() + divergence(s, u, 4.0).mean()) / 2)


def test_standardised_logits_differ_in_shape_alone(make, make_batch, run, random):
    s, t = random.randn(2, 5, 10)
    loss = SoftTargets(temperature=2.0, standardise=True)
    s1, t1 = ((z - z.mean(1, keepdims=True)) / z.std(1, keepdims=True) for z in (s, t))
    assert run(loss, make(s), make(t), make_batch(5)) == pytest.approx(divergence(s1, t1, 2.0).mean())
    assert run(loss, make(3 * t + 5), make(t), make_batch(5)) == pytest.approx(0, abs=1e-9)
    with pytest.raises(RecipeError, match="three classes or more; the head 'y' has 1: it has 1 value"):
        run(loss, make(s[:, :1]), make(t[:, :1]), make_batch(5))


def test_other_classes_and_no_teacher_are_refused(make, make_batch, run):
    with pytest.raises(RecipeError, match="the teacher gives 3 values per sample where the student gives 2 values"):
        run(SoftTargets(), make(np.zeros((4, 2))), make(np.zeros((4, 3))), make_batch(4))
    with pytest.raises(RecipeError, match="the stage has none"):
        run(SoftTargets(), make(np.zeros((4, 2))), (), make_batch(4))
