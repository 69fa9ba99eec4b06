"""`distill`: what the student learns, from whom, and what is refused."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

from compress_cli.errors import RecipeError
from compress_cli.losses.cross_entropy import CrossEntropy
from compress_cli.losses.soft_targets import SoftTargets
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.pipeline import plan, recipe
from compress_cli.stages import Stage
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = {"type": "mlp", "hidden": [16]}
TRAINING = {"epochs": 2, "batch": 16, "precision": "float32", "optimizer": {"type": "sgd", "learning_rate": 0.01}}


def run(stage, context):
    facts = stage.run(context)
    return Draft(Checkpoint, "k", stage.model_dump(mode="json"), facts).commit(context.output)


def stage(**settings):
    return Stage.model_validate({"type": "distill", "training": TRAINING, **settings})


def stage_of_train(training):
    return Stage.model_validate({"type": "train", "model": MODEL, "training": training})


def teacher(toy, folder, classes=3, seed=0, widths=(4,)):
    """A checkpoint with random and large outputs, so that a student that learnt from it is known."""
    folder.mkdir()
    restored = restore.build(Convnet(widths=widths, convs=1), toy(classes=classes).signature(), seed)
    with torch.no_grad():
        restored.network.body.fc.weight.mul_(20)
    restore.save(restored, folder)
    return Draft(Checkpoint, "t", {}).commit(folder)


def logits_of(student, toy):
    images = torch.from_numpy(toy().split("test").inputs["image"]).float()
    with torch.no_grad():
        return restore.checkpoint(student).network(images)["logits"]


SOFT_ALONE = [{"type": "soft_targets", "temperature": 1.0}]


def test_the_student_agrees_with_its_teacher(toy, context_for, tmp_path):
    master = teacher(toy, tmp_path / "t")
    longer = {**TRAINING, "epochs": 30, "keep": "last"}
    context = context_for(toy(train=300), inputs={"teacher": (master,)})
    student = run(stage(model=MODEL, losses=SOFT_ALONE, training=longer), context)
    agree = (logits_of(student, toy).argmax(1) == logits_of(master, toy).argmax(1)).float().mean()
    labels = torch.from_numpy(toy().split("test").targets["label"])
    right = (logits_of(student, toy).argmax(1) == labels).float().mean()
    assert agree > 0.6
    assert right < 0.3
    assert restore.checkpoint(student).model.type == "mlp"


def test_every_teacher_counts(toy, context_for, tmp_path):
    one, other = teacher(toy, tmp_path / "1"), teacher(toy, tmp_path / "2", seed=1)
    students = {
        len(names): run(stage(model=MODEL, losses=SOFT_ALONE, teacher=names), context_for(toy(), inputs={"teacher": sources}))
        for names, sources in ((["a"], (one,)), (["a", "b"], (one, other)))
    }
    assert students[1].digest != students[2].digest


def test_each_loss_may_name_its_teacher_and_its_layers(toy, context_for, tmp_path):
    """Two teachers of other architectures; other names for the same teachers give the same student."""
    small, deep = teacher(toy, tmp_path / "1"), teacher(toy, tmp_path / "2", seed=1, widths=(4, 6))
    losses = [
        {"type": "soft_targets", "teacher": "small"},
        {"type": "hints", "teacher": "deep", "layers": [{"student": "layer1", "teacher": "layer2"}]},
    ]
    renamed = [{**losses[0], "teacher": "x"}, {**losses[1], "teacher": "y"}]
    model = {"type": "convnet", "widths": [4], "convs": 1}
    one = stage(model=model, teacher=["small", "deep"], losses=losses)
    two = stage(model=model, teacher=["x", "y"], losses=renamed)
    students = [run(distill, context_for(toy(), inputs={"teacher": (small, deep)})) for distill in (one, two)]
    assert students[0].digest == students[1].digest
    assert one.depends() == two.depends() != stage(model=model, teacher=["y", "x"], losses=renamed).depends()
    swapped = stage(model=model, teacher=["deep", "small"], losses=losses)
    with pytest.raises(RecipeError, match="there is no layer 'layer2'"):
        run(swapped, context_for(toy(), inputs={"teacher": (small, deep)}))


@pytest.mark.parametrize(
    "combine", ["mean", {"type": "weighted", "weights": [1.0, 4.0]}, "confidence", "confidence_mixture", "learned"]
)
def test_teachers_are_combined(toy, context_for, tmp_path, combine):
    """One of two teachers is right, and the student becomes better than with the wrong one alone."""
    start = run(stage_of_train(TRAINING | {"epochs": 20}), context_for(toy(train=120)))
    fool = teacher(toy, tmp_path / "f")
    settings = {"model": MODEL, "losses": SOFT_ALONE, "training": {**TRAINING, "epochs": 10}}
    both = context_for(toy(train=120), inputs={"teacher": (fool, start)})
    student = run(stage(**settings, teacher=["fool", "start"], combine=combine), both)
    again = run(stage(**settings, teacher=["fool", "start"], combine=combine), replace(both, output=context_for(toy()).output))
    assert student.digest == again.digest
    alone = run(stage(**settings), context_for(toy(train=120), inputs={"teacher": (fool,)}))
    labels = torch.from_numpy(toy().split("test").targets["label"])
    right = [(logits_of(student, toy).argmax(1) == labels).float().mean() for student in (student, alone)]
    assert right[0] > right[1]


def test_a_student_may_start_from_a_checkpoint(toy, context_for, tmp_path):
    master, start = teacher(toy, tmp_path / "t"), teacher(toy, tmp_path / "s", seed=1)
    student = run(stage(start="s"), context_for(toy(), inputs={"teacher": (master,), "start": (start,)}))
    assert restore.checkpoint(student).model == Convnet(widths=(4,), convs=1)


def test_an_onnx_file_can_teach_but_shows_no_features(toy, context_for, tmp_path, monkeypatch):
    (tmp_path / "o").mkdir()
    weight = np.random.default_rng(0).standard_normal((72, 3)).astype(np.float32) / 50
    nodes = [helper.make_node("Flatten", ["image"], ["row"]), helper.make_node("MatMul", ["row", "w"], ["scores"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["N", 2, 6, 6])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 3])], [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "o" / "model.onnx"
    )
    linear = Draft(OnnxModel, "o", {}).commit(tmp_path / "o")
    context = context_for(toy(train=200), inputs={"teacher": (linear,)})
    longer = {**TRAINING, "epochs": 30, "keep": "last"}
    student = run(stage(model=MODEL, losses=SOFT_ALONE, training=longer), context)
    images = torch.from_numpy(toy().split("test").inputs["image"]).float().flatten(1)
    assert (logits_of(student, toy).argmax(1) == (images @ torch.from_numpy(weight)).argmax(1)).float().mean() > 0.85
    monkeypatch.setattr(SoftTargets, "teacher_layers", lambda self: ("layer1",))
    with pytest.raises(RecipeError, match="shows only its outputs"):
        stage(model=MODEL).run(context)


def test_a_loss_on_features_of_an_onnx_file_is_refused_by_the_plan(tmp_path, linear_file):
    text = """\
