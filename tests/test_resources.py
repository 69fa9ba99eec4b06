"""Full disk, read-only folder, lost permission, no memory: the error names the lack, exit code 4, the rest stays whole."""

import errno
import os
import pwd
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest

from compress_cli.cli import write_tables
from compress_cli.errors import ResourceError
from compress_cli.pipeline import estimate
from compress_cli.report.table import Table
from compress_cli.store import disk, durable
from compress_cli.store.saves import Save, Saves, Saving
from compress_cli.store.scratch import scratch

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, name: teacher, model: {type: mlp, hidden: [8]}, training: {epochs: 1, precision: float32}}
  - {type: train, name: student, model: {type: mlp, hidden: [%d]}, training: {epochs: 1, precision: float32}}
"""


def started(folder, *arguments, before="", prefix=()):
    """Run a command in a process of its own; `before` is code that runs first."""
    code = f"import sys\n{before}\nfrom compress_cli.cli import main\nmain(sys.argv[1:])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent), "OMP_NUM_THREADS": "1"}
    command = [*prefix, sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=240)


@pytest.fixture
def small(tmp_path):
    """A file system of 20 MB, and a recipe beside it."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m", "none", folder], capture_output=True)
    if mounted.returncode:
        pytest.skip("this user can't mount a small file system")
    (tmp_path / "r.yaml").write_text(RECIPE % 4)
    yield folder
    subprocess.run(["umount", folder], check=True)


def assert_clear(done, code, *messages):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not re.search(r"\bBug\b", done.stderr)
    for message in messages:
        assert message in done.stderr, done.stderr


def fill(folder, left):
    free = shutil.disk_usage(folder).free
    (folder / "filler").write_bytes(b"\0" * (free - left))


def whole(compress, run):
    outcome = compress("verify", run)
    assert outcome.code == 0, outcome


def clear(outcome, code, *messages):
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err
    for message in messages:
        assert message in outcome.err, outcome


@pytest.fixture
def unforeseen(monkeypatch):
    """Nothing is refused before it runs."""
    monkeypatch.setattr(estimate.Estimates, "disk_needed", lambda *more: 0)


def test_a_disk_that_fills_up_while_a_stage_writes(compress, small, unforeseen):
    clear(compress("run", "r.yaml", "--until", "teacher", "-q", "-o", small), 0)
    whole(compress, small / "r")
    before = {path.name for path in (small / ".store").iterdir()}
    Path("r.yaml").write_text(RECIPE % 3000)  # 900 kB of weights
    fill(small, 300_000)
    outcome = compress("run", "r.yaml", "-q", "-o", small)
    clear(outcome, 4, "No space left on device", " are free there; make room", "kept: teacher")
    assert {path.name for path in (small / ".store").iterdir()} >= before
    whole(compress, small / "r")
    (small / "filler").unlink()
    clear(compress("run", "r.yaml", "-q", "-o", small, "--until", "student"), 0)


def test_a_disk_that_is_too_small_is_refused_before_anything_runs(compress, small):
    Path("r.yaml").write_text(RECIPE % 30_000)
    outcome = compress("run", "r.yaml", "-o", small)
    clear(outcome, 4, "this run needs about", "MB there, and 2", "nothing was run", "compress clean")
    assert "epoch 1/1" not in outcome.err
    assert not [path for path in (small / ".store").iterdir() if path.name not in (".runs", ".machine")]


@pytest.mark.slow
@pytest.mark.parametrize("left", [0, 1_000, 10_000, 30_000, 60_000, 100_000, 200_000])
def test_wherever_the_disk_fills_up(compress, small, unforeseen, left):
    """The store's register, links, manifests, reports: whatever meets the full disk says so."""
    clear(compress("run", "r.yaml", "--until", "teacher", "-q", "-o", small), 0)
    fill(small, left)
    outcome = compress("run", "r.yaml", "-q", "-o", small)
    if outcome.code:
        clear(outcome, 4, "No space left on device")
    (small / "filler").unlink()
    whole(compress, small / "r")
    clear(compress("run", "r.yaml", "-q", "-o", small), 0)


def test_a_file_system_that_may_only_be_read(compress, small):
    clear(compress("run", "r.yaml", "-q", "-o", small, "--until", "teacher"), 0)
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    clear(compress("run", "r.yaml", "-q", "-o", small), 3, "can't be written (Read-only file system)", "--output")
    clear(compress("run", "r.yaml", "-q", "--store", small / ".store"), 3, "can't be written (Read-only", "--store")
    clear(compress("run", "r.yaml", "-q", "--store", small / ".store", "--until", "teacher"), 0)  # nothing has to be written
    clear(compress("clean", "-o", small), 3, "Read-only file system")
    subprocess.run(["mount", "-o", "remount,rw", small], check=True)


