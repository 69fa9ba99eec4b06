"""`combine: confidence` against CA-MKD by hand, in NumPy and float64: values and gradients."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.special import softmax

from compress_cli.data.batch import Batch, Labels, Outputs
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss
from compress_cli.stages import Stage

RANDOM = np.random.default_rng(3)
STUDENT, TEACHERS = 2 * RANDOM.standard_normal((4, 5)), 2 * RANDOM.standard_normal((3, 4, 5))  # (N, classes), (K, N, classes)
FEATURES, HINTS = RANDOM.standard_normal((4, 6)), RANDOM.standard_normal((3, 4, 6))
LABELS = np.array([0, 3, 2, 2])


def shares(by="label"):
    """(K, N): equation 2 of the paper."""
    p = softmax(TEACHERS, axis=-1)
    entropy = -(p * np.log(p)).sum(2)
    doubt = np.exp(-np.log(p[:, np.arange(4), LABELS]) if by == "label" else entropy)
    return (1 - doubt / doubt.sum(0)) / (len(TEACHERS) - 1)


def learnt(loss, combine, batch=None):
    """The loss of a student from three teachers, and its gradient by the student's logits and features."""
    teachers = {
        name: lambda batch, k=k: Outputs({"y": torch.tensor(TEACHERS[k])}, {"a": torch.tensor(HINTS[k])})
        for k, name in enumerate("abc")
    }
    ensemble = Ensemble(teachers, Combination.model_validate(combine))
    batch = batch or Batch({}, {"label": torch.tensor(LABELS)}, torch.arange(4))
    student = Outputs({"y": torch.tensor(STUDENT, requires_grad=True)}, {"a": torch.tensor(FEATURES, requires_grad=True)})
    made = Loss.model_validate(loss)
    student_part, outputs, part = ensemble.outputs(batch, ensemble.adapter()).arguments(made, student)
    value = made(student_part, outputs, part, made.adapter(student_part, outputs, 10).double())
    read = student.features["a"] if made.teacher_layers() else student.heads["y"]
    (gradient,) = torch.autograd.grad(value, read)
    return value.item(), gradient.numpy()


@pytest.mark.parametrize("by", ["label", "entropy"])
def test_the_divergence_from_each_teacher_is_weighed_sample_by_sample(by):
    """sum_k w_k KL(p_k || q) T^2, averaged over samples; its gradient is sum_k w_k (q - p_k) T."""
    t = 3.0
    p, q, weights = softmax(TEACHERS / t, axis=-1), softmax(STUDENT / t, axis=-1), shares(by)
    divergences = (p * np.log(p / q)).sum(2) * t**2  # (K, N)
    value, gradient = learnt({"type": "soft_targets", "temperature": t}, {"type": "confidence", "by": by})
    assert value == pytest.approx((weights * divergences).sum(0).mean())
    np.testing.assert_allclose(gradient, (weights[:, :, None] * (q - p)).sum(0) * t / 4)


def test_a_mixture_of_logits_is_another_loss():
    mixed = (shares()[:, :, None] * TEACHERS).sum(0)
    p, q = softmax(mixed / 3, axis=-1), softmax(STUDENT / 3, axis=-1)
    value, gradient = learnt({"type": "soft_targets", "temperature": 3.0}, "confidence_mixture")
    assert value == pytest.approx((p * np.log(p / q)).sum(1).mean() * 9)
    np.testing.assert_allclose(gradient, (q - p) * 3 / 4)
    assert value < 0.9 * learnt({"type": "soft_targets", "temperature": 3.0}, "confidence")[0]


def test_features_are_weighed_by_the_same_confidence():
    """sum_k w_k |s - t_k|^2 / C, averaged over samples."""
    weights, difference = shares()[:, :, None], FEATURES - HINTS
    value, gradient = learnt({"type": "hints", "layers": ["a"]}, "confidence")
    assert value == pytest.approx((weights * difference**2).sum(0).mean())
    np.testing.assert_allclose(gradient, (weights * 2 * difference).sum(0) / FEATURES.size)
    plain, _ = learnt({"type": "hints", "layers": ["a"]}, "confidence_mixture")
    assert plain == pytest.approx((difference**2).mean())


