"""`clean` takes what no run refers to, and nothing that is in use, may be taken up again, or is not the store's."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from compress_cli.store import run_index
from compress_cli.store.artifact import Checkpoint, Draft, Source
from compress_cli.store.record import Record
from compress_cli.store.store import Store

A, B, C, D, E = (letter * 64 for letter in "abcde")


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "runs" / ".store")


def make(store, key, inputs=()):
    with store.working(key) as folder:
        (folder / "a.bin").write_bytes(b"x" * 1000)
        sources = {"start": [Source(key=each, digest="d") for each in inputs]}
        Draft(Checkpoint, key, {"type": "train"}, inputs=sources).commit(folder)
        return store.commit(key)


def finish(tmp_path, name, keys):
    """A run's folder as a finished run leaves it."""
    steps = {key[0]: key for key in keys}
    (tmp_path / "runs" / name).mkdir(parents=True, exist_ok=True)
    record = Record(recipe=name, store="../.store", seed=0, baseline="", rows=[], steps=steps, wall_time_s=1.0)
    record.write(tmp_path / "runs" / name)
    return tmp_path / "runs" / name


def left(store):
    return sorted(path.name[0] for path in store.root.iterdir() if not path.name.startswith("."))


def test_what_no_run_refers_to_goes(compress, store, tmp_path):
    for key, inputs in ((A, ()), (B, (A,)), (C, ()), (D, ())):
        make(store, key, inputs)
    finish(tmp_path, "r", [B])  # and so A, which B was made of
    run_index.enter(store, tmp_path / "runs" / "r", [D])  # a later try in the same folder, not finished yet
    dry = json.loads(compress("clean", "--dry-run", "--json").out)
    assert [each["key"] for each in dry["entries"]] == [C]
    assert dry["bytes"] > 1000
    assert left(store) == ["a", "b", "c", "d"]
    outcome = compress("clean")
    assert outcome.code == 0
    assert "1 runs; removed 1 artifacts" in outcome.out
    assert left(store) == ["a", "b", "d"]
    store.get(B).verify()


def test_a_run_whose_folder_vanished_is_forgotten_unless_it_was_elsewhere(compress, store, tmp_path):
    make(store, A)
    make(store, B)
    for name in ("gone", "there"):
        (tmp_path / name).mkdir()
    run_index.enter(store, tmp_path / "gone", [A])
    (tmp_path / "gone").rmdir()
    entry = run_index.RunEntry(directory="/no/such/folder", host="another machine", keys=[B])
    (store.root / ".runs" / "other.json").write_text(entry.model_dump_json())
    assert compress("clean").code == 0
    assert left(store) == ["b"]
    assert [each.host for each in run_index.entries(store)] == ["another machine"]


def test_leavings_of_interrupted_runs(compress, store, tmp_path):
    for key in (A, B):
        with pytest.raises(KeyboardInterrupt), store.working(key) as folder:
            (folder / "state.bin").write_bytes(b"epoch 3")
            raise KeyboardInterrupt
    (store.root / f"{C}.lock").write_text("process 1")  # of a process that was killed
    (store.root / f"{D}.gone").mkdir()
    (store.root / "notes.txt").write_text("mine")
    (store.root / ".machine").mkdir()
    (tmp_path / "runs" / "r").mkdir()
    run_index.enter(store, tmp_path / "runs" / "r", [A])
    assert compress("clean").code == 0
    assert sorted(path.name for path in store.root.iterdir()) == [
        ".machine",
        ".runs",
        f"{A}.partial",
        f"{A}.saves",
        "notes.txt",
    ]
    assert (store.root / f"{A}.partial" / "state.bin").exists()


def test_what_another_process_holds_stays(compress, store):
    make(store, A)
    make(store, B)
    code = "from compress_cli.store.store import Store\nfrom pathlib import Path\n"
    code += f"with Store(Path('{store.root}')).working('{A}'):\n"
    code += "    print('held', flush=True)\n    input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    outcome = compress("clean")
    assert "in use, stays" in outcome.out
    assert left(store) == ["a"] * 4  # artifact, working folder, saves, lock
    holder.kill()
    holder.wait()
    assert compress("clean").code == 0
    assert left(store) == []


def test_a_register_that_can_not_be_read_stops_it(compress, store, tmp_path):
    make(store, A)
    run_index.enter(store, tmp_path, [])
    next((store.root / ".runs").glob("*.json")).write_text("{")
    outcome = compress("clean")
    assert (outcome.code, "can't be read" in outcome.err) == (3, True)
    assert left(store) == ["a"]
    assert compress("clean", "--store", "nowhere").code == 3


def test_a_damaged_run_in_the_output_folder_stops_it(compress, store, tmp_path):
    make(store, A)
    (finish(tmp_path, "r", [A]) / "run.json").write_text("{")
    assert compress("clean").code == 3
    assert left(store) == ["a"]


def test_a_real_run_needs_all_that_it_made(compress, tmp_path):
    recipe = "dataset: digits\nthreads: 1\nstages:\n  - {type: train, model: {type: mlp, hidden: [4]}, %s}\n"
    training = "training: {epochs: 1, precision: float32}"
    for name, settings in (("r", training), ("s", f"{training}, name: other")):
        (tmp_path / f"{name}.yaml").write_text(recipe % settings)
        assert compress("run", f"{name}.yaml", "-q").code == 0
    before = sorted(os.listdir("runs/.store"))
    assert json.loads(compress("clean", "--json").out)["entries"] == []
    shutil.rmtree("runs/r")
    assert json.loads(compress("clean", "--json").out)["entries"] == []  # s has the same
    assert sorted(os.listdir("runs/.store")) == before
    shutil.rmtree("runs/s")
    assert len(json.loads(compress("clean", "--json").out)["entries"]) == 5  # model, file, predictions, measurement, timing
    assert [name for name in os.listdir("runs/.store") if len(name) == 64] == []
    assert Path("runs/.store").is_dir()
