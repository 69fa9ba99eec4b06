"""From measurements to a recipe: the cheapest way that keeps the promises on val, or the nearest one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from compress_cli.auto import formats, promises, schedule, students
from compress_cli.auto.decision import Decision, Given
from compress_cli.auto.formats import Format, Measured
from compress_cli.auto.journal import Journal
from compress_cli.auto.promises import Budget
from compress_cli.auto.request import Request
from compress_cli.auto.schedule import Rates, Schedule
from compress_cli.auto.students import Room, Sized
from compress_cli.auto.subject import Subject
from compress_cli.auto.workshop import Rehearsal, Workshop, training_facts
from compress_cli.data.signature import Signature

COMPARED = 0.2  # of the time, for short trainings that choose among candidates
BRIEF = 4  # epochs of such a training, at most
LOSES = 0.3  # of the drop that is promised: where integers alone cost more, training goes through them
SAFE = 0.25  # of the drop that is promised: a format that costs no more is taken although val can't be certain of it
FINE = 0.2  # of the learning rate from scratch, for a model that was cut
AWARE_RATE = 0.05  # of it, for training in integers
LOOKING = 0.35  # of the time: no further candidate is sized then, where one fits


class Decider:
    """Measures what is cheapest first, and stops where the promises hold."""

    def __init__(self, request: Request, subject: Subject, given: Given, shop: Workshop, journal: Journal):
        self.request, self.subject, self.given = request, subject, given
        self.shop, self.journal = shop, journal
        self.signature: Signature = request.dataset.signature()
        self.training = schedule.training(subject, self.signature)

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
        elif self._train(decision, by_name):
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

    def _train(self, decision: Decision, by_name: Mapping[str, Format]) -> bool:
        """Choose a candidate and its training; False where there is none to be had."""
        final, alone = self._format(decision, by_name)
        budget, given = decision.budget, self.given
        smaller = given.bytes / alone.size_bytes if alone.size_bytes else 1.0
        space = students.room(budget, given.size, given.bytes, smaller, alone.speedup or 1.0)
        teacher = self.journal.remember("teacher seconds", lambda: schedule.teacher_s(given.artifact, self.request))
        decision.fmt = final
        if not space.shrinks and self.subject.trainable and _aware(final):
            return self._only_integers(decision, teacher)
        fitting: list[Sized] = []
        for candidate in students.candidates(self.subject, self.signature, given.size, self.request.students):
            if fitting and not self.journal.remember(f"time for {candidate.name}", self._time_to_look):
                decision.skipped.append(candidate.name)
                continue
            tried = students.sized(
                self.shop, self.journal, candidate, space, given.stage, given.file, final, self._lesson(candidate.fresh)
            )
            decision.sizes += tried
            fitting += [tried[-1]] if not tried[-1].problem and tried[-1].fits else []
        entrants = fitting or self._nearest(decision.sizes, space)
        if not entrants:
            decision.why_nothing = "no smaller architecture and no cut of this model could be made: " + "; ".join(
                f"{one.name}: {one.problem}" for one in decision.sizes if one.problem
            )
            return False
        return self._compare(decision, entrants, teacher)

    def _format(self, decision: Decision, by_name: Mapping[str, Format]) -> tuple[Format, Measured]:
        """The number format of what ships: integers where they are faster or smaller here, else float."""
        alone = decision.alone
        if alone is not None and not alone.problem and (alone.speedup > 1 or decision.budget.bytes_share < 1):
            return by_name["int8"], alone
        return by_name["float"], next(one for one in decision.tried if one.name == "float")

    def _lesson(self, fresh: bool) -> dict[str, Any]:
        if fresh:
            return dict(self.training)
        return {**self.training, "optimizer": schedule.optimizer(self.training, FINE)}

    def _nearest(self, sizes: Sequence[Sized], space: Room) -> list[Sized]:
        """Where no file keeps size and speed: the nearest size of each candidate, of those candidates that come nearest."""
        best: dict[str, Sized] = {}
        for one in (one for one in sizes if not one.problem):
            known = best.get(one.name)
            if known is None or _nearness(one, space) > _nearness(known, space):
                best[one.name] = one
        steps = {name: tuple(map(round, _nearness(one, space))) for name, one in best.items()}
        return [one for name, one in best.items() if steps[name] == max(steps.values())]

    def _rates(self, rehearsal: Rehearsal, teacher: float) -> Rates:
        train, val = (len(self.request.dataset.split(name)) for name in ("train", "val"))
        return Rates(train, val, 1 / (rehearsal.samples_per_s or 1.0), teacher)

    def _time_to_look(self) -> bool:
        return self.journal.spent_s < LOOKING * self.request.within_s

    @property
    def chain_s(self) -> float:
        """What a chain takes besides its training: writing files, timing them. The longest counts, for this machine is busy."""
        return max((took for name, took in self.journal.took_s.items() if name.startswith("size ")), default=0.0)

    @property
    def left_s(self) -> float:
        """What remains for training, after what was spent and what the rehearsal and the measurements of the run take."""
        split = self.request.dataset.split
        judged = max((took for name, took in self.journal.took_s.items() if name.startswith("format")), default=0.0)
        measuring = judged * max(1.0, len(split("test")) / max(1, len(split("val"))))
        return self.request.within_s - self.journal.spent_s - min(measuring + 2 * self.chain_s, 0.4 * self.request.within_s)

    def _compare(self, decision: Decision, entrants: list[Sized], teacher: float) -> bool:
        """Train the candidates for a short while, each as long, and take the best on val."""
        left = float(self.journal.remember("left after sizes", lambda: self.left_s))
        rates = {one.name: self._rates(one.rehearsal, teacher) for one in entrants}
        quickest = min(rates.values(), key=lambda known: known.epoch_s)
        if not schedule.fitted(quickest, left, True, False, False):
            raise schedule.too_short(self.request, quickest, left)
        each = COMPARED * left / max(1, len(entrants)) - float(self.journal.remember("chain seconds", lambda: self.chain_s))
        brief = {one.name: min(BRIEF, max(0, int(each / rates[one.name].epoch_s))) for one in entrants}
        winner = entrants[0]
        if len(entrants) > 1 and all(brief.values()):
            decision.brief = max(brief.values())
            for one in entrants:
                decision.compared[one.name] = self._short(one, brief[one.name], decision)
            winner = max(entrants, key=lambda one: self._rank(decision.compared[one.name]))
            decision.tried += decision.compared.values()
        decision.chosen, decision.lesson, decision.scratch = winner, self._lesson(winner.fresh), self.training
        measured = self.journal.answers.get(f"rate {winner.name}")
        known = rates[winner.name]
        decision.rates = Rates(known.train, known.val, 1 / measured, teacher) if measured else known
        aware = _aware(decision.fmt) and self._costs(decision, winner)
        remaining = float(self.journal.remember("left", lambda: self.left_s))
        augmented = bool(self.training.get("augment"))
        decision.plan = schedule.fitted(decision.rates, remaining, winner.fresh, aware, augmented)
        if decision.plan is None and aware:
            decision.plan = schedule.fitted(decision.rates, remaining, winner.fresh, False, augmented)
        if decision.plan is None and decision.brief:  # the short training is there already, and has to do
            decision.plan = Schedule(brief[winner.name], 0, False, 1, brief[winner.name] * decision.rates.epoch_s)
        if decision.plan is None:
            raise schedule.too_short(self.request, decision.rates, remaining)
        return True

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

    def _short(self, one: Sized, epochs: int, decision: Decision) -> Measured:
        """A candidate after a short training, in integers, on val."""
        assert decision.fmt is not None
        stage = students.trained(one.name, one.stage, {**self._lesson(one.fresh), "epochs": epochs})
        final = decision.fmt

        def work() -> dict[str, Any]:
            made = self.shop.make(f"short_{one.name}", [self.given.stage, stage, *final.stages(one.name)])
            facts = training_facts(made.values())
            known = formats.figures(one.name, self.shop.judged(made["onnx"].file("model.onnx"), self.given.file))
            return {"figures": known, "rate": facts["samples_per_s"], "float": _best(facts, self.request.task.primary)}

        answer = self.journal.remember(f"short {one.name}", work)
        self.journal.remember(f"rate {one.name}", lambda: answer["rate"])
        return Measured.of(answer["figures"])

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

    def _only_integers(self, decision: Decision, teacher: float) -> bool:
        """Size and speed are kept by integers alone: train the given model through them."""
        stage = {"type": "quantize_aware", "start": "given", "teacher": "given"}
        lesson = {**self.training, "optimizer": schedule.optimizer(self.training, AWARE_RATE)}
        assert decision.fmt is not None
        quantizer = decision.fmt.quantizer
        if quantizer is not None and dict(quantizer) != {"type": "static_int8"}:
            stage["quantizer"] = dict(quantizer)  # type: ignore[assignment]
        candidate = students.Candidate("int8", lambda parameters, macs: stage, "The given model, trained in integers", False)
        space = Room(1e18, 0.0, self.given.size, 1.0, 1.0)
        export = Format("onnx", None, 4.0, True, "")
        tried = students.sized(self.shop, self.journal, candidate, space, self.given.stage, self.given.file, export, lesson)
        decision.sizes += tried
        if tried[-1].problem:
            decision.why_nothing = tried[-1].problem
            return False
        decision.fmt = export
        return self._compare(decision, [tried[-1]], teacher)


def _nearness(one: Sized, space: Room) -> tuple[bool, float]:
    """Bytes are kept or not, whoever measures; then speed, in steps of a tenth; of equals the larger."""
    speed = min(1.0, one.rehearsal.speedup / space.speedup) if space.speedup else 1.0
    small = min(1.0, space.bytes / one.rehearsal.size_bytes)
    return small >= 1, round(10 * speed * small) + 1e-9 * one.rehearsal.size_bytes


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
