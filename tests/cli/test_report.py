"""`compress report`: the same report in three forms, and a folder that is no run."""

import json

import pytest

from compress_cli.store.record import Record


@pytest.fixture
def folder(tmp_path):
    Record(recipe="empty-run", store=".store", seed=3, baseline="", rows=[], wall_time_s=1.0).write(tmp_path)
    return tmp_path


def test_three_forms(compress, folder):
    assert json.loads(compress("report", folder, "--json").out)["recipe"] == "empty-run"
    assert compress("report", folder, "--markdown").out.startswith("# empty-run\n")
    assert "empty-run (seed 3" in compress("report", folder).out


def test_bad_input(compress, folder, tmp_path):
    outcome = compress("report", tmp_path / "none")
    assert (outcome.code, outcome.out) == (3, "")
    assert "holds no run" in outcome.err
    assert compress("report", folder, "--json", "--markdown").code == 2


def test_tables_for_papers(compress, folder, tmp_path):
    assert compress("report", folder, folder, "--csv", "t.csv", "--latex", "t.tex").code == 0
    assert (tmp_path / "t.csv").read_text().startswith("run,model,stage,seed,parameters")
    assert r"\toprule" in (tmp_path / "t.tex").read_text()
    outcome = compress("report", folder, "--csv", tmp_path / "none" / "t.csv")
    assert (outcome.code, "can't be written" in outcome.err) == (3, True)
