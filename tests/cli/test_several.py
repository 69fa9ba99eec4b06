"""`compress run` by several processes, as a user starts them: the same result, and an end that all share."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

RECIPE = """
dataset: digits
compare: {seconds: 0.02}
save: {steps: 3}
stages:
  - type: train
    name: teacher
    model: {type: mlp, hidden: [20]}
    training: &training {epochs: 2, batch: 100, precision: float32, optimizer: {type: sgd, learning_rate: 0.01}}
  - type: distill
    name: student
    teacher_cache: true
    model: {type: convnet, widths: [6, 8]}
    training: *training
"""

CUT = """
  - type: prune
    name: pruned
    keep: {macs: 0.6}
    steps: {count: 2, training: *training}
    teacher: teacher
    training: *training
"""


@pytest.fixture
def start(tmp_path):
    """Start `compress` with these arguments in a folder with a recipe: `start("run", "r.yaml", RANK=1)`."""
    (tmp_path / "r.yaml").write_text(RECIPE)
    begun = []

    def _start(*arguments, launcher=("-m", "compress_cli"), **environment):
        process = subprocess.Popen(
            [sys.executable, *launcher, *arguments], cwd=tmp_path, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **environment},
        )  # fmt: skip
        begun.append(process)
        return process

    yield _start
    for process in begun:
        process.kill()


def ended(process):
    """Exit code and complaints."""
    _, complaints = process.communicate(timeout=300)
    return process.returncode, complaints


def weights(run, stage):
    return load_file(run / stage / "weights.safetensors")


def far(one, other, stage):
    pairs = weights(one, stage), weights(other, stage)
    return max(float(np.abs(value.astype(float) - pairs[1][name]).max()) for name, value in pairs[0].items())


def saves(folder):
    return {path.name for path in folder.glob(".store/*.saves/*.safetensors")}


def children(process):
    return [int(number) for number in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]


@pytest.mark.slow
def test_two_processes_three_of_torchrun_and_one_give_the_same_models(start, tmp_path):
    assert ended(start("run", "r.yaml", "-o", "one", "-q"))[0] == 0
    assert ended(start("run", "r.yaml", "-o", "two", "-q", "--processes", "2"))[0] == 0
    assert ended(start("run", "r.yaml", "-o", "again", "-q", "--processes", "2"))[0] == 0
    torchrun = ("-m", "torch.distributed.run", "--nproc-per-node", "3", "-m", "compress_cli")
    assert ended(start("run", "r.yaml", "-o", "three", "-q", launcher=torchrun))[0] == 0
    for stage in ("teacher", "student"):
        for run in ("two", "three"):
            assert far(tmp_path / "one" / "r", tmp_path / run / "r", stage) < 1e-4
        two, again = (weights(tmp_path / run / "r", stage) for run in ("two", "again"))
        assert all(np.array_equal(value, again[name]) for name, value in two.items())
    manifests = [
        json.loads((tmp_path / run / "r" / "student" / "manifest.json").read_text()) for run in ("one", "two", "three")
    ]
    assert [manifest["environment"].get("processes") for manifest in manifests] == [None, 2, 3]
    assert len({manifest["key"] for manifest in manifests}) == 1


@pytest.mark.slow
def test_divided_weights_and_the_training_after_a_cut(start, tmp_path):
    (tmp_path / "cut.yaml").write_text(RECIPE + CUT)
    shard = [text for stage in ("teacher", "student") for text in ("--set", f"stages.{stage}.training.shard=all")]
    assert ended(start("run", "cut.yaml", "-o", "one", "-q"))[0] == 0
    assert ended(start("run", "cut.yaml", "-o", "two", "-q", "--processes", "2", *shard))[0] == 0
    for stage in ("teacher", "student", "pruned"):
        assert far(tmp_path / "one" / "cut", tmp_path / "two" / "cut", stage) < 1e-4
    manifest = json.loads((tmp_path / "two" / "cut" / "pruned" / "manifest.json").read_text())
    assert manifest["environment"]["processes"] == 2


@pytest.mark.slow
def test_a_killed_process_ends_the_run_and_one_process_goes_on(start, tmp_path):
    long = ("run", "r.yaml", "-o", "long", "-q", "--set", "stages.teacher.training.epochs=40")
    process = start(*long, "--processes", "2")
    while not saves(tmp_path / "long"):
        assert process.poll() is None
        time.sleep(0.1)
    (other,) = children(process)
    os.kill(other, signal.SIGKILL)
    code, complaints = ended(process)
    assert code == 4
    assert "process 1 of 2, counted from 0: was killed by signal SIGKILL" in complaints
    assert "'teacher' up to epoch" in complaints
    assert "Traceback" not in complaints
    assert saves(tmp_path / "long")
    assert ended(start(*long))[0] == 0
    log = (tmp_path / "long" / "r" / "log.jsonl").read_text()
    assert "saved by 2 processes, now 1 process: equal but for rounding" in log
    assert ended(start(*long[:3], "whole", *long[4:]))[0] == 0
    assert far(tmp_path / "long" / "r", tmp_path / "whole" / "r", "teacher") < 1e-4


@pytest.mark.slow
def test_an_interrupt_saves_and_ends_all(start, tmp_path):
    process = start("run", "r.yaml", "-o", "o", "-q", "--processes", "2", "--set", "stages.teacher.training.epochs=500")
    while not saves(tmp_path / "o"):
        assert process.poll() is None
        time.sleep(0.1)
    (other,) = children(process)
    before = saves(tmp_path / "o")
    process.send_signal(signal.SIGINT)
    code, complaints = ended(process)
    assert code == 130
    assert "interrupted" in complaints
    assert saves(tmp_path / "o") != before
    assert not Path(f"/proc/{other}").exists()


@pytest.mark.slow
def test_a_process_with_another_recipe_or_without_the_store_is_refused(start, tmp_path):
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29643"}
    (tmp_path / "other.yaml").write_text(RECIPE.replace("hidden: [20]", "hidden: [30]"))
    first, second = start("run", "r.yaml", RANK="0", **place), start("run", "other.yaml", RANK="1", **place)
    code, complaints = ended(first)
    assert code == 2
    assert "process 1, on " in complaints
    assert "makes another stage 'teacher' than the first one" in complaints
    assert ended(second) == (0, "")
    place["MASTER_PORT"] = "29644"
    first, second = start("run", "r.yaml", RANK="0", **place), start("run", "r.yaml", "-o", "elsewhere", RANK="1", **place)
    code, complaints = ended(first)
    assert code == 3
    assert "'teacher' is not in" in complaints
    assert "all processes need one store" in complaints
    assert ended(second) == (0, "")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--processes", "2", "--jobs", "2"), "train each step by several processes, or make several steps at once"),
        (("--processes", "2", "--within", "1h"), "error: within 1h: only what steps take in one process is known"),
        (("--processes", "2", "--on", "slurm"), "train each step by several processes, or make several steps at once"),
    ],
)
def test_two_ways_at_once_are_refused(compress, tmp_path, options, reason):
    (tmp_path / "r.yaml").write_text(RECIPE)
    ended = compress("run", "r.yaml", *options)
    assert ended.code == 2
    assert reason in ended.err


def test_an_environment_that_names_no_process_is_refused(compress, tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(RECIPE)
    for name, value in {"RANK": "2", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    ended = compress("run", "r.yaml")
    assert ended.code == 2
    assert "the environment names no process of a training on several: RANK=2, WORLD_SIZE=2" in ended.err


def test_other_commands_are_not_for_torchrun(compress, tmp_path, monkeypatch):
    (tmp_path / "r.yaml").write_text(RECIPE)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    ended = compress("tune", "r.yaml")
    assert ended.code == 2
    assert "only 'run' is made by several processes together" in ended.err
