"""What holds for every file in losses/."""

import inspect
import json
import re

import numpy as np
import pytest
import torch

from compress_cli.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss
from compress_cli.plugin import find, name_of, names

SAMPLES, CLASSES = 6, 5
TOKENS = ("hidden_states", "cls_token")
ZERO_WHEN_EQUAL = set(names(Loss)) - {  # these keep an entropy, a trained part, or a margin
    "cross_entropy",
    "soft_cross_entropy",
    "hard_labels",
    "review_kd",
    "vid",
    "crd",
    "triplet",
    "contrastive",
    "self_distillation",
}
TAUGHT = {name for name in names(Loss) if find(Loss, name).taught}


def example(name, **settings):
    """The loss with the least that must be said."""
    cls = find(Loss, name)
    return cls.model_validate({field: ["a"] for field in ("layers", "exits") if field in cls.model_fields} | settings)


def outputs(name, seed, width=4):
    random = torch.Generator().manual_seed(seed)
    shape = (SAMPLES, 7, width) if name in TOKENS else (SAMPLES, width, 4, 4)
    heads, features = torch.randn(SAMPLES, CLASSES, generator=random), torch.randn(*shape, generator=random)
    return Outputs({"y": heads.requires_grad_()}, {"a": features.requires_grad_()})


def batch():
    return Batch({}, {"label": torch.tensor([0, 1, 2, 0, 1, 4])}, torch.arange(SAMPLES) + 100)


@pytest.mark.parametrize("name", names(Loss))
def test_is_one_documented_class_that_survives_dump_and_load(name):
    loss = example(name)
    assert name_of(type(loss)) == name
    assert re.search(r"\b(19|20)\d\d\b", inspect.getdoc(type(loss))), "which paper?"
    assert "arXiv:" in inspect.getdoc(type(loss)) or name == "contrastive"  # of 2006
    assert Loss.model_validate(json.loads(json.dumps(loss.model_dump(mode="json")))) == loss
    assert inspect.getdoc(type(loss)).partition("\n")[0].endswith("."), "`compress list` shows one line"
    assert all(field.description for field in type(loss).model_fields.values())


@pytest.mark.parametrize("name", names(Loss))
def test_gradients_reach_the_student_and_the_adapter_and_never_the_teacher(name):
    torch.manual_seed(0)
    loss, student, teacher = example(name), outputs(name, 1), outputs(name, 2, width=9)
    adapter = loss.adapter(student, (teacher,), 20)
    value = loss(student, (teacher,), batch(), adapter)
    assert value.shape == ()
    assert torch.isfinite(value)
    value.backward()
    used = student.features["a"] if loss.student_layers() else student.heads["y"]
    assert torch.isfinite(used.grad).all()
    assert used.grad.abs().sum() > 0
    for parameter in adapter.parameters():
        assert parameter.grad is not None
    assert teacher.heads["y"].grad is None
    assert teacher.features["a"].grad is None


@pytest.mark.parametrize("name", names(Loss))
def test_it_says_whether_it_reads_labels(name):
    """Without them it complains, or goes on as with them; each of its settings that say where it looks."""
    cls, student, teacher = find(Loss, name), outputs(name, 1), outputs(name, 2)
    choices = [{"by": "label"}, {"by": "teacher"}] if "by" in cls.model_fields else [{}]
    choices = [{"other": "class"}, {"other": "sample"}] if "other" in cls.model_fields else choices
    for settings in choices:
        loss = example(name, **settings)
        adapter = loss.adapter(student, (teacher,), 20)
        without = Batch({}, {}, batch().index)
        if loss.reads_labels():
            with pytest.raises(RecipeError, match="needs a target, and there is none"):
                loss(student, (teacher,), without, adapter)
        else:
            assert torch.isfinite(loss(student, (teacher,), without, adapter))
    reads = [example(name, **settings).reads_labels() for settings in choices]
    assert reads == ([True, False] if len(choices) > 1 else [name in ("cross_entropy", "dkd", "self_distillation")])