dataset: digits
compare: {seconds: 0.02}
stages:
  - {type: load, onnx: model.onnx}
  - {type: distill, model: mlp, losses: [{type: hints, layers: ["1"]}], training: {epochs: 1}}
"""
    (tmp_path / "r.yaml").write_text(text)
    linear_file(np.zeros((64, 10)))
    expected = r"r.yaml:5: stages\[1\]: losses: one asks for the teacher's layer '1', but .* only its outputs"
    with pytest.raises(RecipeError, match=expected):
        plan.plan(recipe.load(tmp_path / "r.yaml"))
    (tmp_path / "r.yaml").write_text(text.replace('losses: [{type: hints, layers: ["1"]}]', "initialise: ['1']"))
    with pytest.raises(RecipeError, match="initialise: copies layers of the first teacher, which has none to copy"):
        plan.plan(recipe.load(tmp_path / "r.yaml"))


def test_a_teacher_worse_than_chance_is_named(toy, context_for, tmp_path):
    """One that is always wrong: its classes are turned by one."""
    right = run(stage_of_train(TRAINING | {"epochs": 20}), context_for(toy(train=120)))
    turned = restore.checkpoint(right)
    last = turned.network.body[-1]
    with torch.no_grad():
        last.weight.copy_(last.weight.roll(1, 0))
        last.bias.copy_(last.bias.roll(1))
    (tmp_path / "w").mkdir()
    restore.save(turned, tmp_path / "w")

    wrong, notes = Draft(Checkpoint, "w", {}).commit(tmp_path / "w"), []
    context = context_for(toy(), inputs={"teacher": (right, wrong)}, log=lambda progress: notes.append(progress.note))
    student = run(stage(model=MODEL, teacher=["right", "wrong"]), context)
    (note,) = student.manifest.facts["notes"]
    assert "the teacher 'wrong' has accuracy 0" in note
    assert "on val, where guessing has 0.333" in note
    assert note in notes
    student = run(stage(model=MODEL), context_for(toy(), inputs={"teacher": (right,)}))
    assert "notes" not in student.manifest.facts

    for teaching in ({"type": "sparsify", "ratio": 0.5}, {"type": "prune", "ratio": 0.5, "round_to": 1}):
        further = Stage.model_validate({**teaching, "teacher": ["wrong"], "training": TRAINING})
        facts = run(further, context_for(toy(), inputs={"start": (right,), "teacher": (wrong,)})).manifest.facts
        assert [note for note in facts["notes"] if "'wrong'" in note] == [note]


def test_layers_start_from_the_teachers(toy, context_for, tmp_path):
    """DistilBERT's way: some layers of a deep teacher become those of a shallow student (here they hardly move)."""
    master = teacher(toy, tmp_path / "t", widths=(4, 4))
    still = {**TRAINING, "epochs": 1, "optimizer": {"type": "sgd", "learning_rate": 1e-12}}
    model = {"type": "convnet", "widths": [4], "convs": 1}
    settings = {"model": model, "training": still, "initialise": ["layer1", {"student": "fc", "teacher": -1}]}
    student = run(stage(**settings), context_for(toy(), inputs={"teacher": (master,)}))
    ours, theirs = (dict(restore.checkpoint(model).network.body.named_parameters()) for model in (student, master))
    for name in ("layer1.0.weight", "fc.weight", "fc.bias"):
        torch.testing.assert_close(ours[name], theirs[name])
    for layers, word in (
        (["layer9"], r"no layer 'layer9'; did you mean 'layer"),
        ([{"student": "fc", "teacher": "layer1"}], r"does not fit into 'fc': fc.weight is missing in the teacher"),
        (["avgpool"], "has no weights"),
    ):
        with pytest.raises(RecipeError, match=word):
            run(stage(**{**settings, "initialise": layers}), context_for(toy(), inputs={"teacher": (master,)}))
    wide = teacher(toy, tmp_path / "w", widths=(6,))
    with pytest.raises(
        RecipeError, match=r"layer1.0.weight is \(6, 2, 3, 3\) in the teacher and \(4, 2, 3, 3\) in the student"
    ):
        run(stage(**settings), context_for(toy(), inputs={"teacher": (wide,)}))


