"""The table of what a teacher says: the numbers of the teacher itself, once for all who ask the same."""

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress_cli.data.batch import Batch
from compress_cli.distillation import table
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import DataError, StageError
from compress_cli.networks import restore
from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.run import Run
from compress_cli.stages import Stage, teacher_table
from compress_cli.stages.teacher_table import TeacherTable
from compress_cli.store.artifact import Checkpoint, Table
from compress_cli.store.saves import Saves, Saving
from compress_cli.store.store import Store
from compress_cli.training.augmentations.crop import Crop
from compress_cli.training.augmentations.flip import Flip
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.pool import SamplePool

pytestmark = pytest.mark.usefixtures("one_thread")

AUGMENT = [{"type": "crop", "padding": 1}, {"type": "flip"}]
TRAINING = {
    "epochs": 4, "batch": 16, "precision": "float32", "keep": "last", "optimizer": {"type": "sgd", "learning_rate": 0.01},
}  # fmt: skip
LOSSES = ["soft_targets", {"type": "hints", "layers": [{"student": "layer1", "teacher": "layer2"}]}]


@pytest.fixture
def teacher(lively_teacher):
    return lively_teacher((4, 6))


@pytest.fixture
def stored(toy, context_for, teacher, perform):
    """`stored(views=2)`: the table of the teacher over 64 samples."""

    def _kept(**settings):
        stage = Stage.model_validate({"type": "teacher_table", **settings})
        return perform(stage, context_for(toy(train=64), inputs={"teacher": (teacher,)}), Table)

    return _kept


@pytest.mark.parametrize("training", [{"augment": AUGMENT, "views": 2}, {"augment": AUGMENT, "views": 3, "accumulate": 1}, {}])
def test_a_student_of_the_table_is_the_student_of_the_teacher_byte_for_byte(toy, context_for, teacher, training, perform):
    """Batches are shuffled in every epoch, and a sample comes in every view: heads and features must be those of both."""
    settings = {"type": "distill", "model": {"type": "convnet", "widths": [4], "convs": 1}, "losses": LOSSES}
    artifacts = {}
    for cached in (False, True):
        stage = Stage.model_validate({**settings, "training": {**TRAINING, **training}, "teacher_cache": cached})
        context = context_for(toy(train=64), inputs={"teacher": (teacher,)})
        for role, needed in stage.needs().items():
            artifacts[role] = perform(needed, context_for(toy(train=64), inputs={"teacher": (teacher,)}), Table)
            context.inputs[role] = (artifacts[role],)
        artifacts[cached] = perform(stage, context, Checkpoint)
    assert artifacts["table"].digest
    assert artifacts[True].digest == artifacts[False].digest


def test_it_holds_the_networks_outputs_for_each_sample_in_each_view(toy, stored, teacher):
    read = table.StoredOutputs(stored(views=2, augment=AUGMENT, layers=["layer2"]))
    network = restore.checkpoint(teacher).network
    split = toy(train=64).split("train")
    assert read.ids.tolist() == split.index.tolist()
    logits, features = read.arrays["heads", "logits"], read.arrays["features", "layer2"]
    assert logits.shape == (2, 64, 3)
    assert features.shape[:3] == (2, 64, 6)
    changes = (Crop(padding=1), Flip())
    for epoch in (1, 2, 3):  # the third shows the first view again
        for (part,) in Loader(SamplePool(split, "cpu"), 8, Augmenter(changes, 99, 2)).epoch(epoch):
            with torch.no_grad():
                expected = network(part.inputs["image"])["logits"].numpy()
            np.testing.assert_allclose(logits[(epoch - 1) % 2][part.index.numpy()], expected, rtol=1e-4, atol=1e-5)
    assert not np.allclose(logits[0], logits[1])


def test_views_are_part_of_the_data_and_no_seed_moves_them(toy):
    split, changes = toy(train=64).split("train"), (Crop(padding=1), Flip())

    def images(seed, epoch, views):
        parts = [part for (part,) in Loader(SamplePool(split, "cpu"), 16, Augmenter(changes, seed, views)).epoch(epoch)]
        index = torch.cat([part.index for part in parts])
        return torch.cat([part.inputs["image"] for part in parts])[index.argsort()], index

    one, order = images(0, 1, 2)
    other, other_order = images(7, 3, 2)
    assert torch.equal(one, other)
    assert not torch.equal(order, other_order)
    assert not torch.equal(one, images(0, 2, 2)[0])
    assert not torch.equal(images(0, 3, None)[0], images(7, 3, None)[0])


