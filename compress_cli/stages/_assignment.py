"""An option for each layer, so that all together cost no more than a limit and add the least noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

STATES = 8192  # partial assignments that are kept: up to so many the answer is the best there is


@dataclass(frozen=True)
class Option:
    """One number of bits for a layer."""

    bits: int | None  # None: float
    cost: float  # in the unit of the limit
    noise: float  # squared error of the outputs as a share of their squares; errors of several layers add up


def assign(options: Mapping[str, Sequence[Option]], limit: float) -> dict[str, Option] | None:
    """Layer -> its option, with the least noise of all assignments whose costs sum to `limit` at most; None where even the
    cheapest cost more.

    A multiple-choice knapsack, layer by layer: of partial assignments only those stay that no other one beats in both cost and
    noise. Where these become too many, the least noisy one in each of equal spans of cost stays.
    """
    costs, noises = np.zeros(1), np.zeros(1)
    steps: list[tuple[np.ndarray, np.ndarray]] = []  # of each state: the state it came from, and the option taken
    rest = sum(min(option.cost for option in choices) for choices in options.values())  # the least that is still to come
    tolerance = 1e-9 * max(abs(limit), 1.0)
    for choices in options.values():
        rest -= min(option.cost for option in choices)
        cost = (costs[:, None] + [option.cost for option in choices]).reshape(-1)
        noise = (noises[:, None] + [option.noise for option in choices]).reshape(-1)
        kept = _frontier(cost, noise, limit - rest + tolerance)
        if not len(kept):
            return None
        costs, noises = cost[kept], noise[kept]
        steps.append((kept // len(choices), kept % len(choices)))
    state, taken = int(noises.argmin()), []
    for before, option in reversed(steps):
        taken.append(int(option[state]))
        state = int(before[state])
    return {layer: choices[number] for (layer, choices), number in zip(options.items(), reversed(taken), strict=True)}


def _frontier(cost: np.ndarray, noise: np.ndarray, limit: float) -> np.ndarray:
    """Positions of the states within the limit that no cheaper one beats, the cheapest first."""
    order = np.lexsort((noise, cost))
    order = order[cost[order] <= limit]
    least = np.minimum.accumulate(noise[order])
    better = np.concatenate([[True], least[1:] < least[:-1]]) if len(order) else np.zeros(0, bool)
    kept = order[better]
    if len(kept) > STATES:  # noise falls along the frontier: the last of each span has the least
        spans = ((cost[kept] - cost[kept[0]]) / (cost[kept[-1]] - cost[kept[0]]) * (STATES - 2)).astype(np.int64)
        last = np.append(spans[1:] != spans[:-1], True)
        last[0] = True
        kept = kept[last]
    return np.asarray(kept)
