"""Losses on heads, against NumPy in float64."""

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.logit_mse import LogitMse
from compress_cli.losses.soft_cross_entropy import SoftCrossEntropy
from compress_cli.losses.soft_targets import SoftTargets

RANDOM = np.random.default_rng(0)
DENSE = (4, 5, 3, 2)  # N, classes, H, W


def logits(*shape):
    return 3 * RANDOM.standard_normal(shape)


def value(loss, student, *teachers, labels=None):
    batch = Batch({}, {} if labels is None else {"label": torch.from_numpy(labels)}, torch.arange(len(student)))
    outputs = Outputs({"logits": torch.tensor(student, requires_grad=True)}, class_axes={"logits": 1})
    teacher_outputs = tuple(Outputs({"logits": torch.tensor(logits)}, class_axes={"logits": 1}) for logits in teachers)
    return loss(outputs, teacher_outputs, batch, nn.Identity()).item()


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def divergence(student, teacher, temperature):
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    return (p * (np.log(p) - np.log(q))).sum(1).mean() * temperature**2


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(6, 10), DENSE])
def test_soft_targets_are_the_divergence_per_sample_and_position(shape, temperature):
    student, teacher = logits(*shape), logits(*shape)
    divergences = value(SoftTargets(temperature=temperature), student, teacher)
    assert divergences == pytest.approx(divergence(student, teacher, temperature), rel=1e-12)


def test_soft_targets_of_one_logit_are_those_of_yes_and_no():
    student, teacher, t = logits(7, 1), logits(7, 1), 3.0
    p, q = sigmoid(teacher / t), sigmoid(student / t)
    by_hand = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean() * t**2
    assert value(SoftTargets(temperature=t), student, teacher) == pytest.approx(by_hand, rel=1e-12)


def test_soft_targets_of_several_teachers_are_the_mean():
    student, first, second = logits(6, 10), logits(6, 10), logits(6, 10)
    by_hand = (divergence(student, first, 4.0) + divergence(student, second, 4.0)) / 2
    assert value(SoftTargets(temperature=4.0), student, first, second) == pytest.approx(by_hand, rel=1e-12)


def test_extreme_logits_stay_finite():
    student, teacher = np.array([[0.0, 2000.0, -2000.0]]), np.array([[2000.0, 0.0, -2000.0]])
    assert value(SoftTargets(temperature=1.0), student, teacher) == pytest.approx(2000.0)


@pytest.mark.parametrize("shape", [(6, 10), DENSE])
def test_soft_cross_entropy_is_minus_the_sum_of_t_log_s(shape):
    student, teacher, t = logits(*shape), logits(*shape), 2.0
    by_hand = -(softmax(teacher / t, axis=1) * np.log(softmax(student / t, axis=1))).sum(1).mean() * t**2
    assert value(SoftCrossEntropy(temperature=t), student, teacher) == pytest.approx(by_hand, rel=1e-12)


def test_soft_cross_entropy_of_one_logit():
    student, teacher = logits(7, 1), logits(7, 1)
    p, q = sigmoid(teacher), sigmoid(student)
    by_hand = -(p * np.log(q) + (1 - p) * np.log(1 - q)).mean()
    assert value(SoftCrossEntropy(), student, teacher) == pytest.approx(by_hand, rel=1e-12)


def test_logit_mse_is_the_mean_square():
    student, first, second = logits(*DENSE), logits(*DENSE), logits(*DENSE)
    by_hand = (((student - first) ** 2).mean() + ((student - second) ** 2).mean()) / 2
    assert value(LogitMse(), student, first, second) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("shape", [(6, 10), DENSE])
def test_cross_entropy_leaves_out_unlabelled_positions(shape, smoothing):
    student = logits(*shape)
    labels = RANDOM.integers(0, shape[1], (shape[0], *shape[2:]))
    labels.flat[1] = -100
    rows = np.moveaxis(student, 1, -1).reshape(-1, shape[1])[labels.flatten() >= 0]
    smoothed = np.eye(shape[1])[labels.flatten()[labels.flatten() >= 0]] * (1 - smoothing) + smoothing / shape[1]
    by_hand = -(smoothed * np.log(softmax(rows, axis=1))).sum(1).mean()
    assert value(CrossEntropy(label_smoothing=smoothing), student, labels=labels) == pytest.approx(by_hand, rel=1e-12)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_of_one_logit(smoothing):
    student, labels = logits(8, 1), np.array([0, 1, 1, 0, 1, -100, 0, 1])
    q, y = sigmoid(student[:, 0])[labels >= 0], labels[labels >= 0]
    y = np.where(y == 1, 1 - smoothing / 2, smoothing / 2)  # half of the share goes to each of yes and no
    by_hand = -(y * np.log(q) + (1 - y) * np.log(1 - q)).mean()
    assert value(CrossEntropy(label_smoothing=smoothing), student, labels=labels) == pytest.approx(by_hand, rel=1e-6)


@pytest.mark.parametrize("loss", [SoftTargets(), SoftCrossEntropy(), LogitMse()])
@pytest.mark.parametrize("size", [1, 5])
def test_the_gradient_goes_to_the_student_alone(loss, size):
    student = torch.randn(3, size, requires_grad=True, generator=torch.Generator().manual_seed(0))
    teacher = torch.ones(3, size, requires_grad=True)
    batch = Batch({}, {}, torch.arange(3))
    loss(Outputs({"a": student}), (Outputs({"b": teacher}),), batch, nn.Identity()).backward()
    assert student.grad.abs().min() > 0
    assert teacher.grad is None


def test_unlike_class_counts_are_refused_with_both_numbers():
    with pytest.raises(RecipeError, match=r"teacher gives 100 values .* student gives 10 values"):
        value(SoftTargets(), logits(2, 10), logits(2, 100))


def test_no_teacher_is_refused():
    with pytest.raises(RecipeError, match="learns from a teacher"):
        value(SoftTargets(), logits(2, 10))


def test_a_head_has_to_be_named_where_there_are_several():
    batch = Batch({}, {"label": torch.zeros(2, dtype=torch.long)}, torch.arange(2))
    student = Outputs({"kind": torch.zeros(2, 3), "colour": torch.zeros(2, 4)})
    with pytest.raises(RecipeError, match="several heads"):
        CrossEntropy()(student, (), batch, nn.Identity())
    with pytest.raises(RecipeError, match="did you mean 'colour'"):
        CrossEntropy(head="color")(student, (), batch, nn.Identity())
    assert CrossEntropy(head="colour")(student, (), batch, nn.Identity()).item() == pytest.approx(np.log(4))
