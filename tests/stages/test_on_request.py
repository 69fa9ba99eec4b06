"""Stages that look closer at a model: worse pictures, attacks, alike layers, the cost of each layer's integers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.data import samples
from compress_cli.data.batch import Batch
from compress_cli.data.datasets import Split
from compress_cli.data.datasets.digits import Digits
from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.stages import attack, sensitivity
from compress_cli.stages._corruptions import corrupted
from compress_cli.stages.attack import Attack
from compress_cli.stages.quantize import Quantize
from compress_cli.stages.robustness import Robustness
from compress_cli.stages.sensitivity import Sensitivity
from compress_cli.stages.similarity import Similarity, linear_cka
from compress_cli.statistics.findings import FINDINGS, Findings
from compress_cli.store import artifact
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program


def stored(folder, kind, write):
    folder.mkdir()
    write(folder)
    return Draft(kind, "k", {"type": "x"}).commit(folder)


def table_of(context):
    return Findings.model_validate_json((context.output / FINDINGS).read_text())


@pytest.fixture
def checkpoint(toy, tmp_path, lively):
    """`checkpoint(model)`: a Checkpoint for the toy's data whose weights are no two alike."""

    def _checkpoint(model, seed=0):
        made = restore.build(model, toy().signature(), seed)
        lively(made.network.body, seed)
        return stored(tmp_path / f"c{len(list(tmp_path.iterdir()))}", Checkpoint, lambda folder: restore.save(made, folder))

    return _checkpoint


def test_robustness_sees_the_pictures_it_says(digits_file, context_for, tmp_path):
    path, weight, bias = digits_file()
    model = stored(tmp_path / "file", OnnxModel, lambda folder: path.rename(folder / "model.onnx"))
    context = context_for(Digits(), inputs={"start": (model,), "baseline": (model,)}, splits=("test",), seed=3)
    Robustness(baseline="b", severities=(2,), batch=100).run(context)
    table, split = table_of(context), Digits().split("test")
    assert [line.name for line in table.lines] == ["clean", "noise 2", "blur 2", "contrast 2"]
    images, index, labels = split.inputs["image"], split.index, split.targets["label"]
    for line, kind in zip(table.lines, (None, "noise", "blur", "contrast"), strict=True):
        seen = corrupted(images, kind, 2, index, 3) if kind else images
        right = (seen.reshape(len(seen), -1) @ weight + bias).argmax(1) == labels
        assert line.cells[0].value == pytest.approx(right.mean(), abs=1e-9)
        assert line.cells[3].value == 0.0  # against itself on the same pictures
    clean = table.lines[0].cells[0].value
    assert table.lines[1].cells[1].value == pytest.approx(table.lines[1].cells[0].value - clean)
    assert table.figures()["noise_2_accuracy"] == table.lines[1].cells[0]


def test_robustness_and_attacks_change_what_the_model_takes(digits_file, context_for, tmp_path, checkpoint, toy):
    """Before the model's own picture stands one that it does not take."""

    def beside(dataset):
        class Paired(type(dataset)):
            def split(self, name):
                part = super().split(name)
                return Split({"other": 255 - part.inputs["image"], **part.inputs}, part.targets, part.index)

        return Paired()

    model = stored(tmp_path / "file", OnnxModel, lambda folder: digits_file()[0].rename(folder / "model.onnx"))
    settings = {"inputs": {"start": (model,), "baseline": (model,)}, "splits": ("test",)}
    tables = []
    for dataset in (Digits(), beside(Digits())):
        context = context_for(dataset, **settings)
        Robustness(baseline="b", severities=(3,)).run(context)
        tables.append(table_of(context).figures())
    assert tables[0] == tables[1]
    network, tables = checkpoint(Mlp(hidden=(4,))), []
    for dataset in (toy(), beside(toy())):
        context = context_for(dataset, inputs={"start": (network,)}, splits=("test",))
        Attack(epsilons=(20.0,)).run(context)
        tables.append(table_of(context).figures())
    assert tables[0] == tables[1]


