"""Steps of the optimisers, against the papers' formulas."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from compress_cli.training.optimizers.adamw import AdamW
from compress_cli.training.optimizers.sgd import Sgd


def two_steps(optimizer, start, gradients):
    weight = nn.Parameter(torch.tensor(start))
    made = optimizer.build([weight])
    for gradient in gradients:
        weight.grad = torch.tensor(gradient)
        made.step()
    return weight.detach().numpy()


START = np.array([[1.0, -2.0]], np.float32)
GRADIENTS = np.array([[[0.5, 0.25]], [[-1.0, 0.5]]], np.float32)


@pytest.mark.parametrize("nesterov", [True, False])
def test_sgd_by_hand(nesterov):
    rate, momentum, decay = 0.1, 0.9, 0.01
    weight, moving = START.astype(float), np.zeros_like(START, float)
    for gradient in GRADIENTS:
        total = gradient + decay * weight
        moving = momentum * moving + total
        weight = weight - rate * (total + momentum * moving if nesterov else moving)
    found = two_steps(Sgd(learning_rate=rate, momentum=momentum, weight_decay=decay, nesterov=nesterov), START, GRADIENTS)
    np.testing.assert_allclose(found, weight, rtol=1e-6)


def test_adamw_by_hand():
    rate, decay, b1, b2, eps = 0.01, 0.1, 0.9, 0.99, 1e-8
    weight, first, second = START.astype(float), 0.0, 0.0
    for step, gradient in enumerate(GRADIENTS.astype(float), 1):
        weight = weight * (1 - rate * decay)
        first, second = b1 * first + (1 - b1) * gradient, b2 * second + (1 - b2) * gradient**2
        weight = weight - rate * (first / (1 - b1**step)) / (np.sqrt(second / (1 - b2**step)) + eps)
    found = two_steps(AdamW(learning_rate=rate, weight_decay=decay, beta1=b1, beta2=b2, epsilon=eps), START, GRADIENTS)
    np.testing.assert_allclose(found, weight, rtol=1e-6)


@pytest.mark.parametrize("optimizer", [Sgd(weight_decay=0.5), AdamW(weight_decay=0.5)])
def test_biases_and_scales_do_not_decay(optimizer):
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 2))
    before = {name: each.detach().clone() for name, each in network.named_parameters()}
    made = optimizer.build(network.parameters())
    for each in network.parameters():
        each.grad = torch.zeros_like(each)
    made.step()
    changed = {name for name, each in network.named_parameters() if not torch.equal(each, before[name])}
    assert changed == {"0.weight", "3.weight"}


def test_nesterov_without_momentum_is_refused_only_where_it_was_asked_for():
    with pytest.raises(ValidationError, match="momentum above 0"):
        Sgd(momentum=0.0, nesterov=True)
    Sgd(momentum=0.0).build([nn.Parameter(torch.zeros(2, 2))])
