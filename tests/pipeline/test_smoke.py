"""The smoke run: what it remembers for a resume, and what it leaves behind when it is killed."""

import json
import os
import tempfile
from pathlib import Path

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


def test_folders_of_killed_smoke_runs_are_removed_and_those_in_use_stay(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, fresh = tmp_path / f"{smoke.PREFIX}killed", tmp_path / f"{smoke.PREFIX}fresh"
    for folder in (killed, fresh):
        folder.mkdir()
        (folder / "lock").touch()
    os.utime(killed / "lock", (0, 0))
    with smoke._folder() as used:
        os.utime(used / "lock", (0, 0))
        with smoke._folder():
            assert used.is_dir()
            assert {path.name for path in Path(tmp_path).iterdir()} >= {used.name, fresh.name}
    assert [path.name for path in tmp_path.iterdir()] == [fresh.name]
