"""What a run prints on standard error without a terminal: a line at least every 30 s, and the split that a metric is of."""

import time
from types import SimpleNamespace

import pytest

from compress_cli.cli._live import SILENCE_S, Live
from compress_cli.progress import Progress

STEP = SimpleNamespace(key="0", name="student.table", implied=True, stage=SimpleNamespace(type="teacher_table"))


def test_silence_ends_after_half_a_minute():
    assert SILENCE_S <= 30


@pytest.mark.parametrize(
    ("report", "line"),
    [
        (Progress("ask the teacher", 120, 400), "student.table: ask the teacher, 120 of 400"),
        (
            Progress("train", 7, 9, 2, 3, {"loss": 0.5, "samples_per_s": 100.0}),
            "student.table: train, epoch 2/3, 7 of 9  loss 0.5  samples_per_s 100",
        ),
        (None, "student.table: teacher_table"),  # a stage that reports nothing
    ],
)
def test_a_long_step_says_how_far_it_is_though_it_is_implied(capfd, report, line):
    with Live(silence_s=0.05) as live:
        live.begins(STEP, smoke=False)
        if report:
            live.progress(STEP, report)
        time.sleep(0.3)
        live.ended(STEP, False, 0.3, "")
    printed = capfd.readouterr().err.splitlines()
    assert set(printed) == {line}
    assert len(printed) >= 2


def test_a_quiet_run_stays_quiet(capfd):
    with Live(quiet=True, silence_s=0.01) as live:
        live.begins(STEP, smoke=False)
        time.sleep(0.1)
    assert capfd.readouterr().err == ""


def test_a_metric_names_its_split(capfd):
    figures = {"loss": 0.25, "accuracy": 0.9, "learning_rate": 0.1, "samples_per_s": 10.0}
    with Live() as live:
        live.begins(STEP, smoke=False)
        live.progress(STEP, Progress("train", 9, 9, 3, 3, figures, epoch_ended=True))
    expected = "student.table: epoch 3/3  loss 0.25  val accuracy 0.9  learning_rate 0.1  samples_per_s 10"
    assert capfd.readouterr().err.splitlines() == [expected]
