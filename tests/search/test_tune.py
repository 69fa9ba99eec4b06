"""Whole searches on digits: trials pause and go on, the best is written out and runs to the same bytes."""

import hashlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

pytest.importorskip("optuna")

from compress_cli.pipeline import run
from compress_cli.search import sampling, tuner
from compress_cli.search.outcome import Outcome
from compress_cli.store import artifact

RECIPE = """\
dataset: digits
threads: 1
gates: ["accuracy>=0.3"]
compare: {seconds: 0.02}
search: {complete: 2, rungs: [0.25]}
stages:
  - type: train
    name: net
    model: {type: mlp, hidden: [{search: [12, 4, 8]}]}   # neurons
    training:
      {epochs: 4, precision: float32, optimizer: {type: sgd, learning_rate: {search: {low: 0.003, high: 0.3, log: true}}}}
  - {type: train, name: longer, start: net, training: {epochs: 1, precision: float32}, when: {search: [true, false]}}
"""


@pytest.fixture
def without_smoke(monkeypatch):
    monkeypatch.setattr(run.smoke, "rehearse", lambda *arguments: [])


def hashes(folder):
    """Stage -> hashes of its artifact's files, of a run."""
    steps = json.loads((folder / "run.json").read_text())["steps"]
    return {
        name: files(folder.parent / ".store" / key)
        for name, key in steps.items()
        if name in ("net", "longer", "net.onnx", "longer.onnx")
    }


def files(directory):
    names = artifact.read(directory).manifest.files
    return {name: hashlib.sha256((directory / name).read_bytes()).hexdigest() for name in names}


@pytest.mark.slow
@pytest.mark.usefixtures("without_smoke")
def test_a_search_ends_in_a_recipe_that_runs_to_the_bytes_of_its_trial(tmp_path, compress):
    (tmp_path / "r.yaml").write_text(RECIPE)
    found = compress("tune", "r.yaml", "--trials", 3, "--json")
    assert found.code == 0, found
    outcome = Outcome.model_validate_json(found.out)
    assert len(outcome.trials) == 3
    assert {trial.state for trial in outcome.trials} <= {"complete", "paused"}
    assert outcome.count("complete") >= 2

    feasible = [trial for trial in outcome.trials if trial.figures and trial.figures.low >= 0.3]
    smallest = min(feasible, key=lambda trial: trial.figures.size_bytes)
    assert outcome.trial(outcome.best).figures.size_bytes == smallest.figures.size_bytes

    text = (tmp_path / "r.best.yaml").read_text()
    assert text.startswith("# Written by `compress tune`: trial ")
    assert "# neurons" in text
    assert "search: [" not in text

    again = compress("run", "r.best.yaml", "--json")
    assert again.code == 0, again
    assert [row["cached"] for row in json.loads(again.out)["rows"]] == [True] * len(json.loads(again.out)["rows"])
    assert json.loads(again.out)["split"] == "test"
    assert compress("run", "r.best.yaml", "--output", "elsewhere", "--quiet").code == 0
    assert hashes(tmp_path / "elsewhere" / "r.best") == hashes(tmp_path / "runs" / "r.best")
    run_of_it = json.loads((tmp_path / "runs/r.best/run.json").read_text())["steps"]
    made = outcome.trial(outcome.best).keys
    assert {name: made[name] for name in ("net", "longer") if name in run_of_it}.items() <= run_of_it.items()

    more = compress("tune", "r.yaml", "--trials", 3)
    assert more.code == 0, more
    assert "has 3 trials already" in more.err
    assert (tmp_path / "runs" / "r.tune" / "tune.html").read_text().count("<svg") >= 1
    assert "## Trials" in (tmp_path / "runs" / "r.tune" / "tune.md").read_text()