def test_generations_are_born_again_from_the_one_before(tmp_path):
    """Each distil stage learns from the stage before (Furlanello et al. 2018): generations need no setting of their own."""
    again = "  - {type: distill, name: %s, model: mlp, training: {epochs: 1}}\n"
    text = "dataset: digits\nstages:\n  - {type: train, name: first, model: mlp, training: {epochs: 1}}\n"
    (tmp_path / "r.yaml").write_text(text + again % "second" + again % "third")
    planned = plan.plan(recipe.load(tmp_path / "r.yaml"))
    assert [[source.name for source in step.inputs.get("teacher", ())] for step in planned.stages] == [
        [],
        ["first"],
        ["second"],
    ]
    assert len({step.key for step in planned.stages}) == 3


def test_class_counts_must_agree(toy, context_for, tmp_path):
    master = teacher(toy, tmp_path / "t", classes=5)
    with pytest.raises(RecipeError, match="teacher gives 5 values per sample where the student gives 3 values"):
        run(stage(model=MODEL), context_for(toy(), inputs={"teacher": (master,)}))


def test_the_default_is_nine_parts_soft_to_one_hard():
    assert stage(model=MODEL).losses == (SoftTargets(weight=0.9, temperature=4.0), CrossEntropy(weight=0.1))


def test_a_teacher_is_a_name_or_a_list_of_them():
    assert stage(model=MODEL).teacher == ()
    assert stage(model=MODEL, teacher="t").teacher == ("t",)
    assert stage(model=MODEL, teacher=["t", "u"]).teacher == ("t", "u")


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"model": MODEL, "losses": [{"type": "soft_targets", "weight": 0.0}]}, "nothing would be learnt"),
        ({"model": MODEL, "losses": []}, "at least 1 item"),
        ({"model": MODEL, "losses": [{"type": "soft_targets", "temperature": 0.0}]}, "greater than 0"),
        ({"model": MODEL, "teacher": ["a", "a"]}, "one is named twice"),
        ({"model": MODEL, "teacher": ["a", "b"], "combine": {"type": "weighted", "weights": [0.0, 0.0]}}, "weights sum to 0"),
        (
            {"model": MODEL, "teacher": ["a", "b"], "combine": {"type": "weighted", "weights": [1.0] * 3}},
            "2 teachers and 3 weights",
        ),
        ({"model": MODEL, "teacher": ["big"], "losses": [{"type": "dkd", "teacher": "bog"}]}, "did you mean 'big'"),
        ({"model": MODEL, "losses": [{"type": "cross_entropy", "teacher": "big"}]}, "learns from no teacher"),
        ({}, "neither is named"),
        ({"model": MODEL, "start": "a"}, "not both"),
        ({"model": MODEL, "losses": [{"type": "soft_targets", "temprature": 2.0}]}, "did you mean 'temperature'"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, word):
    with pytest.raises(ValidationError, match=word):
        stage(**settings)


