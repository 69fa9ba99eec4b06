"""Random numbers that are a function of what they are for: (seed, epoch, sample id), never of what was drawn before.

There is no generator whose state would have to be saved: the numbers of any epoch can be made again at any time, on any
machine and with any version of NumPy.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_ORDER, _SAMPLES, _STEP = 1, 2, 3  # what numbers are drawn for: each purpose has its own
_WORD = (1 << 64) - 1


def order(seed: int, epoch: int, index: np.ndarray) -> np.ndarray:
    """(N,) positions of the samples with these ids, shuffled."""
    return np.argsort(_words(seed, epoch, _ORDER, index), kind="stable")


def draws(seed: int, epoch: int, index: np.ndarray, count: int, first: int = 0) -> np.ndarray:
    """(N, count) float32 in [0, 1): draws `first`, `first` + 1, ... of each sample in this epoch.

    They are multiples of 2^-20, so that floor(u * n) stays below n in float32.
    """
    columns = [_words(seed, epoch, _SAMPLES, index, first + place) >> np.uint64(44) for place in range(count)]
    return np.stack(columns, 1).astype(np.float32) * np.float32(2**-20)


def seed_step(device: str, seed: int, epoch: int, step: int) -> None:
    """Seed what layers draw from in this step (dropout)."""
    value = int(_words(seed, epoch, _STEP, np.array([step]))[0] >> np.uint64(1))
    torch.default_generator.manual_seed(value)  # torch.manual_seed takes 0.4 ms a call where there is no GPU
    if device.startswith("cuda"):
        torch.cuda.manual_seed(value)


@contextmanager
def apart(device: str, deterministic: bool = False) -> Iterator[None]:
    """Leave torch's generators as they were, and the settings of CUDA's libraries.

    On CUDA, `deterministic` gives the same bytes on repetition; without it the fastest kernels are looked for.
    """
    cuda = device.startswith("cuda")
    with torch.random.fork_rng(devices=[torch.device(device)] if cuda else []):
        if not cuda:
            yield
            return
        before = (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark)
        if deterministic:
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS needs it to repeat its sums
        torch.use_deterministic_algorithms(deterministic)
        torch.backends.cudnn.benchmark = not deterministic
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before[0])
            torch.backends.cudnn.benchmark = before[1]


def _words(seed: int, epoch: int, purpose: int, index: np.ndarray, place: int = 0) -> np.ndarray:
    """(N,) uint64: a hash of the numbers given (SplitMix64, Steele et al. 2014, doi:10.1145/2660193.2660195)."""
    start = np.zeros(1, np.uint64)
    for number in (seed, epoch, purpose, place):
        start = _mix(start + np.uint64(number & _WORD))
    return _mix(_mix(start + index.astype(np.uint64)))


def _mix(words: np.ndarray) -> np.ndarray:
    words = words + np.uint64(0x9E3779B97F4A7C15)
    words = (words ^ (words >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    words = (words ^ (words >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = words ^ (words >> np.uint64(31))
    return mixed
