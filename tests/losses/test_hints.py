import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.hints import Hints

ONE = (Pair(student="a", teacher="a"),)


@pytest.mark.parametrize("distance", ["mse", "l1", "cosine"])
@pytest.mark.parametrize("shape", [(4, 6), (4, 5, 6), (4, 6, 3, 3)])
def test_equal_widths_need_no_projector(make, make_batch, run, random, distance, shape):
    s, t = random.randn(2, *shape)
    axis = 1 if len(shape) == 4 else -1
    cosine = (s * t).sum(axis) / np.linalg.norm(s, axis=axis) / np.linalg.norm(t, axis=axis)
    expected = {"mse": ((s - t) ** 2).mean(), "l1": abs(s - t).mean(), "cosine": (1 - cosine).mean()}[distance]
    assert run(Hints(layers=ONE, distance=distance), make(a=s), make(a=t), make_batch(4)) == pytest.approx(expected)


@pytest.mark.parametrize("shape", [(3, 5, 6), (3, 6, 2, 4)])
def test_masked_positions_do_not_count(make, make_batch, run, random, shape):
    s, t = random.randn(2, *shape)
    mask = random.rand(3, *(shape[1:2] if len(shape) == 3 else shape[2:])) < 0.6
    squares = (s - t) ** 2
    visible = (np.moveaxis(squares, 1, -1) if len(shape) == 4 else squares)[mask]
    value = run(Hints(layers=ONE, mask="m"), make(a=s), make(a=t), make_batch(3, m=mask.astype(np.int64)))
    assert value == pytest.approx(visible.mean())


def test_the_projector_brings_widths_together(make, make_batch, random):
    for s, t, kind in (
        (random.randn(4, 3, 5, 5), random.randn(4, 8, 5, 5), nn.Conv2d),
        (random.randn(4, 3), random.randn(4, 8), nn.Linear),
        (random.randn(4, 7, 3), random.randn(4, 7, 8), nn.Linear),
    ):
        loss, teachers = Hints(layers=ONE), (make(a=t),)
        adapter = loss.adapter(make(a=s), teachers, 100).double()
        (projector,) = adapter
        assert isinstance(projector, kind)
        weight, bias = (parameter.detach().numpy() for parameter in (projector.weight, projector.bias))
        rows = np.moveaxis(s, 1, -1) if s.ndim == 4 else s
        mapped = rows @ weight.reshape(8, 3).T + bias
        expected = ((mapped - (np.moveaxis(t, 1, -1) if t.ndim == 4 else t)) ** 2).mean()
        assert loss(make(a=s), teachers, make_batch(4), adapter).item() == pytest.approx(expected)


def test_images_shrink_to_the_smaller(make, make_batch, run, random):
    s, t = random.randn(2, 3, 8, 4), random.randn(2, 3, 4, 4)
    shrunk = s.reshape(2, 3, 4, 2, 4).mean(3)
    assert run(Hints(layers=ONE), make(a=s), make(a=t), make_batch(2)) == pytest.approx(((shrunk - t) ** 2).mean())
    odd = random.randn(2, 3, 3, 4)  # rows 0-1, 1-2, 2-3 of 4
    shrunk = (t[:, :, :3] + t[:, :, 1:]) / 2
    assert run(Hints(layers=ONE), make(a=odd), make(a=t), make_batch(2)) == pytest.approx(((odd - shrunk) ** 2).mean())


def test_layers_add_up_and_teachers_are_averaged(make, make_batch, run, random):
    a, b, c, d, e, f = random.randn(6, 4, 3)
    loss = Hints(layers=(Pair(student="a", teacher="c"), Pair(student="b", teacher="d")))
    value = run(loss, make(a=a, b=b), (make(c=c, d=d), make(c=e, d=f)), make_batch(4))
    pairs = ((a, c), (b, d), (a, e), (b, f))
    assert value == pytest.approx(sum(((x - y) ** 2).mean() for x, y in pairs) / 2)
    assert loss.student_layers() == ("a", "b")
    assert loss.teacher_layers() == ("c", "d")


@pytest.mark.parametrize(
    ("student", "teacher"), [((4, 3), (4, 3, 2, 2)), ((4, 5, 3), (4, 6, 3)), ((4, 2, 2, 2, 2), (4, 2, 2, 2, 2))]
)
def test_shapes_that_do_not_fit_are_named(make, student, teacher):
    with pytest.raises(RecipeError) as error:
        Hints(layers=ONE).adapter(make(a=np.zeros(student)), (make(a=np.zeros(teacher)),), 10)
    for shape in (student, teacher):
        assert f"(N, {', '.join(map(str, shape[1:]))})" in str(error.value)


def test_training_the_projector_alone_lowers_the_loss(make, make_batch, random):
    student, teachers = make(a=random.randn(16, 3)), (make(a=random.randn(16, 8)),)
    torch.manual_seed(0)
    loss, adapter = Hints(layers=ONE), Hints(layers=ONE).adapter(student, teachers, 16).double()
    optimizer, values = torch.optim.SGD(adapter.parameters(), 0.5), []
    for _ in range(20):
        value = loss(student, teachers, make_batch(16), adapter)
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values[-1] < 0.9 * values[0]
