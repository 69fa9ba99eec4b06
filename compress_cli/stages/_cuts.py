"""Settings that say how much of a network is cut."""

from __future__ import annotations

from typing import Annotated, Literal, Protocol, Self

from pydantic import Field, model_validator

from compress_cli.pruning.criteria import Criterion
from compress_cli.pruning.distributions import Distribution
from compress_cli.settings import Settings
from compress_cli.training.config import TrainingConfig

Share = Annotated[float, Field(gt=0, lt=1)]


class Keep(Settings):
    """How much of the model's cost remains after the cut. One of these."""

    macs: Share | None = Field(None, description="share of the multiply-accumulates that remains")
    parameters: Share | None = Field(None, description="share of the parameters that remains")
    bytes: Share | None = Field(None, description="share of the exported file's bytes that remains")
    latency: Share | None = Field(None, description="share of the exported file's latency that remains, measured here")

    @model_validator(mode="after")
    def _one(self) -> Self:
        if sum(getattr(self, name) is not None for name in type(self).model_fields) != 1:
            raise ValueError("give one target, either 'macs' or 'parameters' or 'bytes' or 'latency'")
        return self

    @property
    def target(self) -> tuple[str, float]:
        """What is counted, and the share of it that remains."""
        return next(((name, share) for name in type(self).model_fields if (share := getattr(self, name))), ("", 1.0))


class Steps(Settings):
    """The cut in several steps, with training in between."""

    count: int = Field(ge=2, le=1000, description="cuts")
    pace: Literal["even", "cubic"] = Field(
        "even",
        description="even: every step removes as much; cubic: the first most, 1 - (1 - t / count)^3 of all after t of them "
        "(Zhu and Gupta 2017, arXiv:1710.01878)",
    )
    training: TrainingConfig | None = Field(None, description="training after each step but the last; default: none")

    def done(self, step: int) -> float:
        """The share of the cut that is made after so many steps."""
        left = 1 - step / self.count
        return 1 - (left if self.pace == "even" else left**3)


class Cuts(Protocol):
    """Settings that say which channels are cut, and how many."""

    @property
    def ratio(self) -> float | None: ...
    @property
    def keep(self) -> Keep | None: ...
    @property
    def ratios(self) -> dict[str, float]: ...
    @property
    def distribution(self) -> Distribution: ...
    @property
    def criterion(self) -> Criterion: ...
    @property
    def round_to(self) -> int | Literal["auto"]: ...
    @property
    def ignore(self) -> tuple[str, ...]: ...


def check(cuts: Cuts, instead: str = "") -> None:
    """ValueError where it is not clear how much is cut; `instead` names what else would do."""
    if (cuts.ratio and cuts.keep) or not (cuts.ratio or cuts.keep or cuts.ratios):
        raise ValueError(
            "give either 'ratio' (the share of channels removed) or 'keep' (the share of cost that remains), "
            f"or 'ratios' by layer{instead}"
        )
