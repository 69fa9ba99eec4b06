"""Spread over seeds and the worth of a teacher, against hand counts and simulation."""

import numpy as np
import pytest

from compress_cli.statistics import scores
from compress_cli.statistics.repeats import distilled, spread


@pytest.fixture
def right(score_of):
    """`right(share)`: so many samples are right, the first ones or, with a seed, any."""

    def _right(share, samples=1000, seed=None):
        values = np.arange(samples) < round(share * samples)
        return score_of(values if seed is None else np.random.default_rng(seed).permutation(values))

    return _right


def test_spread_is_mean_and_sample_deviation():
    over_seeds = spread("student", {0: 0.9, 3: 0.8, 7: 0.7})
    assert (over_seeds.mean, over_seeds.deviation) == (pytest.approx(0.8), pytest.approx(0.1))
    assert over_seeds.seeds == [0, 3, 7]


def test_gap_closed_is_the_share_of_the_way_from_control_to_teacher(right):
    worth = distilled("student", ("teacher", right(0.9)), {0: right(0.8)}, {0: right(0.6)}, "higher")
    assert worth.gap_closed == pytest.approx((0.8 - 0.6) / (0.9 - 0.6))
    assert worth.gaps_closed == [pytest.approx(2 / 3)]
    assert worth.verdict == "helped"
    assert worth.difference.value == pytest.approx(0.2)


def test_a_student_worse_than_its_control_was_hurt(right):
    worth = distilled("student", ("teacher", right(0.9)), {0: right(0.5)}, {0: right(0.6)}, "higher")
    assert worth.verdict == "hurt"
    assert worth.gap_closed == pytest.approx(-1 / 3)


def test_where_less_is_better_the_signs_turn_and_the_gap_does_not(score_of):
    means = {"t": 1.0, "s": 1.5, "c": 2.0}
    loss = {name: score_of(np.random.default_rng(1).normal(mean, 0.1, 500)) for name, mean in means.items()}
    worth = distilled("student", ("teacher", loss["t"]), {0: loss["s"]}, {0: loss["c"]}, "lower")
    assert worth.verdict == "helped"
    assert worth.gap_closed == pytest.approx(0.5, abs=0.02)


def test_no_gap_is_closed_where_the_teacher_is_no_better_than_the_control(right):
    teacher, control = right(0.8, seed=1), right(0.8, seed=2)
    worth = distilled("student", ("teacher", teacher), {0: right(0.8, seed=3)}, {0: control}, "higher")
    assert (worth.gap_closed, worth.gaps_closed, worth.verdict) == (None, None, "no difference shown")


def test_seeds_that_disagree_widen_the_interval_as_student_says(right, monkeypatch):
    monkeypatch.setattr(scores, "RESAMPLES", 200)
    control = {seed: right(0.5, 10_000) for seed in range(3)}
    student = {seed: right(0.5 + gain, 10_000) for seed, gain in enumerate((0.0, 0.1, 0.2))}
    worth = distilled("student", ("teacher", right(0.9, 10_000)), student, control, "higher")
    half = 4.303 * 0.1 / 3**0.5  # the samples add next to nothing
    assert worth.difference.value == pytest.approx(0.1)
    assert worth.difference.high - worth.difference.value == pytest.approx(half, rel=0.02)
    assert worth.verdict == "no difference shown"


def test_a_teacher_without_worth_is_rarely_said_to_help_or_hurt(right, score_of, monkeypatch):
    """Student and control are alike: seeds move them by 2 points, samples by chance. Nominally 5% are called either."""
    monkeypatch.setattr(scores, "RESAMPLES", 500)
    random = np.random.default_rng(0)
    called = 0
    for _ in range(200):
        runs = [score_of(random.random(400) < 0.8 + random.normal(0, 0.02)) for _ in range(6)]
        made = distilled("s", ("t", right(0.95, 400)), dict(enumerate(runs[:3])), dict(enumerate(runs[3:])), "higher")
        called += made.verdict != "no difference shown"
    assert called <= 20  # at a true 5%, more than 20 of 200 come once in 1,000 times


def test_a_teacher_worse_than_the_control_leaves_no_gap(right):
    worth = distilled("student", ("teacher", right(0.5)), {0: right(0.6)}, {0: right(0.7)}, "higher")
    assert (worth.gap_closed, worth.gaps_closed, worth.verdict) == (None, None, "hurt")
    assert worth.headroom.high < 0


def test_the_worth_of_a_teacher_that_was_not_measured_is_told_without_a_gap(right):
    worth = distilled("student", None, {0: right(0.8)}, {0: right(0.6)}, "higher")
    assert (worth.teacher, worth.headroom, worth.gap_closed, worth.verdict) == ("", None, None, "helped")
