"""What is up to date is skipped, what changed runs again, and nothing whole is ever lost."""

import json
import os
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
  - type: train
    name: teacher
    model: {type: mlp, hidden: [24]}
    training: {epochs: 2, precision: float32}
  - type: distill
    name: student
    model: {type: mlp, hidden: [8]}
    losses: [{type: soft_targets, temperature: 2.0}]
    training: {epochs: 1, precision: float32}
  - export
"""


SMOKE = "two batches through every stage first"
CHANGED = RECIPE.replace("hidden: [8]", "hidden: [7]")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A folder in which RECIPE has run."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "r.yaml").write_text(RECIPE)
    command = [sys.executable, "-m", "compress_cli", "run", "r.yaml"]
    done = subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert stages_that_ran(done.stderr) == ["teacher", "student", "export"]
    return folder


@pytest.fixture
def fresh(compress, tmp_path):
    """Run a recipe's text; returns which of its stages ran and the outcome."""

    def _run(text=RECIPE, *arguments, name="r.yaml"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        outcome = compress("run", path, *arguments)
        return stages_that_ran(outcome.err), outcome

    return _run


@pytest.fixture
def run(fresh, finished, tmp_path):
    """The same in a folder in which RECIPE has run as r.yaml already."""
    shutil.copytree(finished / "runs", tmp_path / "runs", symlinks=True)
    return fresh


def stages_that_ran(output):
    return [line.partition(":")[0] for line in output.splitlines() if ": done in " in line]


def manifest(stage, run="r"):
    return json.loads(Path("runs", run, stage, "manifest.json").read_text())


def test_a_run_makes_every_artifact_and_a_second_one_none(run):
    report = json.loads(Path("runs/r/report.json").read_text())
    assert [row["name"] for row in report["rows"]] == ["teacher", "student", "export"]
    assert [row["made_from"] for row in report["rows"]] == ["", "teacher", "student"]
    assert report["rows"][0]["metrics"]["accuracy"]["value"] > 0.7
    assert report["rows"][2]["parameters"] == 64 * 8 + 8 + 8 * 10 + 10
    assert Path("runs/r/report.html").read_text().count("<svg") >= 4
    assert Path("runs/r/report.md").read_text().count("|") > 20
    files = sorted(os.listdir("runs/.store"))
    ran, outcome = run()
    assert (ran, outcome.code) == ([], 0)
    assert sorted(os.listdir("runs/.store")) == files


def test_same_recipe_same_bytes(run):
    first = manifest("student")
    assert run(RECIPE, "--store", "elsewhere", "--output", "again")[0] == ["teacher", "student", "export"]
    assert json.loads(Path("again/r/student/manifest.json").read_text())["files"] == first["files"]


def test_a_change_runs_what_depends_on_it(run):
    assert run(RECIPE.replace("temperature: 2.0", "temperature: 3.0"))[0] == ["student", "export"]
    assert run(RECIPE, "--set", "stages.export.metadata=none")[0] == ["export"]


def test_inserting_a_stage_keeps_the_earlier_ones(run):
    again = "  - {type: distill, name: again, teacher: student, model: mlp, training: {epochs: 1, precision: float32}}\n"
    assert run(RECIPE.replace("  - export", f"{again}  - export"))[0] == ["again", "export"]


def test_a_renamed_and_moved_recipe_runs_nothing(run):
    ran, outcome = run(RECIPE, "--output", "runs", name="sub/other.yaml")
    assert (ran, outcome.code) == ([], 0)
    assert Path("runs/other/teacher").resolve() == Path("runs/r/teacher").resolve()


def test_the_lock_file_is_the_recipe_with_its_defaults(run):
    lock = Path("runs/r/recipe.lock.yaml").read_text()
    assert "torch 2" in lock
    assert run(lock, name="again.yaml")[0] == []


def test_two_recipes_share_a_teacher(run):
    assert run(RECIPE.replace("hidden: [8]", "hidden: [9]"), name="b.yaml")[0] == ["student", "export"]


def test_until_stops_after_a_stage_and_force_runs_one_again(run):
    assert run(RECIPE.replace("hidden: [24]", "hidden: [25]"), "--until", "teacher")[0] == ["teacher"]
    assert run()[0] == []
    before = manifest("teacher")
    ran, _ = run(RECIPE, "--force", "teacher")
    assert ran == ["teacher"]  # the same bytes came out: what follows is still up to date
    assert manifest("teacher")["files"] == before["files"]
    assert run(RECIPE, "--force", "nobody")[1].code == 2
    late = run(RECIPE, "--until", "teacher", "--force", "student")[1]
    assert (late.code, "--force student: the run stops before it, after 'teacher'" in late.err) == (2, True)


def test_force_means_the_step_whichever_of_two_equal_stages_is_named(fresh):
    stage = "  - {type: train, name: %s, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}\n"
    text = "dataset: digits\nthreads: 1\nstages:\n" + stage % "one" + stage % "two"
    assert fresh(text)[0] == ["one"]
    assert fresh(text, "--force", "two")[0] == ["one"]
    (Path("runs/r/one").resolve() / "manifest.json").write_text("{")
    assert fresh(text)[1].code == 3
    assert fresh(text, "--force", "one")[0] == ["one"]


def test_damage_is_found_named_and_mended_by_force(run):
    weights = Path("runs/r/teacher/weights.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    ran, outcome = run()
    assert (ran, outcome.code) == ([], 3)
    assert "weights.safetensors: its content is not what was written" in outcome.err
    assert "compress repair" in outcome.err
    assert run(RECIPE, "--force", "teacher")[0] == ["teacher"]
    assert run()[1].code == 0


def test_a_truncated_checkpoint_and_an_edited_manifest_are_refused(run):
    weights = Path("runs/r/student/weights.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    outcome = run()[1]
    assert outcome.code == 3
    assert "has 100 bytes instead of" in outcome.err
    path = Path("runs/r/student/manifest.json")
    path.write_text(path.read_text().replace('"threads": 1', '"threads": 2'))
    outcome = run()[1]
    assert outcome.code == 3
    assert "manifest.json: was changed by hand" in outcome.err


def test_a_stage_that_fails_keeps_what_was_made(run, monkeypatch):
    from compress_cli.errors import StageError
    from compress_cli.stages.distill import Distill

    whole = Distill.run

    def fails(self, context):
        if context.limit is None:
            (context.output / "half").mkdir()
            raise StageError("the loss is not a number in epoch 1, step 3")
        return whole(self, context)

    monkeypatch.setattr(Distill, "run", fails)
    Path("runs/r/teacher").unlink(missing_ok=True)
    outcome = run(CHANGED)[1]
    assert outcome.code == 4
    assert Path("runs/r/teacher/weights.safetensors").is_file()  # what is kept can be found
    assert "stage 'student' failed: the loss is not a number in epoch 1, step 3" in outcome.err
    assert "kept: teacher" in outcome.err
    monkeypatch.setattr(Distill, "run", whole)
    ran, again = run(CHANGED)
    assert ran == ["student", "export"]
    assert not Path("runs/r/student/half").exists()
    assert (SMOKE in outcome.err, SMOKE in again.err) == (True, False)  # what passed is not tried again
    assert not Path("runs/r/smoke.json").exists()


def test_ctrl_c_says_what_is_kept(run, monkeypatch):
    from compress_cli.stages.distill import Distill

    whole = Distill.run

    def interrupted(self, context):
        if context.limit is None:
            raise KeyboardInterrupt
        return whole(self, context)

    monkeypatch.setattr(Distill, "run", interrupted)
    outcome = run(CHANGED)[1]
    assert outcome.code == 130
    assert "interrupted; kept: teacher; the same command goes on from there" in outcome.err


def test_what_can_not_work_is_found_before_the_first_long_stage(run, tmp_path):
    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from compress_cli.losses import Loss\n\n\nclass Peek(Loss):\n"
        "    def student_layers(self):\n        return ('layer9',)\n\n"
        "    def __call__(self, student, teacher, batch, adapter):\n        return student.features['layer9'].mean()\n"
    )
    kept = set(Path("runs/.store").glob("*/manifest.json"))
    ran, outcome = run(RECIPE.replace("{type: soft_targets, temperature: 2.0}", "peek"), "--plugin", plugin)
    assert (ran, outcome.code) == ([], 2)
    assert "r.yaml:9: stages[1]: " in outcome.err
    assert "layer9" in outcome.err
    assert set(Path("runs/.store").glob("*/manifest.json")) == kept


def test_an_output_folder_that_can_not_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    outcome = run(RECIPE, "--output", "file/runs")[1]
    assert outcome.code == 3
    assert "--output" in outcome.err
    outcome = run(RECIPE, "--store", "file/store")[1]
    assert outcome.code == 3
    assert "--store" in outcome.err


def test_smoke_leaves_nothing(fresh):
    ran, outcome = fresh(RECIPE, "--smoke")
    assert (ran, outcome.code) == ([], 0)
    assert outcome.out.startswith("every stage works on two batches; on all data they would take about ")
    assert not Path("runs").exists()


def test_json_is_one_document_and_quiet_is_quiet(run):
    outcome = run(RECIPE, "--json", "--quiet")[1]
    assert json.loads(outcome.out)["recipe"] == "r"
    assert outcome.err == ""


GATED = RECIPE.replace(
    "stages:",
    "gates:\n  - teacher.accuracy>=10%\n  - size_bytes<=1kB\n  - {promise: size_ratio<=1, undecided: pass}\nstages:",
)


def test_gates_are_judged_and_recompute_nothing(run, monkeypatch, tmp_path):
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    ran, outcome = run(GATED, "--gate", "speedup>=0.001", "--junit", "gates.xml")
    assert (ran, outcome.code) == ([], 5)
    assert "error: gate size_bytes<=1kB (export): not met: " in outcome.err
    assert "gate teacher.accuracy>=10% (teacher): met: " in outcome.out
    report = json.loads(Path("runs/r/report.json").read_text())
    assert [gate["outcome"] for gate in report["gates"]] == ["met", "not met", "met", "met"]
    for name in ("summary.md", "runs/r/report.md"):
        assert "**failed** | size\\_bytes" in Path(name).read_text(), name
    assert Path("gates.xml").read_text().count("<testcase") == 4
    assert run(GATED.replace("1kB", "1MB"))[1].code == 0
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "none" / "summary.md"))
    assert run(GATED)[1].code == 3


