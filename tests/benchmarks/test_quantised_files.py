"""Static int8 of ONNX files against ONNX Runtime's own tool: as close as the best of its calibrations, as small, as fast."""

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx.version_converter
import pytest
import torch
from onnx import numpy_helper
from torch import nn
from torch.nn import functional

from compress_cli.measurement import latency
from compress_cli.measurement.sessions import open_session
from compress_cli.quantization.quantizers.static_int8 import StaticInt8
from tests.quantization.small_files import digits_network, run, sqnr_db
from tests.quantization.test_against_onnx_runtime import theirs

pytestmark = pytest.mark.slow
METHODS = ("MinMax", "Entropy", "Percentile")
WITHIN_DB = 0.5  # which calibration is best varies from sample to sample


def export(network, example, path, heads=("y",)):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network.eval(), example, path, dynamo=False, opset_version=17, input_names=["image"], output_names=list(heads),
            dynamic_axes={name: {0: "n"} for name in ("image", *heads)},
        )  # fmt: skip


def pictures(count, shape, seed):
    """Smooth noise, as pictures are: neighbouring values are alike."""
    generator = torch.Generator().manual_seed(seed)
    if len(shape) < 3:
        return torch.randn(count, *shape, generator=generator).numpy()
    coarse = torch.randn(count, shape[0], shape[1] // 8, shape[2] // 8, generator=generator)
    return functional.interpolate(coarse, size=shape[1:], mode="bilinear").numpy()


def squeezenet(path):
    import torchvision

    export(torchvision.models.squeezenet1_1(weights=None), torch.rand(2, 3, 64, 64), path)
    return (3, 64, 64)


def encoder(path):
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True, dropout=0.0)
    network = nn.Sequential(nn.Linear(32, 64), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(64, 10))
    export(network, torch.rand(2, 16, 32), path)
    return (16, 32)


class Detector(nn.Module):
    """Depthwise blocks, a pyramid of two scales that is resized and added, and at each scale boxes, scores and classes."""

    def __init__(self):
        super().__init__()
        self.stem, self.down = self.block(3, 16), self.block(16, 32)
        self.side = nn.Conv2d(32, 16, 1)
        self.heads = nn.ModuleList(nn.Conv2d(16, size, 1) for size in (4, 1, 6))

    def block(self, before, after):
        return nn.Sequential(
            nn.Conv2d(before, after, 3, 2, 1), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, groups=after), nn.BatchNorm2d(after), nn.ReLU(),
            nn.Conv2d(after, after, 1), nn.ReLU(),
        )  # fmt: skip

    def forward(self, x):
        fine = self.stem(x)
        coarse = self.side(self.down(fine))
        fine = fine + functional.interpolate(coarse, scale_factor=2.0, mode="nearest")
        boxes, scores, classes = (
            torch.cat([head(scale).flatten(2).transpose(1, 2) for scale in (fine, coarse)], 1) for head in self.heads
        )
        return boxes, scores.sigmoid(), classes.softmax(-1)


def detector(path):
    export(Detector(), torch.rand(2, 3, 64, 64), path, ("boxes", "scores", "classes"))
    return (3, 64, 64)


@pytest.mark.parametrize("model", [squeezenet, encoder, detector, "digits"])
def test_files_are_at_least_those_of_onnx_runtimes_tool(model, tmp_path):
    source = tmp_path / "float.onnx"
    torch.manual_seed(0)
    if model == "digits":
        calibration, unseen, _ = digits_network(source)
        batches = [{"image": calibration[start : start + 16]} for start in range(0, 64, 16)]
    else:
        shape = model(source)
        batches, unseen = [{"image": pictures(16, shape, seed)} for seed in range(4)], pictures(128, shape, 99)
    expected, _ = run(source, {"image": unseen})

    def judged(path):
        """The least signal over noise and agreement of all heads."""
        heads, _ = run(path, {"image": unseen})
        pairs = list(zip(expected, heads, strict=True))
        axis = -1 if pairs[0][0].ndim > 2 else 1
        same = [(one.argmax(axis) == other.argmax(axis)).mean() for one, other in pairs if one.shape[axis] > 1]
        return min(sqnr_db(one, other) for one, other in pairs), min(same)

    figures = {}
    for method in METHODS:
        theirs(source, tmp_path / f"{method}.onnx", batches, method)
        figures[method] = judged(tmp_path / f"{method}.onnx")
    best = max(METHODS, key=lambda method: figures[method])
    ours = tmp_path / "ours.onnx"
    StaticInt8().quantize_onnx(source, "float.onnx", batches, ours)
    ratio, agreement = judged(ours)
    feeds = {"image": unseen[:1]}
    pair = [open_session(path, 1) for path in (tmp_path / f"{best}.onnx", ours)]
    timed = latency.compare(*pair, (feeds, feeds))
    sizes = ours.stat().st_size, (tmp_path / f"{best}.onnx").stat().st_size
    print(f"\n{model}: ours {ratio:.1f} dB {agreement:.4f}, {best} {figures[best]}, bytes {sizes}, {timed.speedup}")
    assert ratio >= figures[best][0] - WITHIN_DB
    assert agreement >= max(same for _, same in figures.values()) - 0.01
    assert sizes[0] <= sizes[1]
    assert timed.verdict != "slower"


def test_a_file_of_opset_9_from_the_model_zoo(tmp_path):
    """The SqueezeNet among ONNX's own test data, its weights drawn here: one picture at a time, 1000 classes."""
    whole = onnx.load(Path(onnx.__file__).parent / "backend/test/data/light/light_squeezenet.onnx")
    constants, random = (
        {tensor.name: numpy_helper.to_array(tensor) for tensor in whole.graph.initializer},
        np.random.default_rng(0),
    )
    for maker in [maker for maker in whole.graph.node if maker.op_type == "ConstantOfShape"]:
        shape = constants[maker.input[0]]
        weights = random.normal(size=shape) * (np.sqrt(2 / np.prod(shape[1:])) if len(shape) > 1 else 0.1)
        whole.graph.initializer.append(numpy_helper.from_array(weights.astype(np.float32), maker.output[0]))
        whole.graph.node.remove(maker)
    whole.ir_version = 8  # from 4 on constants are no inputs
    source, ours = tmp_path / "float.onnx", tmp_path / "ours.onnx"
    onnx.save(whole, source)
    batches, unseen = ([{"data_0": one[None]} for one in pictures(16, (3, 224, 224), seed)] for seed in (0, 99))
    StaticInt8().quantize_onnx(source, "float.onnx", batches, ours)
    later = tmp_path / "later.onnx"
    onnx.save(onnx.version_converter.convert_version(whole, 13), later)

    def judged(path):
        expected, outputs = (np.concatenate([run(file, feeds)[0][0] for feeds in unseen]) for file in (source, path))
        return sqnr_db(expected, outputs), (expected.argmax(1) == outputs.argmax(1)).mean()

    best = (-np.inf, 0.0)
    for method in METHODS:
        theirs(later, tmp_path / f"{method}.onnx", batches, method)
        best = max(best, judged(tmp_path / f"{method}.onnx"))
    ratio, agreement = judged(ours)
    print(f"\nours {ratio:.1f} dB {agreement:.4f}, ONNX Runtime's best {best}")
    assert ratio >= best[0] - WITHIN_DB
    assert agreement >= best[1]
    assert ours.stat().st_size <= (tmp_path / "MinMax.onnx").stat().st_size
