"""From measurements to a recipe: the cheapest way that keeps the promises on val, or the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from compress_cli.auto import formats, promises, students
from compress_cli.auto.decision import Decision
from compress_cli.auto.formats import Format, Measured
from compress_cli.auto.given import Given
from compress_cli.auto.journal import Journal
from compress_cli.auto.promises import Budget
from compress_cli.auto.request import Request, duration
from compress_cli.auto.students import Candidate, Room, Sized
from compress_cli.auto.subject import Subject
from compress_cli.auto.training_settings import AWARE_RATE, EPOCHS_AN_AWARE, TrainingSettings
from compress_cli.auto.workshop import Workshop, training_facts
from compress_cli.data.signature import Signature
from compress_cli.errors import RecipeError

COMPARED = 0.25  # of the time, for short trainings that choose among candidates
BRIEF = 6  # epochs of such a training, at most
LEAST = 2  # epochs of one: what fewer would tell is not worth what they cost
LOSES = 0.3  # of the drop that is promised: where integers alone cost more, training goes through them
SAFE = 0.25  # of the drop that is promised: a format that costs no more is taken although val can't be certain of it
LOOKING = 0.3  # of the time: no further candidate is sized then, where one fits
RESERVE = 0.03  # of the time, which nothing is planned into
PLANNED = 0.9  # of what is left is planned for by the recipe's `within`


class Decider:
    """Measures what is cheapest first, and stops where the promises hold."""

    def __init__(self, request: Request, subject: Subject, given: Given, shop: Workshop, journal: Journal):
        self.request, self.subject, self.given = request, subject, given
        self.shop, self.journal = shop, journal
        self.signature: Signature = request.dataset.signature()
        self.training = TrainingSettings.of(subject, self.signature, len(request.dataset.split("train")), request.task)

    def decide(self) -> Decision:
        given = self.given
        decision = Decision(given, promises.budget(self.request.goals, self.request.task, given.report))
        quantisable = formats.choices(
            self.request, decision.budget, self.subject.trainable, _multiplies(self.signature, given.file)
        )
        for choice in quantisable:
            if decision.holds and choice.name != "int8":
                continue
            figures = formats.measured(self.shop, self.journal, choice, given.stage, given.file)
            decision.tried.append(figures)
            decision.alone = figures if choice.name == "int8" else decision.alone
            if figures.holds and not decision.holds:
                decision.fmt, decision.holds = choice, True
        if decision.holds:
            return decision
        by_name = {choice.name: choice for choice in quantisable}
        likely = next((one for one in decision.tried if self._likely(one, decision.budget)), None)
        if likely is not None:
            decision.fmt, decision.undecided = by_name[likely.name], True
            return decision
        if not self._can_train():
            decision.why_nothing = self._cannot()
        elif self._train(decision, quantisable):
            return decision
        decision.fmt = by_name[formats.nearest(decision.tried).name]
        return decision

    def _can_train(self) -> bool:
        return self.subject.trainable or bool(self.request.students)

    def _cannot(self) -> str:
        return (
            "an ONNX file alone can't be trained: give the weights with their architecture (--model), or name a student that "
            "learns from it (--student '{type: convnet}')"
        )

    def _train(self, decision: Decision, known: Sequence[Format]) -> bool:
        """Choose a candidate and its format; False where there is none to be had."""
        int8, alone = next(choice for choice in known if choice.name == formats.INT8), decision.alone
        if self.subject.trainable and alone and not alone.problem and _aware(int8) and not self._shrinks(decision, alone):
            return self._only_integers(decision, int8)
        shipped = formats.trained_in(known)
        names = [choice.name for choice in shipped]
        space = students.room(decision.budget, self.given.bytes, [one for one in decision.tried if one.name in names])
        fitting: list[Sized] = []
        for candidate in students.candidates(self.subject, self.signature, self.given.size, self.request.students):
            if fitting and not self.journal.remember(f"time for {candidate.name}", partial(self._time_to_look, fitting)):
                decision.skipped.append(candidate.name)
                continue
            tried = students.sized(self.shop, self.journal, candidate, space, self.given, shipped, self.training)
            decision.sizes += tried
            fitting += [tried[-1]] if tried[-1].fits else []
        entrants = fitting or _nearest(decision.sizes, space)
        if not entrants:
            decision.why_nothing = "no smaller architecture and no cut of this model could be made: " + "; ".join(
                f"{one.name}: {one.problem}" for one in decision.sizes if one.problem
            )
            return False
        self._compare(decision, entrants, {choice.name: choice for choice in shipped})
        return True

    def _shrinks(self, decision: Decision, fmt: Measured) -> bool:
        """Whether size or speed ask for more than a format."""
        return students.room(decision.budget, self.given.bytes, [fmt]).shrinks

    def _time_to_look(self, fitting: Sequence[Sized]) -> bool:
        """Whether a further candidate could still be sized, and then compared with those that fit."""
        early = self.journal.spent_s < LOOKING * self.request.within_s
        return early and min(_brief(one, len(fitting) + 1, self.left_s) for one in fitting) >= LEAST

    @property
    def left_s(self) -> float:
        """What remains of the time, but for a reserve."""
        return (1 - RESERVE) * self.request.within_s - self.journal.spent_s

    def _compare(self, decision: Decision, entrants: list[Sized], shipped: Mapping[str, Format]) -> None:
        """Train the candidates for a short while, each as long, and take the best on val."""
        left = float(self.journal.remember("left after sizes", lambda: self.left_s))
        self._check_time(entrants, left)
        entrants = self._in_time(decision, entrants, left)
        winner = entrants[0]
        if decision.brief:
            for one in entrants:
                decision.compared[one.name] = self._short(one, decision.brief[one.name], shipped[one.fmt])
            winner = max(entrants, key=lambda one: self._rank(decision.compared[one.name]))
            decision.tried += decision.compared.values()
        decision.chosen, decision.fmt, decision.training = winner, shipped[winner.fmt], self.training
        decision.left_s = float(self.journal.remember("left", lambda: self.left_s))
        epochs = (PLANNED * decision.left_s - winner.rehearsal.other_s) / max(winner.rehearsal.epoch_s, 1e-9)
        decision.aware = _aware(decision.fmt) and self._costs(decision, winner) and epochs >= 2 * EPOCHS_AN_AWARE

    def _in_time(self, decision: Decision, entrants: list[Sized], left: float) -> list[Sized]:
        """As many of the candidates as can be trained for some epochs in their share of the time; and for how many each."""
        for count in range(len(entrants), 1, -1):
            each = {one.name: _brief(one, count, left) for one in entrants[:count]}
            if min(each.values()) >= LEAST:
                decision.brief = {name: min(BRIEF, int(epochs)) for name, epochs in each.items()}
                decision.skipped += [one.name for one in entrants[count:]]
                return entrants[:count]
        return entrants

    def _check_time(self, entrants: Sequence[Sized], left: float) -> None:
        """RecipeError where not one epoch of any candidate fits."""
        least = min(one.rehearsal.epoch_s + one.rehearsal.table_s + one.rehearsal.other_s for one in entrants) / PLANNED
        if least > left:
            needed = 1.2 * (least + self.request.within_s - left)
            raise RecipeError(
                f"--within {duration(self.request.within_s)}: is too short for one epoch: with what is measured beside it that "
                f"takes {duration(least)} here, and {duration(max(0.0, left))} remain after the candidates were tried; give at "
                f"least {duration(needed)}, or promise less: what needs no training takes a minute"
            )

    def _rank(self, figures: Measured) -> tuple[int, float]:
        """Fewest goals missed of those that no training changes, then the better metric."""
        metrics = {self.request.task.primary, *self.request.task.metrics}
        fixed = [goal for goal in figures.missed if promises.changed_metric(goal.promise) not in metrics]
        sign = 1 if self.request.task.better == "higher" else -1
        return -len(fixed), sign * figures.metric

    def _likely(self, one: Measured, budget: Budget) -> bool:
        """Whether all is kept but for a metric of which val is not certain, and by its value the loss is far below what is
        promised: training would make val no larger."""
        metrics = {self.request.task.primary, *self.request.task.metrics}
        doubtful = [goal for goal in one.goals if goal.outcome != "met"]
        about = all(goal.outcome == "undecided" and promises.changed_metric(goal.promise) in metrics for goal in doubtful)
        return not one.problem and about and budget.drop is not None and one.drop <= SAFE * budget.drop

    def _short(self, one: Sized, epochs: int, shipped: Format) -> Measured:
        """A candidate after a short training, in the format that it would ship in, on val."""
        stage = self.training.stage(one.name, one.stage, one.rate, epochs)

        def work() -> dict[str, Any]:
            made = self.shop.make(f"short_{one.name}", [self.given.stage, stage, *shipped.stages(one.name)])
            known = formats.figures(one.name, self.shop.judged(made["onnx"].file("model.onnx"), self.given.file))
            return {"figures": known, "float": _best(training_facts(made.values()), self.request.task.primary)}

        return Measured.of(self.journal.remember(f"short {one.name}", work)["figures"])

    def _costs(self, decision: Decision, winner: Sized) -> bool:
        """Whether integers alone cost much of the drop that is promised: of the winner, or else of the given model."""
        allowed, alone = decision.budget.drop, decision.alone
        if allowed is None:
            return False
        answer = self.journal.answers.get(f"short {winner.name}")
        sign = 1 if self.request.task.better == "higher" else -1
        if answer and answer["float"] is not None:
            return bool(sign * (answer["float"] - answer["figures"]["metric"]) > LOSES * max(0.0, allowed))
        return alone is not None and alone.drop > LOSES * max(0.0, allowed)

    def _only_integers(self, decision: Decision, int8: Format) -> bool:
        """Size and speed are kept by integers alone: train the given model through them."""
        stage: dict[str, Any] = {"type": "quantize_aware", "start": "given", "teacher": "given"}
        if int8.quantizer is not None and dict(int8.quantizer) != {"type": "static_int8"}:
            stage["quantizer"] = dict(int8.quantizer)
        candidate = Candidate(formats.INT8, lambda parameters, macs: stage, "The given model, trained in integers", AWARE_RATE)
        space, export = Room(1e18, 0.0, 1.0, 1.0), Format("trained", None, 4.0, True, "")
        tried = students.sized(self.shop, self.journal, candidate, space, self.given, [export], self.training)
        decision.sizes += tried
        if tried[-1].problem:
            decision.why_nothing = tried[-1].problem
            return False
        decision.whole = True
        self._compare(decision, [tried[-1]], {export.name: export})
        return True


def _brief(one: Sized, count: int, left: float) -> float:
    """Epochs that a candidate can be trained for, in its share of the time for so many."""
    each = (COMPARED * left - one.rehearsal.table_s) / count
    return (each - one.rehearsal.other_s) / max(one.rehearsal.epoch_s, 1e-9)


def _nearest(sizes: Sequence[Sized], space: Room) -> list[Sized]:
    """Where no file keeps size and speed: the nearest size of each candidate, of those candidates that come nearest."""
    best: dict[str, Sized] = {}
    for one in (one for one in sizes if not one.problem):
        known = best.get(one.name)
        if known is None or _nearness(one, space) > _nearness(known, space):
            best[one.name] = one
    steps = {name: tuple(map(round, _nearness(one, space))) for name, one in best.items()}
    return [one for name, one in best.items() if steps[name] == max(steps.values())]


def _nearness(one: Sized, space: Room) -> tuple[bool, float]:
    """Bytes are kept or not, whoever measures; then speed, in steps of a tenth; of equals the larger."""
    speed = min(1.0, one.file.speedup / space.speedup) if space.speedup else 1.0
    small = min(1.0, space.bytes / one.file.size_bytes)
    return small >= 1, round(10 * speed * small) + 1e-9 * one.file.size_bytes


def _aware(final: Format | None) -> bool:
    return final is not None and final.quantizer is not None and final.quantizer.get("type") == "static_int8"


def _best(facts: Mapping[str, Any], primary: str) -> float | None:
    """The metric on val of the epoch that a training kept."""
    values = [epoch.get(primary) for epoch in facts["epochs"] if epoch["epoch"] == facts["kept_epoch"]]
    return values[0] if values else None


def _multiplies(signature: Signature, file: Path) -> bool:
    """Whether most of a file's layers are matrix products and recurrences, whose ranges are better found while running."""
    from collections import Counter

    from compress_cli.onnx_graph import files

    kinds = Counter(files.operators(files.load(file)))
    dynamic = sum(kinds.get(name, 0) for name in ("MatMul", "LSTM", "GRU", "RNN", "Gather", "Attention"))
    return dynamic > sum(kinds.get(name, 0) for name in ("Conv", "Gemm"))
