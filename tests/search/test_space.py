"""The fields of a recipe that are searched over: where they stand, their values, and the recipe that values make."""

import json
from pathlib import Path

import jsonschema
import pytest

from compress_cli.cli.schema import schema_of
from compress_cli.document import Document
from compress_cli.errors import RecipeError
from compress_cli.pipeline import plan, recipe
from compress_cli.search import space

TEXT = """\
# A comment above.
dataset: digits
stages:
  - type: train
    name: teacher
    model: {type: mlp, hidden: [{search: {low: 4, high: 12, step: 4}}]}   # neurons
    training: &short {epochs: {search: [3, 1, 2]}, precision: float32}  # shared below
  - type: distill
    name: student
    teacher: teacher
    losses:
      - {type: soft_targets, temperature: {search: {low: 1.0, high: 8.0, log: true}}}
    model: {type: mlp, hidden: [4]}
    training: *short
  - type: prune
    when:
      search: [true, false]   # whole stages
    keep:
      macs:
        search:
          - 0.5
          - 0.25

    criterion:
      search: [l1, {type: taylor}]
  - quantize
"""
DRAWN = {
    "teacher.model.hidden.0": 8,
    "teacher.training.epochs": 0,
    "student.losses.soft_targets.temperature": 2.5,
    "prune.when": "true",
    "prune.keep.macs": 0,
    "prune.criterion": "{type: taylor}",
}
WRITTEN = """\
# A comment above.
dataset: digits
stages:
  - type: train
    name: teacher
    model: {type: mlp, hidden: [8]}   # neurons
    training: &short {epochs: 1, precision: float32}  # shared below
  - type: distill
    name: student
    teacher: teacher
    losses:
      - {type: soft_targets, temperature: 2.5}
    model: {type: mlp, hidden: [4]}
    training: *short
  - type: prune
    when:
      true   # whole stages
    keep:
      macs:
        0.25

    criterion:
      {type: taylor}
  - quantize
"""


def searched(tmp_path, stage, more=""):
    path = tmp_path / "r.yaml"
    path.write_text(f"dataset: digits\n{more}stages:\n  - {stage}\n")
    return path


def test_values_stand_in_the_text_in_place_of_their_searches_and_comments_stay(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT)
    found = space.load(tmp_path / "r.yaml")
    assert {each.name: each.count for each in found.dimensions} == {
        "teacher.model.hidden.0": 3,
        "teacher.training.epochs": 3,
        "student.losses.soft_targets.temperature": None,
        "prune.when": 2,
        "prune.keep.macs": 2,
        "prune.criterion": 2,
    }
    assert found.combinations is None
    assert found.written(DRAWN) == WRITTEN
    assert found.written(DRAWN, ["First."], 2).startswith("# First.\n# A comment above.\nthreads: 2  # ")


def test_a_written_recipe_has_the_keys_of_its_trial_and_an_anchor_one_value_for_all_its_aliases(tmp_path):
    (tmp_path / "r.yaml").write_text(TEXT)
    found = space.load(tmp_path / "r.yaml")
    (tmp_path / "best.yaml").write_text(found.written(DRAWN))
    trial = plan.plan(found.recipe(DRAWN))
    again = plan.plan(recipe.load(tmp_path / "best.yaml"))
    assert [step.key for step in trial.steps] == [step.key for step in again.steps]
    teacher, student, pruned, _ = again.recipe.stages
    assert (teacher.training.epochs, student.training.epochs, teacher.model.hidden) == (1, 1, (8,))
    assert (pruned.when, pruned.keep.macs, pruned.criterion.type) == (True, 0.25, "taylor")


def test_a_run_refuses_a_searched_recipe_with_the_lines_and_the_remedies(tmp_path, compress):
    (tmp_path / "r.yaml").write_text(TEXT)
    outcome = compress("run", "r.yaml")
    assert outcome.code == 2
    assert (
        "r.yaml:6: stages[0].model.hidden[0]: is searched over; set a value: --set stages.teacher.model.hidden.0=..."
        in outcome.err
    )
    assert "`compress tune r.yaml`" in outcome.err
    (tmp_path / "one.yaml").write_text(
        "dataset: digits\nstages: [{type: train, model: mlp, training: {epochs: {search: [1, 2]}}}]\n"
    )
    assert compress("plan", "one.yaml", "--set", "stages.train.training.epochs=1").code == 0


