"""A package from elsewhere adds a loss, a model and a dataset by its entry points alone."""

import json
import os
import subprocess
import sys
import zipfile

import pytest

MODULE = '''
"""Plugins of another package."""

import hashlib

import numpy as np
import torch
from torch import nn

from compress_cli.data.datasets import Dataset, Split
from compress_cli.losses import Loss
from compress_cli.networks.models import Model
from compress_cli.data.signature import Head, Input, Signature


class Blobs(Dataset):
    """Two clouds of points."""

    samples: int = 200

    def signature(self):
        return Signature(inputs={"point": Input(shape=(4,))}, heads={"side": Head(shape=(2,), classes=("left", "right"))})

    def split(self, name):
        begin = {"train": 0, "val": 1, "test": 2}[name] * self.samples
        index = np.arange(begin, begin + self.samples)
        label = index % 2
        generator = np.random.default_rng(begin)
        point = generator.normal(size=(self.samples, 4)).astype(np.float32) + 3 * label[:, None].astype(np.float32)
        return Split({"point": point}, {"label": label}, index)

    def fingerprint(self):
        return hashlib.sha256(f"blobs {self.samples}".encode()).hexdigest()


class Perceptron(Model):
    """One hidden layer."""

    hidden: int = 8

    def build(self, signature):
        return nn.Sequential(nn.Linear(4, self.hidden), nn.ReLU(), nn.Linear(self.hidden, 2))


class Margin(Loss):
    """Multi-class hinge loss."""

    def __call__(self, student, teacher, batch, adapter):
        (logits,) = student.heads.values()
        return nn.functional.multi_margin_loss(logits, batch.targets["label"])
'''

METADATA = "Metadata-Version: 2.1\nName: outside-plugins\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
ENTRY_POINTS = """
[compress_cli.datasets]
blobs = outside_plugins:Blobs
[compress_cli.models]
one_hidden = outside_plugins:Perceptron
[compress_cli.losses]
margin = outside_plugins:Margin
"""

RECIPE = """
dataset: {type: blobs, samples: 128}
stages:
  - type: train
    name: net
    model: {type: one_hidden, hidden: 6}
    loss: margin
    training: {epochs: 20, batch: 32, optimizer: {type: sgd, learning_rate: 0.05}, precision: float32}
  - type: export
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder into which pip has installed the package."""
    folder = tmp_path_factory.mktemp("outside")
    wheel = folder / "outside_plugins-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("outside_plugins.py", MODULE)
        for name, text in (("METADATA", METADATA), ("WHEEL", WHEEL), ("entry_points.txt", ENTRY_POINTS), ("RECORD", "")):
            archive.writestr(f"outside_plugins-1.0.dist-info/{name}", text)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", folder / "site", wheel], check=True, timeout=60)
    return folder / "site"


def compress(installed, folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": f"{installed}{os.pathsep}{os.getcwd()}"}
    command = [sys.executable, "-m", "compress_cli", *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_a_recipe_runs_with_plugins_from_another_package(installed, tmp_path):
    (tmp_path / "outside.yaml").write_text(RECIPE)
    done = compress(installed, tmp_path, "run", "outside.yaml", "--json", "--quiet")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["name"] for row in rows] == ["net", "export"]
    assert rows[0]["metrics"]["accuracy"]["value"] > 0.95
    assert rows[0]["parameters"] == 4 * 6 + 6 + 6 * 2 + 2


def test_its_plugins_are_listed_and_their_fields_checked(installed, tmp_path):
    assert "one_hidden" in compress(installed, tmp_path, "list", "models").stdout
    (tmp_path / "outside.yaml").write_text(RECIPE.replace("hidden: 6", "hiden: 6"))
    done = compress(installed, tmp_path, "plan", "outside.yaml")
    assert done.returncode == 2
    assert "outside.yaml:6: stages[0].model.hiden: there is no field 'hiden'; did you mean 'hidden'?" in done.stderr
