import numpy as np
import pytest

from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.hidden_states import HiddenStates

ONE = (Pair(student="a", teacher="a"),)
MASK = np.array([[1, 1, 1, 0], [1, 0, 0, 0]])


def test_padding_does_not_count(make, make_batch, run, random):
    s, t = random.randn(2, 2, 4, 6)
    cosine = (s * t).sum(2) / np.linalg.norm(s, axis=2) / np.linalg.norm(t, axis=2)
    batch = make_batch(2, attention_mask=MASK)
    value = run(HiddenStates(layers=ONE, mask="attention_mask"), make(a=s), make(a=t), batch)
    assert value == pytest.approx((1 - cosine)[MASK == 1].mean())
    value = run(HiddenStates(layers=ONE, mask="attention_mask", distance="mse"), make(a=s), make(a=t), batch)
    assert value == pytest.approx(((s - t) ** 2)[MASK == 1].mean())
    assert run(HiddenStates(layers=ONE), make(a=s), make(a=t), batch) == pytest.approx((1 - cosine).mean())


def test_bad_input_is_named(make, make_batch, run):
    tokens, image = np.zeros((2, 4, 6)), np.zeros((2, 4, 6, 6))
    with pytest.raises(RecipeError, match="there is no input 'atention_mask'; did you mean 'attention_mask'"):
        run(HiddenStates(layers=ONE, mask="atention_mask"), make(a=tokens), make(a=tokens), make_batch(2, attention_mask=MASK))
    with pytest.raises(RecipeError, match=r"this loss takes tokens \(N, T, C\)"):
        run(HiddenStates(layers=ONE), make(a=image), make(a=image), make_batch(2))