@pytest.mark.usefixtures("without_smoke")
@pytest.mark.parametrize("to_the_bytes", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_promoted_trial_goes_on_from_its_save_to_the_bytes_of_a_run_without_a_pause(
    tmp_path, compress, monkeypatch, to_the_bytes
):
    """Trials with ever lower rates: the second pauses below the first, and is promoted once the third is below both."""
    proposals = iter(range(3))
    monkeypatch.setattr(
        sampling, "proposed", lambda *arguments: ({"net.training.optimizer.learning_rate": 2 - next(proposals)}, "tpe")
    )
    text = (
        "dataset: digits\nthreads: 1\nsearch: {complete: 1, rungs: [0.25], promote: 0.7, objectives: [accuracy]}\nstages:\n"
        "  - type: train\n    name: net\n    model: {type: mlp, hidden: [8]}\n    training:\n      {epochs: 4, "
        "precision: float32, optimizer: {type: sgd, learning_rate: {search: [0.1, 0.003, 0.01]}}}\n"
    )
    (tmp_path / "r.yaml").write_text(text)
    found = compress("tune", "r.yaml", "--trials", 3, "--json")
    assert found.code == 0, found
    first, second, third = Outcome.model_validate_json(found.out).trials
    assert [first.rungs[0], second.rungs[0], third.rungs[0]] == sorted([first.rungs[0], second.rungs[0], third.rungs[0]])[::-1]
    assert [trial.state for trial in (first, second, third)] == ["complete", "complete", "paused"]
    assert [(trial.epochs, trial.not_repeated) for trial in (first, second, third)] == [(4, 0), (4, 1), (1, 0)]
    assert found.err.index("trial 2: pauses after epoch 1") < found.err.index("trial 1: promoted")

    for command in (("verify",), ("report",), ("repair",), ("reproduce", "-o", "again")):
        refused = compress(command[0], "runs/r.tune", *command[1:])
        assert refused.code == 3
        assert "holds a search, whose report is tune.html; its runs are those of its trials" in refused.err

    best = (tmp_path / "r.best.yaml").read_text()
    assert best.startswith("# Written by `compress tune`: trial ")
    assert "search: [0" not in best
    steps = json.loads(compress("plan", "r.best.yaml", "--json").out)["steps"]
    assert [step["status"] for step in steps if step["name"] in ("net", "net.onnx")] == ["up to date"] * 2
    if not to_the_bytes:
        return
    again = compress("reproduce", "runs/r.tune/trials/1", "-o", "again")
    assert again.code == 0, again
    assert "net: same bytes" in again.out
    steps = json.loads((tmp_path / "again/r/run.json").read_text())["steps"]
    assert {"net", "net.onnx", "net.measurement"} <= steps.keys()
    assert "net.comparison" not in steps  # as in the trial, which was not timed
    (tmp_path / "plain.yaml").write_text(text.replace("{search: [0.1, 0.003, 0.01]}", "0.01"))
    assert compress("run", "plain.yaml", "--output", "elsewhere", "--quiet").code == 0
    key = second.keys["net"]
    assert files(tmp_path / "elsewhere" / ".store" / key) == files(tmp_path / "runs" / ".store" / key)


def test_a_time_that_would_shorten_the_written_recipe_and_not_the_trials_is_refused(tmp_path, compress):
    (tmp_path / "r.yaml").write_text("within: 20s\n" + RECIPE)
    found = compress("tune", "r.yaml", "--trials", "1")
    assert found.code == 2, found
    assert "r.yaml:1: within: fits the epochs of a run to a time" in found.err
    assert not (tmp_path / "runs").exists()
    assert "no such objective" in compress("tune", "r.yaml", "--set", "within=null", "--objective", "sizes").err


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--trials", "0"), "--trials 0: a search needs one trial at least"),
        (("--workers", "0"), "--workers 0: a search needs one worker at least"),
        (("--within", "soon"), "--within soon: is no time; write 90s, 30m, 2h or 1h30m"),
        (("--within", "0s"), "--within: must be above 0"),
        (("--objective", "sizes"), "--objective sizes: there is no such objective; did you mean 'size'?"),
        (("--study", "../r"), "--study ../r: names a folder"),
        (("--sampler", "random"), "--sampler random: there is no such sampler"),
        (("--best", "mine.yaml"), "mine.yaml: is in the way, and was not written by `compress tune`"),
        (("--storage", "sqlite:////dev/null/x.db"), "is a device, where a folder should be"),
    ],
)
def test_a_wrong_command_is_refused_before_anything_runs(tmp_path, compress, arguments, reason):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / "mine.yaml").write_text("dataset: digits\n")
    found = compress("tune", "r.yaml", *arguments)
    assert found.code in (2, 3), found
    assert reason in found.err
    assert not (tmp_path / "runs" / ".store").exists()


