"""What several tests share."""

import os

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "2")


class Outcome:
    """What a command printed and how it ended."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code, out, err

    def __repr__(self):
        return f"exit {self.code}\n{self.out}\n{self.err}"


@pytest.fixture
def compress(capfd, monkeypatch, tmp_path):
    """Run a command in this process, in an empty folder: `compress("run", "r.yaml")` -> Outcome."""
    from compress_cli.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COMPRESS_STORE", raising=False)

    def _compress(*arguments):
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(each) for each in arguments])
        code = ended.value.code or 0
        return Outcome(code, *capfd.readouterr())

    return _compress
