"""Standard streams that are full, closed or gone: the work goes on, results count, and the exit code says what happened."""

import io
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from compress_cli.cli._streams import Output

ROOT = Path(__file__).parent.parent.parent
RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}
"""
COMPRESS = f"{sys.executable} -m compress_cli"


def shell(folder, line):
    """Run a line of bash, whose `$compress` is the command."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "compress": COMPRESS}
    return subprocess.run(["bash", "-c", line], cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("nowhere", ["2>/dev/full", "2>&-"])
def test_a_run_goes_on_without_standard_error(tmp_path, nowhere):
    (tmp_path / "r.yaml").write_text(RECIPE)
    done = shell(tmp_path, f"$compress run r.yaml --smoke --json {nowhere}")
    assert (done.returncode, done.stderr) == (0, "")
    assert [step["step"] for step in json.loads(done.stdout)] == [
        "train",
        "train.onnx",
        "train.measurement.predictions",
        "train.measurement",
    ]


def test_a_wrong_recipe_has_its_exit_code_without_standard_error(tmp_path):
    assert shell(tmp_path, "$compress plan nothing.yaml 2>/dev/full").returncode == 2


def test_a_full_disk_behind_standard_output_is_named(tmp_path):
    done = shell(tmp_path, "$compress list > /dev/full")
    assert (done.returncode, done.stderr) == (4, "error: standard output can't be written: No space left on device\n")


@pytest.mark.parametrize("command", ["list", "run --help"])
def test_a_reader_that_ends_first_is_no_error_of_ours(tmp_path, command):
    reader, writer = os.pipe()
    os.close(reader)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "compress_cli", *command.split()],
        cwd=tmp_path, env=environment, stdout=writer, stderr=subprocess.PIPE, timeout=120,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, b"")


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        (["::error::x\n"], ": :error::x\n"),
        (["name\n  ::add-mask::x\n"], "name\n  : :add-mask::x\n"),
        (["a ", "::error::x\n", "::error::y\n"], "a ::error::x\n: :error::y\n"),
        (["a\n", "  ", "::error::y\n"], "a\n  : :error::y\n"),
        (["a", " ", "::error::y\n"], "a ::error::y\n"),
        (["a :: b, c::d\n"], "a :: b, c::d\n"),
    ],
)
def test_no_line_begins_with_a_workflow_command(pieces, expected):
    stream = io.StringIO()
    output = Output(stream)
    for piece in pieces:
        output.write(piece)
    assert stream.getvalue() == expected


def test_names_give_github_no_commands(compress, tmp_path):
    for arguments in (["run", "x\n::error::a.yaml"], ["describe", "\n ::warning::b"], ["list", "::c"]):
        outcome = compress(*arguments)
        assert outcome.code == 2
        assert not re.search(r"^\s*::", outcome.out + outcome.err, re.MULTILINE), outcome