def test_a_report_judges_the_gates_of_its_run_and_more(run, compress):
    assert run(GATED.replace("1kB", "1MB"))[1].code == 0
    again = compress("report", "runs/r", "--gate", "student.accuracy>=100%")
    assert again.code == 5
    assert again.out.count("\ngate ") == 4
    asked = compress("report", "runs/r", "--gate", "student.acuracy>=1", "--json")
    assert (asked.code, json.loads(asked.out)["error"]["code"]) == (2, 2)
    assert "did you mean 'accuracy'" in asked.err
    assert compress("report", "runs/r", "--junit", "none/gates.xml").code == 3


@pytest.mark.parametrize(
    ("gate", "arguments", "message"),
    [
        ("size_bytes<200", [], "r.yaml:4: gates[0].promise: is not of the form"),
        ("acuracy>=0.9", [], "r.yaml:4: gates[0]: there is no quantity 'acuracy'"),
        ("sudent.size_bytes<=9", [], "r.yaml:4: gates[0]: 'sudent' is no model of this run; did you mean 'student'"),
        ("teacher.accuracy_drop<=0.1", [], "r.yaml:4: gates[0]: 'teacher' is the baseline itself"),
        ("size_bytes<=9", ["--gate", "size_bytes<=9ms"], "--gate 'size_bytes<=9ms': size_bytes takes one of the units"),
        ("size_bytes<=9", ["--gate", "size<=9"], "--gate 'size<=9': there is no quantity 'size'"),
        ("size_bytes<=9", ["--until", "teacher", "--junit", "gates.xml"], "--junit: there are no gates"),
    ],
)
def test_a_gate_that_can_never_be_judged_is_found_before_anything_runs(fresh, gate, arguments, message):
    outcome = fresh(RECIPE.replace("stages:", f"gates: ['{gate}']\nstages:"), *arguments)[1]
    assert outcome.code == 2
    assert message in outcome.err
    assert not Path("runs").exists()


