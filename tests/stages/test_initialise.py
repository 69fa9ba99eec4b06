"""A student that starts with its teacher's blocks and channels: what it then computes, and what is refused."""

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.networks.alignment import align
from compress_cli.networks.inheritance import inherit
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.networks.models.resnet import Resnet
from compress_cli.networks.models.transformer_encoder import TransformerEncoder
from compress_cli.stages import Stage, _initialise
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Table

pytestmark = pytest.mark.usefixtures("one_thread")
IMAGE = torch.from_numpy(np.random.default_rng(5).integers(0, 200, (8, 2, 6, 6)).astype(np.float32))


@pytest.fixture
def saved(tmp_path, toy, lively):
    """saved(model, change=None) -> a checkpoint of the model with weights that are far from 0, and its network."""

    def _saved(model, change=None):
        folder = tmp_path / f"teacher{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        restored = restore.build(model, toy().signature(), 3)
        lively(restored.network.body)
        if change:
            change(restored.network.body)
        restore.save(restored, folder)
        return Draft(Checkpoint, "t", {}).commit(folder), restored.network.eval()

    return _saved


def begun(model, teacher, context):
    """A student that was initialised, in evaluation mode, and the facts of it."""
    restored, facts = _initialise.student(model, teacher, context, (), ())
    return restored.network.eval(), facts["initialised"]


def outputs(network):
    with torch.no_grad():
        return network(IMAGE)["logits"]


def test_a_student_as_wide_and_as_deep_computes_what_its_teacher_does(saved, toy, context_for):
    for model in (Resnet(depth=14, widths=(4, 6, 8)), Convnet(widths=(4, 6))):
        teacher, network = saved(model)
        student, facts = begun(model, teacher, context_for(toy(), seed=9))
        assert torch.equal(outputs(student), outputs(network))
        assert facts["random"] == []
        assert facts["cut"] == []
        assert facts["error"] == 0
        assert facts["tensors"] == {name: name for name in network.body.state_dict()}


def test_blocks_that_do_nothing_are_those_that_a_shallower_student_lacks(saved, toy, context_for):
    """Evenly spread blocks would be the first, the middle and the last of five."""
    silent = ("layer1.2", "layer1.4", "layer2.1", "layer2.2", "layer3.3", "layer3.4")

    def silence(body):
        for name in silent:  # the sum of nothing and what an activation gave, which is not negative
            nn.init.zeros_(body.get_submodule(name).bn2.weight)
            nn.init.zeros_(body.get_submodule(name).bn2.bias)

    teacher, network = saved(Resnet(depth=32, widths=(4, 6, 8)), silence)
    student, facts = begun(Resnet(depth=20, widths=(4, 6, 8)), teacher, context_for(toy()))
    assert facts["blocks_dropped"] == list(silent)
    assert facts["blocks_by"] == "change"
    assert facts["blocks"] == {
        "layer1.0": "layer1.0", "layer1.1": "layer1.1", "layer1.2": "layer1.3",
        "layer2.0": "layer2.0", "layer2.1": "layer2.3", "layer2.2": "layer2.4",
        "layer3.0": "layer3.0", "layer3.1": "layer3.1", "layer3.2": "layer3.2",
    }  # fmt: skip
    torch.testing.assert_close(outputs(student), outputs(network))


def test_layers_are_spread_as_distilberts_are():
    """Sanh et al. 2019 take layers 0, 2, 4, 7, 9 and 11 of BERT's twelve."""
    signature = Signature(inputs={"x": Input(shape=(4, 6))}, heads={"logits": Head(shape=(2,))})
    six, twelve = (TransformerEncoder(width=8, hidden=8, depth=n, attention_heads=2).build(signature) for n in (6, 12))
    assert list(align(six, twelve).chosen.values()) == [f"layers.{number}" for number in (0, 2, 4, 7, 9, 11)]
    stages = align(*(Resnet(depth=depth).build(Signature(**{**TWO, "heads": signature.heads})) for depth in (20, 56)))
    assert list(stages.chosen.values())[3:6] == ["layer2.0", "layer2.4", "layer2.8"]


TWO = {"inputs": {"image": Input(shape=(2, 8, 8))}}


def test_a_narrower_network_hidden_among_silent_channels_is_found(saved, toy, context_for):
    """The channels of a small network, dealt among the silent ones of a large one, come back together: along the residual
    stream of each stage, and within each block."""
    _, small = saved(Resnet(depth=8, widths=(3, 4, 5)))
    random = np.random.default_rng(0)
    places = {width: torch.from_numpy(np.sort(random.permutation(2 * width)[:width])) for width in (3, 4, 5)}
    inner = {name: torch.from_numpy(random.permutation(2 * width)[:width].copy()).sort().values
             for name, width in (("layer1.0", 3), ("layer2.0", 4), ("layer3.0", 5))}  # fmt: skip

    def hide(body):
        for name, tensor in body.state_dict().items():
            source = small.body.state_dict()[name]
            if not tensor.is_floating_point():
                continue
            tensor.fill_(1.0 if "running_var" in name else 0.0)
            index = []
            for axis, length in enumerate(source.shape):
                within = name[:8] in inner and (
                    ((".conv1" in name or ".bn1" in name) and axis == 0) or (".conv2" in name and axis == 1)
                )
                cut = tensor.shape[axis] != length
                index.append((inner[name[:8]] if within else places[length]) if cut else torch.arange(length))
            tensor[torch.meshgrid(*index, indexing="ij")] = source

    teacher, network = saved(Resnet(depth=8, widths=(6, 8, 10)), hide)
    torch.testing.assert_close(outputs(network), outputs(small))
    student, facts = begun(Resnet(depth=8, widths=(3, 4, 5)), teacher, context_for(toy()))
    torch.testing.assert_close(outputs(student), outputs(small))
    assert facts["random"] == []
    assert facts["widths"]["layer2.0.conv1"] == [8, 4]


