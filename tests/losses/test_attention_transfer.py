import numpy as np
import pytest

from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.attention_transfer import AttentionTransfer

ONE = (Pair(student="a", teacher="a"),)


def attention(features, power):
    flat = (abs(features) ** power).sum(1).reshape(len(features), -1)
    return flat / np.linalg.norm(flat, axis=1, keepdims=True)


@pytest.mark.parametrize("power", [1, 2])
def test_equals_the_formula_whatever_the_widths(make, make_batch, run, random, power):
    s, t = random.randn(4, 3, 5, 5), random.randn(4, 7, 5, 5)
    expected = ((attention(s, power) - attention(t, power)) ** 2).mean()
    assert run(AttentionTransfer(layers=ONE, power=power), make(a=s), make(a=t), make_batch(4)) == pytest.approx(expected)


def test_images_shrink_and_size_does_not_matter(make, make_batch, run, random):
    t = random.randn(2, 3, 4, 4)
    s = 5 * t.repeat(2, 2).repeat(2, 3)
    assert run(AttentionTransfer(layers=ONE), make(a=s), make(a=t), make_batch(2)) == pytest.approx(0, abs=1e-12)


def test_tokens(make, make_batch, run, random):
    s, t = random.randn(2, 5, 3), random.randn(2, 5, 6)
    expected = ((attention(s.swapaxes(1, 2), 2) - attention(t.swapaxes(1, 2), 2)) ** 2).mean()
    assert run(AttentionTransfer(layers=ONE), make(a=s), make(a=t), make_batch(2)) == pytest.approx(expected)


def test_padding_has_no_attention_and_does_not_count(make, make_batch, run, random):
    s, t = random.randn(3, 5, 3), random.randn(3, 5, 6)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 1, 0]])
    terms = []
    for student, teacher, visible in zip(s, t, mask == 1, strict=True):
        maps = [(tokens[visible] ** 2).sum(1) for tokens in (student, teacher)]
        one, two = (attention / np.linalg.norm(attention) for attention in maps)
        terms += list((one - two) ** 2)
    value = run(AttentionTransfer(layers=ONE, mask="m"), make(a=s), make(a=t), make_batch(3, m=mask))
    assert value == pytest.approx(np.mean(terms))
    with pytest.raises(RecipeError, match=r"mask: the input 'm' has shape \(N, 4\); the positions have \(N, 5\)"):
        run(AttentionTransfer(layers=ONE, mask="m"), make(a=s), make(a=t), make_batch(3, m=mask[:, :4]))


def test_vectors_have_no_positions(make):
    with pytest.raises(RecipeError, match=r"\(N, 3\) can't be compared with the teacher's \(N, 4\): this loss takes tokens"):
        AttentionTransfer(layers=ONE).adapter(make(a=np.zeros((2, 3))), (make(a=np.zeros((2, 4))),), 10)
