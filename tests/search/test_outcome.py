"""The front, its best point, objectives and constraints: against hand-made cases and brute force."""

import random

import pytest

from compress_cli.data.datasets.digits import Digits
from compress_cli.errors import RecipeError
from compress_cli.pipeline import plan, recipe
from compress_cli.search import objectives, outcome
from compress_cli.statistics import gate
from compress_cli.statistics.gate import Gate
from compress_cli.statistics.intervals import Estimate


def test_the_front_holds_those_that_no_other_beats():
    numbers = random.Random(0)
    losses = {trial: (float(numbers.randint(0, 9)), float(numbers.randint(0, 9))) for trial in range(40)}
    front = outcome.pareto(losses)
    for trial, mine in losses.items():
        strictly = any(other[0] <= mine[0] and other[1] <= mine[1] and other != mine for other in losses.values())
        equal_before = any(losses[other] == mine for other in range(trial))
        assert (trial in front) == (not strictly and not equal_before)
    assert [losses[trial] for trial in front] == sorted(losses[trial] for trial in front)
    assert outcome.pareto({0: (2.0,), 1: (1.0,), 2: (1.0,)}) == [1]


def test_the_best_of_a_front_is_the_one_nearest_to_the_best_of_both():
    # scaled to the front: (0, 1), (0.2, 0.2), (1, 0)
    assert outcome.knee({3: (100.0, 0.9), 5: (120.0, 0.5), 7: (200.0, 0.4)}) == 5
    assert outcome.knee({}) is None


@pytest.mark.parametrize(
    ("promise", "undecided", "figure", "amount"),
    [
        ("accuracy>=0.9", "fail", Estimate(value=0.95, low=0.92, high=0.97, samples=100), -0.02 / 0.9),
        ("accuracy>=0.9", "fail", Estimate(value=0.91, low=0.86, high=0.95, samples=100), 0.04 / 0.9),
        ("accuracy>=0.9", "pass", Estimate(value=0.91, low=0.86, high=0.95, samples=100), -0.05 / 0.9),
        ("accuracy>=0.9", "pass", Estimate(value=0.8, low=0.75, high=0.85, samples=100), 0.15 / 0.9),
        ("size_bytes<=10kB", "fail", 12_000.0, 0.2),
        ("size_bytes<=10kB", "fail", 10_000.0, 0.0),
        ("accuracy_drop<=0", "fail", Estimate(value=0.01, low=-0.01, high=0.03, samples=100), 0.03),
    ],
)
def test_a_gate_is_broken_by_its_unfavourable_end_relative_to_its_limit(promise, undecided, figure, amount):
    result = gate.judge(Gate(promise=promise, undecided=undecided), "int8", figure)
    assert objectives.violation(result) == pytest.approx(amount)
    assert (objectives.violation(result) <= 0) == result.passes


def planned(tmp_path, gates, more=""):
    path = tmp_path / "r.yaml"
    path.write_text(
        f"dataset: digits\ngates: {gates}\n{more}stages:\n"
        "  - {type: train, model: mlp, training: {epochs: 1}}\n  - quantize\n"
    )
    return plan.plan(recipe.load(path), "val")


@pytest.mark.parametrize(
    ("gates", "expected"),
    [
        ("['accuracy>=0.9']", ("size",)),
        ("['accuracy_drop<=0.01', 'size_bytes<=9kB']", ("size",)),
        ("['agreement>=0.9']", ("size",)),
        ("['size_bytes<=9kB']", ("accuracy",)),
        ("[]", ("size", "accuracy")),
    ],
)
def test_without_an_objective_it_is_what_the_gates_leave_open(tmp_path, gates, expected):
    goal = objectives.goal(planned(tmp_path, gates), [])
    assert goal.objectives == expected
    assert goal.directions == ["minimize" if aim == "size" else "maximize" for aim in expected]


def test_objectives_of_the_command_go_before_those_of_the_recipe(tmp_path):
    made = planned(tmp_path, "[]", "search: {objectives: [latency]}\n")
    assert objectives.goal(made, []).objectives == ("latency",)
    assert objectives.goal(made, ["accuracy", "size"]).objectives == ("size", "accuracy")
    for wrong in (["speed"], ["size", "size"], ["size", "latency", "accuracy"]):
        with pytest.raises(RecipeError, match="--objective"):
            objectives.goal(made, wrong)


def test_a_search_without_a_val_split_is_refused(tmp_path, monkeypatch):
    made = planned(tmp_path, "[]")
    whole = Digits.split
    monkeypatch.setattr(Digits, "split", lambda self, name: whole(self, name).take(slice(0, 0 if name == "val" else None)))
    with pytest.raises(RecipeError, match=r"r.yaml:1: dataset: has no val split, and a search chooses on val"):
        objectives.goal(made, [])


def test_models_are_measured_on_val_and_on_nothing_else(tmp_path):
    made = planned(tmp_path, "[]")
    assert {step.stage.split for step in made.steps if step.stage.type in ("measure", "predict")} == {"val"}
