import numpy as np
import pytest
import torch

from compress_cli.losses import Pair
from compress_cli.losses.vid import Vid

ONE = (Pair(student="a", teacher="a"),)


@pytest.mark.parametrize("shape", [(), (3, 3)])
def test_equals_the_gaussian_in_numpy(make, make_batch, random, shape):
    s, t = random.randn(4, 2, *shape), random.randn(4, 5, *shape)
    torch.manual_seed(0)
    loss, teachers = Vid(layers=ONE), (make(a=t),)
    adapter = loss.adapter(make(a=s), teachers, 10).double()
    raw = random.randn(5)
    adapter[0].raw.data.copy_(torch.as_tensor(raw))
    x = np.moveaxis(s, 1, -1)
    for place in (0, 2, 4):  # three maps, ReLU between
        layer = adapter[0].mean[place]
        weight, bias = (each.detach().numpy() for each in (layer.weight, layer.bias))
        x = x @ weight.reshape(len(weight), -1).T + bias
        x = x if place == 4 else x.clip(0)
    variance = np.log1p(np.exp(raw)) + 1e-5
    wanted = 0.5 * (np.log(variance) + (np.moveaxis(t, 1, -1) - x) ** 2 / variance).mean()
    assert loss(make(a=s), teachers, make_batch(4), adapter).item() == pytest.approx(wanted)


def test_variance_begins_where_it_was_set(make):
    adapter = Vid(layers=ONE, variance=3.0).adapter(make(a=np.zeros((2, 3))), (make(a=np.zeros((2, 4))),), 10)
    variance = torch.nn.functional.softplus(adapter[0].raw) + 1e-5
    torch.testing.assert_close(variance.detach(), torch.full((4,), 3.0))
