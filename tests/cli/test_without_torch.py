"""Measuring, predicting and reporting start without PyTorch."""

import json
import subprocess
import sys

import pytest

CODE = """\
import sys
from compress_cli.cli import main
try:
    main(sys.argv[1:])
except SystemExit as end:
    assert not end.code, end.code
loaded = sorted({"torch", "torchao", "torchvision"} & set(sys.modules))
print(loaded, file=sys.stderr)
"""


@pytest.mark.parametrize("command", ["eval", "predict", "report", "inspect", "compare"])
def test_never_imports_torch(command, digits_file, tmp_path):
    path, _, _ = digits_file()
    if command == "report":
        from compress_cli.store.record import Record

        Record(recipe="r", store=".store", seed=0, baseline="", rows=[], wall_time_s=0.0).write(tmp_path)
    arguments = {
        "eval": [path, "--data", "digits", "--json"],
        "predict": [path, tmp_path / "x.npz", "--json"],
        "inspect": [path, "--json"],
        "compare": [path, path, "--data", "digits", "--json"],
        "report": [tmp_path, "--json"],
    }
    import numpy as np

    np.savez(tmp_path / "x.npz", image=np.zeros((2, 1, 8, 8), np.uint8))
    ended = subprocess.run(
        [sys.executable, "-c", CODE, command, *map(str, arguments[command])], capture_output=True, text=True, check=True
    )
    json.loads(ended.stdout)
    assert ended.stderr.splitlines()[-1] == "[]"
