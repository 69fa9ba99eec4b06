"""Which trials go on from a rung: asynchronous successive halving (Li et al. 2020, arXiv:1810.05934), with trials that pause.

A trial that reaches a rung is compared with all that ever reached it. It goes on while it is among the better share of them;
otherwise it pauses, and goes on from its save when others that came later leave it among the better ones.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Standing:
    """What is known of a trial at a rung; of each figure, less is better."""

    loss: float  # the task's metric on val after the rung's epoch, with its sign so that less is better
    size: float | None = None  # bytes of its file, as the smoke run saw them; None where size counts for nothing
    excess: float = 0.0  # by how much it breaks the promises about size, relative to them

    def dominates(self, other: Standing) -> bool:
        """Whether it is better in one respect and worse in none; what keeps its promises goes before what does not."""
        if self.excess != other.excess:
            return self.excess < other.excess
        ours, theirs = (self.loss, self.size or 0.0), (other.loss, other.size or 0.0)
        return ours != theirs and all(mine <= yours for mine, yours in zip(ours, theirs, strict=True))


def rung_epochs(shares: Sequence[float], epochs: int) -> tuple[int, ...]:
    """The epochs (from 1) after which a training of so many is looked at; none of them the last."""
    rungs = dict.fromkeys(max(1, math.ceil(share * epochs)) for share in shares)
    return tuple(rung for rung in rungs if rung < epochs)


def ranked(standings: Mapping[int, Standing]) -> list[int]:
    """Trials from the best to the worst: by how many others dominate each (Fonseca and Fleming 1993), then by their metric."""
    beaten = {
        trial: sum(other.dominates(mine) for other in standings.values() if other is not mine)
        for trial, mine in standings.items()
    }
    return sorted(standings, key=lambda trial: (beaten[trial], standings[trial].loss, trial))


def promoted(standings: Mapping[int, Standing], share: float, at_least: int = 0) -> set[int]:
    """The trials of a rung that go on, of all that reached it."""
    return set(ranked(standings)[: max(at_least, math.floor(share * len(standings)))])
