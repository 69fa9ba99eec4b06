"""Factors of the learning rate at epochs where they are known."""

import pytest
from pydantic import ValidationError

from compress_cli.training.schedules.constant import Constant
from compress_cli.training.schedules.cosine import Cosine
from compress_cli.training.schedules.linear import Linear
from compress_cli.training.schedules.step import Step


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Constant(), [1, 1, 1, 1]),
        (Cosine(), [1, 0.853553390593, 0.5, 0]),
        (Cosine(floor=0.2), [1, 0.2 + 0.8 * 0.853553390593, 0.6, 0.2]),
        (Linear(), [1, 0.75, 0.5, 0]),
        (Linear(floor=0.5), [1, 0.875, 0.75, 0.5]),
        (Step(milestones=(20.0, 60.0)), [1, 0.1, 0.1, 0.01]),
        (Step(milestones=(50.0,), drop=0.5), [1, 1, 0.5, 0.5]),
    ],
)
def test_factors_at_the_quarters(schedule, expected):
    assert [schedule.factor(epoch, 100.0) for epoch in (0.0, 25.0, 50.0, 100.0)] == pytest.approx(expected)


@pytest.mark.parametrize("milestones", [(), (0.0,), (20.0, 10.0), (10.0, 10.0)])
def test_milestones_rise(milestones):
    with pytest.raises(ValidationError, match="rising order"):
        Step(milestones=milestones)


def test_milestones_come_as_a_list_from_yaml():
    assert Step.model_validate({"milestones": [150.0, 180.0]}).milestones == (150.0, 180.0)
