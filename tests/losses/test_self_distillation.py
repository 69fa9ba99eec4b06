"""Against NumPy in float64: classifiers behind early layers learn from the last one."""

import numpy as np
import pytest
import torch
from scipy.special import softmax

from compress_cli.data.batch import Batch, Outputs
from compress_cli.errors import RecipeError
from compress_cli.losses.self_distillation import SelfDistillation
from compress_cli.networks import restore
from compress_cli.networks.models.convnet import Convnet
from compress_cli.training import loop
from compress_cli.training.config import TrainingConfig

LABELS = np.array([0, 2, 1])


def test_each_exit_learns_from_the_label_and_the_last_classifier():
    random = np.random.default_rng(0)
    last, features = random.standard_normal((3, 4)) * 2, random.standard_normal((3, 5))
    student = Outputs({"y": torch.from_numpy(last).requires_grad_()}, {"a": torch.from_numpy(features)})
    loss = SelfDistillation(exits=("a",), alpha=0.25, temperature=2.0)
    adapter = loss.adapter(Outputs(student.heads, {"a": student.features["a"].float()}), (), 3).double()
    value = loss(student, (), Batch({}, {"label": torch.from_numpy(LABELS)}, torch.arange(3)), adapter)
    w, b, v, c = (parameter.detach().numpy() for parameter in adapter.parameters())
    early = np.maximum(features @ w.T + b, 0) @ v.T + c
    p, q = softmax(last / 2, axis=1), softmax(early / 2, axis=1)
    hard = [-np.log(softmax(logits, axis=1)[np.arange(3), LABELS]).mean() for logits in (last, early)]
    expected = hard[0] + 0.75 * hard[1] + 0.25 * 4 * (p * np.log(p / q)).sum(1).mean()
    assert value.item() == pytest.approx(expected)
    value.backward()
    alone = (softmax(last, axis=1) - np.eye(4)[LABELS]) / 3  # of the last classifier's own cross-entropy
    np.testing.assert_allclose(student.heads["y"].grad.numpy(), alone, atol=1e-12)


@pytest.mark.parametrize("shape", [(3, 4, 5), (3, 1)])
def test_other_heads_are_refused(shape):
    student = Outputs({"y": torch.zeros(shape)}, {"a": torch.zeros(3, 5)}, {"y": 1})
    with pytest.raises(
        RecipeError, match=r"needs a head (of two classes or more|\(N, classes\), one answer a sample; .* \(N, 4, 5\))"
    ):
        SelfDistillation(exits=("a",)).adapter(student, (), 3)


def test_exits_of_images_and_tokens_read_the_mean_over_what_is_not_masked():
    random = torch.Generator().manual_seed(0)
    image, tokens = torch.randn(3, 5, 4, 2, generator=random), torch.randn(3, 6, 5, generator=random)
    mask = torch.arange(6) < torch.tensor([6, 2, 3])[:, None]
    batch = Batch({"m": mask}, {}, torch.arange(3))
    exits = SelfDistillation(exits=("a", "b")).adapter(Outputs({"y": torch.zeros(3, 4)}, {"a": image, "b": tokens}), (), 3)
    w, b, v, c = exits[1].parameters()
    x = (tokens @ w.T + b).relu()
    pooled = torch.stack([tokens_[visible].mean(0) for tokens_, visible in zip(x, mask, strict=True)])
    torch.testing.assert_close(exits[1](tokens, batch, "m"), pooled @ v.T + c)
    pooled = exits[0].conv(image).relu().mean((2, 3))
    torch.testing.assert_close(exits[0](image, batch, ""), pooled @ exits[0].fc.weight.T + exits[0].fc.bias)


@pytest.mark.usefixtures("one_thread")
def test_exits_reach_the_layer_they_stand_behind_and_are_gone_afterwards(toy, context_for):
    settings = TrainingConfig(epochs=1, batch=16, precision="float32", keep="last")
    weights = {}
    for alpha in (0.0, 1.0):
        network = restore.build(Convnet(widths=(4, 6), convs=1), toy().signature(), 0).network
        loop.fit(network, (SelfDistillation(exits=("layer1",), alpha=alpha),), settings, context_for(toy()))
        weights[alpha] = network.state_dict()
    assert (
        weights[0.0].keys() == restore.build(Convnet(widths=(4, 6), convs=1), toy().signature(), 0).network.state_dict().keys()
    )
    assert not torch.equal(weights[0.0]["body.layer1.0.weight"], weights[1.0]["body.layer1.0.weight"])