def test_samples_are_found_by_id_whatever_their_order(toy, context_for, teacher, perform):
    shuffled = np.random.default_rng(0).permutation(64)
    dataset = toy(train=64)
    turned = type("Turned", (type(dataset),), {"split": lambda self, name: dataset.split(name).take(shuffled)})(train=64)
    table_artifact = perform(Stage.model_validate("teacher_table"), context_for(turned, inputs={"teacher": (teacher,)}), Table)
    split = dataset.split("train")
    batch = Batch({"image": torch.from_numpy(split.inputs["image"][5:25]).float()}, {}, torch.from_numpy(split.index[5:25]))
    logits = [teacher_for(source).open(source, (), "cpu")(batch).heads["logits"] for source in (table_artifact, teacher)]
    torch.testing.assert_close(*logits)


def test_it_reports_its_size_before_it_is_written(toy, context_for, teacher, perform):
    notes = []

    def log(progress):
        if progress.note:
            notes.append((progress.note, [path.name for path in context.output.iterdir()]))

    context = context_for(toy(train=64), inputs={"teacher": (teacher,)}, log=log)
    stage = Stage.model_validate({"type": "teacher_table", "views": 2, "augment": AUGMENT})
    table_artifact = perform(stage, context, Table)
    size = table_artifact.manifest.facts["planned_bytes"]
    assert size == 2 * 64 * 3 * 4 + 2 * 8 * 64
    assert notes == [(f"the table of 64 samples in 2 views takes {size / 1e3:.1f} kB on disk", [])]
    assert size <= sum(file.bytes for file in table_artifact.manifest.files.values()) < size + 1500  # names and shapes


def test_a_smoke_run_computes_two_chunks_and_knows_what_the_whole_takes(toy, context_for, teacher, perform):
    dataset = toy(train=1000)
    table_artifact = perform(
        Stage.model_validate("teacher_table"), context_for(dataset, inputs={"teacher": (teacher,)}, limit=2), Table
    )
    facts = table_artifact.manifest.facts
    assert table.StoredOutputs(table_artifact).arrays["heads", "logits"].shape == (1, 2 * teacher_table.TRIED, 3)
    assert facts["planned_bytes"] == 1000 * (3 * 4 + 16)
    assert facts["pace"]["each_s"] == pytest.approx(facts["pace"]["worked_s"] * 1000 / (2 * teacher_table.TRIED))
    teacher_for(table_artifact).check(table_artifact, dataset.split("train").index)  # the table has outputs for all samples


def test_samples_it_lacks_are_counted_and_named(toy, stored):
    table_artifact = stored()
    with pytest.raises(DataError, match=r"lacks 3 of the 67 samples .* \(the first ids: 64, 65, 66\)"):
        teacher_for(table_artifact).check(table_artifact, toy(train=67).split("train").index)


def test_augmenting_anew_every_epoch_can_not_be_kept():
    settings = {"type": "distill", "model": "mlp", "teacher_cache": True}
    with pytest.raises(ValidationError, match=r"set training.views, such as 8"):
        Stage.model_validate({**settings, "training": {**TRAINING, "augment": AUGMENT}})
    assert Stage.model_validate({**settings, "training": {**TRAINING, "augment": AUGMENT, "views": 1}})


RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: train, name: teacher, model: {type: mlp, hidden: [16]}, training: {epochs: 1}}
  - {type: train, name: wide, model: {type: mlp, hidden: [32]}, training: {epochs: 1}}
  - type: distill
    name: student
    teacher: teacher
    teacher_cache: true
    model: {type: mlp, hidden: [8]}
    training: {epochs: 1}
