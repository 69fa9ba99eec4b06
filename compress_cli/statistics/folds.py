"""Figures over the folds of a cross-validation."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from compress_cli.statistics.gate import sort_of
from compress_cli.statistics.intervals import Estimate
from compress_cli.statistics.predictions import ClassChange, PredictionComparison
from compress_cli.statistics.repeats import T975, Distilled, gap_closed, verdict
from compress_cli.statistics.scores import Better

QUANTITIES = ("agreement", "right_to_wrong", "wrong_to_right", "churn", "ece", "ece_baseline", "worst_class_drop")

Range = tuple[float, float]
ANY: Range = (-math.inf, math.inf)
SHARE: Range = (0.0, 1.0)
CHANGE_OF_SHARE: Range = (-1.0, 1.0)


def range_of(metric: str, changed: bool = False) -> Range:
    """The values that a metric, or its change, can have."""
    return (CHANGE_OF_SHARE if changed else SHARE) if sort_of(metric) == "share" else ANY


def over_folds(figures: Sequence[Estimate], within: Range = ANY) -> Estimate:
    """The mean of a figure over k folds, with a 95% interval for models trained on so many samples.

    Training sets of different folds share most of their samples, so the folds' figures are not independent: their variance
    counts 1/k + 1/(k - 1) times instead of 1/k (Nadeau and Bengio 2003, doi:10.1023/A:1024068626366, with test parts of
    1/(k - 1) of the training samples), with Student's t of k - 1 degrees of freedom. The interval is never narrower than
    the tested samples alone make it: few folds may agree by chance. It ends where the figure's range `within` does: Student's t
    knows nothing of it, and the true mean lies in both.
    """
    count, values = len(figures), [figure.value for figure in figures]
    mean = statistics.fmean(values)
    factor = T975[min(count - 1, len(T975)) - 1] * math.sqrt(1 / count + 1 / (count - 1))
    folds = factor * statistics.stdev(values)
    below = math.hypot(*(figure.value - figure.low for figure in figures)) / count
    above = math.hypot(*(figure.high - figure.value for figure in figures)) / count
    low, high = mean - max(folds, below), mean + max(folds, above)
    samples = sum(figure.samples for figure in figures)
    return Estimate(value=mean, low=max(within[0], low), high=min(within[1], high), samples=samples)


def predictions_over_folds(comparisons: Sequence[PredictionComparison]) -> PredictionComparison:
    """The means of all figures; of a class those of the folds that test it, and the changed samples of every fold."""
    means = {
        name: over_folds(
            [getattr(comparison, name) for comparison in comparisons], CHANGE_OF_SHARE if name == "worst_class_drop" else SHARE
        )
        for name in QUANTITIES
    }
    kl = [comparison.kl for comparison in comparisons if comparison.kl]
    by_class: dict[str, list[ClassChange]] = {}
    for comparison in comparisons:
        for change in comparison.classes:
            by_class.setdefault(change.name, []).append(change)
    classes = [_class(changes) for changes in by_class.values()]
    return PredictionComparison(
        samples=sum(comparison.samples for comparison in comparisons),
        kl=over_folds(kl) if len(kl) == len(comparisons) else None,
        classes=sorted(classes, key=lambda change: round(change.change.value, 9)),
        changed=[sample for comparison in comparisons for sample in comparison.changed],
        **means,
    )


def distilled_over_folds(folds: Sequence[Distilled], better: Better) -> Distilled:
    """What a teacher was worth, on the mean over the folds."""
    first = folds[0]
    range_of_change = range_of(first.metric, changed=True)
    difference = over_folds([fold.difference for fold in folds], range_of_change)
    headrooms = [fold.headroom for fold in folds if fold.headroom]
    headroom = (
        over_folds(headrooms, range_of_change)
        if len(headrooms) == len(folds) and len({fold.teacher for fold in folds}) == 1
        else None
    )
    gaps = [gap for fold in folds for gap in fold.gaps_closed or ()]
    gap = gap_closed(difference, headroom, better)
    return first.model_copy(
        update={
            "teacher": first.teacher if headroom else "",
            "headroom": headroom,
            "over": "folds",
            "seeds": list(range(1, len(folds) + 1)),
            "student": [value for fold in folds for value in fold.student],
            "control": [value for fold in folds for value in fold.control],
            "difference": difference,
            "gap_closed": gap,
            "gaps_closed": gaps if gap is not None and len(gaps) == len(folds) else None,
            "verdict": verdict(difference, better),
        }
    )


def _class(changes: Sequence[ClassChange]) -> ClassChange:
    """Of one class in the folds that test it; its shares are of all its samples."""
    samples = sum(change.samples for change in changes)
    before, after = (
        sum(getattr(change, side) * change.samples for change in changes) / samples for side in ("before", "after")
    )  # fmt: skip
    change = over_folds([change.change for change in changes], CHANGE_OF_SHARE) if len(changes) > 1 else changes[0].change
    return ClassChange(name=changes[0].name, samples=samples, before=before, after=after, change=change)
