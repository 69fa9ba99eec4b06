"""Trackers see every epoch and the report; one that fails ends its tracking, never the run."""

import json
from pathlib import Path

import pytest

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
gates: ["size_bytes<=100kB"]
tracking: [TRACKERS]
stages:
  - type: train
    name: teacher
    model: {type: mlp, hidden: [8]}
    training: {epochs: 3, precision: float32}
  - export
"""
NOTEBOOK = """\
import json
from pathlib import Path
from compress_cli.errors import StageError
from compress_cli.pipeline.trackers import Tracker, Tracking

class Notebook(Tracker):
    lost_after: int = 99  # epochs
    absent: bool = False
    interrupts: bool = False

    def open(self, run):
        if self.absent:
            raise StageError("nobody answers")
        return Pages(self, run)

class Pages(Tracking):
    def __init__(self, tracker, run):
        self.tracker, self.path = tracker, Path("notes.jsonl")
        self.identity = run.identity or "first"
        self.write("open", run.name, run.identity, dict(run.settings))

    def write(self, *entry):
        with self.path.open("a") as file:
            print(json.dumps(entry), file=file)

    def epoch(self, stage, epoch, figures):
        if epoch > self.tracker.lost_after:
            raise StageError("the line is dead")
        self.write("epoch", stage, epoch, dict(figures))
        if self.tracker.interrupts:
            raise KeyboardInterrupt

    def results(self, models, gates, files):
        self.write("results", {name: dict(figures) for name, figures in models.items()}, dict(gates), [f.name for f in files])

    def close(self, ending):
        self.write("close", ending)
"""


@pytest.fixture
def tracked(compress, tmp_path):
    """Run a recipe with these trackers; the outcome and what the notebook holds."""
    (tmp_path / "notebook.py").write_text(NOTEBOOK)

    def _run(trackers):
        (tmp_path / "r.yaml").write_text(RECIPE.replace("TRACKERS", trackers))
        notes = tmp_path / "notes.jsonl"
        plugins = () if notes.exists() else ("--plugin", "notebook.py")  # a process reads it once
        outcome = compress("run", "r.yaml", *plugins)
        return outcome, [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    return _run


def test_a_tracker_gets_settings_epochs_and_the_report(tracked):
    outcome, notes = tracked("notebook")
    assert outcome.code == 0
    opened, *epochs, results, closed = notes
    assert opened[:3] == ["open", "r", ""]
    assert opened[3]["stages.0.training.epochs"] == 3
    assert not any(name.startswith("tracking") for name in opened[3])  # a server's address may hold a password
    assert [note[:3] for note in epochs] == [["epoch", "teacher", number] for number in (1, 2, 3)]
    log = [json.loads(line) for line in Path("runs/r/log.jsonl").read_text().splitlines()]
    curve = [line for line in log if line["step"] == "teacher" and line["epoch"] and "accuracy" in line]
    assert [note[3]["val/accuracy"] for note in epochs] == [line["accuracy"] for line in curve]
    report = json.loads(Path("runs/r/report.json").read_text())
    for row in report["rows"]:
        assert results[1][row["name"]]["size_bytes"] == row["size_bytes"]
        assert results[1][row["name"]]["test/accuracy"] == row["metrics"]["accuracy"]["value"]
    assert results[2] == {"size_bytes<=100kB (export)": "met"}
    assert results[3] == ["report.json", "report.md", "report.html"]
    assert closed == ["close", "finished"]
    assert not Path("runs/r/tracking.json").exists()


def test_a_tracker_that_is_lost_does_not_end_the_run(tracked):
    outcome, notes = tracked("{type: notebook, lost_after: 1}")
    assert outcome.code == 0
    assert "the line is dead; nothing more is sent to tracker 'notebook'" in outcome.err
    assert [note[0] for note in notes] == ["open", "epoch"]


def test_a_tracker_that_is_not_there_stops_the_run_before_any_work(tracked):
    outcome, notes = tracked("notebook, {type: notebook, absent: true}")
    assert outcome.code == 4
    assert "r.yaml:5: tracking[1]: nobody answers" in outcome.err
    assert [note[0] for note in notes] == ["open", "close"]
    assert notes[-1] == ["close", "failed"]
    assert not Path("runs/r/teacher").exists()


def test_an_interrupted_run_goes_on_under_its_identity(tracked):
    outcome, notes = tracked("{type: notebook, interrupts: true}")
    assert outcome.code == 130
    assert notes[-1] == ["close", "interrupted"]
    outcome, notes = tracked("notebook")
    assert outcome.code == 0
    assert [note[2] for note in notes if note[0] == "open"] == ["", "first"]


def test_trackers_change_no_result(tracked):
    tracked("notebook")
    outcome, _ = tracked("")
    assert outcome.code == 0
    assert "teacher: up to date" in outcome.err


def test_tensorboard_reads_what_was_written(tracked):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    outcome, _ = tracked("tensorboard")
    assert outcome.code == 0
    events = EventAccumulator("runs/r/tensorboard/teacher")
    events.Reload()
    report = json.loads(Path("runs/r/report.json").read_text())
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert events.Scalars("test/accuracy")[0].value == pytest.approx(report["rows"][0]["metrics"]["accuracy"]["value"])


@pytest.mark.parametrize(("tracker", "package"), [("mlflow, server: x", "mlflow"), ("wandb", "wandb")])
def test_a_missing_package_is_named_with_its_remedy(tracked, monkeypatch, tracker, package):
    monkeypatch.setitem(__import__("sys").modules, package, None)
    outcome, _ = tracked(f"{{type: {tracker}}}")
    assert outcome.code == 2
    assert f"pip install compress-cli[{package}]" in outcome.err
