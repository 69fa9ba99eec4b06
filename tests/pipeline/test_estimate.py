"""What a step will cost is taken from a step that is like it, on a machine like this, and says what it stands on."""

import pytest

from compress_cli.pipeline import estimate, executor, paces, plan, recipe
from compress_cli.pipeline.estimate import Estimates
from compress_cli.pipeline.paces import Pace, Paces
from compress_cli.plugin import find
from compress_cli.stages import Stage
from compress_cli.store.artifact import File, Manifest, Source
from compress_cli.store.store import Store

TEXT = """\
dataset: digits
threads: 1
seed: SEED
stages:
  - {type: train, model: {type: convnet, widths: WIDTHS}, training: {epochs: EPOCHS, batch: BATCH}}
  - {type: prune, ratio: 0.5, training: {epochs: 2}, steps: {count: 4, training: {epochs: 3}}}
  - export
"""


@pytest.fixture
def planned(tmp_path):
    """planned(epochs=4): the recipe, and its steps by name."""

    def _planned(seed=0, widths="[8, 16]", epochs=3, batch=64):
        text = TEXT.replace("SEED", str(seed)).replace("WIDTHS", widths).replace("EPOCHS", str(epochs))
        (tmp_path / "r.yaml").write_text(text.replace("BATCH", str(batch)))
        loaded = recipe.load(tmp_path / "r.yaml")
        return loaded, {step.name: step for step in plan.plan(loaded).steps}

    return _planned


def manifest(step, seconds, **pace):
    machine = {"device": "cpu", "threads": 1, "processor": paces.sessions.machine()["processor"]}
    return Manifest(
        format=1,
        kind=step.kind.__name__,
        key=step.key,
        stage=step.stage.model_dump(mode="json"),
        facts={"pace": pace} if pace else {},
        inputs={role: [Source(key=each.key, digest="") for each in found] for role, found in step.inputs.items()},
        environment={**machine, "peak_memory_bytes": 7},
        wall_time_s=seconds,
        files={"model": File(bytes=100, sha256="")},
    )


@pytest.fixture
def estimates(tmp_path, monkeypatch):
    """estimates(recipe, past=[...], noted=[...]): with these manifests in the store, and these steps noted."""

    def _estimates(loaded, past=(), noted=()):
        monkeypatch.setattr(estimate, "past", lambda store: list(past))
        store = Store(tmp_path / "store")
        Paces(store.root / estimate.MEMORY, loaded).note(list(noted))
        return Estimates(loaded, store)

    return _estimates


def test_an_earlier_run_of_the_step_itself_comes_first(planned, estimates):
    loaded, steps = planned()
    past = [manifest(step, 10.0 + place) for place, step in enumerate(steps.values())]
    found = estimates(
        loaded,
        past,
        [(step, Pace(fixed_s=99, each_s=9, disk_bytes=1, memory_bytes=1, origin="run")) for step in steps.values()],
    )
    costs = [found.of(step) for step in steps.values()]
    assert [cost.source for cost in costs] == ["earlier run"] * len(past)
    assert [cost.seconds for cost in costs] == pytest.approx([10.0 + place for place in range(len(past))])
    assert (costs[0].disk_bytes, costs[0].memory_bytes) == (100, 7)


def test_a_run_elsewhere_counts_only_where_nothing_better_is_known(planned, estimates):
    loaded, steps = planned()
    there = manifest(steps["train"], 10.0)
    there.environment["threads"] = 64
    assert estimates(loaded, [there]).of(steps["train"]).source == "elsewhere"
    here = [(steps["train"], Pace(fixed_s=1, each_s=2, disk_bytes=1, memory_bytes=1, origin="smoke run"))]
    cost = estimates(loaded, [there], here).of(steps["train"])
    assert (cost.source, cost.seconds) == ("smoke run", 1 + 3 * 2)


