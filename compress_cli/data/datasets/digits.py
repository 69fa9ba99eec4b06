"""Handwritten digits that come with scikit-learn."""

from __future__ import annotations

import hashlib
from functools import cache

import numpy as np
from pydantic import Field

from compress_cli.data.datasets import Dataset, Split, SplitName, channel_statistics, fingerprint_of, stratified
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import DataError

CONTENT = "0b7e9c3202d7bcd255d6a19a238d3743bf5e320ba74812a6679958a017c55382"
"""SHA-256 of images and labels, so that a fingerprint needs no import of scikit-learn (about a second)."""

SHARES: dict[SplitName, float] = {"test": 0.26, "val": 0.14, "train": 0.6}


class Digits(Dataset):
    """1797 handwritten digits of 8x8 pixels (Alpaydin and Kaynak 1998, UCI; the part embedded in scikit-learn).

    The pixels' 17 levels are spread over 0..255, so that a model takes picture files like any other.
    """

    split_seed: int = Field(0, ge=0, lt=2**32, description="which samples are train, val and test")

    def signature(self) -> Signature:
        mean, deviation = _statistics(self.split_seed)
        return Signature(
            inputs={"image": Input(shape=(1, 8, 8), mean=mean, deviation=deviation)},
            heads={"logits": Head(shape=(10,), classes=tuple("0123456789"))},
        )

    def split(self, name: SplitName) -> Split:
        return _splits(self.split_seed)[name]

    def fingerprint(self) -> str:
        return fingerprint_of(self, CONTENT)


@cache
def _splits(seed: int) -> dict[SplitName, Split]:
    images, labels = _arrays()
    return {
        name: Split({"image": images[rows]}, {"label": labels[rows]}, rows)
        for name, rows in stratified(labels, SHARES, seed).items()
    }


@cache
def _statistics(seed: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return channel_statistics(_splits(seed)["train"].inputs["image"])


@cache
def _arrays() -> tuple[np.ndarray, np.ndarray]:
    """Images (1797, 1, 8, 8) uint8 and labels (1797,) int64."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    images = np.round(loaded.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = loaded.target.astype(np.int64)
    digest = hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()
    if digest != CONTENT:
        raise DataError(f"scikit-learn's digits are not the expected ones (sha256 {digest[:12]}); install another scikit-learn")
    return images, labels
