"""The commands around a run: starters, lists, descriptions, the schema, help and completion."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml


@pytest.mark.parametrize("target", ["mobile", "server", "ci"])
def test_a_starter_plans_as_it_is_and_says_why(compress, target):
    assert compress("init", "mine.yaml", "--for", target).code == 0
    planned = compress("plan", "mine.yaml", "--json")
    assert planned.code == 0, planned
    document = json.loads(planned.out)
    assert document["steps"][-1]["makes"] in ("Comparison", "Measurement")
    assert Path("mine.yaml").read_text().count("#") > 8
    again = compress("init", "mine.yaml")
    assert (again.code, "--force" in again.err) == (2, True)
    assert compress("init", "mine.yaml", "--force").code == 0


def test_the_starters_differ_in_method(compress):
    texts = []
    for target in ("mobile", "server", "ci"):
        compress("init", f"{target}.yaml", "--for", target)
        texts.append(yaml.safe_load(Path(f"{target}.yaml").read_text())["stages"])
    assert [[stage["type"] for stage in stages] for stages in texts] == [
        ["train", "distill", "prune", "quantize", "export"],
        ["train", "distill", "prune", "quantize", "export"],
        ["train", "quantize", "export"],
    ]
    assert texts[0][2]["round_to"] != texts[1][2]["round_to"]


def test_list_names_every_file_of_every_folder(compress):
    found = json.loads(compress("list", "--json").out)
    home = Path(__file__).parent.parent.parent / "compress_cli"
    for folder in ("stages", "losses", "networks/models", "data/datasets", "pruning/criteria"):
        assert set(found[Path(folder).name]) == {path.stem for path in (home / folder).glob("[a-z]*.py")}
        assert all(found[Path(folder).name].values()), "each has a first line that says what it is"
    wrong = compress("list", "loses")
    assert (wrong.code, "did you mean 'losses'" in wrong.err) == (2, True)


def test_describe_shows_fields_bounds_defaults_and_the_paper(compress):
    outcome = compress("describe", "soft_targets")
    assert outcome.code == 0
    assert "arXiv:1503.02531" in outcome.out
    assert "temperature" in outcome.out
    assert "above 0" in outcome.out
    (document,) = json.loads(compress("describe", "distill", "--json").out)
    assert document["fields"]["training"]["default"] == "required"
    assert document["fields"]["training.epochs"]["bounds"].startswith("at least 1")
    assert "soft_targets" in json.dumps(document["fields"]["losses"]["default"])
    wrong = compress("describe", "distil")
    assert (wrong.code, "did you mean 'distill'" in wrong.err) == (2, True)


def test_a_description_names_the_plugins_to_choose_from_and_folds_nothing_into_columns(compress):
    text = compress("describe", "distill").out
    assert "`compress list` names the choices of augmentations, combinations, datasets, losses, models" in text
    assert re.search(r"^training\.epochs +integer, at least 1, at most 1000000, required$", text, re.MULTILINE)
    assert "optimi\n" not in text


def test_a_list_says_what_each_plugin_itself_is(compress):
    found = json.loads(compress("list", "--json").out)
    assert found["stages"]["prune"].startswith("Remove whole channels")  # not what its `keep` block says
    assert found["quantizers"]["static_int8"].endswith(").")  # of a first sentence on two lines, both


def test_the_help_of_no_command_is_cut_short(compress):
    assert "..." not in compress("--help").out.partition("Commands:")[2]


def test_the_schema_checks_the_starter(compress):
    schema = json.loads(compress("schema").out)
    jsonschema.Draft202012Validator.check_schema(schema)
    compress("init", "mine.yaml", "--for", "server")
    recipe = yaml.safe_load(Path("mine.yaml").read_text())
    jsonschema.validate(recipe, schema)
    recipe["stages"][0]["model"]["widhts"] = 3
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(recipe, schema)


@pytest.mark.parametrize(
    ("arguments", "slow"),
    [
        (["--help"], {"torch", "pydantic", "numpy", "onnxruntime", "yaml"}),
        (["run", "--help"], {"torch", "numpy", "onnxruntime", "yaml"}),
        (["eval", "-h"], {"torch", "numpy", "onnxruntime", "yaml"}),
    ],
)
def test_help_loads_nothing_slow(arguments, slow):
    code = (
        f"import sys\nfrom compress_cli.cli import main\ntry:\n    main({arguments!r})\n"
        f"except SystemExit as end:\n    assert not end.code\nassert not {slow!r} & set(sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.getcwd()}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, env=environment)


def test_the_shell_completes_commands_and_options():
    asked = {"_COMPRESS_COMPLETE": "complete_bash", "COMP_WORDS": "compress pl", "COMP_CWORD": "1"}
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), **asked}
    done = subprocess.run([sys.executable, "-m", "compress_cli"], env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["plan"]


def test_a_wrong_command_line_is_exit_2(compress):
    for arguments in (["rnu"], ["run"], ["run", "x.yaml", "--forse", "a"], ["run", "nothing.yaml"]):
        outcome = compress(*arguments)
        assert outcome.code == 2, arguments
        assert "Traceback" not in outcome.err
        assert outcome.err


def test_a_quiet_run_says_nothing_on_standard_error_and_a_smoke_run_can_answer_in_json(compress, tmp_path):
    stage = "{type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}"
    (tmp_path / "r.yaml").write_text(f"dataset: digits\nthreads: 1\nstages:\n  - {stage}\n")
    tried = compress("run", "r.yaml", "--smoke", "--json", "--quiet")
    assert (tried.code, tried.err) == (0, "")
    expected = ["train", "train.onnx", "train.measurement.predictions", "train.measurement"]
    assert [each["step"] for each in json.loads(tried.out)] == expected
    ran = compress("run", "r.yaml", "--quiet")
    assert (ran.code, ran.err) == (0, "")


def test_a_starter_that_there_is_not(compress):
    wrong = compress("init", "mine.yaml", "--for", "servr")
    assert (wrong.code, wrong.err.strip()) == (2, "error: --for: there is no starter 'servr'; did you mean 'server'?")
    assert not Path("mine.yaml").exists()


SEEDED = """\
dataset: digits
compare: {seconds: 0.02}
stages:
  - {type: train, name: a_teacher_of_a_long_name, model: {type: mlp, hidden: [8]}, training: {epochs: 1}}
  - {type: distill, name: student, model: {type: mlp, hidden: [4]}, training: {epochs: 1}, teacher_cache: true, seeds: [0, 1]}
"""


def test_a_plan_takes_only_what_it_lists(compress):
    Path("r.yaml").write_text(SEEDED)
    steps = json.loads(compress("plan", "r.yaml", "--json").out)["steps"]
    taken = {name for step in steps for names in step["inputs"].values() for name in names}
    assert "student.table" in taken  # of both seeds: they share it
    assert taken <= {step["name"] for step in steps}
    assert "…" not in compress("plan", "r.yaml").out
