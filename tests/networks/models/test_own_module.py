"""A module that its author has already, in a plugin file."""

import json

OWN = """\
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.fc = nn.Linear(8, classes)

    def forward(self, x):
        return self.fc(torch.relu(self.stem(x)).mean((2, 3)))
"""
GLUE = """\
from compress_cli.networks.models import Model


class Mine(Model):
    def build(self, signature):
        return Net(classes=10)
"""
RECIPE = """\
dataset: digits
compare: {seconds: 0.02}
stages:
  - type: train
    name: net
    model: mine
    training: {epochs: 1, batch: 256, precision: float32}
"""


def test_seven_lines_bring_a_module_into_a_recipe(compress, tmp_path):
    assert len(GLUE.splitlines()) <= 7
    (tmp_path / "net.py").write_text(OWN + "\n\n" + GLUE)
    (tmp_path / "r.yaml").write_text(RECIPE)
    ran = compress("run", "r.yaml", "--plugin", "net.py", "--json", "--quiet")
    assert ran.code == 0, ran
    (row,) = json.loads(ran.out)["rows"]
    assert row["parameters"] == 9 * 8 + 8 + 8 * 10 + 10
