"""Sizes from a budget, epochs from a time, and a recipe's text: arithmetic that can be done by hand."""

from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from compress_cli.auto import architectures, decider, formats, limits, students, text, training_settings, writing
from compress_cli.auto import journal as journals
from compress_cli.auto.architectures import Size
from compress_cli.auto.decision import Decision
from compress_cli.auto.formats import Format, Measured
from compress_cli.auto.journal import Journal
from compress_cli.auto.promises import Budget
from compress_cli.auto.training_settings import TrainingSettings
from compress_cli.auto.workshop import File, Rehearsal
from compress_cli.data.datasets import Dataset
from compress_cli.data.datasets.digits import Digits
from compress_cli.data.tasks import Task
from compress_cli.data.tasks.classification import Classification
from compress_cli.document import Document
from compress_cli.errors import Interrupted, ResourceError
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.networks.models.resnet import Resnet
from compress_cli.pipeline import time_limit
from compress_cli.plugin import find

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=12)


VALUES = st.recursive(
    WORDS | st.booleans() | st.integers(-9999, 9999) | st.floats(allow_nan=False, allow_infinity=False) | st.none(),
    lambda inner: st.lists(inner) | st.dictionaries(WORDS, inner),
    max_leaves=8,
)


@settings(deadline=None)
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


def test_as_many_blocks_stay_as_fit():
    signature, teacher = Digits().signature(), Resnet(depth=56)
    twenty = architectures.size(Resnet(depth=20), signature)
    assert architectures.with_fewer_blocks(teacher, signature, twenty) == Resnet(depth=20)
    less = Size(twenty.parameters - 1, twenty.macs)
    assert architectures.with_fewer_blocks(teacher, signature, less) == Resnet(depth=14)
    tiny = architectures.with_fewer_blocks(teacher, signature, Size(5000, 10**9))
    assert tiny.depth == 26  # 6n + 2, at most 0.55 of 56, and narrower: the shallowest of full width has more
    assert tiny.widths < (16, 32, 64)
    assert architectures.size(tiny, signature).parameters <= 5000


def test_what_has_no_blocks_has_no_fewer():
    assert [model.convs for _, model in architectures.shallower(Convnet(convs=3))] == [2, 1]
    assert architectures.shallower(Mlp()) == []


MEGABYTE = 1_000_000


def room(smaller, faster):
    """For a tenth of a megabyte and four times the speed, where integers alone are so much smaller and faster."""
    alone = Measured("int8", round(MEGABYTE / smaller), faster, 1.0, 0.9, 0.0, ())
    return students.room(Budget(0.1, 0.25, None), MEGABYTE, [alone])


def test_where_to_begin_is_what_the_number_format_leaves():
    space = room(smaller=4, faster=2)
    assert space.parameters_share == pytest.approx(0.4 * students.TIGHTER)  # a tenth of the bytes, a quarter of them a weight
    assert space.macs_share == pytest.approx(0.5 * students.TIGHTER)
    assert not room(smaller=12, faster=5).shrinks


def test_the_gentlest_format_that_fits_ships():
    fast = 4 * students.UNSURE
    space = room(smaller=4, faster=2)
    kept = {"float": File(90_000, fast, 1.0), "int8": File(30_000, fast, 1.0)}
    assert space.best(kept) == ("float", True)
    assert space.best({**kept, "float": File(110_000, fast, 1.0)}) == ("int8", True)


def test_a_float_file_is_taken_where_integers_make_a_small_network_slower():
    space = room(smaller=4, faster=2)
    files = {"float": File(60_000, 6.33, 1.0), "int8": File(30_000, 3.37, 1.0)}
    assert space.best(files) == ("float", True)
    assert space.best({"float": File(60_000, 3.0, 1.0), "int8": File(30_000, 2.0, 1.0)}) == ("float", False)


class Shop:
    """Measures files whose bytes are those of the parameters that are kept, and whose speed-up is the inverse of the work."""

    def __init__(self, formats, graph=0):
        self.formats, self.asked, self.graph = formats, [], graph

    def rehearsed(self, name, stages, formats, file):
        keep = stages[-1]["keep"]
        self.asked.append(keep)
        (share,) = keep.values()
        files = {
            choice.name: File(
                self.graph + round(share * MEGABYTE / self.formats[choice.name][0]), self.formats[choice.name][1] / share, 1.0
            )
            for choice in formats
        }
        return Rehearsal(files, epoch_s=1.0)


def sizes(tmp_path, factors, space, graph=0):
    shop = Shop(factors, graph)
    candidate = students.Candidate("pruned", students._pruned, "cut", students.CUT)
    choices = [Format(name, None, 1.0, False, "") for name in factors]
    given_model = SimpleNamespace(stage={"name": "given"}, file=None)
    training = TrainingSettings({}, stored=False)
    return students.sized(shop, Journal.open(tmp_path, "key"), candidate, space, given_model, choices, training), shop


