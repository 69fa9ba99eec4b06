import numpy as np
import pytest

from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.first_token import FirstToken

ONE = (Pair(student="a", teacher="a"),)


@pytest.mark.parametrize("distance", ["mse", "l1"])
def test_compares_the_first_tokens_as_they_are(make, make_batch, run, random, distance):
    s, t = random.randn(3, 4, 6), random.randn(3, 9, 6)  # as many tokens are not needed
    difference = s[:, 0] - t[:, 0]
    expected = (difference**2).mean() if distance == "mse" else abs(difference).mean()
    assert run(FirstToken(layers=ONE, distance=distance), make(a=s), make(a=t), make_batch(3)) == pytest.approx(expected)


def test_other_features_are_refused(make):
    with pytest.raises(RecipeError, match="the first token is read from features"):
        FirstToken(layers=ONE).adapter(make(a=np.zeros((2, 3))), (make(a=np.zeros((2, 3))),), 10)
