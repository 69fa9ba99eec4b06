"""A gate is met only where the whole interval keeps it."""

import math

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from compress_cli.errors import RecipeError
from compress_cli.statistics.gate import Gate, changed, impossible, judge, parse, sort_of
from compress_cli.statistics.intervals import Estimate, wilson


def estimate(low, value, high, samples=100):
    return Estimate(value=value, low=low, high=high, samples=samples)


@pytest.mark.parametrize(
    ("text", "row", "quantity", "at_most", "limit"),
    [
        ("accuracy_drop<=0.01", "", "accuracy_drop", True, 0.01),
        (" accuracy >= 95% ", "", "accuracy", False, 0.95),
        ("int8.size_bytes<=200kB", "int8", "size_bytes", True, 200_000),
        ("a.b-c.size_bytes<=1.5 MiB", "a.b-c", "size_bytes", True, 1.5 * 2**20),
        ("latency_ms<=250us", "", "latency_ms", True, 0.25),
        ("parameters<=1e5", "", "parameters", True, 1e5),
        ("macs<=3.5M", "", "macs", True, 3.5e6),
        ("latency_ratio<=.5", "", "latency_ratio", True, 0.5),
        ("speedup>=2", "", "speedup", False, 2),
    ],
)
def test_promises_are_understood(text, row, quantity, at_most, limit):
    terms = parse(text).terms
    assert (terms.row, terms.quantity, terms.at_most) == (row, quantity, at_most)
    assert terms.limit == pytest.approx(limit, rel=1e-12)


def test_the_change_of_a_share_is_a_share():
    assert [sort_of(f"top5_accuracy{end}") for end in ("_drop", "_worse", "_change", "_vs_baseline")] == ["share"] * 4
    assert [changed(quantity) for quantity in ("mae_worse", "macs")] == [("mae", "_worse"), ("macs", "")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not of the form"),
        ("small", "is not of the form"),
        ("size_bytes<200kB", "is not of the form"),
        ("size_bytes<=", "is not of the form"),
        ("size_bytes<=200 k B", "is not of the form"),
        ("0.5>=latency_ratio", "is not of the form"),
        ("size_bytes<=200kb", "one of the units B, kB"),
        ("size_bytes<=3ms", "one of the units B, kB"),
        ("latency_ratio<=50%", "no unit"),
        ("accuracy>=95", "share of 1; for percent write 95%"),
        ("accuracy_drop<=nan", "is not of the form"),
        ("macs<=1e999", "too large"),
    ],
)
def test_what_is_not_understood_is_refused(text, message):
    with pytest.raises(RecipeError, match=message):
        parse(text)
    with pytest.raises(ValidationError, match=message):
        Gate.model_validate(text)


def test_an_editor_accepts_both_forms():
    schema = Gate.model_json_schema()
    for good in ("size_bytes<=1kB", {"promise": "size_bytes<=1kB", "undecided": "pass"}):
        jsonschema.validate(good, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"promise": "size_bytes<=1kB", "undecided": "maybe"}, schema)


@pytest.mark.parametrize(
    ("promise", "figure", "outcome"),
    [
        ("x<=0.5", estimate(0.1, 0.2, 0.5), "met"),  # ends on the limit
        ("x<=0.5", estimate(0.1, 0.2, 0.5 + 1e-9), "undecided"),
        ("x<=0.5", estimate(0.5, 0.6, 0.7), "undecided"),  # begins on it
        ("x<=0.5", estimate(0.5 + 1e-9, 0.6, 0.7), "not met"),
        ("x>=0.5", estimate(0.5, 0.6, 0.7), "met"),
        ("x>=0.5", estimate(0.5 - 1e-9, 0.6, 0.7), "undecided"),
        ("x>=0.5", estimate(0.3, 0.4, 0.5), "undecided"),
        ("x>=0.5", estimate(0.3, 0.4, 0.5 - 1e-9), "not met"),
        ("size_bytes<=200kB", 200_000, "met"),
        ("size_bytes<=200kB", 200_001, "not met"),
        ("parameters>=10", 9, "not met"),
        ("accuracy_drop<=0.01", 0.98 - 0.97, "met"),  # 0.010000000000000009
        ("x<=0.5", None, "not measured"),
    ],
)
def test_boundaries(promise, figure, outcome):
    judged = judge(parse(promise), "row", figure)
    assert (judged.outcome, judged.passes) == (outcome, outcome == "met")


def test_undecided_may_pass_but_never_what_is_not_measured():
    lenient = Gate.model_validate({"promise": "x<=0.5", "undecided": "pass"})
    assert judge(lenient, "row", estimate(0.4, 0.45, 0.6)).passes
    assert not judge(lenient, "row", estimate(0.6, 0.65, 0.7)).passes
    assert not judge(lenient, "row", None).passes


