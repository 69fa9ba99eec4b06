import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.review_kd import ReviewKd

LAYERS = tuple(Pair(student=name, teacher=name) for name in ("a", "b", "c"))


def shrink(x, grid):
    n, c, h, w = x.shape
    return x.reshape(n, c, grid, h // grid, grid, w // grid).mean((3, 5))


def context(s, t):
    terms, weights = [((s - t) ** 2).mean()], [1.0]
    for grid, weight in ((4, 0.5), (2, 0.25), (1, 0.125)):
        if grid < s.shape[2]:
            weights.append(weight if len(weights) > 1 or grid == 4 else weights[-1] / 2)
            terms.append(weights[-1] * ((shrink(s, grid) - shrink(t, grid)) ** 2).mean())
    return sum(terms) / sum(weights)


def normalise(x):
    """Batch normalisation as a fresh layer does it while training."""
    return (x - x.mean((0, 2, 3), keepdims=True)) / np.sqrt(x.var((0, 2, 3), keepdims=True) + 1e-5)


def conv(x, layer):
    """A convolution in NumPy, 1 x 1 or 3 x 3 with padding."""
    weight = layer.weight.detach().numpy()
    reach = weight.shape[2] // 2
    padded = np.pad(x, ((0, 0), (0, 0), (reach, reach), (reach, reach)))
    n, _, h, w = x.shape
    output = np.zeros((n, len(weight), h, w))
    for i in range(weight.shape[2]):
        for j in range(weight.shape[3]):
            output += np.einsum("nchw,oc->nohw", padded[:, :, i : i + h, j : j + w], weight[:, :, i, j])
    return output if layer.bias is None else output + layer.bias.detach().numpy()[:, None, None]


def enlarge(x, size):
    return x.repeat(size // x.shape[2], 2).repeat(size // x.shape[3], 3)


def test_two_levels_by_hand(make, make_batch, random):
    s = {"a": random.randn(4, 3, 8, 8), "b": random.randn(4, 5, 4, 4)}
    t = {"a": random.randn(4, 6, 8, 8), "b": random.randn(4, 7, 4, 4)}
    torch.manual_seed(0)
    loss, teachers = ReviewKd(layers=LAYERS[:2]), (make(**t),)
    adapter = loss.adapter(make(**s), teachers, 10).double()
    value = loss(make(**s), teachers, make_batch(4), adapter).item()
    shallow, deep = adapter[0].fusions
    assert shallow.enter[0].out_channels == deep.enter[0].out_channels == 5  # the width of the student's deepest
    x_deep = normalise(conv(s["b"], deep.enter[0]))
    x = normalise(conv(s["a"], shallow.enter[0]))
    up = enlarge(x_deep, 8)
    maps = 1 / (1 + np.exp(-conv(np.concatenate([x, up], 1), shallow.attention[0])))
    fused = x * maps[:, :1] + up * maps[:, 1:]
    expected = context(normalise(conv(fused, shallow.leave[0])), t["a"])
    expected += ((normalise(conv(x_deep, deep.leave[0])) - t["b"]) ** 2).mean() * 1 / (1 + 0.5 + 0.25)
    image = normalise(conv(x_deep, deep.leave[0]))
    expected += sum(w * ((shrink(image, g) - shrink(t["b"], g)) ** 2).mean() for g, w in ((2, 0.5), (1, 0.25))) / 1.75
    assert value == pytest.approx(expected)


def test_fused_features_have_the_teachers_shapes(make):
    student = make(a=np.zeros((2, 4, 16, 16)), b=np.zeros((2, 8, 7, 7)), c=np.zeros((2, 12)))
    teacher = make(a=np.zeros((2, 10, 32, 32)), b=np.zeros((2, 20, 8, 8)), c=np.zeros((2, 30, 1, 1)))
    loss = ReviewKd(layers=LAYERS)
    adapter = loss.adapter(student, (teacher,), 10).double()
    (levels,) = loss._levels(student, (teacher,))
    assert [image.shape for image in adapter[0](levels)] == [image.shape for image in teacher.features.values()]
    convs = [module for module in adapter.modules() if isinstance(module, nn.Conv2d)]
    assert len(convs) == 3 * 2 + 2  # in and out of each level, attention on all but the deepest


def test_convolutions_begin_as_in_the_papers_code(make):
    student, teacher = make(a=np.zeros((2, 24, 4, 4))), make(a=np.zeros((2, 48, 4, 4)))
    torch.manual_seed(0)
    (fusion,) = ReviewKd(layers=(Pair(student="a", teacher="a"),)).adapter(student, (teacher,), 100)[0].fusions
    for convolution, inputs in ((fusion.enter[0], 24), (fusion.leave[0], 24 * 9)):
        assert convolution.weight.abs().max().item() == pytest.approx((3 / inputs) ** 0.5, rel=0.05)  # uniform, gain 1


def test_a_last_batch_of_one_sample_can_be_normalised(make, make_batch, random):
    student = {"a": random.randn(1, 4, 4, 4), "b": random.randn(1, 5)}
    loss = ReviewKd(layers=LAYERS[:2])
    teachers = (make(**student),)
    adapter = loss.adapter(make(**student), teachers, 10).double()
    assert torch.isfinite(loss(make(**student), teachers, make_batch(1), adapter))


def test_tokens_are_refused(make):
    with pytest.raises(RecipeError, match=r"review_kd needs images .* a layer gives \(2, 3, 4\)"):
        ReviewKd(layers=LAYERS[:1]).adapter(make(a=np.zeros((2, 3, 4))), (make(a=np.zeros((2, 3, 4))),), 10)