@pytest.mark.parametrize(
    ("occupied", "reason"),
    [
        ("runs/r.tune", "runs/r.tune: is a file, where a folder should be"),
        ("runs/r.tune/study.lock/x", "runs/r.tune/study.lock: is a folder, where a file should be"),
    ],
)
def test_what_stands_where_the_lock_belongs_is_named(tmp_path, compress, occupied, reason):
    (tmp_path / "r.yaml").write_text(RECIPE)
    (tmp_path / occupied).parent.mkdir(parents=True)
    (tmp_path / occupied).touch()
    found = compress("tune", "r.yaml", "--storage", f"sqlite:///{tmp_path}/study.db")
    assert found.code == 3, found
    assert reason in found.err


def test_a_search_whose_workers_all_die_says_so(tmp_path, compress, monkeypatch):
    """Rather than to end as if every trial had been made."""
    monkeypatch.setattr(tuner, "LOOK_S", 0.01)
    monkeypatch.setattr(tuner.Tuner, "_start", lambda *arguments: subprocess.Popen(["sh", "-c", "kill -9 $$"]))
    (tmp_path / "r.yaml").write_text(RECIPE)
    found = compress("tune", "r.yaml", "--workers", 2)
    assert found.code == 4, found
    assert "8 workers died, the last with exit -9" in found.err


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_complete_the_study_without_losing_a_trial(tmp_path):
    """As real processes; the killed one's trial is queued again at once, and goes on from its last save."""
    (tmp_path / "r.yaml").write_text(
        RECIPE.replace("epochs: 4", "epochs: 40").replace("threads: 1\n", "threads: 1\nsave: {epochs: 1}\n")
    )
    command = [sys.executable, "-m", "compress_cli", "tune", "r.yaml", "--trials", "12", "--workers", "2"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    victim = None
    while victim is None and process.poll() is None:
        time.sleep(0.2)
        victim = next(iter(training_workers(tmp_path)), None)
    assert victim is not None, process.communicate()
    os.kill(victim, signal.SIGKILL)
    _, err = process.communicate(timeout=1200)
    assert process.returncode == 0, err
    assert "its worker died (exit -9); queued again" in err
    outcome = Outcome.model_validate_json((tmp_path / "runs" / "r.tune" / "tune.json").read_text())
    assert len(outcome.trials) == 12
    assert {trial.state for trial in outcome.trials} <= {"complete", "paused"}
    (struck,) = [trial for trial in outcome.trials if trial.deaths]
    assert struck.not_repeated > 0


def training_workers(folder):
    """Process ids of workers whose trial has a save."""
    database = folder / "runs" / "r.tune" / "study.db"
    if not database.is_file() or not list((folder / "runs" / ".store").glob("*.saves/*.safetensors")):
        return []
    workers = "select trial_id, value_json from trial_user_attributes where key = 'worker'"
    query = f"select value_json from ({workers}) join trials using (trial_id) where state = 'RUNNING'"
    try:
        with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as connection:
            rows = connection.execute(query).fetchall()
    except sqlite3.OperationalError:
        return []
    return [int(json.loads(value).rpartition(":")[2]) for (value,) in rows if json.loads(value)]