def unprivileged():
    """Starts a program whose user permissions bind, also where the tests run as root."""
    if os.geteuid():
        return ()
    if not shutil.which("setpriv"):
        pytest.skip("permissions do not bind root, and there is no setpriv")
    return ("setpriv", "--bounding-set", "-dac_override,-dac_read_search,-fowner")


@pytest.fixture
def begun(compress, tmp_path):
    """A run whose teacher is there."""
    (tmp_path / "r.yaml").write_text(RECIPE % 4)
    clear(compress("run", "r.yaml", "-q", "--until", "teacher"), 0)
    return tmp_path


@pytest.mark.parametrize("arguments", [("verify", "runs/r"), ("repair", "runs/r"), ("run", "r.yaml", "--repair", "-q")])
def test_a_file_that_may_no_longer_be_read(begun, arguments):
    """It may be whole: nothing makes it anew, and its owner is named."""
    path = next((begun / "runs" / ".store").glob("*/weights.safetensors"))
    path.chmod(0)
    before = path.stat()
    done = started(begun, *arguments, prefix=unprivileged())
    owner = pwd.getpwuid(os.getuid())[0]
    assert_clear(
        done, 3, "weights.safetensors: can't be read (Permission denied): it belongs to user " + owner,
        "with mode ----------; its owner permits it with `chmod a+r ",
    )  # fmt: skip
    assert "compress repair" not in done.stderr
    assert path.stat() == before


def test_a_store_is_as_open_as_the_umask_says(compress, tmp_path):
    """Libraries write through temporary files that only their owner may read."""
    (tmp_path / "r.yaml").write_text(RECIPE % 4 + "save: {steps: 3}\n")
    before = os.umask(0o002)
    try:
        clear(compress("run", "r.yaml", "-q"), 0)
        save = Saves(tmp_path / "runs")
        save.saving = Saving(steps=1)
        save.step(lambda: Save({"a": np.zeros(3)}, {}, "row 1"))
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    assert {path.suffix for path in files} >= {".safetensors", ".npz", ".onnx", ".json", ".yaml", ".html"}
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == {path.name: "0o664" for path in files}
    folders = [path for path in (tmp_path / "runs").rglob("*") if path.is_dir()]
    assert {oct(path.stat().st_mode & 0o777) for path in folders} == {"0o775"}


@pytest.mark.slow
def test_folders_that_may_no_longer_be_written(compress, begun):
    (begun / "runs" / ".store").chmod(0o500)
    done = started(begun, "run", "r.yaml", "-q", prefix=unprivileged())
    assert_clear(done, 3, "can't be written (Permission denied)", "--store")
    (begun / "runs" / ".store").chmod(0o700)
    losing = "import os\nfrom compress_cli.stages.train import Train\nwhole = Train.run\n"
    losing += "def run(self, context):\n    if context.limit is None:\n        os.chmod(context.output, 0o500)\n"
    losing += "    return whole(self, context)\nTrain.run = run"
    done = started(begun, "run", "r.yaml", "-q", before=losing, prefix=unprivileged())
    assert_clear(done, 4, "Permission denied", "kept: teacher")
    whole(compress, "runs/r")


LIMIT = """
import resource
import torch
with open("/proc/self/statm") as file:
    now = int(file.read().split()[0]) * 4096
resource.setrlimit(resource.RLIMIT_AS, (now + %d, now + %d))
"""


def test_memory_that_runs_out_while_training(compress, begun):
    (begun / "r.yaml").write_text(RECIPE % 4_000_000)  # 1.2 GB of weights
    done = started(begun, "run", "r.yaml", "-q", before=LIMIT % (600_000_000, 600_000_000))
    assert_clear(done, 4, "out of memory", "were taken before", "smaller batch or a smaller model")
    whole(compress, "runs/r")


def test_memory_that_runs_out_anywhere_else(compress, monkeypatch, tmp_path):
    from compress_cli.pipeline import recipe

    def no_memory(*arguments):
        raise MemoryError("Unable to allocate 8.00 TiB")

    monkeypatch.setattr(recipe, "load", no_memory)
    outcome = compress("plan", "r.yaml")
    assert outcome.code == 4
    assert "error: out of memory (Unable to allocate 8.00 TiB)" in outcome.err


def test_room_is_asked_for_where_the_folder_will_be(tmp_path):
    free = shutil.disk_usage(tmp_path).free
    disk.require(free // 2, tmp_path / "not" / "there" / "yet")
    with pytest.raises(ResourceError, match=r"needs about .* there, and .* are free"):
        disk.require(2 * free, tmp_path / "not" / "there" / "yet")


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1500, "1.5 kB"), (2_000_000, "2.0 MB"), (3.21e9, "3.2 GB")]
)
def test_amounts(count, text):
    assert disk.amount(int(count)) == text