def test_heads_of_attention_lose_the_same_places_of_queries_keys_and_values(lively):
    signature = Signature(inputs={"x": Input(shape=(4, 6))}, heads={"logits": Head(shape=(2,))})
    large, small = (TransformerEncoder(width=n, hidden=8, depth=1, attention_heads=2).build(signature) for n in (8, 4))
    lively(large)
    strong = torch.tensor([1, 2, 4, 7])  # of head 0 the places 1 and 2, of head 1 the places 0 and 3
    attention = large.layers[0].attention
    with torch.no_grad():
        for layer in (attention.query, attention.key, attention.value):
            layer.weight[strong] *= 10
        attention.out.weight[:, strong] *= 10

    def score(groups):
        assert any(group.channels == 8 for group in groups)  # the stream, whose last four channels are to stay
        return [torch.arange(group.channels).float() for group in groups]

    alignment = align(small, large)
    got = inherit(small, large, alignment, (torch.randn(2, 4, 6),), score)
    stream = torch.tensor([4, 5, 6, 7])
    for name in ("query", "key", "value"):
        weight = getattr(attention, name).weight
        torch.testing.assert_close(got.state[f"layers.0.attention.{name}.weight"], weight[strong][:, stream])
    torch.testing.assert_close(got.state["layers.0.attention.out.weight"], attention.out.weight[stream][:, strong])
    assert not got.random


def test_a_classifier_of_other_classes_and_what_has_no_counterpart_start_at_random(saved, toy, context_for):
    teacher, _network = saved(Resnet(depth=14, widths=(4, 6, 8)))
    student, facts = begun(Resnet(depth=14, widths=(4, 6, 8)), teacher, context_for(toy(classes=5)))
    assert facts["random"] == ["fc.weight", "fc.bias"]
    assert facts["error"] is None
    fresh = restore.build(Resnet(depth=14, widths=(4, 6, 8)), toy(classes=5).signature(), 0).network
    assert torch.equal(student.body.fc.weight, fresh.body.fc.weight)
    # A network of one stage less: its classifier reads channels of another layer than the teacher's.
    teacher, _ = saved(Convnet(widths=(4, 6)))
    _, facts = begun(Convnet(widths=(4,)), teacher, context_for(toy()))
    assert facts["random"] == ["fc.weight"]


def test_what_has_nothing_to_give_is_refused(saved, toy, context_for):
    teacher, _ = saved(Convnet(widths=(4, 6)))
    with pytest.raises(RecipeError, match=r"nothing of the teacher, a 'convnet', fits into a 'resnet'"):
        begun(Resnet(depth=8), teacher, context_for(toy()))
    tiny = {"epochs": 1, "batch": 20, "precision": "float32"}
    stage = Stage.model_validate({"type": "distill", "initialise": "auto", "model": "convnet", "training": tiny})
    for kind in (OnnxModel, Table):
        with pytest.raises(RecipeError, match=r"the first teacher, which has none to copy; .* name in 'start' a stage"):
            stage.produces({"teacher": (kind,)})
    for wrong, word in (
        ({"type": "train", "model": "convnet"}, "into a smaller 'model'; name both"),
        ({"type": "train", "start": "t"}, "into a smaller 'model'; name both"),
        ({"type": "distill", "start": "t"}, "into the student's architecture; name it in 'model'"),
    ):
        with pytest.raises(ValueError, match=word):
            Stage.model_validate({**wrong, "initialise": "auto", "training": tiny})


def test_a_smoke_run_refuses_no_student_that_its_budget_may_make_narrow_enough(saved, toy, context_for):
    teacher, _ = saved(Convnet(widths=(6,), convs=1))
    wide, tried = Convnet(widths=(48,), convs=1), context_for(toy(), limit=2)
    restored, _ = _initialise.student(wide, teacher, tried, (), (), budgeted=True)
    assert 1 < restored.model.widths[0] <= 6
    for context, budgeted in ((tried, False), (context_for(toy()), True)):  # its widths are those that are written, or chosen
        with pytest.raises(RecipeError, match="nothing of the teacher"):
            _initialise.student(wide, teacher, context, (), (), budgeted=budgeted)
    with pytest.raises(RecipeError, match="nothing of the teacher"):
        _initialise.student(Mlp(hidden=(8,)), teacher, tried, (), (), budgeted=True)


def test_training_goes_on_from_there(saved, toy, context_for, perform):
    """A step so small that nothing moves: the stage gives the function that it began with, and says where it came from."""
    teacher, network = saved(Convnet(widths=(4, 6)))
    still = {"epochs": 1, "batch": 20, "precision": "float32", "optimizer": {"type": "sgd", "learning_rate": 1e-12}}
    norms = {name for name, _ in network.body.named_buffers()}
    for settings, role in (({"type": "train", "start": "t"}, "start"), ({"type": "distill"}, "teacher")):
        model = {"type": "convnet", "widths": [4, 6]}
        stage = Stage.model_validate({**settings, "model": model, "initialise": "auto", "training": still})
        made = perform(stage, context_for(toy(), inputs={role: (teacher,)}))
        state = restore.checkpoint(made).network.body.state_dict()
        for name, tensor in network.body.state_dict().items():
            if name not in norms:
                torch.testing.assert_close(state[name], tensor)
        assert made.manifest.facts["notes"][0] == "starts from the teacher (convnet): 26 of 26 tensors"
