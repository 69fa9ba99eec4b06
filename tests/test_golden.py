"""What each stage makes of one small recipe, against figures kept from before: other results need another version.

A key holds the versions of a stage and of the nouns it shares; whoever changes what they compute, and forgets the
version, would hand out results of the old code as up to date. Bytes differ between processors, figures hardly do.
After a change that was meant, raise the version and write the figures anew: `python tests/test_golden.py`.
"""

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.numpy import load_file

from compress_cli.identity import identity
from compress_cli.measurement.measure import PREDICTION_COMPARISON
from compress_cli.pipeline import executor, plan, recipe
from compress_cli.pipeline.executor import Workspace
from compress_cli.pipeline.step import ordered
from compress_cli.statistics.findings import FINDINGS, Findings

KEPT = Path(__file__).parent / "golden.json"
TOLERANCE = {"f": {"rtol": 2e-3, "atol": 2e-4}, "i": {"rtol": 0.02, "atol": 0.5}, "m": {"rtol": 0.05, "atol": 0.02}}
"""Of real numbers (float32 in another order, over some dozen steps), of whole ones, which may round the other way, and of
metrics, in which a sample may fall to the other side."""
RECIPE = """\
dataset: digits
threads: 1
stages:
  - type: train
    model: {type: convnet, widths: [8, 16]}
    training: &slow
      {epochs: 1, precision: float32, optimizer: {type: sgd, learning_rate: 0.01}, augment: [{type: crop, padding: 1}]}
  - type: distill
    model: {type: mlp, hidden: [8]}
    losses: [{type: soft_targets, temperature: 4.0, weight: 0.9}, {type: cross_entropy, weight: 0.1}]
    training: {epochs: 1, precision: float32, ema: 0.9, optimizer: {type: adamw, learning_rate: 0.002}}
  - {type: prune, start: train, ratio: 0.5, round_to: 2, training: *slow}
  - {type: quantize, samples: 64, quantizer: &portable {type: static_int8, reduce_range: true}}
  - export
  - {type: predict, split: val}
  - {type: measure, start: export, split: val}
  - {type: load, model: {type: mlp, hidden: [4]}, weights: given.safetensors}
  - {type: export, name: float, start: distill}
  - {type: quantize, name: file, samples: 64, quantizer: *portable}
  - {type: measure, name: of_float, start: float}
  - {type: measure, name: of_file, start: file}
  - {type: compare_predictions, baseline: of_float, start: of_file}
  - {type: robustness, start: float, severities: [3]}
  - {type: attack, start: train, epsilons: [2.0], steps: 2, samples: 64}
  - {type: similarity, start: prune, teacher: train, layers: [layer1], samples: 64}
  - {type: sensitivity, start: quantize, samples: 32}
  - {type: pruning_sensitivity, start: train, samples: 64, ratios: [0.5]}
  - {type: train, name: deep, model: {type: resnet, depth: 14, widths: [4, 4, 4]}, training: {epochs: 1, precision: float32}}
  - {type: drop_layers, start: deep, remove: 1, samples: 64}
  - {type: teacher_table, teacher: train, layers: [layer1], augment: [{type: crop, padding: 1}], views: 2, precision: float32}
  - {type: share_weights, start: train, bits: 4}
  - {type: factorise, start: train, ratio: 0.5, round_to: 1}
  - {type: sparsify, start: train, ratio: 0.8, scope: global, gradual: {end: 0.5, every: 2}, training: *slow}
  - {type: quantize_aware, start: train, samples: 64, quantizer: *portable, training: *slow}
  - type: joint
    start: train
    channels: {ratio: 0.5, round_to: 2}
    gradual: {end: 0.5, every: 2}
    samples: 64
    quantizer: *portable
    training: *slow
"""


