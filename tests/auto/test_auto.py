"""`compress auto`: promises in, a recipe and its run out."""

import json
import os

import numpy as np
import pytest
import torch
import yaml

from compress_cli.networks import restore
from compress_cli.pipeline import time_limit
from compress_cli.report import markdown
from compress_cli.store import artifact

RECIPE = """
dataset: digits
stages:
  - type: train
    name: teacher
    model: {type: convnet, widths: [24, 48], convs: 1}
    training: {epochs: 6}
"""


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run with a small teacher; its folder."""
    from compress_cli.cli import main

    home = tmp_path_factory.mktemp("digits")
    (home / "digits.yaml").write_text(RECIPE)
    with pytest.raises(SystemExit) as ended:
        main(["run", str(home / "digits.yaml"), "-q", "-o", str(home / "runs")])
    assert not ended.value.code
    return home / "runs"


def exported(runs):
    """The float file of the teacher."""
    (row,) = json.loads((runs / "digits" / "run.json").read_text())["rows"]
    return runs / ".store" / row["onnx"] / "model.onnx"


def of_run(folder, name):
    return json.loads((folder / name / "report.json").read_text())


@pytest.mark.slow
def test_what_integers_alone_keep_needs_no_training_and_the_same_command_again_measures_nothing(compress, digits, tmp_path):
    ask = ["auto", digits / "digits" / "teacher", "--goal", "compression_ratio>=2", "--goal", "accuracy_drop<=0.1",
           "--within", "5m", "--store", digits / ".store", "-q"]  # fmt: skip
    outcome = compress(*ask)
    assert outcome.code == 0, outcome
    document = yaml.safe_load((tmp_path / "auto.yaml").read_text())
    assert document["gates"] == ["compression_ratio>=2", "accuracy_drop<=0.1"]
    types = [stage["type"] for stage in document["stages"]]
    assert types == ["load", "quantize", "export"]
    report = of_run(tmp_path / "runs", "auto")
    assert [gate["outcome"] for gate in report["gates"]] == ["met", "met"]
    assert report["limits"] == []
    given, *_, shipped = report["rows"]
    assert given["size_bytes"] >= 2 * shipped["size_bytes"]
    head = (tmp_path / "auto.yaml").read_text()
    assert f"{given['size_bytes'] / 1e3:.1f} kB" in head  # the figure that the reasons stand on is the one that was measured
    assert "test was not looked at" in head
    before = {path: path.stat().st_mtime_ns for path in (digits / ".store").glob("*/manifest.json")}
    assert compress(*ask).code == 0
    assert {path: path.stat().st_mtime_ns for path in (digits / ".store").glob("*/manifest.json")} == before
    (tmp_path / "auto.yaml").write_text(head + "# mine\n")
    changed = compress(*ask)
    assert changed.code == 2
    assert "compress run" in changed.err
    assert (tmp_path / "auto.yaml").read_text().endswith("# mine\n")


def test_an_onnx_file_alone_gets_the_nearest_and_is_told_what_limits_it(compress, digits, tmp_path):
    file = tmp_path / "given.onnx"
    file.write_bytes(exported(digits).read_bytes())
    outcome = compress(
        "auto",
        file,
        "--goal",
        "compression_ratio>=12",
        "--goal",
        "accuracy_drop<=0.2",
        "--within",
        "5m",
        "--recipe",
        "near.yaml",
    )
    assert outcome.code == 5, outcome
    report = of_run(tmp_path / "runs", "near")
    outcomes = {gate["promise"]: gate["outcome"] for gate in report["gates"]}
    assert outcomes["compression_ratio>=12"] == "not met"
    (limit,) = report["limits"]
    assert "compression_ratio>=12" in limit
    assert "can't be trained" in limit
    assert markdown.plain(limit) in (tmp_path / "runs" / "near" / "report.md").read_text()
    assert "What limits them" in (tmp_path / "runs" / "near" / "report.html").read_text()
    assert limit in " ".join(outcome.out.split())  # the terminal wraps it
    stages = yaml.safe_load((tmp_path / "near.yaml").read_text())["stages"]
    assert stages[0] == {"type": "load", "name": "given", "onnx": "given.onnx"}


@pytest.mark.slow
def test_what_integers_alone_do_not_keep_is_trained_within_the_time(compress, digits, tmp_path):
    outcome = compress(
        "auto", digits / "digits" / "teacher", "--goal", "compression_ratio>=6", "--goal", "accuracy_drop<=0.2",
        "--within", "10m", "--store", digits / ".store", "--recipe", "six.yaml",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    written = yaml.safe_load((tmp_path / "six.yaml").read_text())
    stages = written["stages"]
    assert stages[1]["type"] in ("prune", "distill")
    assert stages[1]["training"]["epochs"] == 160  # as many as ever pay: the recipe's time fits them
    assert 0 < time_limit.seconds(written["within"]) < 600
    assert (tmp_path / "runs" / "six" / "fitted.json").is_file()
    report = of_run(tmp_path / "runs", "six")
    given, *_, shipped = report["rows"]
    assert given["size_bytes"] >= 6 * shipped["size_bytes"]


@pytest.mark.slow
def test_a_state_dict_with_its_architecture_is_taken(compress, digits, tmp_path):
    document = json.loads((digits / "digits" / "teacher" / "architecture.json").read_text())
    network = restore.checkpoint(artifact.read(digits / "digits" / "teacher")).network
    torch.save(network.body.state_dict(), tmp_path / "teacher.pt")
    outcome = compress(
        "auto", "teacher.pt", "--model", json.dumps(document["model"]), "--data", "digits",
        "--goal", "compression_ratio>=2", "--goal", "accuracy_drop<=0.1", "--within", "5m",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    given, *_ = of_run(tmp_path / "runs", "auto")["rows"]
    taught, *_ = of_run(digits, "digits")["rows"]
    assert given["parameters"] == taught["parameters"]
    assert given["metrics"]["accuracy"]["value"] == pytest.approx(taught["metrics"]["accuracy"]["value"], abs=1e-6)


@pytest.mark.slow
def test_a_student_that_is_named_learns_from_an_onnx_file(compress, digits, tmp_path):
    outcome = compress(
        "auto", exported(digits), "--goal", "compression_ratio>=6", "--goal", "accuracy_drop<=0.5", "--within", "10m",
        "--student", "{type: mlp, hidden: [8]}",
    )  # fmt: skip
    assert outcome.code == 0, outcome
    stages = yaml.safe_load((tmp_path / "auto.yaml").read_text())["stages"]
    assert stages[1]["model"] == {"type": "mlp", "hidden": [8]}


@pytest.mark.slow
def test_a_time_too_short_for_one_epoch_says_how_much_would_do(compress, digits):
    outcome = compress("auto", digits / "digits" / "teacher", "--goal", "compression_ratio>=6", "--within", "2s")
    assert outcome.code == 2, outcome
    assert "too short for one epoch" in outcome.err
    assert "give at least" in outcome.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--goal", "speeedup>=2", "--data", "digits"], "did you mean 'speedup'"),
        (["--goal", "speedup=>2", "--data", "digits"], "is not of the form"),
        (["--goal", "speedup>=2", "--within", "soon", "--data", "digits"], "--within soon"),
        (["--data", "digits"], "nothing is promised"),
        (["--goal", "speedup>=2", "--data", "digit"], "did you mean 'digits'"),
        (["--goal", "compression_ratio>=4", "--goal", "size_ratio>=0.5", "--data", "digits"], "contradict"),
        (["--goal", "int8.speedup>=2", "--data", "digits"], "leave 'int8.' out"),
        (["--goal", "speedup>=2", "--data", "digits", "--model", "convnet"], "leave --model out"),
    ],
)
def test_what_is_wrong_with_a_request_is_said_before_any_work(compress, digits, arguments, said):
    outcome = compress("auto", digits / "digits" / "teacher", *arguments)
    assert outcome.code == 2, outcome
    assert said in outcome.err
    assert not os.path.exists("runs/.store/.auto")


def test_the_recipe_of_another_request_is_refused_before_anything_is_measured(compress, digits, tmp_path):
    (tmp_path / "auto.yaml").write_text("# Written by `compress auto`\ndataset: digits\n")
    outcome = compress("auto", digits / "digits" / "teacher", "--goal", "compression_ratio>=2", "--data", "digits")
    assert outcome.code == 2, outcome
    assert "auto.yaml: is the recipe of another request, or was changed by hand" in outcome.err
    assert not os.path.exists("runs/.store/.auto")


def test_weights_without_an_architecture_and_data_without_val_are_refused(compress, digits, tmp_path):
    weights = digits / "digits" / "teacher" / "weights.safetensors"
    outcome = compress("auto", weights, "--goal", "speedup>=2", "--data", "digits")
    assert outcome.code == 2
    assert "--model" in outcome.err
    outcome = compress("auto", weights, "--goal", "speedup>=2", "--model", "{type: convnet, widths: [24, 48], convs: 1}")
    assert outcome.code == 2
    assert "--data" in outcome.err
    np.savez(tmp_path / "few.npz", x=np.zeros((10, 4), np.float32), label=np.arange(10) % 2)
    data = "{type: npz, train: few.npz, inputs: [x], val_share: 0}"
    outcome = compress("auto", weights, "--goal", "speedup>=2", "--model", "mlp", "--data", data)
    assert outcome.code == 2
    assert "no val split" in outcome.err
    assert compress("auto", tmp_path / "nothing", "--goal", "speedup>=2").code == 3
