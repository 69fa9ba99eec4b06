"""Networks to try things on: small pictures, few channels, statistics that are not those of a fresh network."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.networks.models import Model, Network


def _signature(channels: int = 3, pixels: int = 32, classes: int = 100) -> Signature:
    image = Input(shape=(channels, pixels, pixels), mean=(100.0,) * channels, deviation=(50.0,) * channels)
    return Signature(inputs={"image": image}, heads={"label": Head(shape=(classes,))})


def _network(settings: dict[str, Any] | str, channels: int = 3, pixels: int = 32, classes: int = 100) -> Network:
    signature = _signature(channels, pixels, classes)
    torch.manual_seed(0)
    return Network(Model.model_validate(settings).build(signature), signature)


def _settled(settings: dict[str, Any] | str, **data: int) -> Network:
    """In evaluation mode, with normalisations that do something, so that no branch and no logit is near zero."""
    network = _network(settings, **data)
    (spec,) = network.signature.inputs.values()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None  # the mean over all batches seen
    with torch.no_grad():
        for _ in range(2):
            network(255 * torch.rand(8, *spec.shape))
    return network.eval()


def _parameters(settings: dict[str, Any] | str, **data: int) -> int:
    with torch.device("meta"):  # shapes without numbers
        body = Model.model_validate(settings).build(_signature(**data))
    return sum(parameter.numel() for parameter in body.parameters())


@pytest.fixture(autouse=True)
def _quick(one_thread):
    """Tiny layers on several threads mostly wait for each other."""


@pytest.fixture
def signature() -> Callable[..., Signature]:
    return _signature


@pytest.fixture
def network() -> Callable[..., Network]:
    return _network


@pytest.fixture
def settled() -> Callable[..., Network]:
    return _settled


@pytest.fixture
def parameters() -> Callable[..., int]:
    return _parameters
