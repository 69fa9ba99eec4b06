"""A run's rows for spreadsheets and papers."""

import csv
import io

from compress_cli.report import Report, Row, rows
from compress_cli.statistics.intervals import Estimate


def run(name, **row):
    made = Row(name="=student", stage="distill", key="k", cached=False, wall_time_s=1.0, **row)
    return name, Report(
        recipe=name, seed=3, baseline="=student", primary="accuracy", split="test", samples=9, rows=[made],
        machine={}, wall_time_s=1.0,
    )  # fmt: skip


def test_every_row_has_every_column_and_what_is_missing_is_empty():
    half = Estimate(value=0.5, low=0.25, high=0.75, samples=9)
    table = rows.table([run("a", parameters=12, size_bytes=99, metrics={"accuracy": half}), run("b")])
    first, second = csv.DictReader(io.StringIO(table.csv()))
    assert (first["run"], first["model"], first["seed"]) == ("a", "'=student", "3")  # no formula
    assert (first["parameters"], first["accuracy"], first["accuracy_low"], first["accuracy_high"]) == (
        "12",
        "0.5",
        "0.25",
        "0.75",
    )
    assert (second["run"], second["parameters"], second["accuracy"], second["latency_ms"]) == ("b", "", "", "")
    assert table.latex().count(r"\\") == 3
