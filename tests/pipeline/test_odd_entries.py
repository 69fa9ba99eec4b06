"""Odd entries in a run's folder (folders, FIFOs, dangling links where files belong) end in one line, never in a hang."""

import os
from pathlib import Path

import pytest

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}
"""
WRITTEN = ("run.json", "log.jsonl", "recipe.lock.yaml", "report.json", "report.md", "report.html", "fitted.json")


def dangling(path):
    path.symlink_to("nowhere")


@pytest.fixture
def run_folder(tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    folder = tmp_path / "runs" / "r"
    folder.mkdir(parents=True)
    return folder


def assert_one_line(outcome, path):
    assert outcome.code == 3, outcome
    assert outcome.err.count("\n") == 1, outcome
    assert str(path) in outcome.err, outcome


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, dangling])
@pytest.mark.parametrize("name", [*WRITTEN, "run.json.partial", "log.jsonl.partial"])
def test_a_run_refuses_what_is_in_the_way_of_its_files(compress, run_folder, make, name):
    make(run_folder / name)
    assert_one_line(compress("run", "r.yaml", "-q"), f"runs/r/{name}")
    assert not Path("runs/.store").exists()  # nothing was run


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_run_refuses_what_is_in_the_way_of_a_link(compress, run_folder, make):
    make(run_folder / "train")
    assert_one_line(compress("run", "r.yaml", "-q"), "runs/r/train")
    assert not Path("runs/.store").exists()


def test_a_file_in_the_way_of_a_link_stays(compress, run_folder):
    (run_folder / "train").write_text("my notes")
    assert_one_line(compress("run", "r.yaml", "-q"), "runs/r/train")
    assert (run_folder / "train").read_text() == "my notes"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, dangling, lambda path: path.write_bytes(b"\xff{")])
@pytest.mark.parametrize("command", [["report", "runs/r"], ["report", "runs/r", "runs/r"], ["verify", "runs/r"]])
def test_a_record_that_is_no_file_is_said(compress, run_folder, make, command):
    make(run_folder / "run.json")
    assert_one_line(compress(*command), "runs/r")


@pytest.mark.parametrize("make", [os.mkfifo, Path.touch, dangling])
@pytest.mark.parametrize("name", ["runs", "runs/r"])
def test_a_folder_that_is_none_is_said(compress, tmp_path, make, name):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    make(tmp_path / name)
    assert_one_line(compress("run", "r.yaml", "-q"), "runs")
    assert_one_line(compress("report", "runs/r"), "runs/r")
    assert compress("plan", "r.yaml", "-q").code in (0, 3)


def test_a_dangling_link_to_a_stage_is_replaced(compress, run_folder):
    (run_folder / "train").symlink_to("nowhere")
    assert compress("run", "r.yaml", "-q").code == 0
    assert (run_folder / "train" / "weights.safetensors").is_file()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, dangling])
def test_a_store_with_odd_entries_can_be_planned_and_run(compress, tmp_path, make):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "runs" / ".store" / "odd").mkdir(parents=True)
    make(tmp_path / "runs" / ".store" / "odd" / "manifest.json")
    make(tmp_path / "runs" / ".store" / "entry")
    assert compress("plan", "r.yaml", "-q").code == 0
