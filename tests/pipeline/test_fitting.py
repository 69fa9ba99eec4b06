"""Epochs and views fitted to a time: by measured steps, never more than asked for, decided once."""

import json
import time
from pathlib import Path

import pytest
from pydantic import ValidationError

from compress_cli.errors import RecipeError
from compress_cli.pipeline import fitting, paces, plan, recipe, time_limit
from compress_cli.pipeline.estimate import MEMORY, CostEstimate, Estimates
from compress_cli.pipeline.paces import Pace, Paces
from compress_cli.store.store import Store

TEXT = """\
dataset: digits
threads: 1
within: WITHIN
stages:
  - {type: train, name: teacher, model: {type: convnet, widths: [8]}, training: {epochs: 20, augment: [flip]}}
  - type: distill
    name: student
    teacher: teacher
    teacher_cache: true
    model: {type: convnet, widths: [4]}
    training: {epochs: 40, augment: [flip], views: 8, schedule: {type: step, milestones: [20, 30]}}
  - {type: sparsify, ratio: 0.5, gradual: {end: 8}, training: {epochs: 10}}
"""
EACH = {"train": 10.0, "distill": 5.0, "teacher_table": 2.0, "sparsify": 3.0}  # seconds an epoch or view
FIXED = 1.0  # seconds of any step beside those


@pytest.fixture
def planned(tmp_path):
    def _planned(within="300s", text=TEXT):
        (tmp_path / "r.yaml").write_text(text.replace("WITHIN", within))
        return plan.plan(recipe.load(tmp_path / "r.yaml"))

    return _planned


@pytest.fixture
def decide(tmp_path):
    """decide(plan, seconds): fitted to what is noted of each kind of step."""

    def _decide(planned, seconds, spent_s=0.0, forced=frozenset()):
        store = Store(tmp_path / "store")
        noted = [
            (step, Pace(fixed_s=FIXED, each_s=EACH.get(step.stage.type, 0.0), disk_bytes=1, memory_bytes=1, origin="run"))
            for step in planned.steps
        ]
        Paces(store.root / MEMORY, planned.recipe).note(noted)
        return fitting.decide(planned, Estimates(planned.recipe, store), store, seconds, spent_s, forced)

    return _decide


def by_hand(planned):
    """Seconds of all steps, from the settings and the table above."""
    return sum(FIXED + EACH.get(step.stage.type, 0.0) * paces.repetitions(step.stage) for step in planned.steps)


def settings(fitted):
    teacher, student, sparse = (step.stage for step in fitted.plan.stages)
    return {
        "teacher": teacher.training.epochs,
        "student": student.training.epochs,
        "views": student.training.views,
        "table": student.needs()["teacher_table"].views,
        "sparse": sparse.training.epochs,
    }


def test_epochs_and_views_shrink_alike_to_the_most_that_fits(planned, decide):
    asked = planned()
    fitted = decide(asked, by_hand(asked) / 2)
    values = settings(fitted)
    assert by_hand(fitted.plan) == pytest.approx(fitted.decision.estimated_s)
    assert by_hand(fitted.plan) <= by_hand(asked) / 2
    assert by_hand(fitted.plan) > by_hand(asked) / 2 - 25  # one more epoch of each would not fit
    assert [values[name] / whole for name, whole in (("teacher", 20), ("student", 40))] == pytest.approx([0.49, 0.49], abs=0.05)
    assert values["views"] == values["table"] == 4
    assert values["sparse"] in (4, 5)


def test_what_counts_in_epochs_shrinks_with_them(planned, decide):
    asked = planned()
    student, sparse = (step.stage for step in decide(asked, by_hand(asked) / 2).plan.stages[1:])
    share = student.training.epochs / 40
    assert student.training.schedule.milestones == pytest.approx((20 * share, 30 * share))
    assert sparse.gradual.end == pytest.approx(8 * sparse.training.epochs / 10)


def test_no_more_epochs_than_were_asked_for(planned, decide):
    asked = planned()
    fitted = decide(asked, 1e6)
    assert fitted.plan is asked
    assert fitted.decision.values == ()
    assert "all epochs that the recipe asks for" in fitted.decision.sentence


