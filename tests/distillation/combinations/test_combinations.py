"""Several teachers become one: shares against NumPy, in float64."""

import inspect
import re

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress_cli.data.batch import Batch
from compress_cli.distillation.combinations import Combination
from compress_cli.errors import RecipeError
from compress_cli.plugin import find, names

SAID = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 1, 2, 3, 0])
BATCH = Batch({}, {"label": LABELS}, torch.arange(5))


def combination(name, **settings):
    return find(Combination, name).model_validate(settings)


def shares(name, said=SAID, batch=BATCH, **settings):
    made = combination(name, **settings)
    return made.shares(said, batch, made.adapter(len(said))).detach().numpy()


@pytest.mark.parametrize("name", names(Combination))
def test_shares_sum_to_one(name):
    found = shares(name, **({"weights": [1.0, 2.0, 5.0]} if name == "weighted" else {}))
    np.testing.assert_allclose(found.sum(0), 1)
    assert found.min() >= 0
    assert re.search(r"\b(19|20)\d\d\b", inspect.getdoc(find(Combination, name))) or name == "weighted"


def test_the_mean_hears_all_alike():
    np.testing.assert_allclose(shares("mean"), [1 / 3] * 3)


def test_weights_are_shares_of_their_sum():
    np.testing.assert_allclose(shares("weighted", weights=[1.0, 0.0, 3.0]), [0.25, 0, 0.75])


@pytest.mark.parametrize("by", ["label", "entropy"])
def test_confidence_goes_by_cross_entropy_or_entropy_of_each_sample(by):
    logits = SAID.numpy()
    p = np.exp(logits) / np.exp(logits).sum(2, keepdims=True)
    for sample in range(5):
        doubts = [
            -np.log(p[k, sample, LABELS[sample]]) if by == "label" else -(p[k, sample] * np.log(p[k, sample])).sum()
            for k in range(3)
        ]
        expected = [(1 - np.exp(each) / np.exp(doubts).sum()) / 2 for each in doubts]
        np.testing.assert_allclose(shares("confidence", by=by)[:, sample], expected)
    surest = shares("confidence", by=by).argmax(0)
    assert len(set(surest)) > 1  # of other samples, other teachers


def test_confidence_by_entropy_needs_no_labels():
    shares("confidence", batch=Batch({}, {}, BATCH.index), by="entropy")
    with pytest.raises(RecipeError, match="needs the label of every sample"):
        shares("confidence", batch=Batch({}, {}, BATCH.index))
    with pytest.raises(RecipeError, match="needs heads"):
        shares("confidence", said=SAID[:, :, :1])


def test_learned_weights_go_to_who_is_right():
    right = 4 * torch.nn.functional.one_hot(LABELS, 4).double()
    said = torch.stack([SAID[0], right, SAID[1]])
    made = combination("learned")
    adapter = made.adapter(3).double()
    descent = torch.optim.SGD(adapter.parameters(), lr=1.0)
    for _ in range(100):
        combined = (said * made.shares(said, BATCH, adapter)[:, None, None]).sum(0)
        expected = torch.nn.functional.cross_entropy(combined, LABELS)
        loss = made.loss(combined, BATCH)
        torch.testing.assert_close(loss, expected)
        descent.zero_grad()
        loss.backward()
        descent.step()
    found = made.shares(said, BATCH, adapter)
    assert found.argmax() == 1
    assert found[1] > 0.8


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"weights": [0.0, 0.0]}, "the weights sum to nothing"),
        ({"weights": [1.0]}, "at least 2"),
        ({"weights": [-1.0, 2.0]}, "0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(settings, word):
    with pytest.raises(ValidationError, match=word):
        combination("weighted", **settings)