def test_an_attack_does_what_calculus_says():
    """Of a linear loss w . x, one step goes epsilon along sign(w); many steps end at the same corner."""
    weight = torch.tensor([[1.0, -2.0, 0.5]])
    inputs = {"x": torch.tensor([[10.0, 10.0, 100.0]])}

    def loss(moved):
        return (moved["x"] * weight).sum()

    for steps in (1, 20):
        moved = attack._moved(loss, inputs, inputs, {"x": (0.0, 101.0)}, 4.0, steps)["x"]
        torch.testing.assert_close(moved, torch.tensor([[14.0, 6.0, 101.0]]))  # the last one ends at the data's range


def test_a_random_start_is_a_function_of_the_sample(checkpoint, toy, context_for):
    """Neither the batch nor the position of a sample changes what is done to it."""
    split = toy().split("test")
    images, index = torch.from_numpy(split.inputs["image"]).float(), torch.from_numpy(split.index)
    ends = {"image": (-1e3, 1e3)}
    whole = attack._start(Batch({"image": images}, {}, index), ends, 2.0, 5, 0)["image"]
    assert (whole - images).abs().max() <= 2.0 + 1e-4
    assert (whole - images).std() > 1.0  # evenly drawn within epsilon: 2 / sqrt(3)
    rows = torch.tensor([7, 3])
    some = attack._start(Batch({"image": images[rows]}, {}, index[rows]), ends, 2.0, 5, 0)["image"]
    assert torch.equal(some, whole[rows])
    start, tables = checkpoint(Mlp(hidden=(8,))), []
    for batch in (5, 64):
        context = context_for(toy(), inputs={"start": (start,)}, splits=("test",))
        Attack(epsilons=(20.0,), steps=3, batch=batch).run(context)
        tables.append(table_of(context).figures())
    assert tables[0] == tables[1]


def test_attacks_stay_within_epsilon_and_hurt(checkpoint, toy, context_for):
    start, dataset = checkpoint(Mlp(hidden=(8,))), toy()
    context = context_for(dataset, inputs={"start": (start,)}, splits=("test",))
    Attack(epsilons=(1.0, 60.0), steps=8).run(context)
    values = {line.name: line.cells[0].value for line in table_of(context).lines}
    assert list(values) == ["clean", "fgsm 1", "fgsm 60", "pgd 1", "pgd 60"]
    network, split = restore.checkpoint(start).network, dataset.split("test")
    images, labels = torch.from_numpy(split.inputs["image"]).float(), torch.from_numpy(split.targets["label"])
    clean = (network(images)["logits"].argmax(1) == labels).float().mean().item()
    assert values["clean"] == pytest.approx(clean)

    def loss(moved):
        return nn.functional.cross_entropy(network(moved["image"])["logits"], labels)

    ends = {"image": (float(images.min()), float(images.max()))}
    batch = Batch({"image": images}, {}, torch.from_numpy(split.index))
    losses = [loss({"image": images}).item()]
    for epsilon in (1.0, 60.0):
        begun = attack._start(batch, ends, epsilon, 8, 0)
        moved = attack._moved(loss, begun, batch.inputs, ends, epsilon, 8)["image"]
        assert (moved - images).abs().max() <= epsilon + 1e-4
        assert moved.min() >= ends["image"][0]
        assert moved.max() <= ends["image"][1]
        losses.append(loss({"image": moved}).item())
    assert losses == sorted(losses)
    assert losses[2] > losses[0] + 0.1


def test_cka_knows_rotations_and_nothing():
    random = np.random.default_rng(0)
    x, y = random.normal(size=(400, 5)), random.normal(size=(400, 3))
    turned = np.linalg.qr(random.normal(size=(5, 5)))[0]
    assert linear_cka(x, 3 * x @ turned + 7) == pytest.approx(1)
    assert linear_cka(x, y) < 0.05
    a, b = x - x.mean(0), (x[:, :2] + y[:, :2]) - (x[:, :2] + y[:, :2]).mean(0)
    by_features = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))  # the paper's equation 4
    assert linear_cka(x, x[:, :2] + y[:, :2]) == pytest.approx(by_features)
    with pytest.raises(StageError, match="the same for every sample"):
        linear_cka(x, np.ones((400, 2)))