def test_until_lets_the_gates_wait(run):
    outcome = run(GATED, "--until", "teacher")[1]
    assert outcome.code == 0
    assert "gates are about its end, and wait" in outcome.err


def test_every_kind_of_change_is_in_the_plan(run, compress):
    Path("r.yaml").write_text(CHANGED)
    document = json.loads(compress("plan", "r.yaml", "--json").out)
    status = {step["name"]: step["status"] for step in document["steps"]}
    assert status["teacher"] == status["teacher.onnx"] == status["teacher.measurement"] == "up to date"
    assert status["student"] == status["export"] == "to run"
    costs = {step["name"]: step["cost"] for step in document["steps"]}
    assert costs["teacher"]["source"] == "earlier run"
    assert costs["student"] is None
    smoked = json.loads(compress("plan", "r.yaml", "--json", "--smoke", "--quiet").out)
    costs = {step["name"]: step["cost"] for step in smoked["steps"]}
    assert costs["student"]["source"] == "smoke run"
    assert costs["student"]["seconds"] > 0
    assert costs["student"]["disk_bytes"] > 1000


def test_seeds_and_control_end_in_what_the_teacher_was_worth(fresh):
    student = "name: student\n    seeds: [0, 1]\n    control: true"
    text = RECIPE.replace("name: student", student).replace("  - export\n", "")
    ran, outcome = fresh(text)
    assert outcome.code == 0
    assert sorted(ran) == ["student", "student.control", "student.seed1", "student.seed1.control", "teacher"]
    report = json.loads(Path("runs/r/report.json").read_text())
    (distilled,), (spread,) = report["distilled"], report["spread"]
    assert [row["name"] for row in report["rows"]] == ["teacher", "student"]
    assert (distilled["seeds"], distilled["teacher"], spread["seeds"]) == ([0, 1], "teacher", [0, 1])
    assert distilled["student"] == spread["values"]
    for name, value in (("student", distilled["student"][0]), ("student.seed1.control", distilled["control"][1])):
        measured = compress_eval(Path("runs/r", name))
        assert measured == pytest.approx(value)
    assert "gap to 'teacher' closed" in outcome.out
    assert "seeds 0, 1" in Path("runs/r/report.md").read_text()
    assert fresh(text, "--force", "student")[0] == ["student", "student.seed1"]


def compress_eval(directory):
    """Accuracy on test, by hand from the network itself."""
    import torch

    from compress_cli.data.datasets.digits import Digits
    from compress_cli.networks import restore
    from compress_cli.store import artifact

    test = Digits().split("test")
    with torch.no_grad():
        heads = restore.checkpoint(artifact.read(directory.resolve())).network(torch.from_numpy(test.inputs["image"]).float())
    return float((heads["logits"].argmax(1).numpy() == test.targets["label"]).mean())
