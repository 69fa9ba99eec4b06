"""PredictionComparison against figures worked out by hand and by other means, and its intervals against their promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from compress_cli.statistics.intervals import wilson
from compress_cli.statistics.predictions import (
    BINS,
    ScoredSamples,
    calibration_error,
    changed_sides,
    compare_predictions,
    softmax,
)


def answers(chosen, labels, classes=3, sure=4.0):
    """Scores whose highest is `sure` for the class said, 0 elsewhere."""
    scores = np.zeros((len(chosen), classes), np.float32)
    scores[np.arange(len(chosen)), chosen] = sure
    return ScoredSamples(scores, np.asarray(labels))


LABELS = np.array([0, 0, 0, 1, 1, 1, 2, 2, 2, 2])
BEFORE = np.array([0, 0, 1, 1, 1, 1, 2, 2, 2, 0])  # 8 right
AFTER = np.array([0, 1, 2, 1, 1, 0, 2, 2, 2, 2])  # 7 right: 1 and 5 lost, 9 gained, 2 wrong otherwise


def test_shares_by_hand():
    comparison = compare_predictions(answers(BEFORE, LABELS), answers(AFTER, LABELS), np.arange(10), ("cat", "dog"))
    assert comparison.agreement == wilson(6, 10)
    assert comparison.right_to_wrong == wilson(2, 10)
    assert comparison.wrong_to_right == wilson(1, 10)
    assert comparison.churn == wilson(3, 10)
    assert [(label.name, label.samples, label.change.value) for label in comparison.classes] == [
        ("cat", 3, pytest.approx(-1 / 3)),
        ("dog", 3, pytest.approx(-1 / 3)),
        ("2", 4, pytest.approx(0.25)),
    ]
    assert [(label.before, label.after) for label in comparison.classes] == [(2 / 3, 1 / 3), (1.0, 2 / 3), (0.75, 1.0)]
    assert comparison.worst_class_drop.value == pytest.approx(1 / 3)
    assert comparison.worst_class_drop.high > -min(label.change.low for label in comparison.classes)  # holds for all at once
    assert [(sample.index, sample.label, sample.before, sample.after) for sample in comparison.changed] == [
        (1, "cat", "cat", "dog"),
        (5, "dog", "dog", "cat"),
        (9, "2", "cat", "2"),
    ]


def test_divergence_by_hand():
    before, after = (ScoredSamples(np.log(np.array([[a, 1 - a]])), np.array([0])) for a in (0.8, 0.5))
    expected = 0.8 * math.log(0.8 / 0.5) + 0.2 * math.log(0.2 / 0.5)
    assert compare_predictions(before, after, np.arange(1)).kl.value == pytest.approx(expected)
    assert compare_predictions(after, after, np.arange(1)).kl.value == 0.0


def test_divergence_from_an_impossible_class_is_not_a_number_to_show():
    before = ScoredSamples(np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([0, 1]))
    after = ScoredSamples(np.array([[0.0, -np.inf], [0.0, 0.0]]), np.array([0, 1]))
    assert compare_predictions(before, after, np.arange(2)).kl is None
    assert compare_predictions(after, before, np.arange(2)).kl.value > 0  # the other way it is finite


def ece_by_loop(scored):
    """As Guo et al. 2017 write it, equation 3, bin by bin."""
    shares = np.exp(scored.scores) / np.exp(scored.scores).sum(axis=1, keepdims=True)
    confidence, right = shares.max(axis=1), shares.argmax(axis=1) == scored.labels
    total = 0.0
    for m in range(BINS):
        inside = (confidence >= m / BINS) & ((confidence < (m + 1) / BINS) | (m == BINS - 1))
        if inside.any():
            total += inside.sum() / len(right) * abs(right[inside].mean() - confidence[inside].mean())
    return total


def calibrated(samples, seed, sharper=1.0):
    """Scores whose softmax is the true distribution of labels, then made `sharper`."""
    random = np.random.default_rng(seed)
    scores = random.normal(0, 2, (samples, 4))
    labels = (softmax(scores).cumsum(axis=1) < random.random((samples, 1))).sum(axis=1)
    return ScoredSamples(sharper * scores, np.minimum(labels, 3))


@pytest.mark.parametrize("sharper", [0.3, 1.0, 3.0])
def test_calibration_error_is_that_of_the_paper(sharper):
    scored = calibrated(700, 0, sharper)
    assert calibration_error(scored).value == pytest.approx(ece_by_loop(scored), abs=1e-12)


def test_the_interval_of_the_calibration_error_holds_the_truth():
    """The truth from very many samples; 100 tries of 95%, seeded: 88 would be three deviations below."""
    truth = ece_by_loop(calibrated(400_000, 99, 2.0))
    errors = [calibration_error(calibrated(400, seed, 2.0)) for seed in range(100)]
    held = sum(error.low <= truth <= error.high for error in errors)
    assert held >= 88
    assert np.mean([error.high - error.low for error in errors]) < 0.1  # and says something


def test_overconfidence_is_seen():
    assert calibration_error(calibrated(2000, 1, 1.0)).low < 0.02 < 0.1 < calibration_error(calibrated(2000, 1, 3.0)).low


def test_the_drop_of_the_worst_class_is_not_chosen_by_chance():
    """Nothing changed but by chance, in 10 classes: the interval for all together holds 0 in nearly all of 60 tries, where
    the interval of the class that happens to look worst would not."""
    random, held, alone = np.random.default_rng(3), 0, 0
    labels = np.repeat(np.arange(10), 60)
    for _ in range(60):
        before, after = (np.where(random.random(600) < 0.8, labels, (labels + 1) % 10) for _ in range(2))
        comparison = compare_predictions(answers(before, labels, 10), answers(after, labels, 10), np.arange(600))
        held += comparison.worst_class_drop.low <= 0
        alone += comparison.classes[0].change.high >= 0
    assert held >= 56
    assert alone < held


def test_which_changed_samples_are_shown():
    labels = np.zeros(40, int)
    before = answers(np.r_[np.zeros(30, int), np.ones(10, int)], labels, sure=np.arange(40) / 10)
    after = answers(np.r_[np.ones(30, int), np.zeros(10, int)], labels)
    shown = changed_sides(before, after, 12)
    assert shown.tolist() == [*range(29, 21, -1), *range(39, 35, -1)]  # the surest lost ones, and a third for the gained
    assert changed_sides(before, before, 12).tolist() == []
    assert len(changed_sides(before, after, 1000)) == 40


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 40), st.integers(2, 6), st.integers(0, 2**32 - 1))
def test_shares_always_add_up(samples, classes, seed):
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, samples)
    before, after = (ScoredSamples(random.normal(0, 3, (samples, classes)), labels) for _ in range(2))
    comparison = compare_predictions(before, after, np.arange(samples))
    change = comparison.wrong_to_right.value - comparison.right_to_wrong.value
    assert comparison.churn.value == pytest.approx(comparison.wrong_to_right.value + comparison.right_to_wrong.value)
    assert change == pytest.approx(after.right.mean() - before.right.mean())
    assert sum(label.samples * label.change.value for label in comparison.classes) == pytest.approx(samples * change)
    assert comparison.agreement.value <= 1 - comparison.churn.value + 1e-12
    assert len(comparison.changed) <= 24
    for estimate in (comparison.agreement, comparison.churn, comparison.kl, comparison.ece, comparison.worst_class_drop):
        assert estimate.low <= estimate.value <= estimate.high
    back = compare_predictions(after, before, np.arange(samples))
    assert (back.right_to_wrong, back.wrong_to_right) == (comparison.wrong_to_right, comparison.right_to_wrong)


def test_what_can_not_be_compared_is_refused():
    some = answers(BEFORE, LABELS)
    with pytest.raises(ValueError, match="same samples"):
        compare_predictions(some, answers(BEFORE, LABELS[::-1]), np.arange(10))
    with pytest.raises(ValueError, match="no samples"):
        compare_predictions(answers([], np.array([], int)), answers([], np.array([], int)), np.arange(0))