def test_standardised_logits_of_two_classes_are_refused_at_the_first_batch(toy, context_for, tmp_path):
    class TwoClasses(type(toy())):
        def split(self, name):
            split = super().split(name)
            return replace(split, targets={"label": split.targets["label"] % 2})

    context = context_for(TwoClasses(classes=2), inputs={"teacher": (teacher(toy, tmp_path / "t", classes=2),)})
    with pytest.raises(RecipeError, match=r"the loss 'soft_targets' has standardise: true.*the head 'logits' has 2"):
        stage(model=MODEL, losses=[{"type": "soft_targets", "standardise": True}]).run(context)


def test_features_and_outputs_of_several_teachers_are_weighed_together(toy, context_for, tmp_path):
    """A recipe of CA-MKD: both kinds of losses, in microbatches; the same bytes again, others than with equal weights."""
    sources = tuple(teacher(toy, tmp_path / str(seed), seed=seed) for seed in (1, 2))
    losses = [*SOFT_ALONE, {"type": "hints", "layers": ["layer1"]}, {"type": "cross_entropy"}]
    settings = {"model": {"type": "convnet", "widths": [6], "convs": 1}, "teacher": ["a", "b"], "losses": losses}
    combines = ("confidence", "confidence", "confidence_mixture", "mean")
    students = [
        run(
            stage(**settings, combine=combine, training={**TRAINING, "accumulate": 2}),
            context_for(toy(train=60), inputs={"teacher": sources}),
        )
        for combine in combines
    ]
    digests = [student.digest for student in students]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
