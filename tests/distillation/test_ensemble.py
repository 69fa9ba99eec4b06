"""Several teachers: who says what to which loss."""

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


def lesson(combine="mean", **teachers):
    made = Ensemble(teachers, Combination.model_validate(combine))
    return made.outputs(BATCH, made.adapter())


def test_a_loss_on_outputs_hears_all_as_one():
    (heard,) = lesson(a=teacher(), b=teacher(value=OTHER)).of(loss())
    assert heard.heads["y"].tolist() == [[2, 3], [2, 5]]
    weighted = lesson({"type": "weighted", "weights": [1.0, 3.0]}, a=teacher(), b=teacher(value=OTHER))
    assert weighted.of(loss())[0].heads["y"].tolist() == [[2.5, 4.5], [1, 6.5]]


def test_shares_of_each_sample_weigh_its_own_row():
    made = lesson("confidence", a=teacher(), b=teacher(value=OTHER))
    shares = made.combination.shares(torch.stack([ONE, OTHER]), BATCH, made.adapter)
    expected = torch.stack([shares[0, n] * ONE[n] + shares[1, n] * OTHER[n] for n in range(2)])
    torch.testing.assert_close(made.of(loss())[0].heads["y"], expected)


def test_a_loss_hears_the_teacher_it_names():
    made = lesson(a=teacher(), b=teacher(value=OTHER))
    (heard,) = made.of(loss(teacher="b"))
    assert heard.heads["y"] is OTHER
    with pytest.raises(RecipeError, match="there is no teacher 'c' here"):
        made.of(loss(teacher="c"))


def test_a_loss_on_features_hears_each_in_turn():
    made = lesson(a=teacher(x=ONE), b=teacher(x=OTHER))
    heard = made.of(loss("hints", layers=["x"]))
    assert heard[0].features["x"] is ONE
    assert heard[1].features["x"] is OTHER


def test_one_teacher_is_heard_as_it_is():
    (heard,) = lesson("confidence", a=teacher()).of(loss())
    assert heard.heads["y"] is ONE


def test_only_the_weights_of_the_combination_take_its_gradient():
    made = lesson("learned", a=teacher(), b=teacher(value=OTHER))
    (heard,) = made.of(loss())
    assert not heard.heads["y"].requires_grad
    made.loss().backward()
    assert made.adapter.weights.grad.abs().sum() > 0
    assert lesson("mean", a=teacher(), b=teacher()).loss() is None


def test_teachers_of_other_heads_are_heard_through_their_own_names():
    """Several tasks: each loss names its head, or its teacher where the heads are called the same."""
    made = lesson(a=teacher("cat"), b=teacher("dog", OTHER))
    (heard,) = made.of(loss(head="dog"))
    assert heard.heads["cat"].equal(ONE)
    assert heard.heads["dog"].equal(OTHER)


def test_heads_that_can_not_be_combined_are_refused():
    made = lesson(a=teacher(), b=teacher(value=torch.zeros(2, 5)))
    with pytest.raises(
        RecipeError, match=r"other numbers of values in the head 'y' \(2 from 'a', 5 from 'b'\).*field `teacher`"
    ):
        made.of(loss())
    assert made.of(loss(teacher="b"))[0].heads["y"].shape == (2, 5)
    some = lesson(a=teacher(), b=teacher(), c=teacher("z"))
    with pytest.raises(RecipeError, match="the head 'y' is given by a and b only"):
        some.of(loss(head="y"))


def test_a_loss_that_reads_labels_is_shown_the_samples_that_have_them():
    made = Ensemble({"a": teacher(x=OTHER)})
    some = Batch({"i": ONE}, {}, torch.tensor([-1, 7]), labels=Labels(torch.tensor([1]), {"label": torch.tensor([3])}))
    spoken = made.outputs(some, made.adapter())
    assert spoken.shown(loss(), Outputs({"y": ONE})) == (Outputs({"y": ONE}), spoken.of(loss()), some)
    student, (heard,), batch = spoken.shown(loss("dkd"), Outputs({"y": OTHER}))
    assert student.heads["y"].tolist() == [[0, 8]]
    assert (heard.heads["y"].tolist(), heard.features["x"].tolist()) == ([[4, 2]], [[0, 8]])
    assert (batch.index.tolist(), batch.targets["label"].tolist(), batch.inputs["i"].tolist()) == ([7], [3], [[4, 2]])
    none = Batch({}, {}, torch.tensor([-1, -2]), labels=Labels(torch.tensor([], dtype=torch.int64), {}))
    assert made.outputs(none, made.adapter()).shown(loss("dkd"), Outputs({"y": ONE})) is None
    assert made.outputs(BATCH, made.adapter()).shown(loss("dkd"), Outputs({"y": ONE}))[2] is BATCH


def test_weights_of_teachers_are_learnt_where_there_are_labels():
    made = Ensemble({"a": teacher(), "b": teacher(value=OTHER)}, Combination.model_validate("learned"))
    adapter = made.adapter()
    some = Batch({}, {}, torch.tensor([-1, 7]), labels=Labels(torch.tensor([1]), {"label": torch.tensor([1])}))
    alone = Ensemble({"a": teacher(value=ONE[1:]), "b": teacher(value=OTHER[1:])}, made.combination)
    wanted = alone.outputs(Batch({}, {"label": torch.tensor([1])}, torch.tensor([7])), adapter).loss()
    assert made.outputs(some, adapter).loss().item() == wanted.item()
    none = Batch({}, {}, torch.tensor([-1, -2]), labels=Labels(torch.tensor([], dtype=torch.int64), {}))
    assert made.outputs(none, adapter).loss() is None
