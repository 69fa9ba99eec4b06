"""Independent steps as jobs of other processes: the same bytes, failures told as if they had happened here."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RECIPE = """\
dataset: digits
threads: 1
compare: {seconds: 0.02}
stages:
  - type: train
    name: teacher
    model: {type: mlp, hidden: [8]}
    training: {epochs: EPOCHS, precision: float32}
  - type: distill
    name: student
    teacher: teacher
    seeds: [0, 1]
    model: {type: mlp, hidden: [4]}
    losses: [soft_targets]
    training: {epochs: EPOCHS, precision: float32}
"""
FAILING = """\
from typing import ClassVar
from compress_cli.pipeline.workers import Handle, Outcome, Workers

class Failing(Workers):
    here: ClassVar[bool] = False
    code: int
    message: str = "what went wrong"

    @property
    def slots(self):
        return 4

    def start(self, job, folder):
        return Ended(Outcome(code=self.code, message=self.message))

class Ended(Handle):
    def __init__(self, outcome):
        self.ended = outcome

    def outcome(self):
        return self.ended

    def stop(self):
        pass
"""


def digests(run):
    """Stage -> hash of its files, of all stages of a run."""
    return {
        link.name: json.loads((link / "manifest.json").read_text())["files"]
        for link in sorted(Path(run).iterdir())
        if link.is_symlink()
    }


def write(epochs, folder=Path()):
    (folder / "r.yaml").write_text(RECIPE.replace("EPOCHS", str(epochs)))


def start(folder, *arguments):
    command = [sys.executable, "-m", "compress_cli", "run", "r.yaml", *arguments]
    return subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


@pytest.mark.slow
def test_jobs_make_the_same_bytes_as_one_process(compress):
    write(2)
    assert compress("run", "r.yaml", "-o", "alone").code == 0
    outcome = compress("run", "r.yaml", "--jobs", "2")
    assert outcome.code == 0, outcome
    for stage in ("teacher", "student", "student.seed1"):
        assert f"{stage}: epoch 2/2" in outcome.err  # the progress of other processes is shown here
    assert digests("runs/r") == digests("alone/r")
    assert len(digests("runs/r")) == 3
    assert not Path("runs/r/.jobs").exists()


@pytest.mark.parametrize(("code", "words"), [(2, ""), (3, ""), (4, "stage 'teacher' failed: "), (130, "")])
def test_a_failure_elsewhere_ends_the_run_with_its_code(compress, tmp_path, code, words):
    write(1)
    (tmp_path / "failing.py").write_text(FAILING)
    outcome = compress("run", "r.yaml", "--plugin", "failing.py", "--on", f"{{type: failing, code: {code}}}")
    assert outcome.code == code
    assert (words + "what went wrong" in outcome.err) == (code != 130)


def test_a_bug_elsewhere_keeps_its_traceback(compress, tmp_path):
    write(1)
    (tmp_path / "failing.py").write_text(FAILING)
    from compress_cli.cli import main

    with pytest.raises(RuntimeError, match="line 7 of a bug"):
        main(["run", "r.yaml", "--plugin", "failing.py", "--on", "{type: failing, code: 1, message: line 7 of a bug}"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--on", "slurm"], "there is no sbatch on this machine"),
        (["--on", "slum"], "did you mean 'slurm'?"),
        (["--on", "local", "--jobs", "2"], "choose one"),
        (["--jobs", "0"], "greater than or equal to 1"),
    ],
)
def test_workers_that_are_not_there_are_refused(compress, arguments, words):
    pytest.importorskip("submitit")
    write(1)
    outcome = compress("run", "r.yaml", *arguments)
    assert outcome.code == 2
    assert words in outcome.err
    assert not Path("runs").exists()  # before anything ran


@pytest.mark.slow
def test_a_job_that_was_killed_goes_on_from_its_last_save(tmp_path):
    write(2, tmp_path)
    long = ("--set", "stages.teacher.training.epochs=200")
    assert start(tmp_path, *long, "-o", "alone").wait(300) == 0
    running = start(tmp_path, *long, "--jobs", "2", "--set", "save.steps=20")
    jobs = tmp_path / "runs/r/.jobs"
    while not any(b'"epoch": 20' in path.read_bytes() for path in jobs.glob("*.progress")):
        assert running.poll() is None
        time.sleep(0.05)
    (worker,) = subprocess.check_output(["pgrep", "-f", str(jobs)], text=True).split()
    os.kill(int(worker), signal.SIGKILL)
    assert running.wait(60) == 4
    assert "killed by signal SIGKILL" in running.stderr.read()
    again = start(tmp_path, *long, "--jobs", "2", "--set", "save.steps=20")
    assert again.wait(300) == 0
    assert "teacher: resumed at epoch" in again.stderr.read()
    assert digests(tmp_path / "runs/r") == digests(tmp_path / "alone/r")


@pytest.mark.slow
def test_ctrl_c_reaches_every_job_and_loses_nothing(tmp_path):
    write(2, tmp_path)
    assert start(tmp_path, "--until", "teacher").wait(100) == 0
    write(2, tmp_path)
    running = start(tmp_path, "--jobs", "2", "--set", "stages.student.training.epochs=2000")
    jobs = tmp_path / "runs/r/.jobs"
    while sum(b'"epoch": 9' in path.read_bytes() for path in jobs.glob("*.progress")) < 2:
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(signal.SIGINT)
    assert running.wait(40) == 130
    assert subprocess.run(["pgrep", "-f", str(jobs)], stdout=subprocess.DEVNULL).returncode == 1
    saves = [path for path in (tmp_path / "runs/.store").glob("*.saves") if len(list(path.iterdir())) > 1]
    assert len(saves) == 2


SBATCH = """#!{python}
import os, subprocess, sys
folder = os.environ["FAKE_SLURM"]
number = str(len(os.listdir(folder)) + 1)
script = open(sys.argv[-1]).read()
open(os.path.join(folder, number), "w").write(script)
environment = dict(os.environ, SLURM_JOB_ID=number, SLURM_NTASKS="1", SLURM_PROCID="0", SLURM_LOCALID="0", SLURM_NODEID="0",
                   SLURM_JOB_NUM_NODES="1", SLURM_JOB_NODELIST="node1")