def figures(path):
    """Of a file: tensor -> its shape, mean, deviation, largest and a weighted sum that knows their order."""
    if path.suffix == ".safetensors":
        arrays = load_file(path)
    elif path.suffix == ".npz":
        arrays = dict(np.load(path))
    elif path.suffix == ".npy":
        arrays = {"array": np.load(path)}
    elif path.suffix == ".onnx":
        model = onnx.load(path)
        arrays = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
        arrays["operators"] = np.array([sum(map(ord, node.op_type)) for node in model.graph.node])
    elif path.name == FINDINGS:
        found = Findings.model_validate_json(path.read_text()).figures()
        return {f"m {name}": [getattr(each, "value", each)] for name, each in sorted(found.items())}
    elif path.name == PREDICTION_COMPARISON:
        found = json.loads(path.read_text())
        return {
            f"m {name}": [each["value"]] for name, each in sorted(found.items()) if isinstance(each, dict) and "value" in each
        }
    else:
        return {}
    kinds = {"f": "f", "i": "i", "u": "i", "b": "i"}
    return {
        f"{kinds[each.dtype.kind]} {name}": _figures(each.astype(np.float64))
        for name, each in sorted(arrays.items())
        if each.dtype.kind in kinds
    }


def _figures(array):
    flat = array.reshape(-1)
    order = np.cos(np.arange(flat.size))
    return (
        [*map(float, array.shape), flat.mean(), flat.std(), abs(flat).max(), float(flat @ order) / max(1, flat.size)]
        if flat.size
        else [0.0]
    )


def versions(stage):
    """All that a key says about code."""
    known = {"settings": identity(stage), "shared": stage.shared}

    def found(value):
        if isinstance(value, dict):
            own = {value["type"]: value["version"]} if {"type", "version"} <= value.keys() else {}
            return {**own, **{name: each for part in value.values() for name, each in found(part).items()}}
        return {name: each for part in value for name, each in found(part).items()} if isinstance(value, list) else {}

    return {**found(known["settings"]), **known["shared"]}


def made(folder):
    """Stage -> versions, and the figures of each of its files."""
    from safetensors.torch import save_file

    random = torch.Generator().manual_seed(0)
    shapes = {"1.weight": (4, 64), "1.bias": (4,), "3.weight": (10, 4), "3.bias": (10,)}
    save_file({name: torch.rand(shape, generator=random) for name, shape in shapes.items()}, folder / "given.safetensors")
    (folder / "golden.yaml").write_text(RECIPE)
    planned = plan.plan(recipe.load(folder / "golden.yaml"))
    there, found = {}, {}
    for step in ordered(planned.stages):
        output = folder / step.key
        output.mkdir()
        inputs = {role: tuple(there[each.key] for each in steps) for role, steps in step.inputs.items()}
        there[step.key] = executor.perform(planned.recipe, step, inputs, Workspace(output, folder))
        if step.implied:
            continue
        files = {each: figures(output / each) for each in sorted(there[step.key].manifest.files)}
        found[step.name] = {
            "stage": step.stage.type,
            "versions": versions(step.stage),
            "files": {name: each for name, each in files.items() if each},
        }
    return found


@pytest.fixture(scope="module")
def now(tmp_path_factory):
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield made(tmp_path_factory.mktemp("golden"))
    torch.set_num_threads(before)


@pytest.mark.parametrize("stage", json.loads(KEPT.read_text()) if KEPT.exists() else [])
def test_a_stage_makes_what_it_made_before_or_has_another_version(now, stage):
    kept, fresh = json.loads(KEPT.read_text())[stage], now[stage]
    assert fresh["versions"] == kept["versions"], "a version was raised: write the figures anew"
    assert {name: list(each) for name, each in fresh["files"].items()} == {
        name: list(each) for name, each in kept["files"].items()
    }
    for name, tensors in kept["files"].items():
        for tensor, expected in tensors.items():
            np.testing.assert_allclose(
                fresh["files"][name][tensor], expected, **TOLERANCE[tensor[0]], err_msg=f"{stage}: {name}: {tensor}"
            )


def test_every_stage_but_those_that_time_is_held(now):
    from compress_cli import plugin
    from compress_cli.stages import Stage

    kept = {each["stage"] for each in json.loads(KEPT.read_text()).values()}
    assert kept == set(plugin.names(Stage)) - {"compare"}


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        KEPT.write_text(json.dumps(made(Path(folder)), indent=0) + os.linesep)
