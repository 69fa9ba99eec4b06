"""Gates on a report: every quantity, every form of the report, every way to end."""

import re
from xml.etree import ElementTree

import pytest
from rich.console import Console

from compress_cli.errors import GateError, RecipeError
from compress_cli.measurement.latency import Latency
from compress_cli.report import Report, Row, gates, junit, markdown, terminal
from compress_cli.statistics import gate
from compress_cli.statistics.intervals import Estimate


def estimate(low, value, high):
    return Estimate(value=value, low=low, high=high, samples=400)


def row(name, **figures):
    return Row(name=name, stage="train", key="k", cached=False, wall_time_s=1.0, **figures)


def made(name="int8", **more):
    latency = Latency(
        batch=1, threads=1, runs=9, p50_ms=estimate(0.9, 1.0, 1.1), p90_ms=1.5, p99_ms=2.0, throughput_per_s=1000.0
    )
    teacher = row("teacher", parameters=1000, macs=4000, size_bytes=4000, metrics={"accuracy": estimate(0.96, 0.98, 0.99)})
    small = row(
        name,
        parameters=500,
        macs=1000,
        size_bytes=1000,
        compression_ratio=4.0,
        metrics={"accuracy": estimate(0.95, 0.97, 0.98), "cross_entropy": estimate(0.1, 0.2, 0.3)},
        change=estimate(-0.02, -0.01, 0.005),
        secondary_changes={"cross_entropy": estimate(0.01, 0.02, 0.04)},
        latency=latency,
        speedup=estimate(1.6, 2.0, 2.5),
        **more,
    )
    return Report(
        recipe="r", seed=0, baseline="teacher", primary="accuracy", split="test", samples=400, rows=[teacher, small],
        machine={}, wall_time_s=1.0, directions={"accuracy": "higher", "cross_entropy": "lower"},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("promise", "low", "value", "high"),
    [
        ("accuracy>=0.9", 0.95, 0.97, 0.98),
        ("cross_entropy<=1", 0.1, 0.2, 0.3),
        ("accuracy_drop<=0.02", -0.005, 0.01, 0.02),
        ("accuracy_change>=-0.02", -0.02, -0.01, 0.005),
        ("accuracy_worse<=2%", -0.005, 0.01, 0.02),
        ("cross_entropy_change<=0.04", 0.01, 0.02, 0.04),
        ("cross_entropy_worse<=0.04", 0.01, 0.02, 0.04),
        ("cross_entropy_drop<=0.04", 0.01, 0.02, 0.04),
        ("latency_ms<=2", 0.9, 1.0, 1.1),
        ("latency_p90_ms<=2", 1.5, 1.5, 1.5),
        ("latency_p99_ms<=2", 2.0, 2.0, 2.0),
        ("throughput_per_s>=1k", 1000, 1000, 1000),
        ("speedup>=1.6", 1.6, 2.0, 2.5),
        ("latency_ratio<=0.625", 0.4, 0.5, 0.625),
        ("size_bytes<=1kB", 1000, 1000, 1000),
        ("size_ratio<=0.25", 0.25, 0.25, 0.25),
        ("compression_ratio>=4", 4, 4, 4),
        ("parameters_ratio<=0.5", 0.5, 0.5, 0.5),
        ("macs_ratio<=25e-2", 0.25, 0.25, 0.25),
        ("parameters<=500", 500, 500, 500),
        ("macs<=1k", 1000, 1000, 1000),
    ],
)
def test_every_quantity_is_of_the_last_row_and_judged_on_its_safe_end(promise, low, value, high):
    (result,) = gates.judge(made(), (gate.parse(promise),))
    assert (result.row, result.outcome) == ("int8", "met")
    assert (result.low, result.value, result.high) == pytest.approx((low, value, high))
    assert gates.judge(made(), (gate.parse(f"int8.{promise}"),))[0].value == result.value


def test_a_named_row():
    (result,) = gates.judge(made(), (gate.parse("teacher.size_bytes<=1kB"),))
    assert (result.row, result.value, result.outcome) == ("teacher", 4000, "not met")


@pytest.mark.parametrize("kind", ["drop", "worse"])
def test_a_drop_is_worse_by_whichever_way_is_better(kind):
    """An error that rose by 1.84 has dropped in no sense that a gate may mean."""
    rose = estimate(1.5, 1.84, 2.1)
    report = made().model_copy(
        update={"primary": "mae", "better": "lower", "rows": [row("teacher"), row("int8", change=rose)], "directions": {}}
    )
    (result,) = gates.judge(report, (gate.parse(f"mae_{kind}<=0.1"),))
    assert (result.outcome, result.value, result.low, result.high) == ("not met", 1.84, 1.5, 2.1)
    (signed,) = gates.judge(report, (gate.parse("mae_change<=0.1"),))
    assert signed.outcome == "not met"


def with_gates(report, *promises):
    return report.model_copy(update={"gates": gates.judge(report, tuple(map(gate.parse, promises)))})


def test_how_it_ends():
    gates.decide(with_gates(made(), "size_bytes<=1kB"))
    with pytest.raises(GateError, match=r"size_bytes<=999 \(int8\): not met: 1,000 bytes"):
        gates.decide(with_gates(made(), "accuracy>=0.9", "size_bytes<=999"))
    with pytest.raises(GateError, match=r"undecided: 0.01 \[-0.005, 0.02\]; needs about 9,600 more samples"):
        gates.decide(with_gates(made(), "accuracy_drop<=0.0125"))
    with pytest.raises(GateError, match="more rounds of timing"):
        gates.decide(with_gates(made(), "latency_ratio<=0.6"))
    with pytest.raises(GateError, match="no number of samples"):
        gates.decide(with_gates(made(), "accuracy_drop<=0.01"))
    unmeasured = made().model_copy(update={"rows": [row("teacher"), row("odd", reason="no word for operator 'foo'")]})
    with pytest.raises(RecipeError, match="not measured: no word for operator 'foo'"):
        gates.decide(with_gates(unmeasured, "accuracy>=0.9"))


def test_every_form_says_the_outcomes_and_escapes_names():
    name = 'a|b<i>&"\x1b[31m\x00'
    report = with_gates(made(name), "size_bytes<=1kB", "accuracy_drop<=0.001")
    console = Console(width=100, record=True, highlight=False, markup=False, file=open("/dev/null", "w"))  # noqa: SIM115
    terminal.show(report, console)
    for text in (console.export_text(), markdown.render(report), junit.render(report)):
        assert "\x1b" not in text
        assert "\x00" not in text
        assert re.search(r"size\\?_bytes(<|&lt;)=1kB", text), text
        assert "not met" not in text
        assert "undecided" in text
    assert "<i>" not in markdown.render(report)
    table = [line for line in markdown.render(report).splitlines() if line.endswith("samples |")]
    assert [len(re.findall(r"(?<!\\)\|", line)) for line in table] == [3]
    suite = ElementTree.fromstring(junit.render(report)).find("testsuite")
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    assert [case.get("classname") for case in suite] == ['r.a|b<i>&"?[31m?'] * 2
    assert [case.find("failure") is not None for case in suite] == [False, True]
    assert Report.model_validate_json(report.model_dump_json()) == report


def test_what_was_not_measured_is_an_error_in_junit():
    report = with_gates(made().model_copy(update={"rows": [row("teacher"), row("odd", reason="why")]}), "size_bytes<=1")
    suite = ElementTree.fromstring(junit.render(report)).find("testsuite")
    assert suite.get("errors") == "1"
    assert "why" in suite.find("testcase/error").get("message")
