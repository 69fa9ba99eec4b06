"""What limits a promise that does not hold is said from the figures of the run."""

from types import SimpleNamespace

import pytest

from compress_cli.auto import limits
from compress_cli.report import Row
from compress_cli.statistics.gate import GateResult
from compress_cli.statistics.intervals import Estimate


def row(name, speedup):
    exact = Estimate(value=speedup, low=speedup, high=speedup, samples=6)
    return Row(name=name, stage="", key="", cached=False, wall_time_s=0, size_bytes=10, speedup=exact)


def why(rows, fastest_ms):
    given = SimpleNamespace(latency=SimpleNamespace(p50_ms=SimpleNamespace(value=0.18)))
    decision = SimpleNamespace(
        given=SimpleNamespace(report=SimpleNamespace(rows=[given])), budget=SimpleNamespace(latency_share=1 / 6),
        why_nothing="", sizes=[1], fastest_ms=fastest_ms,
    )  # fmt: skip
    report = SimpleNamespace(rows=rows)
    return limits._speed(None, decision, report, GateResult(promise="speedup>=6", row="onnx", outcome="not met", passes=False))


def test_a_float_file_that_is_faster_than_what_ships_is_named():
    sentence = why([row("shallower", 6.33), row("onnx", 4.37)], 0.0434)
    assert "the integers limit it" in sentence
    assert "shallower" in sentence
    assert "6.33" in sentence


def test_the_runtime_limits_where_no_file_was_fast_enough():
    sentence = why([row("pruned", 2.2), row("onnx", 2.4)], 0.0434)
    assert "the runtime on this machine limits it" in sentence
    assert "0.03 ms are allowed" in sentence  # 0.18 / 6


@pytest.mark.parametrize(
    ("value", "expected"), [(6.1, "number of rounds of timing"), (5.8, "the runtime on this machine limits")]
)
def test_noise_limits_an_undecided_promise_only_where_the_value_keeps_it(monkeypatch, value, expected):
    result = GateResult(promise="speedup>=6", row="onnx", outcome="undecided", passes=False, value=value, low=4.3, high=8.8)
    monkeypatch.setattr(limits, "_speed", lambda *_: "the runtime on this machine limits it")
    (sentence,) = limits._why(None, None, SimpleNamespace(samples=10, split="test"), result)
    assert expected in sentence