@pytest.mark.parametrize("name", sorted(set(names(Loss)) - {"self_distillation"}))  # its last head takes no gradient back
def test_gradient_is_that_of_the_value(name):
    """Central differences along a random direction, in float64."""
    torch.manual_seed(0)
    loss, student, teacher = example(name), outputs(name, 1), outputs(name, 2)
    double = [
        Outputs(*({k: v.detach().double() for k, v in d.items()} for d in (o.heads, o.features))) for o in (student, teacher)
    ]
    adapter = loss.adapter(double[0], (double[1],), 20).double()
    loss(double[0], (double[1],), batch(), adapter)  # the first batch may set a constant
    state = {key: each.clone() for key, each in adapter.state_dict().items()}

    def value(step, direction=None):
        own = {
            kind: {k: v + step * direction[kind] for k, v in getattr(double[0], kind).items()} for kind in ("heads", "features")
        }
        adapter.load_state_dict(state)  # a memory moves with every call
        torch.manual_seed(5)
        return loss(Outputs(**own), (double[1],), batch(), adapter)

    direction = {"heads": torch.randn(SAMPLES, CLASSES).double(), "features": torch.randn_like(double[0].features["a"])}
    at = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(value(at, direction), at)
    numeric = (value(1e-6, direction) - value(-1e-6, direction)) / 2e-6
    assert slope.item() == pytest.approx(numeric.item(), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", sorted(ZERO_WHEN_EQUAL))
def test_is_least_where_the_student_equals_the_teacher(name):
    loss, one, other = example(name), outputs(name, 1), outputs(name, 2)
    adapter = loss.adapter(one, (one,), 20)
    assert loss(one, (one,), batch(), adapter).item() == pytest.approx(0, abs=1e-5)
    assert loss(other, (one,), batch(), adapter).item() > 1e-4


@pytest.mark.parametrize("name", sorted(TAUGHT - {"crd"}))  # crd draws anew for each teacher
def test_several_teachers_are_averaged(name):
    torch.manual_seed(0)
    loss, student, one, two = example(name), outputs(name, 1), outputs(name, 2), outputs(name, 3)
    both = loss.adapter(student, (one, two), 20)
    parts = list(both) if isinstance(both, torch.nn.ModuleList) else [both, both]
    single = [
        loss(student, (each,), batch(), torch.nn.ModuleList([part]) if part is not both else both)
        for each, part in zip((one, two), parts, strict=True)
    ]
    torch.testing.assert_close(loss(student, (one, two), batch(), both), torch.stack(single).mean())


@pytest.mark.parametrize("name", sorted(TAUGHT))
def test_without_a_teacher_it_says_so(name):
    loss, student = example(name), outputs(name, 1)
    with pytest.raises(RecipeError, match="the stage has none"):
        loss(student, (), batch(), loss.adapter(student, (), 20))


@pytest.mark.parametrize("name", [name for name in names(Loss) if "layers" in find(Loss, name).model_fields])
def test_layers_are_names_positions_or_pairs(name):
    cls = find(Loss, name)
    for given, own, other in (("a", "a", "a"), (-1, "-1", "-1"), ({"student": "b", "teacher": 3}, "b", "3")):
        loss = cls.model_validate({"layers": [given]})
        assert loss.student_layers() == (own,)
        assert [(each.student, each.teacher) for each in loss.layers] == [(own, other)]
    for wrong in ({"layers": []}, {}, {"layers": [True]}, {"layers": [{"student": "b"}]}):
        with pytest.raises(ValueError, match="layers"):
            cls.model_validate(wrong)


def test_weight_rises_and_ends():
    loss = find(Loss, "soft_targets").model_validate({"warmup_epochs": 20.0, "until_epoch": 100.0})
    assert [loss.factor(epoch) for epoch in (0, 5, 20, 100, 100.5)] == [0, 0.25, 1, 1, 0]
    falling = find(Loss, "soft_targets").model_validate({"warmup_epochs": 2.0, "until_epoch": 10.0, "decay_epochs": 4.0})
    assert [falling.factor(epoch) for epoch in (1, 2, 6, 7, 9, 10, 11)] == [0.5, 1, 1, 0.75, 0.25, 0, 0]
    for wrong in ({"decay_epochs": 3.0}, {"decay_epochs": 3.0, "until_epoch": 2.0}):
        with pytest.raises(ValueError, match="decay_epochs: the weight can't fall for 3 epochs"):
            find(Loss, "soft_targets").model_validate(wrong)
    assert example("soft_targets").factor(0) == 1
    assert np.isfinite(example("soft_targets").factor(1e9))
