"""Rounding up or down, learned."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import onnx
import torch
from pydantic import Field

from compress_cli.quantization import layers, reconstruction
from compress_cli.quantization.grids import Coded
from compress_cli.quantization.reconstruction import Target
from compress_cli.quantization.recoveries import Job, Recovery


class AdaRound(Recovery):
    """Rounds each weight up or down so that the layer's outputs on calibration samples stay, not the weights (Nagel et al.
    2020, arXiv:2004.10568): the errors of weights that act together cancel.

    Layer by layer, with the inputs that the layers rounded before give, behind its ReLU where there is one (sections 3.3 and
    3.4 of the paper). A layer keeps the nearest rounding where that is better on the quarter of the samples that is held out.
    It takes `steps` gradient steps for each layer, and pays at 4 bits and fewer.
    """

    version: ClassVar[int] = 2  # inputs of rounded layers, ReLU, more samples, of which a quarter decides
    samples: ClassVar[int] = reconstruction.SAMPLES

    steps: int = Field(300, ge=1, le=20_000, description="gradient steps for each layer")
    learning_rate: float = Field(0.1, gt=0, le=1, description="of Adam")
    regularization: float = Field(
        5.0, ge=0, le=100, description="weight of the term that makes every choice up or down, beside the error of the nearest "
        "rounding as 1",
    )  # fmt: skip
    batch: int = Field(32, ge=1, le=4096, description="samples in one step")

    def round(self, job: Job, coded: dict[str, Coded]) -> int:
        rounded = onnx.ModelProto()
        rounded.CopyFrom(job.model)
        changed = 0
        for node in [node for node in job.model.graph.node if node.name in coded]:
            layer = job.layers[node.name]
            if reconstruction.is_supported(node):
                target = reconstruction.Target.of(job.model, rounded, node, layer, job.samples)
                weights = layers.array(job.model, layer.weight)
                coded[node.name] = self._rounded(target, weights, coded[node.name])
                changed += 1
            layers.replace(rounded, {layer.weight: coded[node.name].values()})
        return changed

    def _rounded(self, target: Target, weights: np.ndarray, nearest: Coded) -> Coded:
        scale, true = torch.from_numpy(nearest.scale), torch.from_numpy(weights.copy())
        largest = float(np.abs(nearest.codes).max())
        unit = target.squared_error(nearest, target.training) or 1.0
        floor = torch.floor(true / scale)
        choice = reconstruction.choice_of(true / scale - floor)
        optimizer = torch.optim.Adam([choice], lr=self.learning_rate)
        for step, rows in enumerate(target.batches(self.steps, self.batch)):
            up = reconstruction.share_up(choice)
            loss = target.error((floor + up).clamp(-largest, largest) * scale, rows) / unit
            loss = loss + self.regularization * reconstruction.undecided(up, step / self.steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        up = reconstruction.share_up(choice.detach()).round()
        codes = (floor + up).clamp(-largest, largest).numpy().astype(np.int8)
        return target.better(Coded(codes, nearest.bits, nearest.scale), nearest)
