"""Candidates with training: sized to the budget by files that were really written and timed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from compress_cli.auto import architectures
from compress_cli.auto.architectures import Size
from compress_cli.auto.formats import Format, Measured
from compress_cli.auto.given import Given
from compress_cli.auto.journal import Journal
from compress_cli.auto.promises import Budget
from compress_cli.auto.subject import Subject, settings_of
from compress_cli.auto.training_settings import TrainingSettings
from compress_cli.auto.workshop import File, Rehearsal, Workshop
from compress_cli.data.signature import Signature
from compress_cli.errors import ResourceError, StageError
from compress_cli.networks.models import Model

ROUNDS = 4  # rehearsals of one candidate until a file fits
TIGHTER = 0.95  # beyond what the last file missed, so that rounding does not cost another round
SLACK = 1.25  # times smaller and faster than asked: then a larger version is tried
SMALLEST = 0.02  # of the given model's parameters or multiply-accumulates: below, nothing is worth a try
UNSURE = 1.05  # a speed-up has to be beaten by so much: the run times it again, and its whole interval counts
CUT, WARM = 0.2, 0.5  # of the learning rate from scratch, for a model that was cut, and one that starts with parts of another

PLACE = re.compile(r"^\S+\.yaml:\d+: (stages\[\d+\](\.\w+)*: )?")
"""Where an error stands in a recipe that was only tried."""

Make = Callable[[float, float], dict[str, Any] | None]
"""Shares of parameters and of multiply-accumulates -> a training stage without its `training`, None where there is none."""


@dataclass(frozen=True)
class Candidate:
    """A way to a smaller model: how its training stage is made for a budget."""

    name: str
    make: Make
    why: str  # what it is, for a comment
    rate: float = 1.0  # of the learning rate from scratch


@dataclass(frozen=True)
class Sized:
    """A candidate whose files were written, measured and timed."""

    name: str
    stage: Mapping[str, Any]
    rehearsal: Rehearsal
    fmt: str  # the format that it would ship in
    fits: bool  # whether size and speed are kept in that
    why: str
    rate: float

    @property
    def problem(self) -> str:
        return self.rehearsal.problem

    @property
    def file(self) -> File:
        return self.rehearsal.files[self.fmt]


@dataclass(frozen=True)
class Room:
    """What size and speed the goals leave, and where to begin."""

    bytes: float  # at most
    speedup: float  # at least
    parameters_share: float  # of the given model's, by what number formats alone save
    macs_share: float

    @property
    def shrinks(self) -> bool:
        return self.parameters_share < 1 or self.macs_share < 1

    def excess(self, file: File) -> tuple[float, float]:
        """How many times too large and too slow a file is; below 1 where there is room left."""
        return file.size_bytes / self.bytes, self.speedup * UNSURE / max(file.speedup, 1e-9)

    def best(self, files: Mapping[str, File]) -> tuple[str, bool]:
        """Of a model's formats the first that fits, and that one does; else the one that misses least."""
        missed = {name: max(1.0, large) * max(1.0, slow) for name, file in files.items() for large, slow in [self.excess(file)]}
        name = min(missed, key=lambda name: missed[name])
        return name, missed[name] <= 1


def room(budget: Budget, given_bytes: int, formats: Sequence[Measured]) -> Room:
    """formats: figures of the given model in those that a smaller one may ship in."""
    smaller = max((given_bytes / one.size_bytes for one in formats if one.size_bytes), default=1.0)
    faster = max((one.speedup for one in formats if one.size_bytes), default=1.0)
    return Room(
        bytes=budget.bytes_share * given_bytes,
        speedup=1 / budget.latency_share if budget.latency_share < 1 else 0.0,
        parameters_share=budget.bytes_share * smaller * TIGHTER if budget.bytes_share < min(1.0, 1 / smaller) else 1.0,
        macs_share=budget.latency_share * faster * TIGHTER if budget.latency_share < min(1.0, 1 / faster) else 1.0,
    )


def candidates(subject: Subject, signature: Signature, given: Size, others: tuple[Model, ...]) -> Iterator[Candidate]:
    """What may become the smaller model, in the order in which it is preferred where nothing tells them apart."""
    if subject.model is not None:
        model = subject.model

        def shares(parameters: float, macs: float) -> Size:
            return Size(round(parameters * given.parameters), round(macs * given.macs))

        def student(smaller: Callable[[Model, Signature, Size], Model | None], model: Model) -> Make:
            def make(parameters: float, macs: float) -> dict[str, Any] | None:
                fitting = smaller(model, signature, shares(parameters, macs))
                started = {"initialise": "auto"} if model is subject.model else {}
                return {"type": "distill", "teacher": "given", "model": settings_of(fitting), **started} if fitting else None

            return make

        if architectures.shallower(model):
            why = "The given architecture with fewer blocks, started with the given model's"
            yield Candidate("shallower", student(architectures.with_fewer_blocks, model), why, WARM)
        yield Candidate("pruned", _pruned, "The given model without the channels that matter least", CUT)
        if architectures.shallower(model):
            yield Candidate("fewer_blocks", _without_blocks, "The given model without the blocks that matter least", CUT)
        why = "The given architecture with narrower layers, started with the given model's"
        yield Candidate("narrower", student(architectures.within, model), why, WARM)
        registered = architectures.of_registry(signature)
        if registered is not None and registered.type != model.type:
            yield Candidate(registered.type, student(architectures.within, registered), "A plainer architecture")
    for number, other in enumerate(others, 1):
        stage = {"type": "distill", "teacher": "given", "model": settings_of(other)}
        why = "The architecture that --student names, as it is"
        yield Candidate(f"student{number}", lambda parameters, macs, fixed=stage: fixed, why)  # type: ignore[misc]


