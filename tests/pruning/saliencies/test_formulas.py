"""Criteria for single weights against their published formulas, on weights small enough to compute by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from compress_cli.context import Context
from compress_cli.networks import restore
from compress_cli.networks.models.mlp import Mlp
from compress_cli.plugin import find
from compress_cli.pruning import weights as selection
from compress_cli.pruning.saliencies import Saliency
from compress_cli.pruning.saliencies.lamp import Lamp
from compress_cli.stages import _saliency

pytestmark = pytest.mark.usefixtures("one_thread")

WEIGHT = torch.tensor([[3.0, -1.0], [0.0, 2.0]])
GRADIENT = torch.tensor([[0.5, 4.0], [7.0, -0.25]])


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("magnitude", [[3, 1], [0, 2]]),
        ("lamp", [[9 / 9, 1 / 14], [0, 4 / 13]]),  # w^2 over the squares that are as large or larger: 9; 9 + 4 + 1; 9 + 4
        ("snip", [[1.5, 4], [0, 0.5]]),
        ("taylor", [[2.25, 16], [0, 0.25]]),
        ("hessian", [[1.125, 8], [0, 0.125]]),
        ("movement", [[-1.5, 4], [0, 0.5]]),
    ],
)
def test_a_score_by_hand(name, expected):
    score = find(Saliency, name)()("fc.weight", WEIGHT, GRADIENT)
    torch.testing.assert_close(score.double(), torch.tensor(expected, dtype=torch.float64))


def test_lamp_of_a_larger_tensor_against_its_definition():
    """Lee et al. 2021, equation 3: sort by magnitude; score(u) = W[u]^2 / sum over v >= u of W[v]^2."""
    weight = torch.randn(6, 5, 3, 3, generator=torch.Generator().manual_seed(0))
    flat = weight.double().numpy().ravel()
    order = np.argsort(np.abs(flat), kind="stable")
    expected = np.empty_like(flat)
    for position, index in enumerate(order):
        expected[index] = flat[index] ** 2 / np.sum(flat[order[position:]] ** 2)
    np.testing.assert_allclose(Lamp()("w", weight, None).numpy().ravel(), expected, rtol=1e-10)
    assert Lamp()("w", torch.zeros(3, 2), None).tolist() == [[0, 0]] * 3


def test_chance_depends_on_the_name_and_the_seed_alone():
    random = find(Saliency, "random")
    score = random()("a", WEIGHT, None)
    assert torch.equal(score, random()("a", WEIGHT * 9, None))
    assert not torch.equal(score, random()("b", WEIGHT, None))
    assert not torch.equal(score, random(seed=1)("a", WEIGHT, None))


@pytest.fixture
def scored(toy, context_for):
    """scored(criterion): its scores of an MLP's weights, and the gradient of each of its samples' cross-entropy."""
    dataset = toy(train=80)  # two batches, of 64 and 16
    network = restore.build(Mlp(hidden=(4,)), dataset.signature(), 0).network.eval()
    weights = selection.prunable(network.body)
    split = dataset.split("train")

    def gradients(rows):
        heads = network(torch.from_numpy(split.inputs["image"][rows]).float())
        loss = nn.functional.cross_entropy(heads["logits"], torch.from_numpy(split.targets["label"][rows]))
        return dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))

    def _scored(criterion):
        context: Context = context_for(dataset)
        return _saliency.scores(find(Saliency, criterion)(), weights, network, context), weights, gradients

    return _scored


def test_snip_takes_the_gradient_of_all_samples_together(scored):
    scores, weights, gradients = scored("snip")
    whole = gradients(np.arange(80))
    for name, weight in weights.items():
        torch.testing.assert_close(scores[name], (weight * whole[name]).abs(), rtol=1e-4, atol=1e-9)


def test_taylor_averages_over_batches(scored):
    from compress_cli.randomness import order

    scores, weights, gradients = scored("taylor")
    rows = order(0, 0, np.arange(80))
    first, second = gradients(rows[:64]), gradients(rows[64:])
    for name, weight in weights.items():
        expected = ((weight * first[name]) ** 2 + (weight * second[name]) ** 2) / 2
        torch.testing.assert_close(scores[name], expected.detach(), rtol=1e-4, atol=1e-12)


def test_hessian_averages_squares_of_the_gradients_of_single_samples(scored):
    """LeCun et al. 1990: 1/2 h w^2, with the diagonal of the empirical Fisher information as h."""
    scores, weights, gradients = scored("hessian")
    single = [gradients([row]) for row in range(80)]
    for name, weight in weights.items():
        fisher = torch.stack([gradient[name].square() for gradient in single]).mean(0)
        torch.testing.assert_close(scores[name], (fisher * weight**2 / 2).detach(), rtol=1e-4, atol=1e-12)


def test_scoring_an_untrained_network_leaves_its_statistics(toy, context_for):
    from compress_cli.networks.models.convnet import Convnet

    network = restore.build(Convnet(widths=(4,), convs=1, dropout=0.5), toy().signature(), 0).network.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    weights = selection.prunable(network.body)
    snip, state = find(Saliency, "snip")(), torch.get_rng_state()
    first, again, other = (_saliency.scores(snip, weights, network, context_for(toy()), mode) for mode in (True, True, False))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert not network.training
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])
