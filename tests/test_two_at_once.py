"""Two runs at once, as real processes: one trains, the other waits and takes what was made; nothing is torn."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

TEACHER = "  - {type: train, name: teacher, model: {type: mlp, hidden: [16]}, training: {epochs: %d, precision: float32}}\n"
STUDENT = (
    "  - {type: distill, name: student, teacher: teacher, model: {type: mlp, hidden: [%d]},"
    " training: {epochs: 1, precision: float32}}\n"
)
HEAD = "dataset: digits\nthreads: 1\nstages:\n"


def start(folder, *arguments):
    command = [sys.executable, "-m", "compress_cli", "run", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def ended(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return out, err


def test_two_recipes_that_share_a_teacher_train_it_once(tmp_path):
    for name, width in (("a", 5), ("b", 6)):
        (tmp_path / f"{name}.yaml").write_text(HEAD + TEACHER % 20 + STUDENT % width)
    processes = [start(tmp_path, f"{name}.yaml") for name in "ab"]
    outputs = [ended(process)[1] for process in processes]
    trained = [text.count("teacher: epoch 20/20") for text in outputs]
    assert sorted(trained) == [0, 1], outputs
    waiting = outputs[trained.index(0)]
    holder = processes[trained.index(1)].pid
    assert f"teacher: waits for process {holder} on " in waiting or "teacher: up to date" in waiting
    assert all(text.count("student: epoch 1/1") == 1 for text in outputs)
    first, second = (os.readlink(tmp_path / "runs" / name / "teacher") for name in "ab")
    assert first == second
    assert not list((tmp_path / "runs" / ".store").glob("*.lock"))
    assert not list((tmp_path / "runs" / ".store").glob("*.partial"))


@pytest.mark.slow
def test_one_recipe_four_times_into_one_folder(tmp_path):
    (tmp_path / "r.yaml").write_text(HEAD + TEACHER % 10 + STUDENT % 5)
    processes = [start(tmp_path, "r.yaml", "--json") for _ in range(4)]
    outcomes = [ended(process) for process in processes]
    assert sum(err.count("teacher: epoch 10/10") for _, err in outcomes) == 1
    assert sum(err.count("student: epoch 1/1") for _, err in outcomes) == 1
    reports = [json.loads(out) for out, _ in outcomes]
    assert len({json.dumps([row["metrics"] for row in report["rows"]]) for report in reports}) == 1
    run = tmp_path / "runs" / "r"
    assert [json.loads(line)["step"] for line in (run / "log.jsonl").read_text().splitlines()].count("teacher") >= 10
    assert json.loads((run / "run.json").read_text())["recipe"] == "r"
    assert json.loads((run / "report.json").read_text())["recipe"] == "r"
    assert not [name for name in os.listdir(run) if name.startswith(".")]
    verify = [sys.executable, "-m", "compress_cli", "verify", "runs/r"]
    assert subprocess.run(verify, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.getcwd()}).returncode == 0


def test_a_lock_of_a_dead_process_is_taken_over(tmp_path):
    """The one that trains is killed; the one that waited trains on."""
    code = f"""
import time
from pathlib import Path
from compress_cli.store.store import Store
with Store(Path({str(tmp_path / "store")!r})).working("k") as folder:
    (folder / "half").touch()
    print("held", flush=True)
    time.sleep(100)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout.readline() == "held\n"
    waiter_code = f"""
from pathlib import Path
from compress_cli.store.store import Store
with Store(Path({str(tmp_path / "store")!r})).working("k", lambda who: print(who, flush=True)) as folder:
    print([each.name for each in folder.iterdir()], flush=True)
"""
    waiter = subprocess.Popen([sys.executable, "-c", waiter_code], stdout=subprocess.PIPE, text=True)
    assert waiter.stdout.readline().startswith(f"process {holder.pid} on ")
    time.sleep(0.2)
    assert waiter.poll() is None
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert waiter.communicate(timeout=20)[0] == "['half']\n"
    assert sorted(os.listdir(tmp_path / "store")) == ["k.partial", "k.saves"]


def test_a_file_is_written_whole_while_others_read_it(tmp_path):
    path = tmp_path / "run.json"
    code = f"""
import sys
from pathlib import Path
from compress_cli.store import durable
for _ in range(100):
    durable.write(Path({str(path)!r}), sys.argv[1].encode() * 50_000)
"""
    writers = [subprocess.Popen([sys.executable, "-c", code, letter]) for letter in "ab"]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            text = path.read_text()
            assert text in ("a" * 50_000, "b" * 50_000)
            seen.add(text[0])
    assert [writer.wait() for writer in writers] == [0, 0]
    assert seen
    assert os.listdir(tmp_path) == ["run.json"]