def test_fixed_stages_and_those_that_keep_epochs_stay(planned, decide):
    asked = planned("{time: 300s, fixed: [student]}")
    values = settings(decide(asked, by_hand(asked) - 100))
    assert (values["student"], values["views"], values["table"]) == (40, 8, 8)
    assert values["teacher"] < 20
    keeps = planned(text=TEXT.replace("epochs: 20, augment", "epochs: 20, keep_epochs: [1], augment"))
    values = settings(decide(keeps, by_hand(keeps) - 100))
    assert values["teacher"] == 20
    assert values["student"] < 40
    with pytest.raises(RecipeError, match=r"r.yaml:3: within.fixed: there is no stage 'studnt'; did you mean 'student'"):
        decide(planned("{time: 300s, fixed: [studnt]}"), 100)


def test_a_time_too_short_for_one_epoch_is_refused_with_what_it_would_take(planned, decide):
    asked = planned("20s")
    least = len(asked.steps) * FIXED + sum(EACH.values())  # one epoch of each, one view
    decide(asked, least + 0.1)
    with pytest.raises(RecipeError) as caught:
        decide(asked, least - 0.1)
    message = str(caught.value)
    assert "r.yaml:3: within: 20s: is too short" in message
    assert f"about {time_limit.amount(least / fitting.MARGIN)} here (teacher 11 s" in message
    assert f"as the recipe is written about {time_limit.amount(by_hand(asked) / fitting.MARGIN)}" in message


def test_what_trying_out_took_is_named_where_it_makes_the_time_too_short(planned, decide):
    asked = planned("45s")
    least = len(asked.steps) * FIXED + sum(EACH.values())
    decide(asked, least + 5.1, 5.0)
    with pytest.raises(RecipeError, match="trying that out took 5 s of it, which the same command again does not take"):
        decide(asked, least + 4.9, 5.0)


def test_a_forced_stage_takes_time_though_its_result_is_there(planned, decide, monkeypatch):
    asked, teacher = planned(), frozenset({"teacher"})
    made = {step.key for step in asked.steps}
    monkeypatch.setattr(Store, "get", lambda self, key: key if key in made else None)
    assert decide(asked, 1.0).decision.estimated_s == 0
    again = decide(asked, FIXED + 20 * EACH["train"], forced=teacher)
    assert (again.decision.values, again.decision.estimated_s) == ((), FIXED + 20 * EACH["train"])
    shorter = decide(asked, 20 * EACH["train"], forced=teacher)  # and so is all that is made from it, under other keys
    assert settings(shorter)["teacher"] < 20
    assert settings(shorter)["student"] < 40
    assert by_hand(shorter.plan) == pytest.approx(shorter.decision.estimated_s)
    assert by_hand(shorter.plan) <= 20 * EACH["train"]
    student = decide(asked, 150.0, forced=frozenset({"student"}))
    assert settings(student)["teacher"] == 20  # lies in the store, and is made from nothing that is forced
    assert settings(student)["student"] < 40


def test_a_decision_counts_only_while_forced_stages_keep_its_time(planned, decide, monkeypatch, tmp_path):
    asked, store = planned("100s"), Store(tmp_path / "store")
    short = decide(asked, 100.0)
    (tmp_path / fitting.FITTED).write_text(short.decision.model_dump_json())
    made = {step.key for step in short.plan.steps}
    monkeypatch.setattr(Store, "get", lambda self, key: key if key in made else None)
    monkeypatch.setattr(fitting.smoke, "rehearse", lambda *ignored: [])
    kept = fitting.fitted(asked, store, tmp_path, None, time.monotonic(), frozenset({"student"}))
    assert kept.decision == short.decision
    monkeypatch.setattr(fitting, "_limit", lambda recipe: 10.0)  # as if much had lain in the store when it was decided
    with pytest.raises(RecipeError, match="is too short"):
        fitting.fitted(asked, store, tmp_path, None, time.monotonic(), frozenset({"teacher"}))


def test_a_decision_is_taken_again_by_the_same_recipe_alone(planned, decide, tmp_path):
    asked = planned()
    fitted = decide(asked, by_hand(asked) / 3)
    (tmp_path / fitting.FITTED).write_text(fitted.decision.model_dump_json())
    again = fitting.recorded(asked, tmp_path)
    assert [step.key for step in again.plan.steps] == [step.key for step in fitted.plan.steps]
    assert fitting.recorded(planned("301s"), tmp_path) is None
    assert fitting.recorded(planned(text=TEXT.replace("epochs: 40", "epochs: 41")), tmp_path) is None
    (tmp_path / fitting.FITTED).write_text("{")
    assert fitting.recorded(asked, tmp_path) is None


