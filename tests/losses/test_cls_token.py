import numpy as np
import pytest
import torch

from compress_cli.data.batch import Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.cls_token import ClsToken

ONE = (Pair(student="a", teacher="a"),)


def test_compares_the_first_tokens_divided_by_their_length(make, make_batch, run, random):
    """Of patient KD: the squared distance of two vectors of length 1 is 2 - 2 * cosine."""
    s, t = random.randn(3, 4, 6), random.randn(3, 9, 6)  # as many tokens are not needed
    cosine = [s[n, 0] @ t[n, 0] / np.sqrt((s[n, 0] @ s[n, 0]) * (t[n, 0] @ t[n, 0])) for n in range(3)]
    assert run(ClsToken(layers=ONE), make(a=s), make(a=t), make_batch(3)) == pytest.approx(np.mean([2 - 2 * c for c in cosine]))
    assert run(ClsToken(layers=ONE), make(a=5 * t), make(a=t), make_batch(3)) == pytest.approx(0, abs=1e-12)


def test_its_gradient_turns_the_state_and_leaves_its_length(make, make_batch, random):
    """Of 2 - 2 * s.t / (|s| |t|) by hand: -2 / |s| * (t/|t| - cosine * s/|s|), over the number of samples."""
    state, t = torch.tensor(random.randn(3, 4, 6), requires_grad=True), random.randn(3, 4, 6)
    loss = ClsToken(layers=ONE)
    student = Outputs({}, {"a": state})
    loss(student, (make(a=t),), make_batch(3), loss.adapter(student, (make(a=t),), 3)).backward()
    s, t = state.detach().numpy()[:, 0], t[:, 0]
    length = np.linalg.norm(s, axis=1, keepdims=True)
    s_unit, t_unit = s / length, t / np.linalg.norm(t, axis=1, keepdims=True)
    cosine = (s_unit * t_unit).sum(1, keepdims=True)
    np.testing.assert_allclose(state.grad[:, 0], -2 / length * (t_unit - cosine * s_unit) / 3)
    assert (state.grad[:, 1:] == 0).all()


def test_other_features_are_refused(make):
    with pytest.raises(RecipeError, match=r"the first token is read from features \(N, T, C\); these have shape \(N, 3\)"):
        ClsToken(layers=ONE).adapter(make(a=np.zeros((2, 3))), (make(a=np.zeros((2, 3))),), 10)
