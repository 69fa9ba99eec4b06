"""No command opens a connection, or writes a file outside the run, the store and the temporary folder."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, model: {type: mlp, hidden: [8]}, training: {epochs: 1, precision: float32}}
  - export
"""
COMMANDS = """\
import sys
import numpy as np
from compress_cli.cli import main
np.savez("rows.npz", image=np.zeros((2, 1, 8, 8), np.uint8))
file = "runs/r/export/model.onnx"
for command in (
    ["list"], ["describe", "train"], ["schema"], ["init", "starter.yaml"], ["plan", "r.yaml"], ["run", "r.yaml"],
    ["report", "runs/r"], ["eval", file, "--seconds", "0.01"], ["compare", file, file, "--seconds", "0.01"],
    ["predict", file, "rows.npz"], ["inspect", file], ["verify", "runs/r"], ["repair", "runs/r"], ["clean"],
):
    try:
        main(command)
    except SystemExit as end:
        assert not end.code, command
"""
WRITES = re.compile(r'(?:open|openat|creat|mkdir|mkdirat)\((?:AT_FDCWD, )?"([^"]+)", .*')
SPARED = ("/dev/", "/proc/")


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """The folder in which every command ran, with `home/` for HOME, `work/`, `tmp/`; `trace` is there where strace works."""
    folder = tmp_path_factory.mktemp("traced").resolve()
    for name in ("home", "work", "tmp"):
        (folder / name).mkdir()
    (folder / "work" / "r.yaml").write_text(RECIPE)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    environment |= {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "OMP_NUM_THREADS": "1"}
    strace = ["strace", "-f", "--seccomp-bpf", "-o", folder / "trace", "-e", "trace=network,open,openat,creat,mkdir,mkdirat"]
    works = shutil.which("strace") and subprocess.run([*strace, "true"], capture_output=True).returncode == 0
    command = [*(strace if works else ()), sys.executable, "-c", COMMANDS]
    done = subprocess.run(command, cwd=folder / "work", env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return folder


def test_nothing_is_written_into_the_home_folder(traced):
    assert sorted((traced / "home").rglob("*")) == []


def test_neither_a_connection_nor_a_file_outside(traced):
    if not (traced / "trace").is_file():
        pytest.skip("there is no strace, or it may not trace")
    lines = (traced / "trace").read_text(errors="replace").splitlines()
    assert [line for line in lines if "AF_INET" in line] == []
    written = [line for line in lines if ("O_CREAT" in line or "O_WRONLY" in line or "O_RDWR" in line or "mkdir" in line)]
    paths = {found[1] for line in written if (found := WRITES.search(line)) and "= -1 E" not in line}
    assert f"{traced}/tmp" in str(paths), "the trace sees what is written"
    inside = (*SPARED, f"{traced / 'work'}/", f"{traced / 'tmp'}/")
    assert sorted(path for path in paths if Path(path).is_absolute() and not path.startswith(inside)) == []
