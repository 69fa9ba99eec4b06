"""Candidates with training: sized to the budget by files that were really written and timed."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from compress_cli.auto import architectures
from compress_cli.auto.architectures import Size
from compress_cli.auto.formats import Format
from compress_cli.auto.journal import Journal
from compress_cli.auto.promises import Budget
from compress_cli.auto.subject import Subject, settings_of
from compress_cli.auto.workshop import Rehearsal, Workshop
from compress_cli.data.signature import Signature
from compress_cli.errors import ResourceError, StageError
from compress_cli.networks.models import Model

ROUNDS = 4  # rehearsals of one candidate until its file fits
TIGHTER = 0.95  # beyond what the last file missed, so that rounding does not cost another round
SMALLEST = 0.02  # of the given model's parameters or multiply-accumulates: below, nothing is worth a try
UNSURE = 1.03  # a speed-up has to be beaten by so much: the run times it again

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
    fresh: bool  # whether it starts from random weights


@dataclass(frozen=True)
class Sized:
    """A candidate whose file was written, measured and timed."""

    name: str
    stage: Mapping[str, Any]
    rehearsal: Rehearsal
    fits: bool  # whether size and speed are kept
    why: str
    fresh: bool
    problem: str = ""


@dataclass(frozen=True)
class Room:
    """What size and speed the goals leave, and the given model's."""

    bytes: float  # at most
    speedup: float  # at least
    given: Size
    parameters_share: float  # where to begin, by what the number format alone saves
    macs_share: float

    @property
    def shrinks(self) -> bool:
        return self.parameters_share < 1 or self.macs_share < 1


def room(budget: Budget, given: Size, given_bytes: int, smaller: float, faster: float) -> Room:
    """smaller, faster: what the number format alone is."""
    return Room(
        bytes=budget.bytes_share * given_bytes,
        speedup=1 / budget.latency_share if budget.latency_share < 1 else 0.0,
        given=given,
        parameters_share=budget.bytes_share * smaller * TIGHTER if budget.bytes_share < min(1.0, 1 / smaller) else 1.0,
        macs_share=budget.latency_share * faster * TIGHTER if budget.latency_share < min(1.0, 1 / faster) else 1.0,
    )


def candidates(subject: Subject, signature: Signature, given: Size, others: tuple[Model, ...]) -> Iterator[Candidate]:
    """What may become the smaller model, in the order in which it is preferred where nothing tells them apart."""
    if subject.model is not None:
        yield Candidate("pruned", _pruned, "Whole channels of the given model are cut, and it is trained further", False)
        half = architectures.shallower(subject.model)
        if half is not None:
            yield _narrowed("shallower", half, signature, given, "The given architecture with about half its blocks")
        yield _narrowed("narrower", subject.model, signature, given, "The given architecture with narrower layers")
        registered = architectures.of_registry(signature)
        if registered is not None and registered.type != subject.model.type:
            yield _narrowed(registered.type, registered, signature, given, "A plainer architecture")
    for number, model in enumerate(others, 1):
        stage = {"type": "distill", "teacher": "given", "model": settings_of(model)}
        why = "The architecture that --student names, as it is"
        yield Candidate(f"student{number}", lambda parameters, macs, fixed=stage: fixed, why, True)  # type: ignore[misc]


def _pruned(parameters: float, macs: float) -> dict[str, Any] | None:
    keep = {"parameters": round(parameters, 4)} if parameters < macs else {"macs": round(macs, 4)}
    return {"type": "prune", "start": "given", "keep": keep, "teacher": "given"}


def _narrowed(name: str, model: Model, signature: Signature, given: Size, why: str) -> Candidate:
    def make(parameters: float, macs: float) -> dict[str, Any] | None:
        largest = Size(round(parameters * given.parameters), round(macs * given.macs))
        fitting = architectures.within(model, signature, largest)
        if fitting is None:
            return None
        return {"type": "distill", "teacher": "given", "model": settings_of(fitting)}

    return Candidate(name, make, why, True)


def sized(
    shop: Workshop,
    journal: Journal,
    candidate: Candidate,
    space: Room,
    given: Mapping[str, Any],
    file: Path,
    final: Format,
    training: Mapping[str, Any],
) -> list[Sized]:
    """Every size of a candidate that was tried, the one to take last; a single one with a problem where none could be."""
    tried: list[Sized] = []
    parameters, macs = space.parameters_share, space.macs_share
    for attempt in range(ROUNDS):
        stage = candidate.make(parameters, macs)
        if stage is None or min(parameters, macs) < SMALLEST:
            break
        if not tried or stage != tried[-1].stage:
            one = _rehearsed(shop, journal, candidate, stage, f"{candidate.name} {attempt + 1}", given, file, final, training)
            if one.problem:
                return tried or [one]
            rehearsal = one.rehearsal
            too_large, too_slow = rehearsal.size_bytes / space.bytes, space.speedup * UNSURE / rehearsal.speedup
            tried.append(Sized(**{**one.__dict__, "fits": too_large <= 1 and too_slow <= 1}))
            if tried[-1].fits or candidate.name.startswith("student"):
                break
        parameters *= TIGHTER / too_large if too_large > 1 else 1.0
        macs *= TIGHTER / too_slow if too_slow > 1 else 1.0
    if not tried:
        nothing = Rehearsal(0, 0.0, 0.0, None)
        return [Sized(candidate.name, {}, nothing, False, candidate.why, candidate.fresh, "no version of it is so small")]
    return tried


def _rehearsed(
    shop: Workshop,
    journal: Journal,
    candidate: Candidate,
    stage: Mapping[str, Any],
    question: str,
    given: Mapping[str, Any],
    file: Path,
    final: Format,
    training: Mapping[str, Any],
) -> Sized:
    def work() -> dict[str, Any]:
        stages = [given, trained(candidate.name, stage, {**training, "epochs": 1}), *final.stages(candidate.name)]
        try:
            return asdict(shop.rehearsed(f"size_{question.replace(' ', '_')}", stages, file))
        except ResourceError:
            raise
        except StageError as error:
            return {"problem": PLACE.sub("", str(error).partition("\n")[0])}

    answer = journal.remember(f"size {question}", work)
    if "problem" in answer:
        nothing = Rehearsal(0, 0.0, 0.0, None)
        return Sized(candidate.name, stage, nothing, False, candidate.why, candidate.fresh, answer["problem"])
    return Sized(candidate.name, stage, Rehearsal(**answer), False, candidate.why, candidate.fresh)


def trained(name: str, stage: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, Any]:
    """A candidate's stage with its name and its training."""
    kind = {"type": stage["type"], "name": name}
    return {**kind, **{field: value for field, value in stage.items() if field != "type"}, "training": dict(training)}
