"""Ctrl-C and SIGTERM: the state is saved, what is kept is said, and the process is gone within 5 s whatever it is doing."""

import os
import re
import signal
import time

import pytest

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
device: cpu
stages:
  - type: train
    name: first
    model: {type: mlp, hidden: [4]}
    training: {epochs: 1, precision: float32}
  - type: train
    name: second
    model: {type: convnet, widths: [4, 4], convs: 1}
    training: {epochs: 5000, precision: float32}
"""
ENDLESS = RECIPE.partition("  - type: train\n    name: second")[0] + "  - {type: stuck, name: second}\n"
STUCK = """\
import ctypes

from compress_cli.store.artifact import Table
from compress_cli.stages import Stage


class Stuck(Stage):
    def produces(self, kinds):
        return Table

    def run(self, context):
        if context.limit is None:
            print("it is stuck", flush=True)
            libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
            libc.pthread_mutex_lock(mutex)
            libc.pthread_mutex_lock(mutex)  # no signal ends that
        return {}
"""


class Command:
    """A command in a process of its own."""

    def __init__(self, forks, folder, recipe, *arguments):
        (folder / "r.yaml").write_text(recipe)
        self.forks, self.log = forks, folder / "log.txt"
        self.log.write_text("")
        command = ["run", "r.yaml", "--until", "second", *arguments]
        self.number = forks(command=command, cwd=str(folder), log=str(self.log))

    def wait_for(self, words):
        until = time.monotonic() + 60
        while words not in self.log.read_text():
            assert time.monotonic() < until, self.log.read_text()
            time.sleep(0.02)

    def send(self, number):
        os.kill(self.number, number)
        self.sent = time.monotonic()

    def end(self):
        """The exit code, and seconds since the last signal."""
        return self.forks()["code"], time.monotonic() - self.sent


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_state_is_saved_and_the_same_command_goes_on(forks, tmp_path, number, code):
    command = Command(forks, tmp_path, RECIPE)
    command.wait_for("second: epoch 5/")
    command.send(number)
    ended, seconds = command.end()
    output = command.log.read_text()
    assert ended == code, output
    assert seconds < 5
    assert "Traceback" not in output
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    kept = "error: interrupted; kept: first, and 'second' up to (epoch \\d+, step \\d+); the same command goes on from there"
    found = re.fullmatch(kept, line)
    assert found, line
    command = Command(forks, tmp_path, RECIPE)
    command.wait_for("second: epoch ")
    assert f"second: resumed at {found[1]}\n" in command.log.read_text()
    command.send(signal.SIGKILL)
    command.end()


def test_a_library_that_does_not_come_back_is_left(forks, tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)
    command = Command(forks, tmp_path, ENDLESS, "--plugin", "stuck.py")
    command.wait_for("it is stuck\n")
    command.send(signal.SIGTERM)
    time.sleep(0.5)
    command.send(signal.SIGTERM)  # as `timeout` does: to the process and to its group
    code, seconds = command.end()
    assert code == 143, command.log.read_text()
    assert 3 < seconds < 5
    assert "error: interrupted; kept: first; the same command goes on from there" in command.log.read_text()
    left = {each.suffix for each in (tmp_path / "runs" / ".store").iterdir()}
    assert left == {"", ".partial", ".saves", ".lock"}


def test_a_second_ctrl_c_ends_at_once(forks, tmp_path):
    (tmp_path / "stuck.py").write_text(STUCK)
    command = Command(forks, tmp_path, ENDLESS, "--plugin", "stuck.py")
    command.wait_for("it is stuck\n")
    command.send(signal.SIGINT)
    time.sleep(0.5)
    command.send(signal.SIGINT)
    code, seconds = command.end()
    assert code == 130, command.log.read_text()
    assert seconds < 1
    assert "error: ended at once" in command.log.read_text()
