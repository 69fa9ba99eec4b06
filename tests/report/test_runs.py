"""Several runs side by side."""

import io
import json
import re

import jsonschema
import pytest
from rich.console import Console

from compress_cli.cli.schema import schema_of
from compress_cli.measurement.latency import Latency
from compress_cli.report import Report, Row, runs
from compress_cli.statistics.intervals import Estimate


def estimate(low, value, high):
    return Estimate(value=value, low=low, high=high, samples=400)


def row(name, accuracy, milliseconds, **more):
    latency = Latency(
        batch=1, threads=1, runs=9, p50_ms=estimate(milliseconds, milliseconds, milliseconds), p90_ms=1.0, p99_ms=1.0,
        throughput_per_s=1.0,
    )  # fmt: skip
    metrics = {"accuracy": estimate(accuracy - 0.02, accuracy, accuracy + 0.01)}
    return Row(name=name, stage="x", key="k", cached=False, wall_time_s=1.0, metrics=metrics, latency=latency, **more)


def made(rows, recipe="a", seed=0, baseline="teacher", processor="one"):
    return Report(
        recipe=recipe, seed=seed, baseline=baseline, primary="accuracy", split="test", samples=400, rows=rows,
        machine={"processor": processor, "onnxruntime": "1"}, wall_time_s=1.0,
    )  # fmt: skip


def two(**second):
    int8 = row("int8", 0.9, 7.25, change=estimate(-0.03, -0.02, -0.01), speedup=estimate(1.5, 2.0, 2.5), verdict="faster")
    first = made([row("teacher", 0.97, 3.5), int8])
    other = made([row("teacher", 0.96, 4.5), row("pruned", 0.95, 1.5)], seed=1, **second)
    return runs.side_by_side([("runs/a", first), ("runs/b", other)])


def shown(together):
    console = Console(width=100, record=True, highlight=False, markup=False, file=io.StringIO())
    runs.show(together, console)
    return console.export_text()


def forms(together):
    return shown(together), runs.as_markdown(together), runs.as_html(together)


def test_models_are_aligned_by_name():
    lines = [line.split("|")[1:-1] for line in runs.as_markdown(two(recipe="b")).splitlines() if line.startswith("|")]
    cells = {(stage, what): (a, b) for stage, what, a, b in named(lines)}
    assert lines[0] == [" stage ", " ", " a ", " b "] or [cell.strip() for cell in lines[0]] == ["stage", "", "a", "b"]
    assert cells["run", "seed"] == ("0", "1")
    assert cells["run", "baseline"] == ("teacher", "teacher")
    assert cells["teacher", "accuracy %"][0].startswith("97.0")
    assert cells["teacher", "accuracy %"][1].startswith("96.0")
    assert cells["int8", "accuracy %"][1] == "-"
    assert cells["pruned", "accuracy %"][0] == "-"
    assert cells["int8", "faster"][0].startswith("2.00x")
    assert cells["teacher", "latency"] == ("3.50 ms", "4.50 ms")


def named(lines):
    stage = ""
    for line in lines[2:]:
        first, what, a, b = (cell.strip().replace("\\", "") for cell in line)
        stage = first or stage
        yield stage, what, a, b


def test_latencies_of_different_machines_are_never_side_by_side():
    for text in forms(two(recipe="b", processor="another")):
        for milliseconds in ("3.50 ms", "4.50 ms", "7.25 ms"):
            assert milliseconds not in text
        assert "different machines" in text
        assert "2.00x" in text
    for text in forms(two(recipe="b")):
        assert "7.25 ms" in text
        assert "different machines" not in text


def test_different_baselines_are_said():
    for text in forms(two(recipe="b", baseline="pruned")):
        assert "different baselines" in text
    for text in forms(two(recipe="b")):
        assert "different baselines" not in text


def test_runs_of_one_recipe_are_told_apart():
    assert [run.name for run in two().runs] == ["a (runs/a)", "a (runs/b)"]


def test_json_reads_back_and_is_of_the_published_schema():
    together = two()
    assert runs.Runs.model_validate_json(together.model_dump_json()) == together
    jsonschema.validate(json.loads(together.model_dump_json()), schema_of("runs"))
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"runs": [{"name": 1}], "same_machine": True}, schema_of("runs"))


def test_names_mean_themselves():
    nasty = "a|b<script>&\x1b"
    together = runs.side_by_side(
        [("x", made([row(nasty, 0.9, 1.0)], nasty)), ("y", made([row("b", 0.9, 1.0)], nasty, baseline=nasty))]
    )
    for text in forms(together):
        assert "\x1b" not in text
    for text in forms(together)[1:]:
        assert "<script>" not in text
    table = [line for line in runs.as_markdown(together).splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in table} == {5}
