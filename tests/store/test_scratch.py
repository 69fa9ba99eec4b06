"""Folders that are thrown away, also those of processes that were killed."""

import os
import subprocess
import sys
import tempfile
import time

import pytest

from compress_cli.store import scratch


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def age(path):
    long_ago = time.time() - 2 * scratch.YOUNG_S
    os.utime(path, (long_ago, long_ago))


def test_a_folder_is_gone_afterwards(temporary):
    with scratch.scratch("smoke") as folder:
        (folder / "a").write_text("x")
        age(folder)
        assert scratch.abandoned() == []
    assert list(temporary.iterdir()) == []


def test_what_a_killed_process_left_goes_when_the_next_one_begins(temporary):
    code = "from compress_cli.store.scratch import scratch\nwith scratch('smoke') as folder:\n"
    code += "    (folder / 'a').write_text('x')\n    print(folder, flush=True)\n    input()"
    environment = {**os.environ, "TMPDIR": str(temporary)}
    killed = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    folder = temporary / os.path.basename(killed.stdout.readline().strip())
    age(folder)
    scratch.remove_abandoned()
    assert folder.is_dir()  # it is in use
    killed.kill()
    killed.wait()
    (temporary / "compress-scratch-file").write_text("not a folder")
    age(temporary / "compress-scratch-file")
    with scratch.scratch("profile") as other:
        assert sorted(path.name for path in temporary.iterdir()) == ["compress-scratch-file", other.name]


def test_a_folder_that_is_about_to_be_locked_stays(temporary):
    (temporary / "compress-scratch-smoke-x").mkdir()
    scratch.remove_abandoned()
    assert (temporary / "compress-scratch-smoke-x").is_dir()
