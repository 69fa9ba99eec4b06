"""Artifacts of earlier stages as teachers, from the recipe to the weights: int8 graphs, and one's student generation before."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from compress_cli.data.batch import from_arrays
from compress_cli.distillation.teachers import teacher_for
from compress_cli.networks import features, restore
from compress_cli.pipeline import plan, recipe
from compress_cli.pipeline.run import Run
from compress_cli.store.artifact import Program
from compress_cli.store.store import Store

pytestmark = pytest.mark.usefixtures("one_thread")

HEAD = """\
dataset: {type: npz, train: data.npz, inputs: [image]}
compare: {seconds: 0.02}
threads: 1
stages:
"""
STILL = "training: {epochs: 1, batch: 1000, keep: last, precision: float32, optimizer: {type: sgd, learning_rate: 1.0e-12}}"
LEARN = "training: {epochs: 8, batch: 16, keep: last, precision: float32, optimizer: {type: sgd, learning_rate: 0.02}}"


class Silent:
    def begins(self, step, smoke): ...
    def progress(self, step, progress): ...
    def ended(self, step, cached, seconds, problem): ...


@pytest.fixture
def executed(tmp_path):
    """executed(stages) -> (stage name -> artifact, the dataset), over 150 pictures of three kinds."""
    random = np.random.default_rng(0)
    label = np.arange(150) % 3
    images = random.integers(0, 80, (150, 1, 8, 8))
    for kind in range(3):
        images[label == kind, :, :, 2 * kind : 2 * kind + 3] += 110
    np.savez(tmp_path / "data.npz", image=images.astype(np.uint8), label=label)

    def _executed(stages):
        (tmp_path / "r.yaml").write_text(HEAD + stages)
        planned = plan.plan(recipe.load(tmp_path / "r.yaml"))
        run = Run(replace(planned, rows=()), Store(tmp_path / "store"), tmp_path / "run", Silent())
        run.execute()
        return {
            step.name: run.artifacts[step.key] for step in run.plan.steps if step.key in run.artifacts
        }, planned.recipe.dataset

    return _executed


def of_split(dataset, name="train"):
    split = dataset.split(name)
    return from_arrays(split.inputs, split.targets, split.index)


def softened(logits, temperature):
    powers = np.exp(logits.double().numpy() / temperature)
    return powers / powers.sum(1, keepdims=True)


def divergence(teacher, student, temperature):
    p, q = softened(teacher, temperature), softened(student, temperature)
    return temperature**2 * (p * np.log(p / q)).sum(1).mean()


def head(outputs):
    (logits,) = outputs.heads.values()
    return logits


def fresh_outputs(student, batch, layers=()):
    """The outputs in training mode of a stage's student with fresh weights, for a batch."""
    restored = restore.checkpoint(student)
    network = restore.build(restored.model, restored.signature, 0).network.train()
    with torch.no_grad(), features.observe(network, layers) as seen:
        return features.outputs(network, restored.signature, batch, layers, seen)


@pytest.mark.parametrize("cache", ["false", pytest.param("true", marks=pytest.mark.slow)])
def test_an_int8_graph_teaches_by_its_outputs_and_its_layers(executed, cache):
    artifacts, dataset = executed(f"""\
  - {{type: train, name: float, model: {{type: convnet, widths: [8, 8], convs: 1}}, {LEARN}}}
  - {{type: quantize, name: int8, samples: 64}}
  - {{type: distill, name: student, teacher: int8, model: {{type: convnet, widths: [8], convs: 1}}, teacher_cache: {cache},
      losses: [{{type: soft_targets, temperature: 2.0}}, {{type: hints, weight: 0.5, layers: [layer1]}}], {STILL}}}
""")
    batch = of_split(dataset)
    assert isinstance(artifacts["int8"], Program)
    int8, exact = (teacher_for(artifacts[name]).open(artifacts[name], ("layer1",), "cpu")(batch) for name in ("int8", "float"))
    for one, other in ((head(int8), head(exact)), (int8.features["layer1"], exact.features["layer1"])):
        assert 1e-3 * other.norm() < (one - other).norm() < 0.05 * other.norm()  # outputs of the integer graph
    student = fresh_outputs(artifacts["student"], batch, ("layer1",))
    hint = (student.features["layer1"] - int8.features["layer1"]).square().mean().item()
    soft, other = (divergence(head(teacher), head(student), 2.0) for teacher in (int8, exact))
    assert artifacts["student"].manifest.facts["epochs"][0]["loss"] == pytest.approx(soft + 0.5 * hint, rel=1e-6)
    assert soft != pytest.approx(other, rel=1e-4)


def test_a_network_teaches_itself(executed):
    """From the last layer to an early one (Zhang et al. 2019, arXiv:1905.08094): `train` with a loss, and no teacher."""
    artifacts, dataset = executed(f"""\
  - {{type: train, name: plain, model: {{type: mlp, hidden: [8]}}, {LEARN}}}
  - {{type: train, name: itself, model: {{type: mlp, hidden: [8]}}, loss: {{type: self_distillation, exits: [2]}}, {LEARN}}}
  - {{type: distill, name: both, teacher: plain, model: {{type: mlp, hidden: [8]}}, {LEARN},
      losses: [soft_targets, {{type: self_distillation, exits: ["2"], weight: 0.5}}]}}
""")
    batch = of_split(dataset)
    assert len({student.digest for student in artifacts.values()}) == 3
    for student in artifacts.values():
        network = restore.checkpoint(student).network  # its exits are gone
        assert [tuple(weight.shape) for weight in network.parameters()] == [(8, 64), (8,), (3, 8), (3,)]
        answers = head(teacher_for(student).open(student, (), "cpu")(batch)).argmax(1)
        assert (answers == batch.targets["label"]).float().mean() > 0.9


def test_each_generation_learns_from_the_one_before(executed):
    """Born again (Furlanello et al. 2018, arXiv:1805.04770): the same architecture, three times."""
    soft = "losses: [{type: soft_targets, temperature: 3.0}]"
    distill = f"  - {{type: distill, name: %s, model: {{type: mlp, hidden: [8]}}, {soft}, %s}}"
    stages = [
        f"  - {{type: train, name: first, model: {{type: mlp, hidden: [8]}}, {LEARN}}}",
        *(distill % settings for settings in (("second", LEARN), ("third", LEARN), ("last", STILL))),
    ]
    artifacts, dataset = executed("\n".join(stages) + "\n")
    names, batch = ("first", "second", "third", "last"), of_split(dataset)
    assert len({artifacts[name].digest for name in names}) == 4
    for before, after in pairwise(names):
        (source,) = artifacts[after].manifest.inputs["teacher"]
        assert source.digest == artifacts[before].digest
    heads = {name: head(teacher_for(artifacts[name]).open(artifacts[name], (), "cpu")(batch)) for name in names[:3]}
    expected = divergence(heads["third"], head(fresh_outputs(artifacts["last"], batch)), 3.0)
    assert artifacts["last"].manifest.facts["epochs"][0]["loss"] == pytest.approx(expected, rel=1e-5)
    for before, after in pairwise(names[:3]):
        first = artifacts[after].manifest.facts["epochs"][0]["loss"]
        assert divergence(heads[before], heads[after], 3.0) < 0.5 * first
        assert (heads[after].argmax(1) == batch.targets["label"]).float().mean() > 0.9