def test_more_epochs_take_longer_and_other_networks_are_not_compared(planned, estimates):
    loaded, steps = planned()
    noted = [(steps["train"], paces.of_run(manifest(steps["train"], 8.0, each_s=2.0), steps["train"].stage))]
    assert (noted[0][1].fixed_s, noted[0][1].each_s) == (2.0, 2.0)  # 8 s in all, of which 3 epochs of 2 s
    found = estimates(loaded, noted=noted)
    cases = {"another seed": ({"seed": 1}, 8.0), "ten epochs": ({"epochs": 10}, 22.0)}
    for other, seconds in cases.values():
        cost = found.of(planned(**other)[1]["train"])
        assert (cost.source, cost.seconds) == ("same settings", seconds)
    for other in ({"widths": "[64, 128]"}, {"batch": 32}):
        assert found.of(planned(**other)[1]["train"]) is None


def test_a_step_of_the_same_architecture_counts_where_its_origin_was_trained_otherwise(planned, estimates):
    loaded, steps = planned()
    found = estimates(
        loaded, noted=[(steps["train.onnx"], Pace(fixed_s=3, each_s=0, disk_bytes=1, memory_bytes=1, origin="run"))]
    )
    assert found.of(planned(batch=32)[1]["train.onnx"]).source == "similar run"
    assert found.of(planned(widths="[64, 128]")[1]["train.onnx"]).source == "same stage"


def test_a_comparison_takes_what_its_settings_say_until_one_ran(planned, estimates):
    loaded, steps = planned()
    cost = estimates(loaded).of(steps["prune.comparison"])
    assert (cost.source, cost.seconds) == ("its settings", pytest.approx(0.15 + 1.1 * 0.7))


def test_epochs_are_counted_over_all_trainings_of_a_stage(planned):
    _, steps = planned()
    assert (
        paces.repetitions(steps["prune"].stage) == 2 + 3 * 3
    )  # a training after each of four cuts but the last, and one at the end
    training = {"epochs": 5}
    rounds = find(Stage, "sparsify").model_validate({"ratio": 0.5, "rounds": 4, "training": training})
    table = find(Stage, "teacher_table").model_validate({"views": 6})
    assert (paces.repetitions(rounds), paces.repetitions(table)) == (20, 6)


def test_a_trial_pays_once_for_what_is_not_an_epoch(planned):
    """11 s of which 1 s in two tried steps; 3 s more for the samples that were not looked at."""
    step = planned()[1]["train"]
    pace = paces.of_trial(manifest(step, 0.0, each_s=20.0, worked_s=1.0, more_s=3.0), 11.0)
    assert pace.seconds(step.stage) == 10.0 + 3.0 + 3 * 20.0


def test_what_is_noted_on_one_machine_says_nothing_of_another(planned, estimates, monkeypatch):
    loaded, steps = planned()
    found = estimates(loaded, noted=[(steps["train"], Pace(fixed_s=1, each_s=1, disk_bytes=1, memory_bytes=1, origin="run"))])
    assert found.of(steps["train"]) is not None
    monkeypatch.setattr(executor, "named", lambda device: "cuda (another)")
    assert Estimates(loaded, found.store).of(steps["train"]) is None


def test_every_fold_takes_as_long_as_the_first_which_alone_is_tried(tmp_path, estimates):
    text = "dataset: digits\nfolds: 3\nstages:\n  - {type: train, name: net, model: {type: mlp}, training: {epochs: 7}}\n"
    (tmp_path / "f.yaml").write_text(text)
    loaded = recipe.load(tmp_path / "f.yaml")
    steps = {step.name: step for step in plan.plan(loaded).steps}
    tried = Pace(fixed_s=1.0, each_s=2.0, disk_bytes=3, memory_bytes=4, origin="smoke run")
    known = estimates(loaded, noted=[(steps["net"], tried)])
    assert [known.of(steps[name]).seconds for name in ("net", "net.fold2", "net.fold3")] == [15.0, 15.0, 15.0]