def test_a_candidate_shrinks_until_one_of_its_formats_fits(tmp_path):
    tried, shop = sizes(tmp_path, {"float": (1, 1.0), "int8": (4, 0.9)}, room(smaller=4, faster=2))
    chosen = tried[-1]
    assert chosen.fits
    assert chosen.fmt == "int8"  # float would have to lose nine tenths of its parameters
    assert chosen.file.speedup >= 4 * students.UNSURE
    assert len(shop.asked) <= students.ROUNDS


def test_what_the_graph_takes_is_made_up_for_by_the_weights(tmp_path):
    """0.08 MB of a tenth of a megabyte: only 0.02 MB are left for weights, and a share of the rest would creep towards it."""
    space = students.room(Budget(bytes_share=0.1, latency_share=1.0, drop=None), MEGABYTE, [])
    tried, _ = sizes(tmp_path, {"float": (1, 1.0)}, space, graph=80_000)
    assert tried[-1].fits
    assert tried[-1].file.size_bytes > 90_000  # and no smaller than it has to be
    tried, _ = sizes(tmp_path / "larger", {"float": (1, 1.0)}, space, graph=120_000)
    assert not tried[-1].fits


def test_a_candidate_with_room_to_spare_is_tried_larger(tmp_path):
    tried, _ = sizes(tmp_path, {"int8": (8, 8.0)}, room(smaller=4, faster=2))  # the guess stood on integers half as good
    small, chosen = tried
    assert small.fits
    assert chosen.fits
    assert chosen.file.size_bytes > small.file.size_bytes


def test_a_training_is_told_no_more_than_it_needs():
    plain = TrainingSettings({"batch": 64}, stored=True)
    stage = plain.stage("cut", {"type": "prune", "start": "given"}, students.CUT, epochs=10, views=4)
    assert stage["training"]["epochs"] == 10
    assert stage["training"]["optimizer"]["learning_rate"] == pytest.approx(0.02)  # a fifth of the default 0.1
    assert stage["teacher_cache"] is True
    assert "views" not in stage["training"]  # nothing changes from view to view
    shifted = TrainingSettings({"augment": ["flip"]}, stored=True)
    assert shifted.stage("student", {"type": "distill"}, 1, epochs=10, views=4)["training"] == {
        "epochs": 10,
        "augment": ["flip"],
        "views": 4,
    }
    assert "teacher_cache" not in TrainingSettings({}, stored=False).stage("s", {"type": "distill"}, 1, 10)


@pytest.mark.parametrize(
    ("task", "data", "expected"),
    [
        ({"type": "classification"}, "digits", []),
        ({"type": "multi_label"}, "synthetic_tags", [("multi_label_targets", ""), ("binary_cross_entropy", "")]),
        ({"type": "regression"}, "diabetes", [("logit_mse", ""), ("mean_squared_error", "")]),
        (
            {"type": "recommendation", "feedback": "rating", "user": "user"},
            "synthetic_ratings",
            [("logit_mse", ""), ("mean_squared_error", "")],
        ),
        ({"type": "segmentation"}, "synthetic_shapes", []),
        ({"type": "segmentation", "ignore": 255}, "synthetic_shapes", [("soft_targets", ""), ("cross_entropy", "")]),
        (
            {"type": "multi_task", "tasks": {name: {"type": "regression", "head": name} for name in ("x", "y")}},
            "digits",
            [("logit_mse", "x"), ("mean_squared_error", "x"), ("logit_mse", "y"), ("mean_squared_error", "y")],
        ),
    ],
)
def test_what_learns_from_a_teacher_has_losses_that_its_task_can_have(task, data, expected):
    signature = find(Dataset, data)().signature()
    losses = training_settings.taught(Task.model_validate(task), signature)
    assert [(loss["type"], loss.get("head", "")) for loss in losses] == expected
    assert sum(loss["weight"] for loss in losses) == pytest.approx(len(losses) / 2)
    if task.get("ignore"):
        assert losses[1]["ignore"] == 255
    stage = TrainingSettings({}, True, losses).stage("s", {"type": "distill", "teacher": "given"}, 1, 10)
    assert stage.get("losses", []) == list(losses)


def test_outputs_too_large_for_a_table_are_computed_anew():
    subject = SimpleNamespace(training={}, dataset=Digits())
    assert TrainingSettings.of(subject, Digits().signature(), 1_000, Classification()).stored  # ten numbers a sample
    assert not TrainingSettings.of(subject, Digits().signature(), 10_000_000, Classification()).stored  # 400 MB


@pytest.mark.parametrize(("seconds", "text"), [(2591.8, "43m11s"), (59.2, "59s"), (0.1, "1s"), (7200, "120m0s")])
def test_the_time_that_is_left_is_written_as_a_recipe_reads_it(seconds, text):
    assert writing.clock(seconds) == text
    assert time_limit.seconds(text) == max(1, int(seconds))


