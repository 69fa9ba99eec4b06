"""Samples without labels joined to the labelled ones: who sees what, what counts, and what it is held against."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch.nn import functional

from compress_cli.data.datasets import Split
from compress_cli.distillation import table
from compress_cli.distillation.ensemble import Ensemble
from compress_cli.distillation.teachers import teacher_for
from compress_cli.errors import DataError, RecipeError
from compress_cli.identity import identity
from compress_cli.losses import Loss
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.run import Run
from compress_cli.stages import Stage
from compress_cli.store.artifact import Table
from compress_cli.store.store import Store
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig
from compress_cli.training.loader import Augmenter, Loader
from compress_cli.training.optimizers.sgd import Sgd
from compress_cli.training.pool import SamplePool

pytestmark = pytest.mark.usefixtures("one_thread")

STILL = Sgd(learning_rate=1e-12)
LAYERS = [{"student": "layer1", "teacher": "layer1"}]


@pytest.fixture
def unlabelled(toy):
    """`unlabelled(train=60)`: as the toy, other pictures under the same ids; its labels make no sense unless `labels`."""
    toys = type(toy())

    class Unlabelled(toys):
        labels: int = 999

        def split(self, name):
            split = super().split(name)
            images = np.roll(split.inputs["image"], 7, axis=0) ^ 3
            return Split({"image": images}, {"label": np.full(len(split), self.labels)}, split.index)

    return lambda **settings: Unlabelled(**settings)


@pytest.fixture
def teacher(lively_teacher):
    return lively_teacher((5,))


def loss(name, **settings):
    return Loss.model_validate({"type": name, **settings})


def fitted(context, losses, master, model=None, **settings):
    """The mean loss of the first epoch (of `epochs`), and the network."""
    network = restore.build(model or Mlp(hidden=(8,)), context.dataset.signature(), context.seed).network
    config = TrainingConfig(**{"epochs": 1, "batch": 8, "precision": "float32", "keep": "last", "optimizer": STILL, **settings})
    layers = tuple(dict.fromkeys(layer for loss in losses for layer in loss.teacher_layers()))
    teachers = Ensemble({"": teacher_for(master).open(master, layers, "cpu")})
    facts = loop.fit(network, losses, config, context, teachers)
    return facts["epochs"][0]["loss"], network


def batches(context, size=8):
    loader = Loader(SamplePool(context.split("train"), "cpu", context.unlabelled()), size, Augmenter(seed=context.seed))
    return [part for (part,) in loader.epoch(1)]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_labels_count_where_there_are_any_and_the_teacher_everywhere(toy, unlabelled, context_for, teacher, accumulate):
    """By hand in float64; of batches of 8 out of 6 labelled samples and 60 others some have no label at all."""
    context = context_for(toy(train=6), transfer=unlabelled(train=60), join=True)
    soft, hard = loss("soft_targets", temperature=2.0, weight=0.9), loss("cross_entropy", weight=0.3)
    value, network = fitted(context, (soft, hard), teacher, accumulate=accumulate)
    labels = dict(enumerate(toy(train=6).split("train").targets["label"]))
    master, expected, without = restore.checkpoint(teacher).network.eval(), [], 0
    for part in batches(context):
        with torch.no_grad():
            s, t = (model(part.inputs["image"])["logits"].double() for model in (network, master))
        kl = functional.kl_div((s / 2).log_softmax(1), (t / 2).softmax(1), reduction="none").sum(1)
        entropies = [-s[n].log_softmax(0)[labels[i]].item() for n, i in enumerate(part.index.tolist()) if i >= 0]
        without += not entropies
        expected.append(0.9 * 4 * kl.mean().item() + (0.3 * np.mean(entropies) if entropies else 0))
    assert 0 < without < len(expected) == 9
    assert value == pytest.approx(np.mean(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("dkd", {}),
        ("self_distillation", {"exits": ["layer1"]}),
        ("contrastive", {"layers": LAYERS, "by": "label"}),
        ("triplet", {"layers": LAYERS, "by": "label", "negatives": "all"}),
        ("crd", {"layers": LAYERS, "negatives": 4}),
    ],
)
def test_every_loss_that_reads_labels_sees_the_labelled_alone(
    toy, unlabelled, context_for, teacher, name, settings, monkeypatch
):
    """Each gets exactly the labelled samples, with their labels, and never an empty batch."""
    reading, seen = loss(name, **settings), []
    formula = type(reading).__call__

    def spy(self, student, teachers, batch, adapter):
        seen.append((student, teachers, batch, adapter))
        return formula(self, student, teachers, batch, adapter)

    monkeypatch.setattr(type(reading), "__call__", spy)
    context = context_for(toy(train=7), transfer=unlabelled(train=40), join=True)
    value, _ = fitted(context, (reading, loss("soft_targets")), teacher, Convnet(widths=(4,), convs=1), accumulate=2)
    assert np.isfinite(value)
    labels = toy(train=7).split("train").targets["label"]
    for student, teachers, batch, _ in seen:
        assert batch.targets["label"].tolist() == labels[batch.index.numpy()].tolist()
        assert {len(outputs.heads["logits"]) for outputs in (student, *teachers)} == {len(batch.index)}
        assert {len(values) for outputs in (student, *teachers) for values in outputs.features.values()} <= {len(batch.index)}
    assert sorted(i for _, _, batch, _ in seen for i in batch.index.tolist()) == list(range(7))
    if name == "crd":  # it remembers what it is shown, no more
        assert seen[0][3][0].student.shape[0] == 7


def test_a_memory_of_every_sample_keeps_them_apart(toy, unlabelled, context_for, teacher, monkeypatch):
    """The ids 0 to 39 are in both datasets; each sample has one row to itself."""
    crd, adapters = loss("crd", layers=LAYERS, negatives=4, other="sample"), []
    formula = type(crd).__call__
    monkeypatch.setattr(type(crd), "__call__", lambda self, *parts: adapters.append(parts[-1]) or formula(self, *parts))
    context = context_for(toy(train=40), transfer=unlabelled(train=60), join=True)
    fitted(context, (crd,), teacher, Convnet(widths=(4,), convs=1))
    memory = adapters[-1][0]
    assert memory.ids.tolist() == list(range(-60, 40))
    assert sorted(memory.rows.tolist()) == list(range(100))


def test_parts_of_a_batch_weigh_their_labels_as_the_whole(toy, unlabelled, context_for, teacher):
    """Labels fall unevenly over the parts; without BatchNorm the steps must be those of whole batches."""
    losses = (loss("soft_targets", weight=0.5), loss("cross_entropy", weight=5.0), loss("dkd", weight=0.5))
    networks = []
    for accumulate in (1, 4):
        context = context_for(toy(train=9), transfer=unlabelled(train=40), join=True)
        networks.append(fitted(context, losses, teacher, epochs=3, accumulate=accumulate, optimizer=Sgd(learning_rate=0.01))[1])
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def distil(**settings):
    training = {"epochs": 3, "batch": 16, "precision": "float32", "keep": "last", **settings.pop("training", {})}
    training.setdefault("optimizer", {"type": "sgd", "learning_rate": 0.01})
    model = {"type": "convnet", "widths": [4], "convs": 1}
    return Stage.model_validate({"type": "distill", "model": model, "join": True, "training": training, **settings})


def test_labels_of_the_transfer_data_are_never_read(toy, unlabelled, context_for, teacher, perform):
    students = [
        perform(distil(transfer=unlabelled(train=50, labels=labels)), context_for(toy(), inputs={"teacher": (teacher,)}))
        for labels in (999, -7, 1)
    ]
    assert len({student.digest for student in students}) == 1
    alone = perform(distil(transfer=unlabelled(train=1)), context_for(toy(), inputs={"teacher": (teacher,)}))
    assert alone.digest != students[0].digest


@pytest.mark.parametrize("training", [{"augment": [{"type": "crop", "padding": 1}, "flip"], "views": 2}, {"accumulate": 3}])
def test_a_student_of_the_table_equals_that_of_the_teacher_byte_for_byte(
    toy, unlabelled, context_for, teacher, training, perform
):
    """Every picture in every view, in an order that changes with the epoch, under ids that both datasets use."""
    losses = ["soft_targets", "dkd", {"type": "hints", "layers": LAYERS}]
    transfer, students = unlabelled(train=50), {}
    for cached in (False, True):
        stage = distil(transfer=transfer, losses=losses, training=training, teacher_cache=cached)
        context = context_for(toy(), inputs={"teacher": (teacher,)})
        for role, needed in stage.needs().items():
            context.inputs[role] = (perform(needed, context_for(toy(), inputs={"teacher": (teacher,)}), Table),)
            assert table.StoredOutputs(context.inputs[role][0]).ids.tolist() == list(range(-50, 40))
        students[cached] = perform(stage, context)
    assert students[True].digest == students[False].digest


def test_the_control_takes_as_many_steps_on_the_labelled_samples_alone(toy, unlabelled, context_for, teacher):
    stage = distil(transfer=unlabelled(train=75), control=True)
    assert distil(transfer=unlabelled(train=75)).controls() == {}
    (control,) = stage.controls().values()
    steps = []
    for training, inputs in ((stage, {"teacher": (teacher,)}), (control, {})):
        reports = []
        facts = training.run(context_for(toy(), inputs=inputs, log=reports.append))
        ends = [(report.epoch, report.done, report.total) for report in reports if report.epoch_ended]
        steps.append((ends, facts["planned_steps"]))
    assert steps[0] == steps[1] == ([(1, 8, 8), (2, 8, 8), (3, 8, 8)], 24)  # 40 + 75 samples in batches of 16
    assert identity(control)["as_long_as"]["transfer"]["train"] == 75
    alone = distil(transfer=unlabelled(train=20), join=False, losses=["soft_targets"], control=True).controls()["control"]
    assert alone.run(context_for(toy()))["planned_steps"] == 6  # 40 samples in 3 batches, of which an epoch takes 2
    with_more = distil(transfer=unlabelled(train=76), control=True).controls()["control"]
    assert identity(with_more) != identity(control)


def test_recipes_without_it_keep_their_keys(toy, unlabelled):
    plain = Stage.model_validate({"type": "distill", "model": "mlp", "training": {"epochs": 1}, "teacher_cache": True})
    assert "join" not in identity(plain)
    assert all("join" not in identity(needed) for needed in plain.needs().values())
    assert "as_long_as" not in identity(Stage.model_validate({"type": "train", "model": "mlp", "training": {"epochs": 1}}))
    joined = distil(transfer=unlabelled(), teacher_cache=True)
    assert identity(joined)["join"] is identity(joined.needs()["table"])["join"] is True


def test_a_smoke_run_takes_two_steps_of_both_and_knows_of_the_whole(toy, unlabelled, context_for, teacher, perform):
    stage, reports = distil(transfer=unlabelled(train=75), teacher_cache=True, control=True), []
    context = context_for(toy(), inputs={"teacher": (teacher,)}, limit=2, log=reports.append)
    (needed,) = stage.needs().values()
    context.inputs["table"] = (perform(needed, replace(context, output=context_for(toy()).output), Table),)
    facts = stage.run(context)
    assert {(report.done, report.total) for report in reports if report.epoch_ended} == {(2, 2)}
    assert facts["planned_steps"] == 24
    assert stage.controls()["control"].run(context_for(toy(), limit=2))["planned_steps"] == 24
    seen = replace(context, transfer=stage.transfer, join=True)
    assert [len(seen.split("train", 16)), len(seen.unlabelled(16))] == [16, 16]
    assert [len(context.split("val", 4)) for context in (seen, replace(seen, limit=None))] == [8, 12]


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({}, "there is nothing to join"),
        ({"transfer": "digits", "losses": ["cross_entropy"]}, "'cross_entropy' reads labels, and nothing would be learnt"),
        ({"transfer": "digits", "losses": ["dkd", {"type": "soft_targets", "weight": 0.0}]}, "'dkd' reads labels"),
        ({"transfer": "digits", "join": False}, "'cross_entropy' needs them; set join: true to learn from the recipe's"),
        ({"transfer": "digits", "join": False, "losses": ["dkd"]}, "its samples have no labels, and 'dkd' needs them"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, word):
    with pytest.raises(ValidationError, match=word):
        distil(**settings)


def test_data_that_can_not_be_joined_is_refused(toy, unlabelled, context_for, teacher):
    class Odd(type(unlabelled())):
        what: str

        def split(self, name):
            split = super().split(name)
            if self.what == "type":
                return replace(split, inputs={"image": split.inputs["image"].astype(np.float32)})
            return replace(split, index=split.index - 5) if self.what == "ids" else split.take(np.s_[:0])

    for what, word in (("type", "float32, and the recipe's dataset has uint8"), ("ids", "ids below 0"), ("none", "is empty")):
        with pytest.raises(DataError, match=f"transfer: .*{word}"):
            distil(transfer=Odd(what=what)).run(context_for(toy(), inputs={"teacher": (teacher,)}))


def test_teachers_mixed_by_the_label_need_every_label(toy, unlabelled, context_for, teacher):
    two = {"teacher": ["a", "b"], "transfer": unlabelled(train=50)}
    facts_of = {}
    for combine in ("confidence", {"type": "confidence", "by": "entropy"}, "learned"):
        stage, context = distil(**two, combine=combine), context_for(toy(train=9), inputs={"teacher": (teacher, teacher)})
        if combine == "confidence":
            with pytest.raises(RecipeError, match="needs the label of every sample; without labels set by: entropy"):
                stage.run(context)
        else:
            facts_of[str(combine)] = stage.run(context)
    assert all(np.isfinite(epoch["loss"]) for facts in facts_of.values() for epoch in facts["epochs"])


RECIPE = """\
dataset: {type: npz, train: few.npz, val: held.npz, test: held.npz, inputs: [row]}
compare: {seconds: 0.02}
threads: 1
stages:
  - {type: load, name: teacher, outputs: stored.npz}
  - {type: distill, name: student, model: {type: mlp, hidden: [8]}, join: true, losses: [soft_targets, cross_entropy],
      transfer: {type: npz, train: more.npz, inputs: [row], targets: []}, TRAINING}
