"""Tables for other programs: what they would misread is escaped."""

import csv
import io

import pytest

from compress_cli.report.table import Table


def test_csv_comes_back_as_it_was():
    table = Table(["name", "x"], [['a "quoted", one', 0.1], ["two\nlines", None], ["plain", -3]])
    assert list(csv.reader(io.StringIO(table.csv()))) == [
        ["name", "x"], ['a "quoted", one', "0.1"], ["two\nlines", ""], ["plain", "-3"],
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1"])
def test_text_is_no_formula_and_a_number_stays_one(text):
    assert next(csv.reader(io.StringIO(Table([text], []).csv()))) == ["'" + text]
    assert list(csv.reader(io.StringIO(Table(["x"], [[text], [-1.5]]).csv())))[1:] == [["'" + text], ["-1.5"]]


def test_latex():
    made = Table(["model", "size & more"], [["a_b{50%}", 1234.5678], ["~^\\", None]]).latex()
    assert made.splitlines() == [
        r"\begin{tabular}{lr}", r"\toprule", r"model & size \& more \\", r"\midrule", r"a\_b\{50\%\} & 1235 \\",
        r"\textasciitilde{}\textasciicircum{}\textbackslash{} & -- \\", r"\bottomrule", r"\end{tabular}",
    ]  # fmt: skip