@pytest.mark.parametrize(("text", "seconds"), [("60m", 3600), ("1h30m", 5400), ("90s", 90), ("1.5h", 5400), ("1h1m1s", 3661)])
def test_times(text, seconds):
    assert time_limit.TimeLimit(time=text).seconds == seconds


@pytest.mark.parametrize("text", ["60", "", "m", "-5m", "0s", "an hour", "1m1h"])
def test_what_is_no_time_is_refused(text):
    with pytest.raises(ValidationError, match="must be a time such as 60m"):
        time_limit.TimeLimit(time=text)


def test_a_run_that_took_longer_than_it_was_given_says_so():
    limit = time_limit.TimeLimit(time="60s")
    assert time_limit.overrun(limit, 107.0).startswith("took 107 s, longer than within 60s")
    assert time_limit.overrun(limit, 59.0) == time_limit.overrun(None, 1e9) == ""


SHORT = """\
dataset: digits
threads: 1
stages:
  - {type: train, model: {type: mlp, hidden: [8]}, training: {epochs: 4000, batch: 32, precision: float32}}
"""


def test_a_plan_foresees_the_fitted_epochs_and_a_run_refuses_what_is_too_short(compress, tmp_path, monkeypatch):
    def cost(self, step):
        seconds = 20.0 * paces.repetitions(step.stage)
        return CostEstimate(seconds=seconds, disk_bytes=1, memory_bytes=1, source="smoke run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Estimates, "of", cost)
    monkeypatch.setattr(fitting.smoke, "rehearse", lambda *ignored: [])
    Path("r.yaml").write_text("within: 10m\n" + SHORT)
    shown = json.loads(compress("plan", "r.yaml", "--json").out)
    assert shown["fitted"]["values"][0]["fitted"] == 27  # of 20 s each, in 540 s
    monkeypatch.setattr("compress_cli.pipeline.smoke.smoke", lambda *arguments, **named: [])
    tried = compress("run", "r.yaml", "--smoke")
    assert (tried.code, "fitted to 10m: train: 27 of 4000 epochs" in tried.err) == (0, True)
    assert not Path("runs/r").exists()
    refused = compress("run", "r.yaml", "--smoke", "--within", "20s")
    assert (refused.code, "within: 20s: is too short" in refused.err) == (2, True)
    refused = compress("run", "r.yaml", "--within", "20s")
    assert (refused.code, "within: 20s: is too short" in refused.err) == (2, True)
    refused = compress("run", "r.yaml", "--within", "soon")
    assert (refused.code, "--within soon: must be a time such as 60m" in refused.err) == (2, True)


@pytest.mark.slow
def test_a_run_ends_in_time_says_what_was_fitted_and_a_resume_takes_the_same(compress, tmp_path, monkeypatch):
    def slow(self, step):
        """Twenty seconds an epoch, so that few are fitted; they take no time at all."""
        seconds = 20.0 * paces.repetitions(step.stage)
        return CostEstimate(seconds=seconds, disk_bytes=1, memory_bytes=1, source="smoke run")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Estimates, "of", slow)
    Path("r.yaml").write_text(SHORT)
    ran = compress("run", "r.yaml", "--within", "10m", "--until", "train")
    assert ran.code == 0
    decision = json.loads(Path("runs/r/fitted.json").read_text())
    epochs = decision["values"][0]["fitted"]
    assert 15 < epochs <= 27
    sentence = f"fitted to 10m: train: {epochs} of 4000 epochs"
    assert sentence in ran.err
    report = json.loads(Path("runs/r/report.json").read_text())
    assert report["fitted"].startswith(sentence)
    assert "epochs: 4000" not in Path("runs/r/recipe.lock.yaml").read_text()
    assert f"epochs: {epochs}\n" in Path("runs/r/recipe.lock.yaml").read_text()
    again = compress("run", "r.yaml", "--within", "10m")
    assert (again.code, sentence in again.err, "train: up to date" in again.err) == (0, True, True)
    assert "two batches through every stage" not in again.err
    (tmp_path / "r.yaml").write_text("within: 10m\n" + SHORT)
    shown = json.loads(compress("plan", "r.yaml", "--json").out)
    assert shown["fitted"]["values"][0]["fitted"] == epochs
    assert shown["steps"][0]["status"] == "up to date"
