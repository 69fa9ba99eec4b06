"""A report is a function of a run's folder: figures as stored, pairs compared, damage refused."""

import json
import math
import re
import shutil
from itertools import groupby

import numpy as np
import pytest

from compress_cli import report
from compress_cli.errors import ArtifactError
from compress_cli.measurement.measure import MEASUREMENT, PREDICTIONS
from compress_cli.report import figures, markdown
from compress_cli.statistics.findings import FINDINGS, Findings, Line
from compress_cli.statistics.intervals import Estimate, wilson

SAMPLES = 1000
MACHINE = {"processor": "Test CPU", "cores": 2, "onnxruntime": "1"}


def test_figures_are_those_stored(made, right):
    collected = report.collect(made.add("small", right(30), 1000, (1.9, 2.0, 2.1), parameters=50).record())
    teacher, small = collected.rows
    assert (collected.recipe, collected.seed, collected.samples, collected.primary, collected.machine) == (
        "digits",
        7,
        SAMPLES,
        "accuracy",
        MACHINE,
    )
    assert small.metrics["accuracy"] == wilson(970, 1000)
    assert (small.parameters, small.kinds, small.macs, small.size_bytes) == (50, {"int8": 50}, 12_345_678, 1000)
    assert (small.compression_ratio, small.speedup.value, small.verdict, small.note) == (10, 2.0, "faster", "")
    assert (small.latency.p50_ms.value, teacher.latency.p50_ms.value) == (0.5, 1.0)
    assert (teacher.compression_ratio, teacher.change, teacher.speedup) == (None, None, None)
    assert collected.rows[0].wall_time_s == 1.5


def test_change_is_paired(made, right):
    # wrong on 20, then on those and 10 more: all 10 changes go one way
    small = report.collect(made.add("small", right(30), 1000, (1.9, 2.0, 2.1)).record()).rows[1]
    assert small.change.value == pytest.approx(-0.01)
    assert small.change.high < 0
    assert small.change_p == pytest.approx(2 / 2**10)
    apart = math.sqrt(0.02 * 0.98 / SAMPLES + 0.03 * 0.97 / SAMPLES)  # of two independent samples
    assert small.change.high - small.change.low < 2 * 1.96 * apart


def test_other_samples_are_not_compared(made, right):
    assert report.collect(made.add("small", right(30, 900), 1000, (1.9, 2.0, 2.1)).record()).rows[1].change is None


@pytest.mark.parametrize(
    ("size", "speedup", "note"),
    [
        (1000, (1.9, 2.0, 2.1), ""),
        (1000, (0.99, 1.0, 1.01), "smaller, not faster"),
        (1000, (0.4, 0.5, 0.6), "smaller, but slower"),
        (1000, (0.5, 1.0, 2.0), "smaller; whether it is faster is too noisy to say"),
        (10_000, (1.9, 2.0, 2.1), "faster, not smaller"),
        (20_000, (0.4, 0.5, 0.6), "neither smaller nor faster"),
    ],
)
def test_smaller_is_not_said_to_be_faster(made, size, speedup, note, right, shown):
    folder = made.add("small", right(30), size, speedup).record()
    collected = report.collect(folder)
    assert collected.rows[1].note == note
    for text in (markdown.render(collected), shown(collected)):
        assert (f"small: {note}" in text) == bool(note)


def test_the_terminal_shows_whole_figures_in_100_columns(made, right, shown):
    made.add("a stage with a long name", right(30), 123_456_789, (10.91, 12.34, 14.99), parameters=1_234_567_890)
    text = shown(report.collect(made.record()))
    assert max(map(len, text.splitlines())) <= 100
    assert "…" not in text
    for figure in ("1.23G", "12.3M", "123.5 MB", "97.0", "[95.7, 97.9]", "-1.0", "12.3x", "[10.91, 14.99]", "0.0810 ms"):
        assert figure in text, figure
    assert shown(report.collect(made.folder), 60).count("97.0") == 1  # a narrow window wraps, and cuts nothing


def test_the_terminal_cuts_no_figure_of_a_metric_that_is_wide(made, right, shown):
    made.add("int8_weights", right(30), 123_456_789, (0.9612, 0.9912, 1.0234), parameters=1_234_567_890, base=0.00996)
    collected = report.collect(made.record())
    wide = Estimate(value=-1234.5678, low=-2345.6789, high=-1011.1213, samples=9)
    change = Estimate(value=0.009442, low=-0.01546, high=0.03327, samples=9)
    rows = [row.model_copy(update={"metrics": {"rmse": wide}, "change": change}) for row in collected.rows]
    text = shown(collected.model_copy(update={"primary": "rmse", "rows": rows}))
    assert text.count("[-0.01546, +0.03327]") == 2
    assert "[0.96, 1.02]" in text


