"""The smoke run: what it remembers for a resume."""

import json

import pytest

from compress_cli.pipeline import executor, plan, recipe, smoke

RECIPE = """\
dataset: digits
threads: 1
stages:
  - {type: train, model: {type: mlp, hidden: [4]}, training: {epochs: 1, precision: float32}}
"""


class Silent:
    def begins(self, step, smoke): ...
    def progress(self, step, progress): ...
    def ended(self, step, cached, seconds, problem): ...


@pytest.fixture
def rehearse(tmp_path, monkeypatch):
    """Rehearse a recipe's text in one folder; returns the trials, and whether they were made just now."""
    tried = []
    whole = smoke.smoke
    monkeypatch.setattr(smoke, "smoke", lambda *arguments: tried.append(arguments) or whole(*arguments))

    def _rehearse(text=RECIPE):
        tried.clear()
        (tmp_path / "r.yaml").write_text(text)
        trials = smoke.rehearse(plan.plan(recipe.load(tmp_path / "r.yaml")), Silent(), {}, tmp_path)
        return trials, bool(tried)

    return _rehearse


def test_what_passed_is_remembered_for_the_same_steps_and_libraries(rehearse, tmp_path, monkeypatch):
    first, tried = rehearse()
    assert tried
    assert rehearse() == (first, False)
    assert rehearse(RECIPE.replace("[4]", "[5]"))[1]
    assert rehearse()[1]  # only the last recipe is remembered
    monkeypatch.setattr(executor, "libraries", lambda: {"torch": "another"})
    assert rehearse()[1]


@pytest.mark.parametrize("damage", ["{", "[]", json.dumps({"device": "cpu"})])
def test_a_damaged_memory_counts_for_nothing(rehearse, tmp_path, damage):
    rehearse()
    (tmp_path / smoke.PASSED).write_text(damage)
    assert rehearse()[1]