def test_samples_it_needs_would_decide_it():
    gate = parse("accuracy>=0.9")
    before = wilson(184, 200)  # 0.92: far too few
    judged = judge(gate, "row", before)
    assert judged.outcome == "undecided"
    samples = 200 + judged.needs
    assert judge(gate, "row", wilson(round(0.92 * samples * 1.3), round(samples * 1.3))).outcome == "met"
    fewer = 200 + judged.needs // 2
    assert judge(gate, "row", wilson(round(0.92 * fewer), fewer)).outcome == "undecided"


@pytest.mark.parametrize("better", [True, False])
def test_so_many_samples_decide_about_as_often_as_not(better):
    """Of models whose true accuracy is off the limit: with the samples asked for, the interval ends about at the limit, so
    that half of the tries are decided; with half as many, fewer are, and with thrice as many, nearly all."""
    random, truth, limit = np.random.default_rng(5), 0.92, 0.90 if better else 0.94
    gate = parse(f"accuracy>={limit}")
    judged = judge(gate, "row", wilson(184, 200))
    asked = 200 + judged.needs

    def decided(samples):
        tries = [judge(gate, "row", wilson(int(count), samples)).outcome for count in random.binomial(samples, truth, 300)]
        return tries.count("met" if better else "not met") / 300

    assert 0.35 < decided(asked) < 0.65
    assert decided(asked // 2) < 0.45
    assert decided(3 * asked) > 0.9


def test_no_number_of_samples_decides_what_lies_on_the_limit():
    judged = judge(parse("x<=0.5"), "row", estimate(0.4, 0.5, 0.6))
    assert (judged.outcome, judged.needs) == ("undecided", None)


@settings(deadline=None)
@given(st.tuples(*[st.floats(-1e6, 1e6)] * 3).map(sorted), st.floats(-1e6, 1e6), st.booleans())
def test_exactly_one_outcome_and_needs_only_where_undecided(ends, limit, at_most):
    figure = estimate(*ends)
    judged = judge(parse(f"x{'<=' if at_most else '>='}{limit!r}"), "row", figure)
    apart = 1e-6 * max(1, abs(limit))
    good = [value <= limit if at_most else value >= limit for value in (figure.low, figure.high)]
    if min(abs(figure.low - limit), abs(figure.high - limit)) > apart:
        expected = "met" if all(good) else "undecided" if any(good) else "not met"
        assert judged.outcome == expected
    assert judged.needs is None or (judged.outcome == "undecided" and judged.needs >= 1 and math.isfinite(judged.needs))


@pytest.mark.parametrize(
    ("promise", "rows", "message"),
    [
        ("accuracy_drop<=0.01", ["teacher", "int8"], ""),
        ("top5_accuracy>=0.9", ["teacher", "int8"], ""),
        ("teacher.size_bytes<=1MB", ["teacher", "int8"], ""),
        ("acuracy_drop<=1", ["teacher", "int8"], "did you mean 'accuracy_drop'"),
        ("top5_accuracy_worse<=1%", ["teacher", "int8"], ""),
        ("top5_accuracy_change>=-1%", ["teacher", "int8"], ""),
        ("teacher.top5_accuracy_worse<=1%", ["teacher", "int8"], "is the baseline itself"),
        ("cross_entropy_drop<=1", ["teacher", "int8"], "no quantity 'cross_entropy_drop'"),
        ("int9.size_bytes<=1MB", ["teacher", "int8"], "'int9' is no model of this run; did you mean 'int8'"),
        ("teacher.accuracy_drop<=0.01", ["teacher", "int8"], "is the baseline itself"),
        ("speedup>=2", ["teacher"], "is the baseline itself"),
        ("latency_ms<=2", ["teacher"], ""),
        ("size_bytes<=1MB", [], "no model"),
        ("agreement>=98%", ["teacher", "int8"], ""),
        ("teacher.agreement>=98%", ["teacher", "int8"], "is the baseline itself"),
        ("teacher.ece<=5%", ["teacher", "int8"], ""),
        ("robustness.noise_5_accuracy>=0.5", ["teacher", "int8"], ""),
        ("robustnes.noise_5_accuracy>=0.5", ["teacher", "int8"], "did you mean 'robustness'"),
    ],
)
def test_what_can_never_be_judged_says_so(promise, rows, message):
    complaint = impossible(parse(promise), rows, "teacher", "accuracy", ["accuracy", "top5_accuracy"], ["robustness"])
    assert (message in complaint) if message else complaint == ""