"""
EPOCHS = "training: {epochs: 12, batch: 16, keep: last, precision: float32, optimizer: {type: sgd, learning_rate: 0.05}}"


def test_a_recipe_joins_stored_outputs_under_their_own_ids(tmp_path):
    """The teacher's table says of unlabelled sample n what stands under -1 - n; a smoke run finds one that is missing."""
    random = np.random.default_rng(0)

    def rows(count):
        label = np.arange(count) % 2
        return (random.standard_normal((count, 6)) + 2 * label[:, None] - 1).astype(np.float32), label

    (few, few_labels), (more, more_labels), (held, held_labels) = rows(8), rows(150), rows(100)
    np.savez(tmp_path / "few.npz", row=few, label=few_labels)
    np.savez(tmp_path / "more.npz", row=more)
    np.savez(tmp_path / "held.npz", row=held, label=held_labels)
    index = np.concatenate([np.arange(8), -1 - np.arange(150)])
    stored = {"index": index, "logits": 4.0 * np.eye(2)[np.concatenate([few_labels, more_labels])]}
    (tmp_path / "r.yaml").write_text(RECIPE.replace("TRAINING", EPOCHS))

    class Silent:
        def begins(self, step, smoke): ...
        def progress(self, step, progress): ...
        def ended(self, step, cached, seconds, problem): ...

    def executed():
        planned = plan.plan(recipe.load(tmp_path / "r.yaml"))
        run = Run(replace(planned, rows=()), Store(tmp_path / "store"), tmp_path / "run", Silent())
        run.execute()
        return run.artifacts[planned.stages[1].key]

    np.savez(tmp_path / "stored.npz", **{name: array[:-1] for name, array in stored.items()})
    with pytest.raises(DataError, match=r"lacks 1 of the 158 samples asked for \(the first ids: -150\)"):
        executed()
    np.savez(tmp_path / "stored.npz", **stored)
    student = executed()
    with torch.no_grad():
        answers = restore.checkpoint(student).network(torch.from_numpy(held))["logits"].argmax(1).numpy()
    assert (answers == held_labels).mean() > 0.95
