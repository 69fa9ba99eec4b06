import numpy as np
import pytest
import torch

from compress_cli.losses import Pair
from compress_cli.losses.vid import Vid

ONE = (Pair(student="a", teacher="a"),)


def prepared(make, random, loss, s, t):
    """The trainable part, with a variance of its own for each channel."""
    torch.manual_seed(0)
    adapter = loss.adapter(make(a=s), (make(a=t),), 10).double()
    adapter[0].raw.data.copy_(torch.as_tensor(random.randn(5)))
    return adapter


def by_hand(adapter, s, t):
    """(..., channels) of the student and of the teacher -> the value of each position."""
    for position in (0, 2, 4):  # three maps, ReLU between
        layer = adapter[0].mean[position]
        weight, bias = (parameter.detach().numpy() for parameter in (layer.weight, layer.bias))
        s = s @ weight.reshape(len(weight), -1).T + bias
        s = s if position == 4 else s.clip(0)
    variance = np.log1p(np.exp(adapter[0].raw.detach().numpy())) + 1e-5
    return 0.5 * (np.log(variance) + (t - s) ** 2 / variance).mean(-1)


@pytest.mark.parametrize("shape", [(), (3, 3)])
def test_equals_the_gaussian_in_numpy(make, make_batch, random, shape):
    s, t = random.randn(4, 2, *shape), random.randn(4, 5, *shape)
    loss = Vid(layers=ONE)
    adapter = prepared(make, random, loss, s, t)
    expected = by_hand(adapter, np.moveaxis(s, 1, -1), np.moveaxis(t, 1, -1)).mean()
    assert loss(make(a=s), (make(a=t),), make_batch(4), adapter).item() == pytest.approx(expected)


def test_padding_does_not_count(make, make_batch, random):
    s, t = random.randn(3, 4, 2), random.randn(3, 4, 5)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0], [1, 0, 0, 1]])
    loss = Vid(layers=ONE, mask="m")
    adapter = prepared(make, random, loss, s, t)
    value = loss(make(a=s), (make(a=t),), make_batch(3, m=mask), adapter).item()
    assert value == pytest.approx(by_hand(adapter, s, t)[mask == 1].mean())


@pytest.mark.parametrize("larger", ["student", "teacher"])
def test_images_shrink_before_they_are_mapped(make, make_batch, random, larger):
    s, t = random.randn(2, 2, 3, 3), random.randn(2, 5, 3, 3)
    big = random.randn(2, 2 if larger == "student" else 5, 6, 6)
    small = np.moveaxis(big.reshape(2, -1, 3, 2, 3, 2).mean((3, 5)), 1, -1)
    loss = Vid(layers=ONE)
    s_sized, t_sized = (big, t) if larger == "student" else (s, big)
    adapter = prepared(make, random, loss, s_sized, t_sized)
    hands = (small, np.moveaxis(t, 1, -1)) if larger == "student" else (np.moveaxis(s, 1, -1), small)
    value = loss(make(a=s_sized), (make(a=t_sized),), make_batch(2), adapter).item()
    assert value == pytest.approx(by_hand(adapter, *hands).mean())


def test_variance_begins_where_it_was_set(make):
    adapter = Vid(layers=ONE, variance=3.0).adapter(make(a=np.zeros((2, 3))), (make(a=np.zeros((2, 4))),), 10)
    variance = torch.nn.functional.softplus(adapter[0].raw) + 1e-5
    torch.testing.assert_close(variance.detach(), torch.full((4,), 3.0))
