"""A FIFO, a folder or a dangling link where a file should be: one line and exit 3, no traceback, no hang, no half a `clean`."""

import os
import shutil
import signal
from pathlib import Path

import pytest

from compress_cli.store.artifact import Checkpoint, Draft
from compress_cli.store.store import Store

RECIPE = "dataset: digits\nthreads: 1\nstages:\n  - {type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1, %s}}\n"


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    from compress_cli.cli import main

    folder = tmp_path_factory.mktemp("finished")
    (folder / "r.yaml").write_text(RECIPE % "precision: float32")
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder / "r.yaml"), "-q", "-o", str(folder / "runs")])
    assert not ended.value.code
    return folder


@pytest.fixture
def ran(finished, compress, tmp_path):
    """A run in a copy, with an artifact that nothing needs; what hangs is stopped. Returns the trained model's folder."""
    shutil.copytree(finished / "runs", tmp_path / "runs", symlinks=True)
    shutil.copy(finished / "r.yaml", tmp_path)
    store = Store(tmp_path / "runs" / ".store")
    with store.working("f" * 64) as folder:
        (folder / "a.bin").write_bytes(b"x")
        Draft(Checkpoint, "f" * 64, {"type": "train"}, wall_time_s=1.0).commit(folder)
        store.commit("f" * 64)
    signal.signal(signal.SIGALRM, lambda *given: pytest.fail("it hangs"))
    signal.alarm(20)
    yield Path("runs/r/train").resolve()
    signal.alarm(0)


MAKE = {
    "FIFO": os.mkfifo,
    "folder": os.mkdir,
    "link to nothing": lambda path: os.symlink("/nowhere/x", path),
    "file": Path.touch,
}


def put(kind, path):
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    path.parent.mkdir(exist_ok=True)
    MAKE[kind](path)


def assert_clear(outcome, code, kind="", path=""):
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    if code:
        assert outcome.err.count("error:") == 1, outcome
        assert f"{path}: is a {kind}" in outcome.err, outcome


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing", "file"])
@pytest.mark.parametrize("suffix", ["", ".partial", ".saves", ".old"])
def test_where_a_folder_of_the_store_should_be(compress, ran, kind, suffix):
    path = ran.with_name(ran.name + suffix)
    put(kind, path)
    assert_clear(compress("run", "r.yaml", "-q"), 3, kind, path.name)
    assert_clear(compress("verify", "runs/r"), 0 if suffix else 3, kind, path.name)
    assert_clear(compress("clean"), 0)


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing", "folder"])
@pytest.mark.parametrize("name", ["%s.lock", ".runs/lock", ".runs/z.json", "../r/run.json"])
def test_where_a_file_that_clean_needs_should_be(compress, ran, kind, name):
    path = ran.parent / (name % ran.name if "%" in name else name)
    put(kind, path)
    assert_clear(compress("clean"), 3, kind, path.name)
    assert (ran.parent / ("f" * 64)).is_dir()  # nothing was removed


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing", "folder"])
@pytest.mark.parametrize("name", ["run.json", "seal.json", "log.jsonl", "recipe.lock.yaml", "report.html", "report.md.partial"])
def test_where_a_file_of_a_run_should_be(compress, ran, kind, name):
    path = Path("runs/r", name)
    put(kind, path)
    checked = name not in ("log.jsonl", "report.md.partial")
    assert_clear(compress("verify", "runs/r"), 3 if checked else 0, kind, name)
    assert_clear(compress("repair", "runs/r", "-q"), 3 if checked else 0, kind, name)
    assert_clear(compress("run", "r.yaml", "-q"), 3, kind, name)


@pytest.mark.parametrize("kind", ["FIFO", "folder"])
@pytest.mark.parametrize("name", ["train", ".train.partial"])
def test_where_a_link_of_a_run_should_be(compress, ran, kind, name):
    put(kind, Path("runs/r", name))
    outcome = compress("run", "r.yaml", "-q")
    assert_clear(outcome, 0 if (kind, name) == ("FIFO", ".train.partial") else 3, kind, name)


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing", "folder"])
def test_in_the_folders_of_a_stage_at_work(compress, ran, kind):
    """What can't be a save or a mark of an earlier try is cleared away."""
    shutil.rmtree(ran)
    for suffix, name in (
        (".saves", "attempt.json"),
        (".saves", f"00000001-{'a' * 64}.safetensors"),
        (".partial", "manifest.json"),
    ):
        put(kind, ran.with_name(ran.name + suffix) / name)
    assert_clear(compress("run", "r.yaml", "-q"), 0)
    assert_clear(compress("verify", "runs/r"), 0)


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing", "folder", "file"])
def test_entries_that_nothing_needs_go(compress, ran, kind):
    keys = [
        ran.with_name(letter * 64 + suffix) for letter, suffix in zip("abcd", ("", ".partial", ".saves", ".gone"), strict=True)
    ]
    for path in keys:
        put(kind, path)
    assert_clear(compress("clean"), 0)
    assert not [path for path in keys if os.path.lexists(path)]
    assert_clear(compress("verify", "runs/r"), 0)


def test_what_a_killed_repair_left_beside_a_whole_artifact_goes(compress, ran):
    whole = sorted(path.name for path in ran.parent.iterdir())
    for suffix in (".partial", ".saves"):
        folder = ran.with_name(ran.name + suffix)
        folder.mkdir()
        (folder / "half.bin").write_bytes(b"x" * 1000)
    outcome = compress("clean", "--json")
    assert_clear(outcome, 0)
    assert '"bytes": 2000' in outcome.out
    assert sorted(path.name for path in ran.parent.iterdir()) == [name for name in whole if name != "f" * 64]
    assert_clear(compress("verify", "runs/r"), 0)


@pytest.mark.parametrize(
    "command", [("verify", "runs/r"), ("plan", "r.yaml"), ("run", "r.yaml", "-q"), ("repair", "runs/r", "-q")]
)
def test_a_store_that_is_a_link_to_itself(compress, ran, command):
    shutil.rmtree("runs/.store")
    os.symlink(".store", "runs/.store")
    outcome = compress(*command)
    assert outcome.code in (3, 4), outcome
    assert "Traceback" not in outcome.err
    assert ".store" in outcome.err


@pytest.mark.parametrize("kind", ["FIFO", "link to nothing"])
def test_among_the_choices_of_a_machine(compress, ran, kind):
    put(kind, Path("runs/.store/.machine/odd"))
    assert_clear(compress("reproduce", "runs/r", "-o", "again", "-q"), 0)
