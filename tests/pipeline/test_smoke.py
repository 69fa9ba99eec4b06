"""The smoke run: what it remembers, so that no step is tried again."""

import json
from dataclasses import replace

import pytest

from compress_cli.errors import RecipeError, StageError
from compress_cli.pipeline import executor, plan, recipe, smoke
from compress_cli.pipeline.paces import Paces
from compress_cli.plugin import find
from compress_cli.stages import Stage

RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, name: first, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}
  - {type: train, name: second, model: {type: mlp, hidden: [5]}, training: {epochs: 1, precision: float32}}
  - {type: share_weights, start: second, bits: 4}
"""
ONE = RECIPE.replace("  - {type: share_weights, start: second, bits: 4}\n", "")
ONE = "\n".join(line for line in ONE.splitlines() if "second" not in line)


class Steps:
    """Remembers which steps were tried."""

    def __init__(self):
        self.tried = []

    def begins(self, step, smoke):
        self.tried.append(step.name)

    def progress(self, step, progress): ...
    def ended(self, step, cached, seconds, problem): ...


@pytest.fixture
def rehearse(tmp_path):
    """Rehearse a recipe's text with one memory; returns the trials, and the names of the stages that were tried just now."""

    def _rehearse(text=RECIPE, measured=False):
        (tmp_path / "r.yaml").write_text(text)
        planned, listener = plan.plan(recipe.load(tmp_path / "r.yaml")), Steps()
        planned = planned if measured else replace(planned, rows=())
        trials = smoke.rehearse(planned, listener, {}, tmp_path)
        return trials, [name for name in dict.fromkeys(listener.tried) if "." not in name]

    return _rehearse


def test_what_passed_is_not_tried_again_by_this_recipe_or_another(rehearse, tmp_path, monkeypatch):
    first, tried = rehearse()
    assert tried == ["first", "second", "share_weights"]
    assert rehearse() == (first, [])
    assert [trial.name for trial in first] == tried
    assert rehearse(RECIPE.replace("[4]", "[3]"))[1] == ["first"]
    assert rehearse(RECIPE.replace("bits: 4", "bits: 3"))[1] == ["second", "share_weights"]  # what it works on is not kept
    assert rehearse()[1] == []
    monkeypatch.setattr(executor, "libraries", lambda: {"torch": "another"})
    assert rehearse()[1] == ["first", "second", "share_weights"]


def test_after_a_failure_only_the_changed_stage_is_tried_with_what_it_needs(rehearse, monkeypatch):
    def fails(self, context):
        if self.bits == 3:
            raise StageError("three are too few")
        return shares(self, context)

    stage = find(Stage, "share_weights")
    shares = stage.run
    monkeypatch.setattr(stage, "run", fails)
    with pytest.raises(RecipeError, match="three are too few"):
        rehearse(RECIPE.replace("bits: 4", "bits: 3"))
    assert rehearse()[1] == ["second", "share_weights"]


@pytest.mark.parametrize("damage", ["{", "[]", json.dumps({"machine": "cpu"})])
def test_a_damaged_memory_counts_for_nothing(rehearse, tmp_path, damage):
    rehearse()
    (tmp_path / smoke.PASSED).write_text(damage)
    assert len(rehearse()[1]) == 3


def test_measurements_are_tried_where_a_time_is_to_be_kept_and_what_all_took_is_noted(rehearse, tmp_path):
    assert {trial.name.partition(".")[2] for trial in rehearse(ONE, measured=True)[0]} == {""}
    trials, _ = rehearse(f"within: 60m\n{ONE}", measured=True)
    names = {trial.name.partition(".")[2] for trial in trials}
    assert names == {"", "onnx", "measurement", "measurement.predictions"}
    loaded = recipe.load(tmp_path / "r.yaml")
    noted = Paces(tmp_path, loaded)
    for step in plan.plan(loaded).steps:
        if not step.stage.type.startswith("compare"):
            pace, likeness = noted.find(step)
            assert (pace.origin, likeness) == ("smoke run", "same settings")
