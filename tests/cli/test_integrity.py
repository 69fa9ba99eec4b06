"""`verify`, `repair`, `reproduce`: every damage is named, mended alone, and a run comes out again."""

import hashlib
import json
import shutil
import sys
from pathlib import Path

import pytest

from compress_cli.errors import GateError
from compress_cli.pipeline import reproduce
from compress_cli.store import artifact

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
gates: [teacher.accuracy>=1%]
stages:
  - {type: train, name: teacher, model: {type: mlp, hidden: [8]}, training: {epochs: 1, precision: float32}}
  - {type: train, name: student, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which RECIPE has run, in this process."""
    from compress_cli.cli import main

    folder = tmp_path_factory.mktemp("finished")
    (folder / "r.yaml").write_text(RECIPE)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(folder / "r.yaml"), "-q", "-o", str(folder / "runs"), "--gate", "student.size_bytes<=1MB"])
    assert not ended.value.code
    return folder


@pytest.fixture
def run(finished, compress, tmp_path):
    """The run's folder, in a copy."""
    shutil.copytree(finished / "runs", tmp_path / "runs", symlinks=True)
    shutil.copy(finished / "r.yaml", tmp_path)
    return Path("runs/r")


def store(run):
    return {step: Path("runs/.store", key) for step, key in json.loads((run / "run.json").read_text())["steps"].items()}


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_whole_run_is_whole(compress, run):
    outcome = compress("verify", run)
    assert (outcome.code, outcome.err) == (0, "")
    found = json.loads(compress("verify", run, "--json").out)
    folders = store(run)
    measured = [
        f"{name}{part}" for name in ("student", "teacher") for part in ("", ".measurement", ".measurement.predictions", ".onnx")
    ]
    assert sorted(folders) == sorted([*measured, "student.comparison", "student.predictions"])
    assert found["artifacts"] == len(folders)
    own = ("run.json", "recipe.lock.yaml", "report.json", "report.md", "report.html", "seal.json")
    assert found["files"] == sum(len(list(folder.iterdir())) for folder in folders.values()) + len(own)
    assert sorted(path.name for path in run.iterdir()) == sorted([*own, "log.jsonl", "teacher", "student"])
    assert compress("verify", run / "teacher").code == 0
    assert compress("verify", folders["teacher.onnx"]).code == 0
    assert compress("verify", "runs").code == 3


def test_a_flipped_byte_anywhere_is_found_and_named(compress, run):
    flips = 0
    for step, folder in store(run).items():
        for path in sorted(folder.rglob("*")):
            for position in (0, path.stat().st_size // 2, -1):
                flip(path, position)
                outcome = compress("verify", run, "--json")
                named = [each["path"] for each in json.loads(outcome.out)["damaged"]]
                assert outcome.code == 3, (step, path, position)
                assert [Path(each).name for each in named] == [path.name], (step, path, position)
                assert str(path.name) in outcome.err
                assert "compress repair" in outcome.err
                assert "Traceback" not in outcome.err
                flip(path, position)
                flips += 1
    assert flips > 40
    assert compress("verify", run).code == 0


def test_every_damage_is_named_at_once(compress, run, tmp_path):
    folders = store(run)
    flip(folders["teacher"] / "weights.safetensors", 100)
    (folders["teacher"] / "architecture.json").unlink()
    (folders["student"] / "notes.txt").write_text("mine")
    shutil.rmtree(folders["student.comparison"])
    weights = folders["student"] / "weights.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    (folders["teacher.onnx"] / "manifest.json").write_text("{")
    outcome = compress("verify", run)
    assert outcome.code == 3
    for message in (
        "weights.safetensors: its content is not what was written",
        "architecture.json: is missing",
        "notes.txt: is no file of this artifact",
        "student.comparison: runs/r/../.store/",
        "weights.safetensors: is a link",
        "manifest.json: is not a manifest",
    ):
        assert message in outcome.err, outcome.err


def test_an_artifact_moved_to_another_key_is_found(compress, run):
    folders = store(run)
    shutil.rmtree(folders["student"])
    shutil.copytree(folders["teacher"], folders["student"])
    assert "holds the artifact of another key" in compress("verify", run).err
    outcome = compress("run", "r.yaml")
    assert (outcome.code, "is the artifact of another key" in outcome.err) == (3, True), outcome


def test_plan_marks_what_is_damaged_and_shows_the_rest(compress, run):
    flip(store(run)["teacher"] / "weights.safetensors", -1)
    outcome = compress("plan", "r.yaml", "--json")
    assert outcome.code == 3
    status = {each["name"]: each["status"] for each in json.loads(outcome.out)["steps"]}
    assert (status["teacher"], status["student"]) == ("damaged", "up to date")
    assert "weights.safetensors: its content is not what was written" in outcome.err
    assert "damaged" in compress("plan", "r.yaml").out


@pytest.mark.parametrize("how", ["content", "manifest", "gone", "stray"])
def test_repair_makes_just_the_damaged_anew(compress, run, how):
    folder = store(run)["teacher"]
    before = {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"}
    others = {
        path: path.stat().st_mtime_ns for name, each in store(run).items() if name != "teacher" for path in each.iterdir()
    }
    match how:
        case "content":
            flip(folder / "weights.safetensors", 200)
        case "manifest":
            (folder / "manifest.json").write_text("[]")
        case "gone":
            shutil.rmtree(folder)
        case "stray":
            (folder / "strange").write_text("x")
    assert compress("verify", run).code == 3
    outcome = compress("repair", run, "--json", "--quiet")
    assert outcome.code == 0, outcome
    done = json.loads(outcome.out)
    assert list(done["redone"]) == ([] if how == "stray" else ["teacher"])
    assert len(done["removed"]) == (how == "stray")
    if how == "content":
        assert done["redone"]["teacher"] == "was damaged: made anew, the same bytes"
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.name != "manifest.json"} == before
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert compress("verify", run).code == 0
    assert [each["promise"] for each in json.loads((run / "report.json").read_text())["gates"]] == [
        "teacher.accuracy>=1%", "student.size_bytes<=1MB",
    ]  # fmt: skip
    assert "nothing is damaged" in compress("repair", run).out


def test_run_repair_says_what_it_made_anew(compress, run):
    flip(store(run)["student"] / "weights.safetensors", 200)
    assert compress("run", "r.yaml").code == 3
    outcome = compress("run", "r.yaml", "--repair")
    assert outcome.code == 0, outcome
    assert "student: damaged: " in outcome.err
    assert next(line for line in outcome.err.splitlines() if ": done in" in line).startswith("student: ")
    assert compress("run", "r.yaml").code == 0


def test_what_follows_is_redone_only_when_other_bytes_come_out(compress, run, monkeypatch):
    from compress_cli.stages.train import Train

    whole = Train.run

    def otherwise(self, context):
        facts = whole(self, context)
        if context.limit is None:
            (context.output / "more.txt").write_text("another result")
        return facts

    monkeypatch.setattr(Train, "run", otherwise)
    flip(store(run)["student"] / "weights.safetensors", 200)
    done = json.loads(compress("repair", run, "--json", "-q").out)["redone"]
    assert done["student"] == "was damaged: made anew, other bytes"
    assert done["student.onnx"].startswith("follows from what was damaged: made anew, the same bytes")
    assert set(done) == {"student", "student.onnx"}  # the file came out the same, so its figures hold


OWN = ("run.json", "recipe.lock.yaml", "report.json", "report.md", "report.html")


def read_own(run):
    return {name: (run / name).read_bytes() for name in OWN} | {
        name: (run / name).readlink() for name in ("teacher", "student")
    }


def edit(path):
    path.write_text(path.read_text().replace("0", "1", 1))


def lead_elsewhere(path):
    path.unlink()
    path.symlink_to("../.store")


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("change", [edit, Path.unlink])
def test_a_file_of_the_run_itself_is_checked_and_restored(compress, run, name, change):
    before = read_own(run)
    change(run / name)
    outcome = compress("verify", run)
    problem = "is missing" if change is Path.unlink else "its content is not what was written"
    assert outcome.code == 3
    assert outcome.err.splitlines()[0] == f"error: {run / name}: {problem}"
    assert outcome.err.count("error:") == 1
    assert f"{run / name}: restored" in compress("repair", run, "-q").out
    assert compress("verify", run).code == 0
    assert read_own(run) == before


@pytest.mark.parametrize("change", [lead_elsewhere, Path.unlink])
def test_a_link_of_the_run_is_checked_and_restored(compress, run, change):
    before = read_own(run)
    change(run / "student")
    outcome = compress("verify", run)
    assert outcome.code == 3
    assert f"error: {run / 'student'}: {'is missing' if change is Path.unlink else 'leads to ../.store'}" in outcome.err
    assert compress("repair", run, "-q").code == 0
    assert compress("verify", run).code == 0
    assert read_own(run) == before


@pytest.mark.parametrize("change", [edit, Path.unlink, lambda path: path.write_text("[]"), lambda path: path.write_text("")])
def test_a_seal_that_is_damaged_is_written_anew_and_hides_nothing(compress, run, change):
    change(run / "seal.json")
    edit(run / "report.md")
    outcome = compress("verify", run)
    assert (outcome.code, f"{run / 'seal.json'}: " in outcome.err) == (3, True), outcome
    outcome = compress("repair", run, "--json", "-q")
    assert (outcome.code, json.loads(outcome.out)["redone"]) == (0, {}), outcome
    assert compress("verify", run).code == 0


def test_reports_of_an_earlier_run_are_named(compress, run):
    """A run that is killed between its record and its reports leaves the reports of the run before."""
    from compress_cli.store.seal import Seal

    Seal.read(run).model_copy(update={"reports": {}}).write(run)
    outcome = compress("verify", run)
    assert (outcome.code, outcome.err.count("is of an earlier run")) == (3, 3), outcome
    assert compress("repair", run, "-q").code == 0
    assert compress("verify", run).code == 0


def test_repair_refuses_what_its_lock_file_would_not_make(compress, run):
    (run / "seal.json").unlink()
    lock = run / "recipe.lock.yaml"
    lock.write_text(lock.read_text().replace("seed: 0", "seed: 1", 1))
    flip(store(run)["teacher"] / "weights.safetensors", 200)
    outcome = compress("repair", run)
    assert (outcome.code, "makes other artifacts now" in outcome.err) == (3, True), outcome
    lock.unlink()
    assert "recipe.lock.yaml: is missing" in compress("repair", run).err


def test_a_run_comes_out_again_byte_for_byte(compress, run):
    before = sorted(str(path) for path in Path("runs").rglob("*"))
    outcome = compress("reproduce", run, "--json", "-q")
    assert outcome.code == 0, outcome
    found = json.loads(outcome.out)
    assert (found["by"], found["differs"]) == ("bytes", [])
    outcomes = {each["step"]: each["outcome"] for each in found["artifacts"]}
    assert outcomes.pop("student.comparison") == "timed"
    assert set(outcomes.values()) == {"same bytes"}
    assert outcomes.keys() == store(run).keys() - {"student.comparison"}
    assert sorted(str(path) for path in Path("runs").rglob("*")) == before


def pretend(folder, change):
    """Write a manifest again, as a run elsewhere would have left it."""
    document = json.loads((folder / "manifest.json").read_text())
    del document["seal"]
    change(document)
    document["seal"] = artifact._seal(document)
    (folder / "manifest.json").write_text(json.dumps(document))


@pytest.mark.parametrize(
    ("drop", "problem"), [("all", "names no files"), ("weights.safetensors", "is no file of this artifact")]
)
def test_a_forged_manifest_is_refused_by_every_command(compress, run, drop, problem):
    """Files are left out of it, and its seal is recomputed."""
    folder = store(run)["teacher"]
    before = (folder / "weights.safetensors").read_bytes()

    def forge(document):
        document["files"] = {name: file for name, file in document["files"].items() if drop not in ("all", name)}

    pretend(folder, forge)
    for command in (("verify", run), ("run", "r.yaml", "-q"), ("plan", "r.yaml"), ("reproduce", run)):
        outcome = compress(*command)
        assert (outcome.code, problem in outcome.err) == (3, True), (command, outcome)
    assert compress("repair", run, "-q").code == 0
    assert compress("verify", run).code == 0
    assert (folder / "weights.safetensors").read_bytes() == before


def other_weights(run):
    """What training elsewhere might have given: the files of the teacher and of its export differ by a bit."""
    folders = store(run)
    flip(folders["teacher"] / "weights.safetensors", -4)
    artifact_files = json.loads((folders["teacher"] / "manifest.json").read_text())["files"]
    digest = hashlib.sha256((folders["teacher"] / "weights.safetensors").read_bytes()).hexdigest()
    artifact_files["weights.safetensors"]["sha256"] = digest
    pretend(folders["teacher"], lambda document: document.update(files=artifact_files))


@pytest.fixture
def again(run):
    """The run gone through again, with the same bytes."""
    shutil.copytree("runs", "again", symlinks=True)
    return Path("again/r")


def test_other_bytes_on_the_same_machine_are_no_reproduction(run, again):
    other_weights(run)
    found = reproduce.compared(run, again)
    outcomes = {each.step: each.outcome for each in found.artifacts}
    assert outcomes.pop("teacher") == "other bytes"
    assert outcomes.pop("student.comparison") == "timed"
    assert set(outcomes.values()) == {"same bytes"}
    with pytest.raises(GateError, match=r"teacher: other bytes: weights.safetensors\n .*not reproduced \(compared by bytes"):
        found.decide()


def test_a_model_without_a_baseline_is_compared_by_its_latency(compress, run):
    Path("r.yaml").write_text("".join(RECIPE.splitlines(keepends=True)[:-1]))
    assert compress("run", "r.yaml", "-q").code == 0
    shutil.copytree("runs", "again", symlinks=True)
    artifacts = {made.step: made for made in reproduce.compared(run, Path("again/r")).artifacts}
    assert artifacts["teacher.comparison"].outcome == "timed"
    assert " ms [" in artifacts["teacher.comparison"].detail


def test_elsewhere_figures_are_compared_within_their_intervals(run, again):
    other_weights(run)
    for folder in store(run).values():
        pretend(folder, lambda document: document["environment"]["libraries"].update(torch="1.0"))
    found = reproduce.compared(run, again)
    assert found.by == "figures"
    assert found.differs[0].startswith("libraries: torch 1.0, now 2")
    found.decide()

    def better(document):
        path = store(run)["student.measurement"] / "measurement.json"
        figures = json.loads(path.read_text())
        figures["metrics"]["accuracy"].update(value=0.99, low=0.98, high=0.999)
        path.write_text(json.dumps(figures))
        content = path.read_bytes()
        document["files"]["measurement.json"] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}

    pretend(store(run)["student.measurement"], better)
    with pytest.raises(GateError, match=r"student.measurement: other figures: accuracy 0.* is not within \[0.98, 0.999\]"):
        reproduce.compared(run, again).decide()


def test_a_damaged_run_is_not_compared(compress, run):
    flip(store(run)["teacher"] / "weights.safetensors", 200)
    outcome = compress("reproduce", run)
    assert (outcome.code, "its content is not what was written" in outcome.err) == (3, True)


def test_a_new_run_goes_into_an_empty_folder(compress, run):
    outcome = compress("reproduce", run, "--output", "runs")
    assert (outcome.code, "holds artifacts already" in outcome.err) == (3, True)


def test_verify_needs_no_torch(compress, run):
    import subprocess

    code = f"import sys; sys.argv = ['compress', 'verify', '{run}']\nfrom compress_cli.cli import main\n"
    code += "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
