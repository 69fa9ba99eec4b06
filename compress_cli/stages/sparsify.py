"""Single weights become zero for good, and the sparse model is trained further."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from compress_cli.context import Context
from compress_cli.distillation.combinations import Combination
from compress_cli.distillation.combinations.mean import Mean
from compress_cli.errors import RecipeError
from compress_cli.losses import Loss
from compress_cli.networks import features, restore
from compress_cli.networks.edits import constraints
from compress_cli.networks.edits.mask import Mask, masked, masks_of
from compress_cli.networks.restore import Restored
from compress_cli.progress import Progress
from compress_cli.pruning import weights as selection
from compress_cli.pruning.saliencies import Saliency
from compress_cli.pruning.saliencies.magnitude import Magnitude
from compress_cli.settings import Many
from compress_cli.stages import Role, Stage, _saliency, _sparsity
from compress_cli.stages._rounds import Rounds
from compress_cli.stages._sparsity import Gradual, NofM, Ratio, Targets
from compress_cli.stages._teaching import Names, Teaching
from compress_cli.stages._weight_masks import WeightMasks
from compress_cli.store.artifact import Artifact, Checkpoint, OnnxModel, Program, Table
from compress_cli.training import loader, loop
from compress_cli.training.attachment import Attach
from compress_cli.training.config import TrainingConfig
from compress_cli.training.sparsification import Share


class Sparsify(Stage):
    """Mask single weights, which stay zero in all later stages, and train the others further.

    Weights of convolutions and linear layers are masked; biases, normalisations and embeddings never are. Masked at once; in
    rounds of masking and training (Han et al. 2015, arXiv:1506.02626), each of which may rewind the weights to an earlier
    epoch (Frankle & Carbin 2019, arXiv:1803.03635; Frankle et al. 2019, arXiv:1903.01611); or gradually while training (Zhu &
    Gupta 2017, arXiv:1710.01878). The best epoch is chosen among those at the final sparsity.

        - {type: sparsify, start: teacher, ratio: 0.9, scope: global, gradual: {end: 8}, training: {epochs: 12}}
    """

    consumes: ClassVar[dict[str, Role]] = {
        "start": Role((Checkpoint,)),
        "teacher": Role((Checkpoint, Program, OnnxModel, Table), previous=False, optional=True, many=True),
        "rewind": Role((Checkpoint,), previous=False, optional=True),
    }
    shared: ClassVar[dict[str, int]] = {
        "weights": selection.VERSION, "training": loop.VERSION, "loader": loader.VERSION, "features": features.VERSION
    }  # fmt: skip
    long: ClassVar[bool] = True

    start: str | None = Field(None, description="stage whose result is masked; default: the one before")
    ratio: float | None = Field(None, gt=0, lt=1, description="share of weights that are masked")
    scope: Literal["layer", "global"] = Field(
        "layer", description="whether each layer loses that share, or all layers together, those weights that score lowest"
    )
    layers: dict[str, Ratio] = Field(
        {},
        description="ratios of layers by name, with * for any part of a name: {'layer1*': 0.5, fc: 0.9}; where several match, "
        "the last one counts; other layers have 'ratio', or stay dense without it",
    )
    threshold: float | None = Field(None, gt=0, description="instead: weights with an absolute value up to this are masked")
    n_of_m: NofM | None = Field(
        None, description="instead: {n: 2, m: 4} keeps 2 of every 4 weights; a layer whose inputs m does not divide stays dense"
    )
    criterion: Saliency = Field(Magnitude(), description="which weights are masked first: those that score lowest")
    ignore: Many[str] = Field((), description="layers that stay dense; a name covers the layers inside it")
    gradual: Gradual | None = Field(None, description="mask gradually while training; default: before it")
    rounds: int = Field(
        1,
        ge=1,
        le=1000,
        description="mask and train so many times; each round masks the same share of the weights that the one before left",
    )
    rewind: str | None = Field(None, description="stage whose training kept an epoch, to whose weights each training goes back")
    rewind_epoch: int | None = Field(None, ge=0, description="that epoch; it is among its training.keep_epochs")
    score: Literal["trained", "rewound"] = Field(
        "trained", description="which weights are scored where the model is rewound: those before that, or those after"
    )
    training: TrainingConfig | None = Field(None, description="training of the sparse model; default: none")
    teacher: Names = Field((), description="the stage to learn from in that training, or a list of several; default: none")
    losses: Many[Loss] = Field((), description="for that training; default: hard labels, with a teacher its soft targets too")
    combine: Combination = Field(Mean(), description="how losses that name no teacher learn from several, as in distill")
    teacher_cache: bool = Field(False, description="read the teacher's outputs from a table that is made once, as in distill")

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        targets = {"ratio": self.ratio is not None or bool(self.layers), "threshold": self.threshold, "n_of_m": self.n_of_m}
        if sum(target not in (None, False) for target in targets.values()) != 1:
            raise ValueError(
                "give one target: 'ratio' (and 'layers' for ratios by layer), or 'threshold', or 'n_of_m' such as {n: 2, m: 4}"
            )
        _sparsity.check(self)
        if self.threshold and not isinstance(self.criterion, Magnitude):
            raise ValueError("threshold compares absolute values: leave out the criterion, or give a ratio")
        return self

    @model_validator(mode="after")
    def _one_schedule(self) -> Self:
        if self.criterion.reads == "training" and not self.gradual:
            raise ValueError(f"criterion {self.criterion.type} scores weights while they are trained: add gradual and training")
        steady = "gradual" if self.gradual else "rounds" if self.rounds > 1 else ""
        if steady and (self.threshold or self.n_of_m):
            raise ValueError(f"'{steady}' raises a ratio step by step; 'threshold' and 'n_of_m' are met at once")
        if self.gradual and (self.rounds > 1 or self.rewind):
            raise ValueError("'gradual' masks within one training; it does not go with 'rounds' and 'rewind'")
        unused = [name for name in ("gradual", "teacher", "losses", "teacher_cache") if getattr(self, name)]
        if self.training is None and (unused or self.rounds > 1):
            raise ValueError(
                f"'{[*unused, 'rounds'][0]}' does nothing without 'training': add a training block, or take it out"
            )
        if self.gradual and self.training:
            _sparsity.check_end(self.gradual, self.training.epochs)
        if self.rounds > 1 and self.training and self.training.keep_epochs:
            raise ValueError("keep_epochs: in several rounds it is not clear whose; keep those of the stage that is rewound to")
        return self

    @model_validator(mode="after")
    def _one_epoch_to_rewind_to(self) -> Self:
        if (self.rewind is None) != (self.rewind_epoch is None):
            raise ValueError("'rewind' names a stage and 'rewind_epoch' an epoch that it kept: give both, or neither")
        if self.score == "rewound" and (not self.rewind or self.rounds > 1):
            raise ValueError("score: rewound scores the weights of 'rewind' once; give 'rewind', and no rounds")
        if self.score == "rewound" and self.criterion.reads != "weights" and self.criterion.batch == 1:
            raise ValueError(
                f"score: rewound normalises by each batch, as in training, and criterion {self.criterion.type} reads one "
                "sample at a time; score the trained weights, or take another criterion, such as snip"
            )
        return self

    @model_validator(mode="after")
    def _teachers(self) -> Self:
        self._teaching.check_optional()
        return self

    @property
    def _teaching(self) -> Teaching:
        return Teaching.of(self, self.training)

    def check_sources(self, sources: dict[str, tuple[Stage, ...]]) -> None:
        for stage in sources.get("start", ()):
            if isinstance(stage, Sparsify) and self._is_denser_than(stage):
                raise RecipeError(
                    f"ratio: '{stage.name or stage.type}' masks {stage.ratio:g} of the weights already; ask for more than that"
                )
        for stage in sources.get("rewind", ()):
            training = getattr(stage, "training", None)
            kept = training.keep_epochs if isinstance(training, TrainingConfig) else ()
            if self.rewind_epoch not in kept:
                present = f"keeps {', '.join(map(str, kept))}" if kept else "keeps none"
                raise RecipeError(
                    f"rewind_epoch: the training of '{self.rewind}' {present}; set keep_epochs: [{self.rewind_epoch}] there"
                )

    def _is_denser_than(self, earlier: Sparsify) -> bool:
        """Whether it asks for less of the same layers than an earlier stage has masked."""
        alike = self.scope == earlier.scope and not (self.layers or earlier.layers) and self.ignore == earlier.ignore
        return alike and self.ratio is not None and earlier.ratio is not None and self.ratio < earlier.ratio

    def demands(self) -> str:
        return "" if self.ignore or self.layers or self.n_of_m else "masks single weights of every layer"

    @property
    def distributed(self) -> bool:
        return self.training is not None

    def produces(self, kinds: dict[str, tuple[type[Artifact], ...]]) -> type[Artifact]:
        self._teaching.check_layers(kinds.get("teacher", ()))
        return Checkpoint

    def needs(self) -> dict[str, Stage]:
        """A table of each teacher's outputs, where they are stored."""
        return self._teaching.tables()

    def depends(self) -> dict[str, Any]:
        return self._teaching.named()

    def run(self, context: Context) -> dict[str, Any]:
        restored = restore.checkpoint(context.inputs["start"][0])
        targets = Targets.of(
            restored.network.body, self.ratio, self.scope, self.layers, self.threshold, self.n_of_m, self.ignore
        )
        if context.limit is None:  # random weights of a smoke run are not as sparse by a threshold as trained ones
            targets.check(masks_of(restored.network.edits))
        facts: dict[str, Any] = {}
        if self.training is None:
            self._mask(restored, targets, context)
        elif self.gradual is not None:
            growing = WeightMasks(targets, self.criterion, self.gradual, restored.network, context)
            facts = self._train(restored, self.training, context, [growing.attach])
        else:
            facts = self._in_rounds(restored, targets, self.training, context)
        restore.save(restored, context.output)
        masks = masks_of(restored.network.edits)
        if not targets.sparsity(masks) and not context.limit:
            raise RecipeError("no weight is masked: give a larger ratio or threshold")
        notes = [*facts.pop("notes", []), *targets.notes(masks)]
        for note in notes:
            context.log(Progress("sparsify", 1, 1, note=note))
        return {**facts, **targets.facts(masks), **({"notes": notes} if notes else {})}

    def _mask(self, restored: Restored, targets: Targets, context: Context, share: Share = lambda final: final) -> None:
        """Mask weights at once, and rewind the others where that is asked for."""
        network, rewound = restored.network, self.score == "rewound"
        if rewound:
            self._rewind(restored, context)
        scores = _saliency.scores(self.criterion, targets.weights, network, context, untrained=rewound)
        masks = masks_of(network.edits)
        scores = {
            name: score.masked_fill(~masks[name], -math.inf) if name in masks else score for name, score in scores.items()
        }
        network.edits = masked(network.edits, Mask.of(targets.select(scores, share)))
        constraints(network.body, network.edits)
        if not rewound:
            self._rewind(restored, context)

    def _rewind(self, restored: Restored, context: Context) -> None:
        if self.rewind_epoch is not None:
            restore.rewind(restored, context.inputs["rewind"][0], self.rewind_epoch)

    def _in_rounds(self, restored: Restored, targets: Targets, training: TrainingConfig, context: Context) -> dict[str, Any]:
        """Mask, rewind and train, again and again; the facts of the last round, with the curves of all of them."""
        network, rounds, total = restored.network, Rounds(context), 1 if context.limit else self.rounds
        before = targets.sparsity(masks_of(network.edits))
        for number in range(rounds.first, total + 1):
            if rounds.interrupted(number):
                shapes = {name: tuple(network.body.get_parameter(name).shape) for name in rounds.arrays}
                network.edits = masked(network.edits, Mask(shapes=shapes).with_arrays(rounds.arrays))
                constraints(network.body, network.edits)
                self._rewind(restored, context)
            else:
                self._mask(restored, targets, context, _share_of_round(number / total, before))
            if total > 1:
                note = f"round {number} of {total}, at a sparsity of {targets.sparsity(masks_of(network.edits)):.3f}"
                context.log(Progress("sparsify", number, total, note=note))
            bits = next(edit for edit in network.edits if isinstance(edit, Mask)).arrays()
            facts = self._train(restored, training, rounds.context_of(number, bits))
            rounds.results.append({**facts, "sparsity": targets.sparsity(masks_of(network.edits))})
        if context.limit:  # for the estimate
            rounds.results[0]["planned_steps"] *= self.rounds
        return _summary(rounds.results) if total > 1 else rounds.results[0]

    def _train(
        self, restored: Restored, training: TrainingConfig, context: Context, attach: Sequence[Attach] = ()
    ) -> dict[str, Any]:
        return self._teaching.fit(restored.network, training, context, attach)


def _share_of_round(done: float, before: float) -> Share:
    """The ratio after this share of the rounds: each masks the same share of the weights that the one before left."""
    return lambda final: 1 - (1 - before) * ((1 - final) / (1 - before)) ** done if final > before else final


def _summary(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """The last round's facts, with the epochs of all rounds counted through."""
    epochs: list[dict[str, float]] = []
    for facts in rounds:
        epochs += [{**figures, "epoch": len(epochs) + number} for number, figures in enumerate(facts["epochs"], 1)]
    before = sum(len(facts["epochs"]) for facts in rounds[:-1])
    notes = dict.fromkeys(note for facts in rounds for note in facts.get("notes", []))
    return {
        **rounds[-1],
        "epochs": epochs,
        "kept_epoch": before + rounds[-1]["kept_epoch"],
        "rounds": [{"sparsity": facts["sparsity"], **facts["epochs"][facts["kept_epoch"] - 1]} for facts in rounds],
        "notes": list(notes),
    }
