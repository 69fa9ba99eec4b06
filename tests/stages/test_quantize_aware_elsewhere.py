"""Networks of other libraries, trained through the rounding: what ships decides as what was trained."""

import numpy as np
import pytest
import torch

from compress_cli.data.datasets import Dataset, Split
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.measurement import sessions
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.stages import Stage
from compress_cli.store.artifact import Checkpoint, Draft, OnnxModel, Program
from compress_cli.training import loop

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

RATE = {"type": "adamw", "learning_rate": 0.002}
BERT = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


class Pictures(Dataset):
    """Three kinds of pictures of 32 x 32 pixels, each with a bright band at another height."""

    def split(self, name):
        first, count = {"train": (0, 256), "val": (1000, 64), "test": (2000, 400)}[name]
        random = np.random.RandomState(first)
        labels = np.arange(count) % 3
        images = random.randint(0, 120, (count, 3, 32, 32))
        for kind in range(3):
            images[labels == kind, :, 10 * kind : 10 * kind + 10] += 80
        return Split({"image": images.astype(np.uint8)}, {"label": labels}, first + np.arange(count))

    def fingerprint(self):
        return "pictures"

    def signature(self):
        image = Input(shape=(3, 32, 32), mean=(87.0,) * 3, deviation=(52.0,) * 3)
        return Signature(inputs={"image": image}, heads={"logits": Head(shape=(3,))})


class Sentences(Dataset):
    """Three kinds of sentences of 8 tokens, each with many tokens of its own."""

    def split(self, name):
        first, count = {"train": (0, 256), "val": (1000, 64), "test": (2000, 400)}[name]
        random = np.random.RandomState(first)
        labels = np.arange(count) % 3
        own = random.rand(count, 8) < 0.5
        tokens = np.where(own, labels[:, None] * 9 + random.randint(1, 10, (count, 8)), random.randint(1, 30, (count, 8)))
        return Split({"tokens": tokens}, {"label": labels}, first + np.arange(count))

    def fingerprint(self):
        return "sentences"

    def signature(self):
        tokens = Input(shape=(8,), dtype="int64", values=30)
        return Signature(inputs={"tokens": tokens}, heads={"logits": Head(shape=(3,))})


@pytest.mark.parametrize(
    ("library", "model", "dataset"),
    [
        ("torchvision", {"type": "torchvision", "name": "shufflenet_v2_x0_5"}, Pictures()),
        ("timm", {"type": "timm", "name": "test_efficientnet"}, Pictures()),
        ("transformers", {"type": "huggingface", "architecture": "sequence_classification", "config": BERT}, Sentences()),
    ],
    ids=["torchvision", "timm", "transformers"],
)
def test_the_file_decides_as_the_trained_simulation(library, model, dataset, context_for, perform, tmp_path, monkeypatch):
    pytest.importorskip(library)
    simulations, fit = [], loop.fit
    monkeypatch.setattr(
        loop, "fit", lambda network, *rest, **more: (simulations.append(network), fit(network, *rest, **more))[1]
    )
    (tmp_path / "fresh").mkdir()
    restore.save(restore.build(Model.model_validate(model), dataset.signature(), 0), tmp_path / "fresh")
    fresh = Draft(Checkpoint, "fresh", {}).commit(tmp_path / "fresh")
    training = {"epochs": 24, "batch": 32, "precision": "float32", "optimizer": RATE}
    before = Stage.model_validate({"type": "train", "start": "fresh", "training": training})
    start = perform(before, context_for(dataset, inputs={"start": (fresh,)}))
    training = {"epochs": 1, "batch": 32, "optimizer": {**RATE, "learning_rate": 0.0002}}
    stage = Stage.model_validate({"type": "quantize_aware", "start": "train", "training": training})
    program = perform(stage, context_for(dataset, inputs={"start": (start,)}), Program)
    file = perform(Stage.model_validate("export"), context_for(dataset, inputs={"start": (program,)}), OnnxModel)
    session, simulation, test = sessions.open_session(file.file("model.onnx")), simulations[-1].eval(), dataset.split("test")
    (name,), (inputs,) = test.inputs.keys(), test.inputs.values()
    given = inputs.astype(np.float32) if inputs.dtype == np.uint8 else inputs
    with torch.no_grad():
        expected = simulation(torch.from_numpy(given))["logits"].numpy()
    decided = session.run({name: given})["logits"].argmax(1)
    assert np.mean(expected.argmax(1) == test.targets["label"]) > 0.6, "it has learnt nothing: agreement would say little"
    assert np.mean(decided == expected.argmax(1)) >= 0.995
    assert any(entry["weight_bits"] == 8 for entry in program.manifest.facts["layers"])