"""


def tables(tmp_path, *overrides, text=RECIPE, name="r"):
    path = tmp_path / f"{name}.yaml"
    path.write_text(text)
    planned = plan.plan(recipe.load(path, overrides))
    return {step.key for step in planned.steps if step.kind is Table}


def test_who_asks_the_same_shares_a_table(tmp_path):
    (one,) = tables(tmp_path)
    assert tables(tmp_path, name="other") == {one}
    same = (
        "stages.student.training.epochs=9", "stages.student.model=lenet", "stages.student.losses=[soft_cross_entropy]",
        "stages.student.seeds=[0, 1, 2]", "stages.student.training.views=4", "stages.student.training.batch=64",
    )  # fmt: skip
    assert {override: tables(tmp_path, override) for override in same} == {override: {one} for override in same}
    both = tables(tmp_path, "stages.student.teacher=[wide, teacher]")
    assert len(both) == 2
    assert one in both
    features = "stages.student.losses=[{type: hints, layers: [fc1]}]"
    augmented = ("stages.student.training.augment=[flip]", "stages.student.training.views=2")
    more = (*augmented[:1], "stages.student.training.views=3")
    others = [
        tables(tmp_path, *overrides) for overrides in ((features,), augmented, more, ("stages.teacher.training.epochs=2",))
    ]
    assert len(set.union({one}, *others)) == 5


class Silent:
    """A listener that remembers which steps ran."""

    def __init__(self):
        self.ran, self.notes = [], []

    def begins(self, step, smoke):
        pass

    def progress(self, step, progress):
        self.notes += [progress.note] if progress.note else []

    def ended(self, step, cached, seconds, problem):
        self.ran += [] if cached else [step.name]


def test_a_run_makes_it_once_and_another_recipe_reads_it(tmp_path):
    def execute(name, *overrides):
        (tmp_path / f"{name}.yaml").write_text(RECIPE)
        planned = plan.plan(recipe.load(tmp_path / f"{name}.yaml", overrides))
        listener = Silent()
        Run(replace(planned, rows=()), Store(tmp_path / "store"), tmp_path / name, listener).execute()
        return listener

    first = execute("one")
    assert first.ran[-2:] == ["student.teacher_table", "student"]
    assert [note for note in first.notes if "on disk" in note] == ["the table of 1078 samples in 1 view takes 60.4 kB on disk"]
    assert execute("two", "stages.student.model.hidden=[12]").ran[-1:] == ["student"]


def test_a_teacher_that_fails_fails_the_run(tmp_path, monkeypatch):
    """Steps that only measure may fail; what a stage needs may not."""

    def fails(self, context):
        if context.limit is None:
            raise StageError("it fell silent")
        return asks(self, context)

    asks = TeacherTable.run
    monkeypatch.setattr(TeacherTable, "run", fails)
    (tmp_path / "r.yaml").write_text(RECIPE)
    planned = plan.plan(recipe.load(tmp_path / "r.yaml"))
    with pytest.raises(StageError, match=r"'student.teacher_table' failed: it fell silent"):
        Run(replace(planned, rows=()), Store(tmp_path / "store"), tmp_path / "run", Silent()).execute()


def test_an_interrupted_table_goes_on_where_it_was_saved(toy, context_for, teacher, tmp_path, monkeypatch, perform):
    """Stopped after every number of chunks, in either view, it ends with the same bytes as without a stop."""
    monkeypatch.setattr(teacher_table, "CHUNK", 16)
    stage = Stage.model_validate({"type": "teacher_table", "views": 2, "augment": AUGMENT, "layers": ["layer2"]})
    whole = perform(stage, context_for(toy(train=60), inputs={"teacher": (teacher,)}), Table)
    for stop in range(1, 8):
        folder = tmp_path / f"saves{stop}"
        folder.mkdir()
        calls = iter(range(1, 100))
        saves = Saves(folder, Saving(steps=1))
        step = saves.step

        def interrupted(state, step=step, calls=calls, stop=stop):
            step(state)
            if next(calls) == stop:
                raise KeyboardInterrupt

        monkeypatch.setattr(saves, "step", interrupted)
        context = context_for(toy(train=60), inputs={"teacher": (teacher,)}, saves=saves)
        with pytest.raises(KeyboardInterrupt):
            stage.run(context)
        fresh = replace(context, output=context_for(toy()).output, saves=Saves(folder))
        assert perform(stage, fresh, Table).digest == whole.digest


def test_a_full_disk_is_told_before_anything_is_written(toy, context_for, teacher, monkeypatch):
    def full(descriptor, start, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match="No space left"):
        Stage.model_validate("teacher_table").run(context_for(toy(train=60), inputs={"teacher": (teacher,)}))
