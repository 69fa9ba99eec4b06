"""What limits a promise that does not hold is said from the figures of the run."""

from types import SimpleNamespace

import pytest

from compress_cli.auto import limits
from compress_cli.auto.decision import Decision
from compress_cli.report import Row
from compress_cli.statistics.gate import GateResult
from compress_cli.statistics.intervals import Estimate


def row(name, speedup):
    exact = Estimate(value=speedup, low=speedup, high=speedup, samples=6)
    return Row(name=name, stage="", key="", cached=False, wall_time_s=0, size_bytes=10, speedup=exact)


def why(rows, *speedups):
    files = {str(number): SimpleNamespace(speedup=speedup, latency_ms=1.0) for number, speedup in enumerate(speedups)}
    tried = [SimpleNamespace(rehearsal=SimpleNamespace(files=files))]
    decision = Decision(None, SimpleNamespace(latency_share=1 / 6), sizes=tried)
    report = SimpleNamespace(rows=rows)
    return limits._speed(None, decision, report, GateResult(promise="speedup>=6", row="onnx", outcome="not met", passes=False))


def test_a_float_file_that_is_faster_than_what_ships_is_named():
    sentence = why([row("shallower", 6.33), row("onnx", 4.37)], 4.15)
    assert "the integers limit it" in sentence
    assert "shallower" in sentence
    assert "6.33" in sentence


def test_the_runtime_limits_where_no_file_was_fast_enough():
    sentence = why([row("pruned", 2.2), row("onnx", 2.4)], 2.2, 4.15)
    assert "the runtime on this machine limits it" in sentence
    assert "the fastest is 4.15 times as fast as the given model, and 6.00 times are asked" in sentence


def test_a_file_that_was_fast_enough_when_it_was_timed_acquits_the_runtime():
    """However many milliseconds it took: the given model, in turn with it, was slower at that time too."""
    assert "a file as fast was found (6.77 times" in why([row("shallower", 3.95), row("onnx", 5.73)], 3.95, 6.77)


@pytest.mark.parametrize(
    ("value", "expected"), [(6.1, "number of rounds of timing"), (5.8, "the runtime on this machine limits")]
)
def test_noise_limits_an_undecided_promise_only_where_the_value_keeps_it(monkeypatch, value, expected):
    result = GateResult(promise="speedup>=6", row="onnx", outcome="undecided", passes=False, value=value, low=4.3, high=8.8)
    monkeypatch.setattr(limits, "_speed", lambda *_: "the runtime on this machine limits it")
    (sentence,) = limits._why(None, None, SimpleNamespace(samples=10, split="test"), result)
    assert expected in sentence


def metric_row(name, stage, value, gained, made_from=""):
    exact = {"value": value, "low": value, "high": value, "samples": 100}
    lost = None if gained is None else Estimate(value=gained, low=gained, high=gained, samples=100)
    metrics = {"accuracy": Estimate(**exact)}
    return Row(
        name=name, stage=stage, key="", cached=False, wall_time_s=0, metrics=metrics, gained=lost, made_from=made_from
    )  # fmt: skip


@pytest.mark.parametrize(
    ("promise", "student", "int8", "expected"),
    [
        ("accuracy_drop<=0.01", -0.02, -0.01, "the student model's accuracy limits it"),
        ("accuracy_drop<=0.01", -0.01, -0.02, "the integers limit it"),
        ("accuracy_drop<=-0.01", 0.0, 0.0, "the given model limits it, whose own accuracy is 90.00%"),
        ("accuracy>=0.95", -0.01, -0.02, "the given model limits it, whose own accuracy is 90.00%"),
        ("accuracy>=0.89", -0.01, -0.02, "the integers limit it"),
    ],
)
def test_the_stage_that_loses_most_limits_a_metric_or_the_given_model_itself(promise, student, int8, expected):
    rows = [
        metric_row("given", "load", 0.9, None),
        metric_row("student", "distill", 0.9 + student, student, "given"),
        metric_row("int8", "quantize", 0.9 + student + int8, int8, "student"),
    ]
    report = SimpleNamespace(primary="accuracy", better="higher", rows=rows, files=rows, baseline="given")
    result = GateResult(promise=promise, row="int8", outcome="not met", passes=False, value=rows[-1].metrics["accuracy"].value)
    sentence = limits._metric(report, result)
    assert expected in sentence
    assert f"student {-100 * student:.2f}%, int8 {-100 * int8:.2f}%".replace("-0.00", "0.00") in sentence
