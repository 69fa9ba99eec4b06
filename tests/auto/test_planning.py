"""Sizes from a budget, epochs from a time, and a recipe's text: arithmetic that can be done by hand."""

from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from compress_cli.auto import architectures, schedule, text, writing
from compress_cli.auto.architectures import Size
from compress_cli.auto.journal import Journal
from compress_cli.auto.schedule import Rates
from compress_cli.data.datasets.digits import Digits
from compress_cli.document import Document
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.networks.models.resnet import Resnet
from compress_cli.store.artifact import Checkpoint

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


VALUES = st.recursive(
    WORDS | st.booleans() | st.integers(-9999, 9999) | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=8,
)


@given(VALUES)
def test_a_recipe_reads_as_the_values_that_were_written(value):
    assert Document.parse(f"key: {text.flow(value)}", "--x").data() == {"key": value}


@pytest.mark.parametrize("word", ["3e-4", "010", "off", "~", "null", "true", ".5", "1_000", "- a", "a: b", "x #y", "", "é"])
def test_a_word_that_looks_like_something_else_stays_a_word(word):
    assert Document.parse(f"key: {text.flow(word)}", "--x").data() == {"key": word}


def test_comments_stay_comments():
    lines = text.stage(text.Stage({"type": "export", "name": "onnx"}, "a reason " * 40))
    assert all(line.startswith("  # ") and len(line) <= text.WIDTH for line in lines[:-1])
    assert yaml.safe_load("\n".join(lines)) == [{"type": "export", "name": "onnx"}]


def test_a_linear_model_is_counted_as_on_paper():
    # 64 -> 8 -> 10: weights and biases; each weight multiplies once
    assert architectures.size(Mlp(hidden=(8,)), Digits().signature()) == Size(64 * 8 + 8 + 8 * 10 + 10, 64 * 8 + 8 * 10)


def test_the_widest_version_that_fits_is_taken():
    signature, limit = Digits().signature(), Size(3000, 3000)
    fitting = architectures.within(Mlp(hidden=(300,)), signature, limit)
    (width,) = fitting.hidden
    assert architectures.size(fitting, signature).parameters <= 3000
    wider = Mlp(hidden=(width + 8,))  # 75 parameters for each unit: 40 fit, and 48 do not
    assert architectures.size(wider, signature).parameters > 3000


def test_no_version_fits_into_nothing():
    assert architectures.within(Convnet(widths=(16, 32)), Digits().signature(), Size(50, 10**9)) is None


def test_widths_are_rounded_as_processors_like_them_and_never_to_none():
    assert [architectures.rounded(width) for width in (0.3, 5, 9, 13, 21, 60)] == [2, 4, 8, 12, 24, 64]


def test_half_the_blocks():
    assert architectures.shallower(Resnet(depth=56)).depth == 26  # 6n + 2, at most 0.55 of 56
    assert architectures.shallower(Convnet(convs=2)).convs == 1
    assert architectures.shallower(Mlp()) is None


def test_epochs_fill_the_time_and_no_more():
    rates = Rates(train=1000, val=0, online_s=0.01, teacher_s=0.001)  # 10 s an epoch, 9 without the teacher
    plan = schedule.fitted(rates, 101 / schedule.SLACK, fresh=True, aware=False, augmented=False)
    # stored: 1 s for the table, then 100 / 9 = 11 epochs; with the teacher along 10
    assert (plan.epochs, plan.stored, plan.aware) == (11, True, 0)
    assert plan.seconds == pytest.approx(1 + 11 * 9)


def test_a_table_of_views_is_not_made_for_a_few_epochs():
    rates = Rates(train=1000, val=0, online_s=0.01, teacher_s=0.008)
    plan = schedule.fitted(rates, 35 / schedule.SLACK, fresh=True, aware=False, augmented=True)
    assert (plan.epochs, plan.stored) == (3, False)  # four views cost 32 s


def test_integers_get_their_share_of_the_time():
    rates = Rates(train=1000, val=0, online_s=0.01, teacher_s=0.0)
    plan = schedule.fitted(rates, 101 / schedule.SLACK, fresh=True, aware=True, augmented=True)
    assert plan.aware == 1  # a fifth of 101 s, at 19 s an epoch
    assert plan.epochs == 8  # 82 s remain
    assert schedule.fitted(rates, 9, fresh=True, aware=False, augmented=False) is None


def test_a_teacher_is_as_fast_as_it_can_be_not_as_slow_as_a_busy_machine_makes_it(monkeypatch):
    begins_and_ends = iter([0.0, 64.0, 100.0, 106.4, 200.0, 264.0, 300.0, 364.0])  # seconds of four batches of 64
    monkeypatch.setattr(schedule.restore, "checkpoint", lambda artifact: SimpleNamespace(network=None, signature=None))
    monkeypatch.setattr(schedule.samples, "tensors", lambda part, signature: None)
    monkeypatch.setattr(schedule.samples, "answers", lambda network, tensors: None)
    monkeypatch.setattr(schedule.time, "perf_counter", lambda: next(begins_and_ends))
    checkpoint = object.__new__(Checkpoint)
    assert schedule.teacher_s(checkpoint, SimpleNamespace(dataset=Digits())) == pytest.approx(0.1)


@pytest.mark.parametrize(("epochs", "reason"), [(80, "beyond which little is won"), (79, "what is left of 2 min")])
def test_a_recipe_says_the_time_decided_the_epochs_only_where_it_did(monkeypatch, epochs, reason):
    monkeypatch.setattr(writing, "_size", lambda sized: "9.5 kB")
    monkeypatch.setattr(writing, "_why_chosen", lambda request, decision: "")
    chosen = SimpleNamespace(fresh=False, fits=True, why="cut")
    plan = schedule.Schedule(epochs=epochs, aware=0, stored=False, views=1, seconds=4.0)
    rates = Rates(train=1000, val=0, online_s=0.01, teacher_s=0.0)
    why = " ".join(writing._why_trained(SimpleNamespace(within_s=120), SimpleNamespace(chosen=chosen, plan=plan, rates=rates)))
    assert f"{epochs} epochs, {reason}: 1000 samples at 100 a second" in why


def test_a_journal_answers_the_second_time_without_work(tmp_path):
    journal = Journal.open(tmp_path, "key")
    assert journal.remember("figure", lambda: {"value": 1.5}) == {"value": 1.5}
    again = Journal.open(tmp_path, "key")

    def never():
        raise AssertionError("worked again")

    assert again.remember("figure", never) == {"value": 1.5}
    assert again.spent_s == journal.spent_s > 0
    assert Journal.open(tmp_path, "other").answers == {}