def test_weights_follow_the_samples_that_have_labels():
    some = Batch({}, {}, torch.arange(4), labels=Labels(torch.tensor([1, 3]), {"label": torch.tensor(LABELS[[1, 3]])}))
    settings = {"type": "dkd", "temperature": 1.0, "alpha": 0.0, "beta": 1.0}
    value, gradient = learnt(settings, {"type": "confidence", "by": "entropy"}, some)
    others = np.array([[c for c in range(5) if c != label] for label in LABELS])
    p, q = (softmax(np.take_along_axis(logits, others[None], -1), axis=-1) for logits in (TEACHERS, STUDENT[None]))
    expected = (shares("entropy") * (p * np.log(p / q)).sum(2)).sum(0)
    assert value == pytest.approx(expected[[1, 3]].mean())
    assert (gradient[[0, 2]] == 0).all()


def test_a_loss_that_relates_samples_is_refused_before_anything_runs():
    distill = {
        "type": "distill",
        "model": {"type": "mlp"},
        "training": {"epochs": 1, "optimizer": "sgd"},
        "teacher": ["a", "b"],
    }
    relating = {"type": "rkd", "layers": ["x"]}
    with pytest.raises(ValidationError, match=r"confidence weighs every sample .* 'rkd' relates samples .* field `teacher`"):
        Stage.model_validate({**distill, "combine": "confidence", "losses": ["soft_targets", relating]})
    for combine, loss in (("confidence_mixture", relating), ("confidence", {**relating, "teacher": "a"})):
        Stage.model_validate({**distill, "combine": combine, "losses": ["soft_targets", loss]})
    Stage.model_validate({**distill, "combine": "confidence", "losses": [{**relating, "type": "triplet", "by": "label"}]})
    with pytest.raises(RecipeError, match="'rkd' relates samples to each other"):
        learnt({"type": "rkd", "layers": ["a"]}, "confidence")


def test_the_head_that_tells_the_confidence_is_named_where_there_are_several():
    def teacher(shift):
        return lambda batch: Outputs({"y": torch.tensor(TEACHERS[0]) + shift, "z": torch.tensor(TEACHERS[1])}, {"a": FEATURES})

    def outputs(combine):
        ensemble = Ensemble({"a": teacher(torch.arange(5)), "b": teacher(0)}, Combination.model_validate(combine))
        batch = Batch({}, {"label": torch.tensor(LABELS)}, torch.arange(4))
        return ensemble.outputs(batch, ensemble.adapter())

    hints = Loss.model_validate({"type": "hints", "layers": ["a"]})
    with pytest.raises(RecipeError, match=r"several heads \(y, z\).*head: "):
        outputs("confidence").for_loss(hints)
    equal = outputs({"type": "confidence", "head": "z"}).for_loss(hints)
    assert [teacher.weights.tolist() for teacher in equal] == [[0.5] * 4] * 2
    unequal = outputs({"type": "confidence", "head": "y"}).for_loss(hints)
    assert (unequal[0].weights - unequal[1].weights).abs().min() > 0


def test_a_head_of_one_teacher_tells_no_confidence_of_the_others():
    teachers = {name: lambda batch, name=name: Outputs({name: torch.tensor(TEACHERS[0])}, {"a": FEATURES}) for name in "yz"}
    ensemble = Ensemble(teachers, Combination.model_validate({"type": "confidence", "head": "y"}))
    outputs = ensemble.outputs(Batch({}, {"label": torch.tensor(LABELS)}, torch.arange(4)), ensemble.adapter())
    with pytest.raises(RecipeError, match="only y has the head 'y', which is to tell the confidence; name the teacher"):
        outputs.for_loss(Loss.model_validate({"type": "hints", "layers": ["a"]}))
    (alone,) = outputs.for_loss(Loss.model_validate({"type": "soft_targets", "head": "z"}))
    assert alone.heads.keys() == {"z"}
    assert alone.weights is None
