"""Figures over folds, against the formula by hand."""

import math
from statistics import fmean, stdev

import pytest
from scipy import stats

from compress_cli.statistics.folds import CHANGE_OF_SHARE, SHARE, distilled_over_folds, over_folds, predictions_over_folds
from compress_cli.statistics.intervals import Estimate, paired_difference, wilson
from compress_cli.statistics.predictions import ClassChange, PredictionComparison
from compress_cli.statistics.repeats import Distilled


def exact(value, samples=100):
    return Estimate(value=value, low=value, high=value, samples=samples)


@pytest.mark.parametrize("values", [[0.7, 0.8], [0.81, 0.79, 0.84, 0.8, 0.77], [-0.1, 0.02, 0.0, -0.03]])
def test_the_interval_is_nadeau_and_bengios(values):
    k = len(values)
    half = stats.t.ppf(0.975, k - 1) * math.sqrt((1 / k + 1 / (k - 1)) * stdev(values) ** 2)
    mean = over_folds([exact(value) for value in values])
    assert (mean.value, mean.samples) == (pytest.approx(fmean(values)), 100 * k)
    assert (mean.low, mean.high) == pytest.approx((fmean(values) - half, fmean(values) + half), abs=2e-3 * half)


def test_folds_that_agree_by_chance_do_not_make_a_figure_certain():
    """Three folds of 50 samples with 45 right each: no narrower than an interval of 150 samples."""
    mean, together = over_folds([wilson(45, 50)] * 3), wilson(135, 150)
    assert mean.value == pytest.approx(0.9)
    assert mean.high - mean.low == pytest.approx(together.high - together.low, rel=0.1)


def test_an_interval_of_a_share_ends_at_one():
    assert over_folds([exact(0.99), exact(0.9)], SHARE).high == 1.0
    assert over_folds([exact(0.99), exact(0.9)]).high > 1.0
    change = over_folds([exact(-0.02), exact(0.3)], CHANGE_OF_SHARE)  # t of one degree of freedom: 12.7 standard errors
    assert (change.low, change.high) == (-1.0, 1.0)


def compared(agreement, name, samples, before, after):
    figure = exact(agreement, samples)
    change = ClassChange(name=name, samples=samples, before=before, after=after, change=exact(after - before, samples))
    names = ("agreement", "right_to_wrong", "wrong_to_right", "churn", "ece", "ece_baseline", "worst_class_drop")
    return PredictionComparison(
        samples=samples, kl=None, classes=[change], changed=[], **dict.fromkeys(names, figure)
    )  # fmt: skip


def test_a_class_has_the_share_of_all_its_samples():
    folds = [compared(0.8, "cat", 10, 0.5, 0.4), compared(0.9, "cat", 30, 0.9, 0.9), compared(1.0, "dog", 5, 1.0, 1.0)]
    together = predictions_over_folds(folds)
    cat, dog = together.classes
    assert (cat.samples, cat.before, cat.after) == (40, pytest.approx((5 + 27) / 40), pytest.approx((4 + 27) / 40))
    assert (dog.name, dog.before) == ("dog", 1.0)
    assert together.agreement.value == pytest.approx(0.9)
    assert together.samples == 45


def test_a_teacher_is_judged_by_the_mean_over_the_folds():
    import numpy as np

    def fold(better_by):
        right = np.arange(200) % 2 == 0
        difference = paired_difference(right, right | (np.arange(200) < better_by))
        return Distilled(
            row="s", teacher="t", headroom=exact(0.2, 200), seeds=[0], student=[0.5 + difference.value], control=[0.5],
            difference=difference, gap_closed=difference.value / 0.2, gaps_closed=[difference.value / 0.2], verdict="helped",
        )  # fmt: skip

    worth = distilled_over_folds([fold(20), fold(24), fold(28)], "higher")
    assert worth.difference.value == pytest.approx((10 + 12 + 14) / 3 / 200)
    assert worth.gap_closed == pytest.approx(0.06 / 0.2)
    assert (worth.over, worth.seeds, worth.verdict, worth.control) == ("folds", [1, 2, 3], "helped", [0.5] * 3)
    unsure = distilled_over_folds([fold(0), fold(40)], "higher")
    assert unsure.verdict == "no difference shown", "two folds so far apart show nothing"
