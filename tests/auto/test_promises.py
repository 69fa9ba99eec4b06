"""Promises are held against each other and against what can be measured, before any work."""

import math

import numpy as np
import pytest

from compress_cli.auto import promises, request
from compress_cli.data.datasets import Split
from compress_cli.data.tasks.classification import Classification
from compress_cli.errors import RecipeError
from compress_cli.measurement.latency import Latency
from compress_cli.report import Report, Row
from compress_cli.statistics.intervals import Estimate

METRICS = {"accuracy": "higher", "cross_entropy": "lower"}


def found(*texts):
    return promises.bounds(request.goals(list(texts)), METRICS)


def given(size_bytes, accuracy, latency_ms):
    """The report of a model alone."""
    exact = {"low": 0.0, "high": 1.0, "samples": 100}
    p50 = Estimate(value=latency_ms, low=latency_ms, high=latency_ms, samples=6)
    timed = Latency(batch=1, threads=1, runs=10, p50_ms=p50, p90_ms=1, p99_ms=1, throughput_per_s=1)
    row = Row(
        name="given", stage="", key="", cached=False, wall_time_s=0, size_bytes=size_bytes, parameters=10, macs=100,
        metrics={"accuracy": Estimate(value=accuracy, **exact)}, latency=timed,
    )  # fmt: skip
    return Report(
        recipe="r",
        seed=0,
        baseline="given",
        primary="accuracy",
        split="val",
        samples=100,
        rows=[row],
        machine={},
        wall_time_s=0,
    )


@pytest.mark.parametrize(
    "texts",
    [
        ("compression_ratio>=10", "size_ratio>=0.5"),
        ("speedup>=4", "latency_ratio>=0.3"),
        ("accuracy>=0.9", "accuracy<=0.8"),
        ("accuracy_drop<=0.01", "accuracy_change<=-0.02"),
        ("agreement>=0.99", "churn>=0.05"),
        ("accuracy>=1.0", "accuracy<=0.999"),
    ],
)
def test_promises_that_no_model_keeps_together_are_found(texts):
    (line,) = promises.contradictions(found(*texts))
    assert all(text in line for text in texts)
    assert "contradict" in line


@pytest.mark.parametrize(
    "texts",
    [
        ("compression_ratio>=10", "size_ratio<=0.5"),
        ("accuracy_drop<=0.01", "accuracy_change>=-0.02"),
        ("cross_entropy_drop<=0.1", "cross_entropy_worse<=0.2"),
        ("speedup>=4", "latency_ratio<=0.3", "compression_ratio>=2"),
    ],
)
def test_promises_that_go_together_are_let_through(texts):
    assert promises.contradictions(found(*texts)) == []


def test_a_relative_promise_meets_an_absolute_one_once_the_given_model_is_known():
    goals = request.goals(["compression_ratio>=10", "size_bytes>=200kB"])
    assert promises.contradictions(promises.bounds(goals, METRICS)) == []  # nobody knows yet
    with pytest.raises(RecipeError, match="contradict"):
        promises.budget(goals, Classification(), given(1_000_000, 0.9, 1.0))  # a tenth is 100 kB
    promises.budget(goals, Classification(), given(3_000_000, 0.9, 1.0))


def test_what_can_never_be_is_refused():
    (line,) = promises.contradictions(found("agreement>=1.0", "compression_ratio>=2")) or [""]
    assert line == ""
    with pytest.raises(RecipeError, match="at most 1"):
        promises.budget(request.goals(["accuracy_drop<=-0.2"]), Classification(), given(10**6, 0.9, 1.0))
    with pytest.raises(RecipeError, match="no ONNX file"):
        promises.budget(request.goals(["compression_ratio>=100000"]), Classification(), given(10**6, 0.9, 1.0))


def test_the_budget_is_what_the_goals_leave():
    goals = request.goals(["compression_ratio>=10", "size_bytes<=50kB", "speedup>=4", "latency_ms<=0.5", "accuracy>=0.88"])
    left = promises.budget(goals, Classification(), given(1_000_000, 0.9, 1.0))
    assert left.bytes_share == pytest.approx(0.05)  # 50 kB is less than a tenth of 1 MB
    assert left.latency_share == pytest.approx(0.25)  # 0.5 ms of 1 ms is more than a quarter
    assert left.drop == pytest.approx(0.02)


def test_without_goals_about_a_quantity_nothing_is_asked_of_it():
    left = promises.budget(request.goals(["accuracy_drop<=0.01"]), Classification(), given(1_000_000, 0.9, 1.0))
    assert (left.bytes_share, left.latency_share) == (1, 1)
    assert promises.budget(request.goals(["speedup>=2"]), Classification(), given(10**6, 0.9, 1.0)).drop is None


class Unlabelled:
    def split(self, name):
        return Split({"x": np.zeros((3, 2))}, {}, np.arange(3))


def test_accuracy_without_labels_is_refused_and_agreement_is_offered():
    with pytest.raises(RecipeError, match="no labels on val") as refused:
        promises.check(request.goals(["accuracy_drop<=0.01"]), Unlabelled(), Classification())
    assert "agreement>=" in str(refused.value)


def test_a_quantity_that_there_is_not_is_answered_with_the_nearest():
    with pytest.raises(RecipeError, match="did you mean 'accuracy_drop'"):
        promises.check(request.goals(["acuracy_drop<=0.01"]), Unlabelled(), Classification())


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("60m", 3600), ("1h30m", 5400), ("1.5h", 5400), ("5min", 300)])
def test_times_are_read(text, seconds):
    assert request.seconds(text) == seconds


@pytest.mark.parametrize("text", ["", "0s", "60", "m", "-5m", "an hour", "5m 3", "nan"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(RecipeError, match="--within"):
        request.seconds(text)


def test_a_goal_names_no_stage_and_is_well_formed():
    with pytest.raises(RecipeError) as refused:
        request.goals(["int8.size_bytes<=2kB", "speedup=>2"])
    assert "leave 'int8.' out" in str(refused.value)
    assert "--goal 'speedup=>2'" in str(refused.value)
    with pytest.raises(RecipeError, match="nothing is promised"):
        request.goals([])


def test_an_open_end_stays_open_through_an_inversion():
    (bound,) = found("compression_ratio>=4")
    assert (bound.axis, bound.low, bound.high) == ("size_ratio", 0, 0.25)
    (bound,) = found("speedup<=4")
    assert (bound.low, bound.high) == (0.25, math.inf)