def test_a_table_that_a_model_brings_is_shown(made, right, shown):
    """A pruning's predicted loss of each layer beside the measured one."""
    lines = [Line(name="layer1.0", cells=[0.5, 0.25]), Line(name="layer2.0", cells=[0.125, None])]
    findings = Findings(
        title="Foretold", about="Of a neuron.", side="PyTorch", what="layer", columns=["predicted", "measured"], lines=lines
    )
    made.add("thin", right(30), files={FINDINGS: findings.model_dump_json()})
    collected = report.collect(made.record())
    (table,) = [table for table in collected.findings if table.name]
    assert (table.name, table.model, table.findings) == ("thin", "thin", findings)
    text = shown(collected)
    for word in ("predicted", "measured", "layer1.0", "0.25", "Of a neuron."):
        assert word in text, word


def test_what_was_not_measured_says_why(made, shown):
    collected = report.collect(made.add("odd", reason="the format has no word for operator 'foo'").record())
    assert collected.rows[1].parameters is None
    for text in (markdown.render(collected), shown(collected)):
        assert "odd: not measured: the format has no word for operator 'foo'" in text


def test_names_can_not_break_the_table(empty_run, right, shown):
    name = "a|b<script>&[x](y)\x1b[31m"
    folder = empty_run.add(name, right(3)).record("r|<b>")
    text = markdown.render(report.collect(folder))
    tables = [list(lines) for bars, lines in groupby(text.splitlines(), lambda line: line.startswith("|")) if bars]
    assert [{len(re.findall(r"(?<!\\)\|", line)) for line in table} for table in tables] == [{11}, {3}]
    assert "<script>" not in text
    assert "<b>" not in text
    assert r"a\|b&lt;script&gt;&amp;\[x\](y)" in text
    assert "\x1b" not in shown(report.collect(folder))


def test_json_says_all_and_reads_back(made, right):
    collected = report.collect(made.add("small", right(30), 1000, (1.9, 2.0, 2.1)).record())
    assert report.Report.model_validate_json(collected.model_dump_json()) == collected
    assert json.loads(collected.model_dump_json())["rows"][1]["metrics"]["cross_entropy"]["samples"] == SAMPLES


def test_a_run_without_measurements_is_still_a_report(empty_run, shown):
    collected = report.collect(empty_run.add("only", reason="no exporter").record())
    assert "only" in shown(collected)
    assert "only" in markdown.render(collected)


def damaged(folder, store, how):
    key = f"m{1:064d}"
    match how:
        case "no run":
            (folder / "run.json").unlink()
        case "bad record":
            (folder / "run.json").write_text("{}")
        case "gone":
            shutil.rmtree(store / key)
        case "edited":
            path = store / key / MEASUREMENT
            path.write_text(path.read_text().replace("970", "999").replace("0.97", "0.99"))
        case "manifest":
            path = store / key / "manifest.json"
            path.write_text(path.read_text().replace('"wall_time_s": 1.5', '"wall_time_s": 0.5'))
        case "missing":
            (store / key / PREDICTIONS).unlink()


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no run", "holds no run"),
        ("bad record", "can't be read"),
        ("gone", "no longer holds what this run made"),
        ("edited", "its content is not what was written|bytes instead of"),
        ("manifest", "changed by hand"),
        ("missing", "is missing"),
    ],
)
def test_damage_is_refused(made, how, message, right):
    folder = made.add("small", right(30), 1000, (1.9, 2.0, 2.1)).record()
    damaged(folder, made.store, how)
    with pytest.raises(ArtifactError, match=message):
        report.collect(folder)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00k"), (12_345, "12.3k"), (999_600, "1.00M"), (1_234_567_890, "1.23G"), (None, "-")],
)
def test_counts(value, text):
    assert figures.count(value) == text


@pytest.mark.parametrize(("value", "text"), [(950, "0.9 kB"), (15_499, "15.5 kB"), (12_345_678, "12.3 MB"), (None, "-")])
def test_sizes(value, text):
    assert figures.size(value) == text


def test_a_teacher_of_another_task_has_a_size_and_no_accuracy(empty_run, right, shown):
    """It is the baseline, too: sizes are held against its own, answers against nobody's, and the other teacher's gap counts."""
    nothing, reason = np.empty(0), "this model has no head 'shape', which the task is about (it has: colour)"
    made = empty_run.add("colours", nothing, size=500, lacking=reason).add("shapes", right(20))
    made.add("also colours", nothing, size=500, lacking=reason)
    made.add("student", right(40), teachers=("colours", "shapes")).add(
        "control", right(60), variant_of="student", variant="control"
    )
    collected = report.collect(made.record())
    colours, shapes, _, student = collected.rows
    assert (colours.metrics, colours.reason, colours.size_bytes, colours.change) == ({}, reason, 500, None)
    assert (student.compression_ratio, student.change, student.change_p) == (0.5, None, None)
    assert (student.metrics["accuracy"], shapes.reason) == (wilson(960, 1000), "")
    (worth,) = collected.distilled
    assert worth.teacher == "shapes"
    assert worth.gap_closed == pytest.approx(0.5)  # of 0.94 to 0.98
    for text in (markdown.render(collected).replace("\\_", "_"), shown(collected)):
        assert reason in " ".join(text.split())
