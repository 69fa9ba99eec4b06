import numpy as np
import pytest

from compress_cli.errors import RecipeError
from compress_cli.losses import Pair
from compress_cli.losses.cls_token import ClsToken

ONE = (Pair(student="a", teacher="a"),)


def test_reads_the_first_token_alone(make, make_batch, run, random):
    s, t = random.randn(3, 4, 6), random.randn(3, 9, 6)  # as many tokens are not needed
    assert run(ClsToken(layers=ONE), make(a=s), make(a=t), make_batch(3)) == pytest.approx(((s[:, 0] - t[:, 0]) ** 2).mean())


def test_other_features_are_refused(make):
    with pytest.raises(RecipeError, match="the first token is read from features"):
        ClsToken(layers=ONE).adapter(make(a=np.zeros((2, 3))), (make(a=np.zeros((2, 3))),), 10)
