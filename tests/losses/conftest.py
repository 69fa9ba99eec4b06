"""Batches and outputs from arrays."""

import numpy as np
import pytest
import torch

from compress_cli.data.batch import Batch, Outputs


def tensor(array):
    return torch.as_tensor(np.asarray(array))


@pytest.fixture(autouse=True)
def _few_threads(one_thread):
    pass


@pytest.fixture
def make():
    """make(head, a=features) -> Outputs, the head being (N, classes, ...)."""

    def outputs(head=None, **features):
        heads = {} if head is None else {"y": tensor(head)}
        return Outputs(heads, {name: tensor(array) for name, array in features.items()}, dict.fromkeys(heads, 1))

    return outputs


@pytest.fixture
def make_batch():
    """make_batch(samples, labels=..., index=..., mask=...) -> Batch."""

    def batch(samples, labels=None, index=None, **inputs):
        return Batch(
            {name: tensor(array) for name, array in inputs.items()},
            {} if labels is None else {"label": tensor(labels)},
            torch.arange(samples) if index is None else tensor(index),
        )

    return batch


@pytest.fixture
def run():
    """run(loss, student, teacher, batch) -> the value as a float, with a fresh float64 adapter."""

    def value(loss, student, teacher, batch, samples=100):
        torch.manual_seed(0)
        teachers = teacher if isinstance(teacher, tuple) else (teacher,)
        adapter = loss.adapter(student, teachers, samples).double()
        return loss(student, teachers, batch, adapter).item()

    return value


@pytest.fixture
def random():
    return np.random.RandomState(7)
