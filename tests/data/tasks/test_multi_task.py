"""Several tasks of one model: each counts by itself, and all by their mean."""

import numpy as np
import pytest

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.data.tasks import Task
from compress_cli.data.tasks.classification import Classification
from compress_cli.data.tasks.multi_task import MultiTask
from compress_cli.errors import DataError

SETTINGS = {
    "type": "multi_task",
    "tasks": {
        "shape": {"type": "classification", "head": "shapes", "target": "shape"},
        "colour": {"type": "classification", "head": "colours", "target": "colour"},
    },
}
SIGNATURE = Signature(
    inputs={"image": Input(shape=(1, 2, 2), mean=(0.0,), deviation=(1.0,))},
    heads={"shapes": Head(shape=(3,)), "colours": Head(shape=(2,))},
)
HEADS = {  # shapes: right, right, wrong, right; colours: right, wrong, wrong, wrong
    "shapes": np.array([[2.0, 0, 0], [0, 2, 0], [2, 0, 0], [0, 0, 2]], np.float32),
    "colours": np.array([[1.0, 0], [1, 0], [0, 1], [1, 0]], np.float32),
}
TARGETS = {"shape": np.array([0, 1, 1, 2]), "colour": np.array([0, 1, 0, 1])}


@pytest.fixture
def task():
    return Task.model_validate(SETTINGS)


def test_each_task_and_the_mean(task):
    found = task.evaluate(HEADS, TARGETS)
    assert next(iter(found)) == task.primary == "mean_accuracy"
    assert found["mean_accuracy"].value == (3 / 4 + 1 / 4) / 2
    assert found["shape_accuracy"] == Classification(head="shapes", target="shape").evaluate(HEADS, TARGETS)["accuracy"]
    assert found["colour_accuracy"].value == 1 / 4
    assert task.correct(HEADS, TARGETS).tolist() == [1, 0.5, 0, 0.5]
    assert found.keys() <= set(task.metrics)
    each = (found["shape_accuracy"], found["colour_accuracy"])
    assert found["mean_accuracy"].low == (each[0].low + each[1].low) / 2
    assert found["mean_accuracy"].high == (each[0].high + each[1].high) / 2
    assert task.chance(SIGNATURE) == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_a_model_of_one_head_is_judged_on_its_task_alone(task):
    own = task.within({"colours"})
    assert own.primary == "colour_accuracy"  # never mistaken for the mean of all
    assert own.evaluate({"colours": HEADS["colours"]}, TARGETS)["colour_accuracy"].value == 1 / 4
    assert own.correct({"colours": HEADS["colours"]}, TARGETS).tolist() == [1, 0, 0, 0]
    assert task.within({"shapes", "colours", "other"}) is task
    assert task.within({"other"}) is None
    assert list(task.parts) == ["shape", "colour"]


def test_two_of_three_tasks_have_a_name_of_their_own():
    third = {"type": "classification", "head": "sizes", "target": "size"}
    task = Task.model_validate({"type": "multi_task", "tasks": {**SETTINGS["tasks"], "size": third}})
    assert task.within({"shapes", "sizes"}).primary == "shape_size_accuracy"


def test_labels_are_checked_for_every_task(task):
    task.check(SIGNATURE, TARGETS)
    with pytest.raises(DataError, match="target 'colour': label 7 at position 1"):
        task.check(SIGNATURE, {**TARGETS, "colour": np.array([0, 7, 0, 1])})


class Ranking(Classification):
    primary = "rank"


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"shape": SETTINGS["tasks"]["shape"]}, "at least 2 items"),
        ({"mean": SETTINGS["tasks"]["shape"], "colour": SETTINGS["tasks"]["colour"]}, "'mean' is what their average"),
        ({"a b": SETTINGS["tasks"]["shape"], "colour": SETTINGS["tasks"]["colour"]}, "pattern"),
        ({"all": SETTINGS, "colour": SETTINGS["tasks"]["colour"]}, "'all' has several tasks itself"),
        ({"shape": Classification(), "rank": Ranking()}, "can't be averaged: accuracy of 'shape', rank of 'rank'"),
    ],
)
def test_tasks_that_do_not_go_together(tasks, said):
    with pytest.raises(ValueError, match=said):
        MultiTask.model_validate({"tasks": tasks})
