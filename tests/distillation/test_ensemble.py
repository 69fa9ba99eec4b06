"""Several teachers: which of their outputs each loss learns from."""

import pytest
import torch

from compress_cli.data.batch import Batch, Labels, Outputs
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss

BATCH = Batch({}, {"label": torch.tensor([0, 1])}, torch.arange(2))
ONE, OTHER = torch.tensor([[1.0, 0.0], [4.0, 2.0]]), torch.tensor([[3.0, 6.0], [0.0, 8.0]])


def teacher(head="y", value=ONE, **features):
    return lambda batch: Outputs({head: value}, features)


def loss(name="soft_targets", **settings):
    return Loss.model_validate({"type": name, **settings})


def outputs_of(combine="mean", **teachers):
    ensemble = Ensemble(teachers, Combination.model_validate(combine))
    return ensemble.outputs(BATCH, ensemble.adapter())


def test_a_loss_on_outputs_learns_from_one_mixed_teacher():
    (mixed,) = outputs_of(a=teacher(), b=teacher(value=OTHER)).for_loss(loss())
    assert mixed.heads["y"].tolist() == [[2, 3], [2, 5]]
    weighted = outputs_of({"type": "weighted", "weights": [1.0, 3.0]}, a=teacher(), b=teacher(value=OTHER))
    assert weighted.for_loss(loss())[0].heads["y"].tolist() == [[2.5, 4.5], [1, 6.5]]


def test_shares_of_each_sample_weigh_its_own_row():
    outputs = outputs_of("confidence_mixture", a=teacher(), b=teacher(value=OTHER))
    shares = outputs.combination.shares(torch.stack([ONE, OTHER]), BATCH, outputs.adapter)
    expected = torch.stack([shares[0, n] * ONE[n] + shares[1, n] * OTHER[n] for n in range(2)])
    torch.testing.assert_close(outputs.for_loss(loss())[0].heads["y"], expected)


def test_a_loss_learns_from_the_teacher_it_names():
    outputs = outputs_of(a=teacher(), b=teacher(value=OTHER))
    (named,) = outputs.for_loss(loss(teacher="b"))
    assert named.heads["y"] is OTHER
    with pytest.raises(RecipeError, match="there is no teacher 'c' here"):
        outputs.for_loss(loss(teacher="c"))


def test_a_loss_on_features_learns_from_each_in_turn():
    outputs = outputs_of(a=teacher(x=ONE), b=teacher(x=OTHER))
    first, second = outputs.for_loss(loss("hints", layers=["x"]))
    assert first.features["x"] is ONE
    assert second.features["x"] is OTHER
    assert first.weights is None


@pytest.mark.parametrize("combine", ["confidence", "confidence_mixture", "mean"])
def test_one_teacher_is_learnt_from_as_it_is(combine):
    (only,) = outputs_of(combine, a=teacher()).for_loss(loss())
    assert only.heads["y"] is ONE
    assert only.weights is None


def test_only_the_weights_of_the_combination_take_its_gradient():
    outputs = outputs_of("learned", a=teacher(), b=teacher(value=OTHER))
    (mixed,) = outputs.for_loss(loss())
    assert not mixed.heads["y"].requires_grad
    outputs.loss().backward()
    assert outputs.adapter.weights.grad.abs().sum() > 0
    assert outputs_of("mean", a=teacher(), b=teacher()).loss() is None


@pytest.mark.parametrize("combine", ["mean", "confidence"])
def test_teachers_with_different_heads_keep_each_their_own(combine):
    """Several tasks: each loss names its head, or its teacher where the heads are called the same."""
    outputs = outputs_of(combine, a=teacher("cat"), b=teacher("dog", OTHER))
    (learnt,) = outputs.for_loss(loss(head="dog"))
    assert learnt.heads["dog"].equal(OTHER)
    assert outputs.for_loss(loss(head="cat"))[0].heads["cat"].equal(ONE)
    assert learnt.weights is None


def test_heads_that_can_not_be_combined_are_refused():
    outputs = outputs_of(a=teacher(), b=teacher(value=torch.zeros(2, 5)))
    with pytest.raises(
        RecipeError, match=r"other numbers of values in the head 'y' \(2 from 'a', 5 from 'b'\).*field `teacher`"
    ):
        outputs.for_loss(loss())
    assert outputs.for_loss(loss(teacher="b"))[0].heads["y"].shape == (2, 5)
    some = outputs_of(a=teacher(), b=teacher(), c=teacher("z"))
    with pytest.raises(RecipeError, match="only a and b have the head 'y'"):
        some.for_loss(loss(head="y"))


def test_a_loss_that_reads_labels_gets_the_samples_that_have_them():
    ensemble = Ensemble({"a": teacher(x=OTHER)})
    some = Batch({"i": ONE}, {}, torch.tensor([-1, 7]), labels=Labels(torch.tensor([1]), {"label": torch.tensor([3])}))
    outputs = ensemble.outputs(some, ensemble.adapter())
    assert outputs.arguments(loss(), Outputs({"y": ONE})) == (Outputs({"y": ONE}), outputs.for_loss(loss()), some)
    student, (learnt,), batch = outputs.arguments(loss("dkd"), Outputs({"y": OTHER}))
    assert student.heads["y"].tolist() == [[0, 8]]
    assert (learnt.heads["y"].tolist(), learnt.features["x"].tolist()) == ([[4, 2]], [[0, 8]])
    assert (batch.index.tolist(), batch.targets["label"].tolist(), batch.inputs["i"].tolist()) == ([7], [3], [[4, 2]])
    none = Batch({}, {}, torch.tensor([-1, -2]), labels=Labels(torch.tensor([], dtype=torch.int64), {}))
    assert ensemble.outputs(none, ensemble.adapter()).arguments(loss("dkd"), Outputs({"y": ONE})) is None
    assert ensemble.outputs(BATCH, ensemble.adapter()).arguments(loss("dkd"), Outputs({"y": ONE}))[2] is BATCH


def test_weights_of_teachers_are_learnt_where_there_are_labels():
    ensemble = Ensemble({"a": teacher(), "b": teacher(value=OTHER)}, Combination.model_validate("learned"))
    adapter = ensemble.adapter()
    some = Batch({}, {}, torch.tensor([-1, 7]), labels=Labels(torch.tensor([1]), {"label": torch.tensor([1])}))
    labelled = Ensemble({"a": teacher(value=ONE[1:]), "b": teacher(value=OTHER[1:])}, ensemble.combination)
    expected = labelled.outputs(Batch({}, {"label": torch.tensor([1])}, torch.tensor([7])), adapter).loss()
    assert ensemble.outputs(some, adapter).loss().item() == expected.item()
    none = Batch({}, {}, torch.tensor([-1, -2]), labels=Labels(torch.tensor([], dtype=torch.int64), {}))
    assert ensemble.outputs(none, adapter).loss() is None