def test_taking_longer_than_was_given_is_said():
    request = SimpleNamespace(within_s=60)
    assert limits.late(request, 59.9, trained=True) == ""
    assert "took 75 s, longer than within 60 s: this machine was slower" in limits.late(request, 75, trained=True)
    assert "nothing was trained" in limits.late(request, 75, trained=False)


def test_a_journal_answers_the_second_time_without_work(tmp_path):
    journal = Journal.open(tmp_path, "key")
    assert journal.remember("figure", lambda: {"value": 1.5}) == {"value": 1.5}
    again = Journal.open(tmp_path, "key")

    def never():
        raise AssertionError("worked again")

    assert again.remember("figure", never) == {"value": 1.5}
    assert again.earlier_s >= journal.took_s["figure"] > 0
    assert again.spent_s >= again.earlier_s
    assert Journal.open(tmp_path, "other").answers == {}


def test_the_time_of_an_interrupted_call_counts_and_a_repetition_of_what_is_complete_does_not(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=100.0)
    monkeypatch.setattr(journals.time, "monotonic", lambda: clock.now)

    def worked(journal, seconds):
        clock.now += seconds
        return 1

    first = Journal.open(tmp_path, "key")
    first.begun = clock.now
    first.remember("figure", lambda: worked(first, 30))
    with pytest.raises(KeyboardInterrupt), first.timed():
        clock.now += 25  # of the run's training
        raise KeyboardInterrupt
    clock.now += 1000  # a night
    second = Journal.open(tmp_path, "key")
    second.begun = clock.now
    second.remember("figure", lambda: worked(second, 30))
    clock.now += 7
    assert second.complete() == pytest.approx(30 + 25 + 7)
    third = Journal.open(tmp_path, "key")
    clock.now += 50
    third.note_time()
    assert third.complete() == pytest.approx(62)
    assert Journal.open(tmp_path, "key").complete() == pytest.approx(62)


def test_a_killed_call_is_counted_up_to_its_last_note(tmp_path, monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(journals.time, "monotonic", lambda: clock.now)
    killed = Journal.open(tmp_path, "key")
    killed.begun = killed._noted = clock.now
    keeper = journals.Timekeeper(killed, SimpleNamespace(progress=lambda step, progress: None))
    for _ in range(12):
        clock.now += 4
        keeper.progress(None, None)
    assert 36 <= Journal.open(tmp_path, "key").earlier_s <= 48


@pytest.mark.parametrize("stop", [Interrupted("interrupted"), ResourceError("the disk is full")])
def test_an_interruption_is_no_figure_of_a_format(tmp_path, stop):
    class Interrupts:
        def make(self, name, stages):
            raise stop

    journal = Journal.open(tmp_path, "key")
    with pytest.raises(type(stop)):
        formats.measured(Interrupts(), journal, Format("int8", {"type": "static_int8"}, 4.0, True, ""), {}, tmp_path)
    assert journal.answers == {}  # the same command tries it again


def entrant(name, epoch_s):
    rehearsal = Rehearsal({"float": File(10, 8.0, 1.0)}, epoch_s=epoch_s, table_s=10, other_s=5)
    return students.Sized(name, {}, rehearsal, "float", True, "", 1.0)


def compared(entrants, left):
    chooser, decision = object.__new__(decider.Decider), Decision(None, None)
    return chooser._in_time(decision, entrants, left), decision


def test_candidates_are_trained_as_long_each_in_a_quarter_of_the_time():
    # a quarter of 520 s is 130 s, 10 for the table: 60 s each, 5 of them for files, in which one trains 5 epochs and one 2
    entrants, decision = compared([entrant("quick", 10), entrant("slow", 25)], 520)
    assert [one.name for one in entrants] == ["quick", "slow"]
    assert decision.brief == {"quick": 5, "slow": 2}


def test_candidates_for_whose_comparison_there_is_no_time_are_named():
    entrants, decision = compared([entrant("a", 20), entrant("b", 20), entrant("c", 20)], 520)
    assert [one.name for one in entrants] == ["a", "b"]  # of three each had 35 s
    assert decision.skipped == ["c"]
    assert compared([entrant("a", 40), entrant("b", 40)], 520)[1].brief == {}  # one epoch each tells too little


@pytest.mark.parametrize(("target", "reduced"), [("portable", True), ("this", None)])
@pytest.mark.parametrize("matrix_products", [True, False])
def test_integers_of_a_portable_file_are_those_that_any_processor_adds_exactly(target, reduced, matrix_products):
    request = SimpleNamespace(target=target, students=())
    known = formats.choices(request, Budget(1.0, 1.0, 0.01), trainable=True, matrix_products=matrix_products)
    integers = [choice for choice in [*known, *formats.trained_in(known)] if choice.name in ("int8", "mixed")]
    assert len(integers) == (2 if matrix_products else 3)
    assert all(choice.quantizer.get("reduce_range") is reduced for choice in integers)
