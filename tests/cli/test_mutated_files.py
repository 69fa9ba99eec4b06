"""Files that are cut short or changed at random: never a traceback, a native crash, or longer than a time limit."""

import os
import random
import signal
import traceback
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from compress_cli.cli import eval as command  # noqa: F401
from compress_cli.pipeline import recipe  # noqa: F401 - loaded once, before processes fork
from compress_cli.report import evaluation  # noqa: F401

LIMIT_S = 60
BUG, SPENT = 1, 99


def mutated(whole, seed):
    """Cut short, or some bytes changed: in the graph's beginning, or anywhere."""
    chance = random.Random(seed)
    if seed % 3 == 0:
        return whole[: chance.randrange(len(whole))]
    content, reach = bytearray(whole), min(len(whole), 400) if seed % 3 == 1 else len(whole)
    for _ in range(chance.choice([1, 1, 2, 5, 20])):
        content[chance.randrange(reach)] = chance.randrange(256)
    return bytes(content)


def ended(path):
    """Exit code of measuring a file in a process of its own; below 0 for one that was killed."""
    child = os.fork()
    if child == 0:
        signal.alarm(LIMIT_S)
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        try:
            from compress_cli.cli import main

            main(["eval", str(path), "--threads", "1", "--seconds", "0.01", "--json", "--quiet"])
        except SystemExit as end:
            os._exit(int(end.code or 0))
        except BaseException:
            Path(f"{path}.txt").write_text(traceback.format_exc())
            os._exit(BUG)
        os._exit(SPENT)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def check(path, whole, seeds):
    codes = {}
    for seed in seeds:
        path.write_bytes(mutated(whole, seed))
        codes[seed] = ended(path)
    print(Counter(codes.values()))
    trace = Path(f"{path}.txt")
    assert {seed: code for seed, code in codes.items() if code not in (0, 3, 4)} == {}, (
        trace.read_text() if trace.exists() else ""
    )
    cut = [codes[seed] for seed in seeds if seed % 3 == 0]
    assert 0 not in cut  # what is cut short can't run
    assert 3 in codes.values()


def test_a_sample_of_mutations(linear_file, tmp_path):
    check(tmp_path / "m.onnx", linear_file(np.ones((16, 3)), shape=("n", 16)).read_bytes(), range(40))


@pytest.mark.slow
def test_many_mutations(linear_file, tmp_path):
    check(tmp_path / "m.onnx", linear_file(np.ones((16, 3)), shape=("n", 16)).read_bytes(), range(300))