subprocess.Popen(["bash", sys.argv[-1]], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
print("Submitted batch job", number)
"""
SRUN = """#!{python}
import os, sys
command = sys.argv[next(at for at, word in enumerate(sys.argv) if word.endswith("python") or "python3" in word):]
os.execvp(command[0], command)
"""
SACCT = """#!{python}
import os
print("JobID|State|NodeList")
for number in os.listdir(os.environ["FAKE_SLURM"]):
    print(f"{number}|RUNNING|node1")
"""


@pytest.mark.slow
def test_slurm_gets_a_script_for_each_step(tmp_path, monkeypatch):
    pytest.importorskip("submitit")
    programs, jobs = tmp_path / "bin", tmp_path / "queue"
    programs.mkdir()
    jobs.mkdir()
    for name, text in {"sbatch": SBATCH, "srun": SRUN, "sacct": SACCT}.items():
        (programs / name).write_text(text.replace("{python}", sys.executable))
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FAKE_SLURM", str(jobs))
    write(2, tmp_path)
    running = start(tmp_path, "--on", "{type: slurm, partition: long, hours: 2, cores: 1, memory_gb: 3, setup: [export A=1]}")
    assert running.wait(200) == 0, running.stderr.read()
    scripts = [path.read_text() for path in sorted(jobs.iterdir())]
    assert len(scripts) == 3
    for line in ("--partition=long", "--time=120", "--cpus-per-task=1", "--mem=3GB"):
        assert all(f"#SBATCH {line}\n" in script for script in scripts)
    assert all("\nexport A=1\n" in script for script in scripts)
    assert start(tmp_path, "-o", "alone").wait(100) == 0
    assert digests(tmp_path / "runs/r") == digests(tmp_path / "alone/r")


def test_the_store_is_asked_once_for_a_step_that_has_to_wait():
    from compress_cli.pipeline.parallel import Parallel
    from compress_cli.pipeline.workers.local import Local

    class Step:
        key, sources = "k", ()

        class stage:
            long, timed = False, True

    class Run:
        artifacts, problems, asked = {}, {}, []

        def settled(self, step):
            self.asked.append(step.key)
            return False

    parallel, run = Parallel(Local(jobs=2), Path("r.yaml")), Run()
    for _ in range(3):
        assert not parallel._begin(run, [Step()])
    assert run.asked == ["k"]


def test_a_timed_step_waits_until_no_job_works_here():
    from compress_cli.pipeline.parallel import Parallel
    from compress_cli.pipeline.workers.local import Local

    class Step:
        key, sources = "k", ()

        class stage:
            long, timed = False, True

    class Run:
        artifacts, problems = {}, {}
        made = []

        def advance(self, step):
            self.made.append(step)

    parallel, run = Parallel(Local(jobs=2), Path("r.yaml")), Run()
    parallel.at_work["other"] = None
    assert not parallel._one_here(run, [Step()])
    parallel.at_work.clear()
    assert parallel._one_here(run, [Step()])
    assert len(run.made) == 1


def test_a_ray_cluster_that_does_not_answer_is_refused_before_anything_runs(monkeypatch):
    import importlib.util
    import socket

    from compress_cli.errors import RecipeError
    from compress_cli.pipeline.workers.ray import Ray

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(RecipeError, match=f"nobody answers at ray://{address} .*is the cluster's head up"):
            Ray(address=f"ray://{address}").check()
        listening.listen()
        Ray(address=address).check()
    Ray(address="auto").check()