@pytest.mark.parametrize(
    ("search", "reason"),
    [
        ("{search: []}", "has nothing to choose from"),
        ("{search: [4]}", "has one choice: write the value"),
        ("{search: [4, 4]}", "4 stands twice"),
        ("{search: {low: 5, high: 3}}", "low must be below high (got 5 and 3)"),
        ("{search: {low: 0, high: 3, log: true}}", "low must be above 0 (got 0)"),
        ("{search: {low: 1, high: 3, log: true, step: 1}}", "no even steps on a logarithm"),
        ("{search: {low: 1, high: 3, step: 5}}", "step: must be above 0 and at most 2 (got 5)"),
        ("{search: {low: 1}}", "stages[0].training.epochs.search.high: is required"),
        ("{search: {low: 1, high: 9, stpe: 2}}", "there is no field 'stpe'; did you mean 'step'?"),
        ("{search: 3}", "a search is over a list of values, or over {low: ..., high: ...}"),
        ("{search: [1, 2], log: true}", "stand within search"),
        ("{search: [1, {search: [2, 3]}]}", "a search within a search"),
        ("{search: [1, 0]}", "must be greater than or equal to 1 (got 0)"),
        ("{search: [1, two]}", "must be a whole number (got 'two')"),
        ("{search: {low: 0.5, high: 3.5}}", "must be a whole number (got 0.5)"),
    ],
)
def test_a_search_that_makes_no_sense_is_refused_with_its_line(tmp_path, search, reason):
    path = searched(tmp_path, f"{{type: train, model: mlp, training: {{epochs: {search}}}}}")
    with pytest.raises(RecipeError) as error:
        space.load(path).plans()
    assert f"{path}:3: stages[0].training.epochs" in str(error.value)
    assert reason in str(error.value)


@pytest.mark.parametrize("field", ["dataset", "seed", "gates"])
def test_what_trials_are_judged_by_is_not_searched(tmp_path, field):
    path = tmp_path / "r.yaml"
    path.write_text(f"{field}: {{search: [digits, wine]}}\nstages: [{{type: train, model: mlp, training: {{epochs: 1}}}}]\n")
    with pytest.raises(RecipeError, match=rf"r.yaml:1: {field}: can't be searched over: trials have to be judged alike"):
        space.load(path)


@pytest.mark.parametrize("field", ["type", "name", "seeds"])
def test_what_a_stage_is_called_is_not_searched(tmp_path, field):
    stage = {"type": "train", "model": "mlp", "training": {"epochs": 1}, field: {"search": ["a", "b"]}}
    with pytest.raises(RecipeError, match=r"list whole stages instead, each with `when"):
        space.load(searched(tmp_path, json.dumps(stage)))


def test_a_recipe_without_a_search_is_sent_to_run(tmp_path):
    with pytest.raises(RecipeError, match=r"searches nothing; .* `compress run "):
        space.load(searched(tmp_path, "{type: train, model: mlp, training: {epochs: 1}}"))


def test_a_combination_of_switched_stages_that_can_not_work_is_refused_before_anything_runs(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "dataset: digits\ngates: ['prune.size_bytes<=9kB']\nstages:\n"
        "  - {type: train, model: mlp, training: {epochs: 1}}\n"
        "  - {type: prune, keep: {macs: 0.5}, when: {search: [true, false]}}\n"
    )
    with pytest.raises(
        RecipeError, match=r"r.yaml:2: gates\[0\]: 'prune' is no model of this run.* \(with prune.when: false\)"
    ):
        space.load(path).plans()


def test_a_switched_off_stage_is_left_out_and_what_names_it_takes_what_it_starts_from(tmp_path):
    path = tmp_path / "r.yaml"
    text = (
        "dataset: digits\nstages:\n  - {type: train, name: a, model: mlp, training: {epochs: 1}}\n"
        "  - {type: prune, name: b, keep: {macs: 0.5}, when: WHEN}\n"
        "  - {type: quantize, name: c, start: b}\n  - {type: quantize, name: d, start: a}\n"
    )
    path.write_text(text.replace("WHEN", "false"))
    planned = plan.plan(recipe.load(path))
    a, c, d = planned.stages
    assert [step.name for step in planned.stages] == ["a", "c", "d"]
    assert c.inputs["start"] == (a,)
    assert c.key == d.key  # a switched-off stage leaves nothing behind
    path.write_text(text.replace("WHEN", "true"))
    kept = plan.plan(recipe.load(path))
    path.write_text(text.replace(", when: WHEN", ""))
    assert [step.key for step in kept.steps] == [step.key for step in plan.plan(recipe.load(path)).steps]


def test_what_names_a_switched_off_stage_that_starts_from_nothing_is_told(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text(
        "dataset: digits\nstages:\n  - {type: train, name: a, model: mlp, training: {epochs: 1}, when: false}\n"
        "  - {type: quantize, start: a}\n"
    )
    with pytest.raises(RecipeError, match=r"r.yaml:4: stages\[1\].start: start 'a' is switched off"):
        plan.plan(recipe.load(path))


def test_editors_accept_searches_where_the_command_does(tmp_path):
    schema = jsonschema.Draft202012Validator(schema_of("recipe"))
    document = Document.parse_as(TEXT, Path("r.yaml")).data()
    assert list(schema.iter_errors(document)) == []
    document["stages"][0]["training"]["epochs"] = {"search": {"low": 1}}
    assert list(schema.iter_errors(document)) != []
    document["stages"][0]["training"]["epochs"] = 1
    document["seed"] = {"search": [1, 2]}
    assert list(schema.iter_errors(document)) != []