@pytest.fixture
def small_files():
    """No file may have more than 4096 bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_short_write_of_an_array_is_a_lack(small_files, tmp_path):
    """NumPy reports it without the system's number and without the file."""
    with pytest.raises(OSError, match="requested and") as short:
        np.save(tmp_path / "a.npy", np.zeros(10_000))
    assert short.value.errno is None
    lacking = str(disk.lack(short.value, tmp_path / "folder"))
    assert lacking.startswith(f"{tmp_path}/folder: only ")
    assert " of 10000 values could be written: " in lacking
    assert "a file may have at most 4.1 kB; raise that with `ulimit -f`" in lacking


def test_a_short_write_of_a_save_or_a_record_names_the_file(small_files, tmp_path):
    with pytest.raises(OSError, match="File too large") as failed:
        durable.write(tmp_path / "run.json", b"x" * 10_000)
    assert failed.value.filename == str(tmp_path / "run.json")
    saves = Saves(tmp_path, Saving(steps=1))
    with pytest.raises(OSError, match="File too large") as failed:
        saves.step(lambda: Save({"a": np.zeros(10_000)}, {}, "row 1"))
    assert failed.value.filename == str(tmp_path / "save.partial")


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [1, 4, 12, 24, 30])
def test_files_that_may_not_grow(compress, tmp_path, kilobytes):
    """A run under `ulimit -f`, whichever file meets the limit."""
    text = RECIPE % 40 + "  - {type: teacher_table, teacher: teacher}\n  - {type: quantize, start: student, samples: 32}\n"
    (tmp_path / "r.yaml").write_text(text + "save: {steps: 3}\n")
    done = started(tmp_path, "run", "r.yaml", "-q", prefix=("prlimit", f"--fsize={1024 * kilobytes}"))
    assert_clear(done, 4, "could be written" if "requested" in done.stderr else "File too large", "ulimit -f")


@pytest.mark.slow
@pytest.mark.parametrize("kilobytes", [20, 60, 120])
def test_the_disk_that_was_full_is_named(small, kilobytes):
    """The store's disk has room; the one for what is thrown away has not."""
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", small], check=True)
    text = RECIPE % 40 + "  - {type: teacher_table, teacher: teacher}\n  - {type: quantize, start: student, samples: 32}\n"
    (small.parent / "r.yaml").write_text(text)
    done = started(small.parent, "run", "r.yaml", "-q", before=f"import os\nos.environ['TMPDIR'] = '{small}'")
    assert_clear(done, 4, f"{small}/compress-scratch-smoke-", "name another place with TMPDIR")


def test_only_what_the_user_can_mend_is_a_lack():
    assert disk.lack(OSError(2, "No such file or directory", "x"), Path()) is None
    assert "x: Read-only file system" in str(disk.lack(OSError(30, "Read-only file system", "x"), Path()))
    assert disk.os_error("I/O error: No space left on device (os error 28)", Path("w")).errno == 28
    assert disk.os_error("header too large", Path("w")) is None


@pytest.fixture
def no_room(monkeypatch):
    """Every file that is opened for writing by name meets a full disk."""
    real = Path.open

    def full(path, mode="r", *rest, **named):
        if set(mode) & set("wa"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, mode, *rest, **named)

    monkeypatch.setattr(Path, "open", full)


@pytest.mark.parametrize(
    ("command", "file"),
    [
        (("init", "x.yaml"), "x.yaml"),
        (("plan", "nothing.yaml", "--junit", "x.xml"), "x.xml"),
        (("clean", "--store", "."), "."),
    ],
)
def test_a_full_disk_is_a_lack_whichever_file_meets_it(compress, no_room, command, file):
    outcome = compress(*command)
    assert outcome.code == 4, outcome
    assert f"error: {file}: can't be written (No space left on device): " in outcome.err
    assert " are free there; make room, or name another place\n" in outcome.err


def test_tables_on_a_full_disk(no_room, tmp_path):
    table = Table((), ())
    with pytest.raises(ResourceError, match=r"x\.csv: can't be written .No space left"):
        write_tables(table, tmp_path / "x.csv", None)


def test_the_option_that_moves_the_file_is_named(tmp_path):
    full = OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "runs/r/report.json"))
    assert str(disk.lack(full, tmp_path / "runs/.store")).endswith("make room, or name another place")
    full.filename = str(tmp_path / "runs/.store/x")
    assert str(disk.lack(full, tmp_path / "runs/.store")).endswith("name another place with --store")


def test_no_folder_for_temporary_files(compress, monkeypatch, tmp_path):
    """On a full disk none can be written, and `clean` is what makes room."""

    def none():
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    (tmp_path / "store").mkdir()
    with monkeypatch.context() as full:
        full.setattr(tempfile, "gettempdir", none)
        assert compress("clean", "--store", str(tmp_path / "store")).code == 0
        with pytest.raises(ResourceError, match="name another with TMPDIR"), scratch("smoke"):
            pass
