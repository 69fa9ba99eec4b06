"""What the report says of a teacher's worth, in words, where there is no gap to speak of."""

import numpy as np
import pytest

from compress_cli.report import Report, distillation
from compress_cli.statistics.repeats import distilled


@pytest.mark.parametrize(
    ("teacher", "student", "control", "words"),
    [
        (("big", 0.9), 0.8, 0.6, ("the teacher helped: accuracy % +20.0", "gap to 'big' closed: 0.67")),
        (("big", 0.9), 0.5, 0.6, ("the teacher hurt: accuracy % -10.0", "gap to 'big' closed: -0.33")),
        (("big", 0.9), 0.6, 0.6, ("did not help, as far as these samples tell", "closed: 0.00")),
        (
            ("big", 0.5),
            0.6,
            0.7,
            ("the teacher hurt", "not defined, the teacher 'big' is itself worse than the control"),
        ),
        (("big", 0.7), 0.6, 0.7, ("the teacher hurt", "not defined, teacher and control differ by no more than")),
        (None, 0.6, 0.7, ("the teacher hurt", "not defined, no teacher was measured on all that the student does")),
    ],
)
def test_the_sentence(score_of, teacher, student, control, words):
    def right(share):
        return score_of(np.arange(1000) < round(share * 1000))

    teacher = teacher and (teacher[0], right(teacher[1]))
    made = distilled("student", teacher, {0: right(student)}, {0: right(control)}, "higher")
    report = Report(
        recipe="r", seed=0, baseline="big", primary="accuracy", better="higher", split="test", samples=1000,
        rows=[], machine={}, wall_time_s=1.0, distilled=[made],
    )  # fmt: skip
    [(name, sentence)] = distillation.sentences(report)
    assert name == "student"
    for phrase in words:
        assert phrase in sentence
