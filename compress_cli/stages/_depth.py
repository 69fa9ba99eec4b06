"""How many whole layers are left out: a number, a share of them, or as many as bring a cost below a share."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import Field, model_validator
from torch import Tensor

from compress_cli.deployment.exporters import Exporter
from compress_cli.errors import RecipeError
from compress_cli.measurement import example, latency, sessions
from compress_cli.measurement.latency import TimingConditions
from compress_cli.networks import proof
from compress_cli.networks.edits.bypass import Bypass
from compress_cli.networks.models import Network
from compress_cli.onnx_graph import storage
from compress_cli.plugin import find
from compress_cli.pruning.cost import Cost
from compress_cli.pruning.widths import CLOSE
from compress_cli.settings import Many, NotInKeyAtDefault, Settings
from compress_cli.stages import Stage
from compress_cli.stages._cuts import Keep, Share

Remaining = Callable[[Sequence[str]], float]
"""Names of layers that are left out -> the share of a cost that remains."""


class Depth(Settings):
    """Whole residual blocks or transformer layers that are removed. One of remove, ratio and keep."""

    remove: int | None = Field(None, ge=1, description="layers that are left out")
    ratio: Annotated[Share | None, NotInKeyAtDefault()] = Field(
        None, description="share of the layers that could be left out, rounded, one at least"
    )
    keep: Annotated[Keep | None, NotInKeyAtDefault()] = Field(
        None, description="layers are left out until at most this share of a cost remains: {macs: 0.6}"
    )
    ignore: Many[str] = Field((), description="layers that stay; a name covers the layers inside it")
    samples: int = Field(512, ge=1, description="val samples, drawn by seed and sample id, that importance is measured on")
    batch: int = Field(64, ge=1, description="samples that run at once")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        check_one(self.remove, self.ratio, self.keep)
        return self


def stage(depth: Depth, **settings: Any) -> Stage:
    """The stage that leaves out layers so."""
    made = find(Stage, "drop_layers")(**{name: getattr(depth, name) for name in Depth.model_fields}, **settings)
    assert isinstance(made, Stage)
    return made


def check_one(*targets: object) -> None:
    """ValueError unless one target is given."""
    if sum(target is not None for target in targets) != 1:
        raise ValueError("give one of 'remove' (a number of layers), 'ratio' (a share of them) and 'keep' (of a cost)")


def is_timed(keep: Keep | None) -> bool:
    """Whether the outcome depends on the machine."""
    return keep is not None and keep.latency is not None


def count(remove: int | None, ratio: float | None, layers: int) -> int:
    """How many are left out of so many; all of them at most where a cost decides."""
    return remove or (max(1, round(ratio * layers)) if ratio else layers)


class Target:
    """The share of a cost that may remain, and what does."""

    def __init__(self, keep: Keep, remaining: Remaining, layers: Sequence[str], smoke: bool):
        """RecipeError where more remains without all these layers."""
        self.counted, self.share = keep.target
        self._remaining, self._smoke = remaining, smoke and self.counted in ("bytes", "latency")
        self.got = 1.0
        least = 0.0 if self._smoke else remaining(layers)
        if least > self.share * (1 + CLOSE):
            raise RecipeError(
                f"keep.{self.counted}: {self.share} is out of reach by leaving out layers: without all {len(layers)} that "
                f"could go {least:.3f} remains; ask for that, or cut channels too, in a stage prune after this one"
            )

    def reached(self, without: Sequence[str]) -> bool:
        """Whether leaving out these is enough; in a smoke run one is, where files would have to be measured."""
        if not without:
            return False
        self.got = self.share if self._smoke else self._remaining(without)
        return self.got <= self.share * (1 + CLOSE)

    def facts(self) -> dict[str, Any]:
        """For the manifest."""
        return {"asked": {self.counted: self.share}, "got": {self.counted: self.got}}


def remaining(
    keep: Keep,
    network: Network,
    found: dict[str, bool],
    probes: tuple[Tensor, ...],
    exporter: Exporter,
    timing: TimingConditions,
) -> Remaining:
    """The share of a network's cost that remains without some of the layers `found`, which maps their names to whether they
    give a tuple: counted, or of the file that is exported."""
    counted, _ = keep.target
    known: list[float] = []  # the cost of all layers, once it was counted

    def without(layers: Sequence[str]) -> Network:
        shallower = copy.deepcopy(network)
        Bypass(layers=tuple(layers), tuples=tuple(name for name in layers if found[name]))(shallower.body)
        return shallower

    def share(layers: Sequence[str]) -> float:
        if counted in ("macs", "parameters"):
            known.extend([] if known else [getattr(Cost(network.body, probes), counted)()])
            return float(getattr(Cost(without(layers).body, probes), counted)() / known[0])
        with tempfile.TemporaryDirectory(prefix="compress-depth-") as folder:
            paths = [Path(folder, name) for name in ("whole.onnx", "cut.onnx")]
            for part, path in zip((network, without(layers)), paths, strict=True):
                exporter.export(part.eval(), part.signature, proof.example(part.signature), path, {})
            if counted == "bytes":
                return storage.size_bytes(paths[1]) / storage.size_bytes(paths[0])
            whole, cut = (sessions.open_session(path, timing.threads, timing.session) for path in paths)
            feeds = (example.synthetic(whole, timing.batch), example.synthetic(cut, timing.batch))
            return 1 / latency.compare(whole, cut, feeds, timing.seconds, caches=timing.caches).speedup.value

    return share