def _kept(parameters: float, macs: float) -> dict[str, float]:
    """The cost that has to shrink most."""
    return {"parameters": round(parameters, 4)} if parameters < macs else {"macs": round(macs, 4)}


def _pruned(parameters: float, macs: float) -> dict[str, Any] | None:
    return {"type": "prune", "start": "given", "keep": _kept(parameters, macs), "teacher": "given"}


def _without_blocks(parameters: float, macs: float) -> dict[str, Any] | None:
    return {"type": "prune", "start": "given", "depth": {"keep": _kept(parameters, macs)}, "teacher": "given"}


def sized(
    shop: Workshop,
    journal: Journal,
    candidate: Candidate,
    space: Room,
    given: Given,
    formats: Sequence[Format],
    training: TrainingSettings,
) -> list[Sized]:
    """Every size of a candidate that was tried, the one to take last; a single one with a problem where none could be."""
    tried: list[Sized] = []
    weighed: list[tuple[float, Sized]] = []  # by the share of parameters that was asked for
    parameters, macs = space.parameters_share, space.macs_share
    for attempt in range(1, ROUNDS + 1):
        stage = candidate.make(min(1.0, parameters), min(1.0, macs))
        if stage is None or min(parameters, macs) < SMALLEST:
            break
        if not tried or stage != tried[-1].stage:
            rehearsal = _rehearsed(shop, journal, candidate, stage, attempt, given, formats, training)
            if rehearsal.problem and "initialise" in stage:  # what is of one family may still have nothing in common
                candidate = replace(candidate, make=_from_scratch(candidate.make), rate=1.0)
                continue
            if rehearsal.problem:
                return tried or [_impossible(candidate, rehearsal.problem)]
            fmt, fits = space.best(rehearsal.files)
            tried.append(Sized(candidate.name, stage, rehearsal, fmt, fits, candidate.why, candidate.rate))
            weighed.append((parameters, tried[-1]))
        large, slow = space.excess(tried[-1].file)
        roomy = attempt == 1 and max(large, slow) < 1 / SLACK and space.shrinks
        if (tried[-1].fits and not roomy) or candidate.name.startswith("student"):
            break
        parameters, macs = (
            min(1.0, share * TIGHTER / miss) if miss > 1 or (roomy and miss > 0) else share
            for share, miss in ((parameters, large), (macs, slow))
        )
        if large > 1 and (straight := _along_line(weighed, TIGHTER * space.bytes)) is not None:
            parameters = min(parameters, max(SMALLEST, straight))
    fitting = [one for one in tried if one.fits]
    largest = [max(fitting, key=_capacity)] if fitting else tried[-1:]
    return [one for one in tried if one not in largest] + largest or [_impossible(candidate, "no version of it is so small")]


def _along_line(weighed: Sequence[tuple[float, Sized]], size_bytes: float) -> float | None:
    """The share of parameters at which a file has so many bytes, by the last two of one format, since no width saves what the
    graph takes. None where these tell nothing."""
    if len(weighed) < 2 or weighed[-1][1].fmt != weighed[-2][1].fmt:
        return None
    (before, larger), (share, smaller) = weighed[-2:]
    slope = (larger.file.size_bytes - smaller.file.size_bytes) / (before - share) if before != share else 0.0
    return share - (smaller.file.size_bytes - size_bytes) / slope if slope > 0 else None


def _capacity(one: Sized) -> int:
    """Bytes of the largest format: as good as a count of parameters."""
    return max(file.size_bytes for file in one.rehearsal.files.values())


def _from_scratch(make: Make) -> Make:
    def fresh(parameters: float, macs: float) -> dict[str, Any] | None:
        stage = make(parameters, macs)
        return stage and {name: value for name, value in stage.items() if name != "initialise"}

    return fresh


def _impossible(candidate: Candidate, problem: str) -> Sized:
    return Sized(candidate.name, {}, Rehearsal({}, problem=problem), "", False, candidate.why, candidate.rate)


def _rehearsed(
    shop: Workshop,
    journal: Journal,
    candidate: Candidate,
    stage: Mapping[str, Any],
    attempt: int,
    given: Given,
    formats: Sequence[Format],
    training: TrainingSettings,
) -> Rehearsal:
    question = f"size {candidate.name} {attempt}"

    def work() -> dict[str, Any]:
        stages = [given.stage, training.stage(candidate.name, stage, candidate.rate, epochs=1)]
        try:
            return asdict(shop.rehearsed(question.replace(" ", "_"), stages, formats, given.file))
        except ResourceError:
            raise
        except StageError as error:
            return asdict(Rehearsal({}, problem=PLACE.sub("", str(error).partition("\n")[0])))

    return Rehearsal.of(journal.remember(question, work))
