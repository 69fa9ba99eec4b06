"""A command that fails: one JSON document where `--json` asks for it, and a JUnit file that says error, never an old one."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

RECIPE = "dataset: digits\nstages:\n  - {type: %s, model: {type: mlp, hidden: [4]}, training: {epochs: 1}}\n"
GATES = "gates: [size_bytes<=1MB]\n"


@pytest.fixture(autouse=True)
def recipes(tmp_path):
    (tmp_path / "good.yaml").write_text(RECIPE % "train" + GATES)
    (tmp_path / "typo.yaml").write_text(RECIPE % "trian")
    (tmp_path / "data.yaml").write_text((RECIPE % "train" + GATES).replace("digits", "{type: npz, train: x.npz, inputs: [a]}"))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["plan", "typo.yaml"], 2, "there is no stage 'trian'; did you mean 'train'?"),
        (["run", "nothing.yaml"], 2, "nothing.yaml"),
        (["run", "good.yaml", "--forse", "x"], 2, "No such option: --forse"),
        (["nonsense"], 2, "No such command 'nonsense'"),
        (["report", "runs/x"], 3, "holds no run (run.json is missing)"),
        (["eval", "none.onnx"], 3, "none.onnx"),
    ],
)
def test_a_failure_is_one_json_document_with_code_and_message(compress, arguments, code, message):
    outcome = compress(*arguments, "--json")
    document = json.loads(outcome.out)
    assert (outcome.code, document["error"]["code"]) == (code, code)
    assert message in document["error"]["message"]
    assert compress(*arguments).out == ""


def test_a_bug_is_a_document_too_and_keeps_its_traceback(capfd, monkeypatch):
    from compress_cli import plugin
    from compress_cli.cli import main

    def broken():
        raise KeyError("ours")

    monkeypatch.setattr(plugin, "catalogue", broken)
    with pytest.raises(KeyError):
        main(["list", "--json"])
    assert json.loads(capfd.readouterr().out) == {"error": {"code": 1, "message": "KeyError: 'ours'"}}


def errors(path):
    (suite,) = ElementTree.parse(path).getroot()
    assert (suite.get("tests"), suite.get("errors"), suite.get("failures")) == ("1", "1", "0")
    return suite.find("testcase/error").get("message")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run", "typo.yaml", "--junit", "junit.xml"], "there is no stage 'trian'"),
        (["run", "data.yaml", "--junit=junit.xml"], "x.npz"),
        (["run", "good.yaml", "--forse", "--junit", "junit.xml"], "No such option: --forse"),
        (["report", "runs/x", "--junit", "junit.xml"], "holds no run"),
    ],
)
def test_an_old_junit_file_does_not_survive_a_failure(compress, arguments, message):
    Path("junit.xml").write_text("<testsuites><testsuite tests='1'/></testsuites>")
    assert compress(*arguments).code in (2, 3)
    assert message in errors("junit.xml")


def test_a_killed_command_leaves_a_junit_file_that_says_so(compress, monkeypatch):
    from compress_cli.pipeline import recipe

    found = []
    monkeypatch.setattr(recipe, "load", lambda *arguments: found.append(errors("junit.xml")) or 1 / 0)
    Path("junit.xml").write_text("old")
    with pytest.raises(ZeroDivisionError):
        compress("run", "good.yaml", "--junit", "junit.xml")
    assert found == ["the command has not finished, or was killed"]
    assert errors("junit.xml") == "ZeroDivisionError: division by zero"


def test_a_smoke_run_judges_no_gates_and_leaves_no_junit_file(compress):
    assert compress("run", "good.yaml", "--smoke", "--junit", "junit.xml").code == 0
    assert not Path("junit.xml").exists()


def test_a_junit_file_that_can_not_be_written_is_said_before_the_run(compress):
    Path("folder").mkdir()
    for path in ("folder", "nowhere/junit.xml"):
        outcome = compress("run", "good.yaml", "--junit", path)
        assert (outcome.code, path in outcome.err, Path("runs").exists()) == (3, True, False), outcome
