"""Shares of several teachers against NumPy, in float64."""

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

LOGITS = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 3
LABELS = torch.tensor([0, 1, 2, 3, 0])
BATCH = Batch({}, {"label": LABELS}, torch.arange(5))


def combination(name, **settings):
    return find(Combination, name).model_validate(settings)


def shares(name, logits=LOGITS, batch=BATCH, **settings):
    combine = combination(name, **settings)
    return combine.shares(logits, batch, combine.adapter(len(logits))).detach().numpy()


@pytest.mark.parametrize("name", names(Combination))
def test_shares_sum_to_one(name):
    values = shares(name, **({"weights": [1.0, 2.0, 5.0]} if name == "weighted" else {}))
    np.testing.assert_allclose(values.sum(0), 1)
    assert values.min() >= 0
    assert re.search(r"\b(19|20)\d\d\b", inspect.getdoc(find(Combination, name))) or name == "weighted"


def test_the_mean_weighs_all_alike():
    np.testing.assert_allclose(shares("mean"), [1 / 3] * 3)


def test_weights_are_shares_of_their_sum():
    np.testing.assert_allclose(shares("weighted", weights=[1.0, 0.0, 3.0]), [0.25, 0, 0.75])


@pytest.mark.parametrize("by", ["label", "entropy"])
@pytest.mark.parametrize("name", ["confidence", "confidence_mixture"])
def test_confidence_goes_by_cross_entropy_or_entropy_of_each_sample(name, by):
    p = np.exp(LOGITS.numpy()) / np.exp(LOGITS.numpy()).sum(2, keepdims=True)
    for sample in range(5):
        doubts = [
            -np.log(p[k, sample, LABELS[sample]]) if by == "label" else -(p[k, sample] * np.log(p[k, sample])).sum()
            for k in range(3)
        ]
        expected = [(1 - np.exp(doubt) / np.exp(doubts).sum()) / 2 for doubt in doubts]
        np.testing.assert_allclose(shares(name, by=by)[:, sample], expected)
    most_confident = shares(name, by=by).argmax(0)
    assert len(set(most_confident)) > 1  # of other samples, other teachers


def test_confidence_by_entropy_needs_no_labels():
    shares("confidence", batch=Batch({}, {}, BATCH.index), by="entropy")
    with pytest.raises(RecipeError, match="needs the label of every sample"):
        shares("confidence", batch=Batch({}, {}, BATCH.index))
    with pytest.raises(RecipeError, match=r"heads \(N, classes\) of two classes or more"):
        shares("confidence", logits=LOGITS[:, :, :1])


def test_a_sample_without_a_label_weighs_all_teachers_alike():
    some = Batch({}, {"label": torch.tensor([0, -100, 2, 3, 0])}, BATCH.index)
    labelled, mixed = shares("confidence"), shares("confidence", batch=some)
    np.testing.assert_allclose(mixed[:, 1], 1 / 3)
    np.testing.assert_allclose(mixed[:, [0, 2, 3, 4]], labelled[:, [0, 2, 3, 4]])


def test_learned_weights_go_to_who_is_right():
    right = 4 * torch.nn.functional.one_hot(LABELS, 4).double()
    logits = torch.stack([LOGITS[0], right, LOGITS[1]])
    learned = combination("learned")
    adapter = learned.adapter(3).double()
    descent = torch.optim.SGD(adapter.parameters(), lr=1.0)
    for _ in range(100):
        combined = (logits * learned.shares(logits, BATCH, adapter)[:, None, None]).sum(0)
        expected = torch.nn.functional.cross_entropy(combined, LABELS)
        loss = learned.loss(combined, BATCH)
        torch.testing.assert_close(loss, expected)
        descent.zero_grad()
        loss.backward()
        descent.step()
    learnt = learned.shares(logits, BATCH, adapter)
    assert learnt.argmax() == 1
    assert learnt[1] > 0.8


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"weights": [0.0, 0.0]}, "the weights sum to 0"),
        ({"weights": [1.0]}, "at least 2"),
        ({"weights": [-1.0, 2.0]}, "0"),
    ],
)
def test_weights_that_make_no_sense_are_refused(settings, word):
    with pytest.raises(ValidationError, match=word):
        combination("weighted", **settings)
