"""Groups that lose channels in proportion, because code divides one width by the other.

Attention written as `reshape(n, t, heads, width // heads)` takes the width of a head from that of the residual stream around
it. Then stream and attention can only be cut at once: with each head goes as much of the stream as a head is wide.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from compress_cli.pruning.channels import Group, Part


def reading(stream: Group, heads: Sequence[Group]) -> list[Group]:
    """Those of the groups of heads whose layers also hold the stream's channels."""
    tensors = {part.name for part in stream.parts}
    return [group for group in heads if group is not stream and any(part.name in tensors for part in group.parts)]


def coupled(stream: Group, heads: Sequence[Group]) -> Group | None:
    """One group whose channels are heads, each with a share of the stream; None where their numbers do not fit."""
    count = heads[0].channels
    if any(group.channels != count or group.multiple == 1 for group in heads) or stream.fixed or stream.channels % count:
        return None
    parts = (*(_shared_out(part, count) for part in stream.parts), *(part for group in heads for part in group.parts))
    share = stream.channels // count
    numbers = {name: step * share for name, step in stream.numbers.items()}
    repeated = dict(stream.repeated)
    for group in heads:
        numbers |= group.numbers
        repeated |= group.repeated
    return replace(
        stream, channels=count, multiple=stream.multiple * share, parts=parts, repeated=repeated, numbers=numbers,
        coupled=tuple(group.layer for group in heads),
    )  # fmt: skip


def again(groups: Sequence[Group], before: Sequence[Group]) -> list[Group]:
    """The groups of a model after a cut that stand for those before it: as many coupled, with the same numbers of code."""
    rest, found = list(groups), []
    for earlier in before:
        wanted = (earlier.layer, *earlier.coupled)
        members = [next((group for group in rest if group.layer == layer), None) for layer in wanted]
        present = [group for group in members if group is not None]
        whole = len(present) == len(wanted)
        group = coupled(present[0], present[1:]) if whole and earlier.coupled else present[0] if whole else None
        if group is not None:
            rest = [other for other in rest if other not in present]
            found.append(replace(group, numbers=earlier.numbers))
    return found


def _shared_out(part: Part, count: int) -> Part:
    """The part with as many units, of consecutive channels."""
    return replace(part, index=part.index.reshape(count, -1))