def test_similarity_of_layers(checkpoint, toy, context_for):
    start, teacher = checkpoint(Convnet(widths=(4, 4))), checkpoint(Convnet(widths=(4, 8)), seed=1)
    context = context_for(toy(), inputs={"start": (start,), "teacher": (start,)}, splits=("test",))
    Similarity(teacher="t", layers=("0", "-1")).run(context)
    assert [line.cells[0] for line in table_of(context).lines] == pytest.approx([1, 1])
    context = context_for(toy(), inputs={"start": (start,), "teacher": (teacher,)}, splits=("test",))
    Similarity(teacher="t", layers=("0",), teacher_layers=("1",), batch=7).run(context)
    assert 0 < table_of(context).lines[0].cells[0] < 0.999
    with pytest.raises(RecipeError, match="there is no layer 'nix'"):
        Similarity(teacher="t", layers=("nix",)).run(context)
    with pytest.raises(ValueError, match="1 names for 2 layers"):
        Similarity(teacher="t", layers=("0", "1"), teacher_layers=("0",))


@pytest.fixture
def program(checkpoint, toy, context_for):
    """A quantised convnet."""
    context = context_for(toy(), inputs={"start": (checkpoint(Convnet(widths=(4, 4))),)})
    Quantize(samples=40).run(context)
    return Draft(Program, "k", {"type": "quantize"}).commit(context.output)


def test_all_layers_together_are_the_quantised_model(program, toy):
    _, graph = restore.prepared(program)
    untouched = copy.deepcopy(graph.state_dict())
    split, signature = toy().split("test"), restore.signature_of(program)
    runner, layers = sensitivity._Rounded(graph), sensitivity._layers(graph)
    with torch.no_grad():
        plain, whole = (sensitivity._heads(runner, nodes, split, signature, 8) for nodes in ((), layers["all together"]))
    inputs = samples.tensors(split, signature)
    exact = samples.answers(restore.checkpoint(program).network, inputs)["logits"]
    np.testing.assert_allclose(plain["logits"], exact, rtol=1e-4, atol=1e-3)
    quantised = samples.answers(restore.program(program), inputs)["logits"]
    np.testing.assert_allclose(whole["logits"], quantised, atol=1e-4 * abs(quantised).max())
    assert abs(quantised - exact).max() > 1e-3 * abs(exact).max()
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in graph.state_dict().items())  # no range moved


def test_the_cost_of_each_layer(program, toy, context_for):
    context = context_for(toy(), inputs={"start": (program,)})
    Sensitivity().run(context)
    table = table_of(context)
    names = [line.name for line in table.lines]
    assert names[-3:] == ["other operators", "all together", "interplay"]
    assert len(names) > 5
    noise = {line.name: line.cells[1] for line in table.lines}
    assert min(noise[name] for name in names[:-3]) > noise["all together"] - 3 > 5  # one alone hardly disturbs more than all
    change = {line.name: line.cells[0] for line in table.lines}
    alone = sum(change[name].value for name in names[:-2])
    assert change["interplay"] == pytest.approx(change["all together"].value - alone)
    with pytest.raises(StageError, match="no val samples"):
        Sensitivity().run(context_for(toy(val=0), inputs={"start": (program,)}))


@pytest.mark.parametrize(
    ("stage", "kind"),
    [(Robustness(), OnnxModel), (Attack(), Checkpoint), (Similarity(layers=("0",)), Checkpoint), (Sensitivity(), Program)],
)
def test_contract(stage, kind):
    assert stage.produces({"start": (kind,)}) is artifact.Table
    assert "train" not in stage.splits or "test" not in stage.splits
    assert ("test" in stage.splits) == (not isinstance(stage, Sensitivity))  # only final measurement sees test
