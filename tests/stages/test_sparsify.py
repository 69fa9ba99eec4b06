"""`sparsify`: single weights become zero, by every target and schedule, and stay so."""

import json

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from compress_cli.errors import RecipeError, StageError
from compress_cli.networks import restore
from compress_cli.networks.edits.mask import masks_of
from compress_cli.networks.models.convnet import Convnet
from compress_cli.networks.models.mlp import Mlp
from compress_cli.plugin import names
from compress_cli.pruning import weights as selection
from compress_cli.pruning.saliencies import Saliency
from compress_cli.stages import Stage
from compress_cli.stages.sparsify import Sparsify
from compress_cli.store.artifact import Checkpoint, Draft, Table
from compress_cli.store.saves import Saves, Saving

pytestmark = pytest.mark.usefixtures("one_thread")

CONVNET = Convnet(widths=(8, 8), convs=1)
TRAINING = {"epochs": 2, "batch": 20, "precision": "float32"}


@pytest.fixture
def start(toy, tmp_path):
    """start(model, dataset): a checkpoint of fresh weights that kept its epoch 0."""

    def _start(model=CONVNET, dataset=None):
        folder = tmp_path / f"start{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        restored = restore.build(model, (dataset or toy()).signature(), 3)
        restore.save(restored, folder)
        restore.save_epoch(restore.build(model, (dataset or toy()).signature(), 4).network.state_dict(), 0, folder)
        return Draft(Checkpoint, folder.name, {}).commit(folder)

    return _start


@pytest.fixture
def sparsify(toy, context_for, perform, start):
    """sparsify(ratio=0.5, ...) -> network before, network after, facts."""

    def _sparsify(model=CONVNET, source=None, context=None, inputs=None, **settings):
        source = source or start(model)
        stage = Stage.model_validate({"type": "sparsify", **settings})
        roles = {"start": (source,), **({"rewind": (source,)} if stage.rewind else {}), **(inputs or {})}
        result = perform(stage, context_for(toy(), inputs=roles, **(context or {})))
        before, after = (restore.checkpoint(artifact).network for artifact in (source, result))
        return before, after, result.manifest.facts

    return _sparsify


def weights(network):
    return {name: weight.detach() for name, weight in selection.prunable(network.body).items()}


def zeros(network):
    return {name: int((weight == 0).sum()) for name, weight in weights(network).items()}


def assert_others_untouched(before, after):
    """Biases and normalisations are what they were, where nothing was trained."""
    masked = {f"body.{name}" for name in weights(after)}
    state = after.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in before.state_dict().items() if name not in masked)


def test_a_ratio_of_each_layer_takes_its_smallest_weights(sparsify):
    before, after, facts = sparsify(ratio=0.75)
    for name, weight in weights(before).items():
        removed = round(0.75 * weight.numel())
        limit = np.sort(np.abs(weight.numpy()).ravel())[removed - 1]
        assert torch.equal(weights(after)[name], torch.where(weight.abs() <= limit, 0.0, weight)), name
        assert facts["layers"][name] == [weight.numel(), weight.numel() - removed]
    assert_others_untouched(before, after)
    assert facts["sparsity"] == pytest.approx(0.75, abs=0.01)


def test_a_global_ratio_compares_all_layers(sparsify):
    before, after, facts = sparsify(ratio=0.6, scope="global")
    joined = np.concatenate([np.abs(weight.numpy()).ravel() for weight in weights(before).values()])
    limit = np.sort(joined)[round(0.6 * len(joined)) - 1]
    for name, weight in weights(before).items():
        assert torch.equal(weights(after)[name] == 0, weight.abs() <= limit)
    assert facts["weights"] == [len(joined), len(joined) - round(0.6 * len(joined))]
    assert len(set(zeros(after).values())) > 1


def test_a_threshold_takes_weights_up_to_it(sparsify):
    before, after, _ = sparsify(threshold=0.05)
    assert all(torch.equal(weights(after)[name] == 0, weight.abs() <= 0.05) for name, weight in weights(before).items())
    with pytest.raises(RecipeError, match="no weight is masked"):
        sparsify(threshold=1e-12)


@pytest.mark.parametrize(("n", "m"), [(2, 4), (4, 8), (1, 2)])
def test_of_every_m_inputs_the_n_largest_remain(sparsify, n, m):
    before, after, facts = sparsify(n_of_m={"n": n, "m": m})
    name = "layer2.0.weight"  # 8 filters x 8 inputs x 3 x 3
    old, new = weights(before)[name].numpy(), weights(after)[name].numpy()
    for place in np.ndindex(8, 3, 3):
        for block in range(0, 8, m):
            inputs = slice(block, block + m)
            row, kept = old[place[0], inputs, place[1], place[2]], new[place[0], inputs, place[1], place[2]]
            assert sorted(np.flatnonzero(kept)) == sorted(np.argsort(-np.abs(row))[:n])
    dense = {} if m == 2 else {"layer1.0.weight": f"{m} does not divide its 2 inputs"}
    assert facts["dense"] == dense
    assert ("notes" in facts) == bool(dense)


def test_where_no_axis_divides_the_layers_are_named(sparsify):
    with pytest.raises(RecipeError, match=r"there is no layer whose .* \(layer1\.0\.weight: 3 does not divide its 2 inputs"):
        sparsify(n_of_m={"n": 1, "m": 3})


def test_ratios_by_layer(sparsify):
    _, after, facts = sparsify(layers={"layer*": 0.5, "layer2.0": 0.25})
    found = zeros(after)
    assert found["layer1.0.weight"] == 72
    assert found["layer2.0.weight"] == 144
    assert found["fc.weight"] == 0
    assert facts["dense"] == {"fc.weight": "its ratio is 0"}
    _, after, _ = sparsify(ratio=0.5, layers={"fc": 0.0}, ignore=["layer1"])
    assert [count > 0 for count in zeros(after).values()] == [False, True, False]


@pytest.mark.parametrize("settings", [{"layers": {"layr1*": 0.5}}, {"ratio": 0.5, "ignore": ["layer1*", "layr1*"]}])
def test_a_pattern_that_matches_nothing_is_refused(sparsify, settings):
    with pytest.raises(RecipeError, match=r"'layr1\*' matches no layer that it could act on; did you mean 'layer1\.0'"):
        sparsify(**settings)


@pytest.mark.parametrize("criterion", sorted(names(Saliency)))
def test_every_criterion_reaches_the_ratio(sparsify, criterion):
    scope = {"scope": "global"} if criterion == "lamp" else {}
    more = {"gradual": {"end": 1, "every": 1}, "training": TRAINING} if criterion == "movement" else {}
    _, after, facts = sparsify(ratio=0.5, criterion=criterion, **scope, **more)
    assert facts["sparsity"] == pytest.approx(0.5, abs=0.002)
    assert sum(zeros(after).values()) == facts["weights"][0] - facts["weights"][1]


def test_gradually_the_ratio_rises_along_the_cubic(sparsify):
    """40 samples in batches of 20: two steps an epoch; the best epoch is one at the final ratio."""
    _, after, facts = sparsify(
        model=Mlp(hidden=(50,)), ratio=0.9, gradual={"begin": 1, "end": 4, "every": 2}, training={**TRAINING, "epochs": 5}
    )
    expected = [0.9 - 0.9 * (1 - done) ** 3 for done in (0, 1 / 3, 2 / 3, 1, 1)]  # after 2, 4, 6, 8, 10 steps
    assert [epoch["sparsity"] for epoch in facts["epochs"]] == pytest.approx(expected, abs=1e-3)
    assert facts["sparsity"] == pytest.approx(0.9, abs=1e-3)
    assert facts["kept_epoch"] >= 4
    assert all(torch.equal(weights(after)[name] != 0, mask) for name, mask in masks_of(after.edits).items())


@pytest.mark.parametrize("criterion", ["magnitude", "taylor", "movement"])
@pytest.mark.parametrize("ema", [None, 0.9])
def test_gradually_masked_weights_are_zero_in_an_average_too(sparsify, criterion, ema):
    _, after, facts = sparsify(
        ratio=0.8, criterion=criterion, gradual={"end": 2, "every": 1}, training={**TRAINING, "epochs": 3, "ema": ema}
    )
    assert sum(zeros(after).values()) == facts["weights"][0] - facts["weights"][1]
    assert facts["sparsity"] == pytest.approx(0.8, abs=0.002)


def test_weights_are_rewound_and_masks_are_not(sparsify, start):
    source = start()
    kept = restore.checkpoint(source).network
    restore.rewind(restore.Restored(kept, CONVNET), source, 0)
    before, after, _ = sparsify(source=source, ratio=0.5, rewind="start", rewind_epoch=0)
    for name, weight in weights(before).items():
        mask = weights(after)[name] != 0
        assert torch.equal(weights(after)[name], torch.where(mask, weights(kept)[name], 0.0))
        assert weight[mask].abs().min() > weight[~mask].abs().max()  # by the trained weights
    _, after, _ = sparsify(source=source, ratio=0.5, rewind="start", rewind_epoch=0, score="rewound")
    for name, weight in weights(kept).items():
        mask = weights(after)[name] != 0
        assert weight[mask].abs().min() > weight[~mask].abs().max()  # by those of the epoch


def test_rewinding_to_another_shape_is_refused(sparsify, start):
    other = start(Convnet(widths=(4, 8), convs=1))
    with pytest.raises(
        RecipeError, match=r"'body\.layer1\.0\.weight' is \(8, 2, 3, 3\) here, and was \(4, 2, 3, 3\) in epoch 0"
    ):
        sparsify(ratio=0.5, rewind="other", rewind_epoch=0, inputs={"rewind": (other,)})


def test_each_round_masks_the_same_share_of_what_is_left(sparsify):
    _, after, facts = sparsify(model=Mlp(hidden=(50,)), ratio=0.784, rounds=3, training=TRAINING)
    assert [done["sparsity"] for done in facts["rounds"]] == pytest.approx([0.4, 0.64, 0.784], abs=1e-3)
    assert [epoch["epoch"] for epoch in facts["epochs"]] == [1, 2, 3, 4, 5, 6]
    assert sum(zeros(after).values()) == facts["weights"][0] - facts["weights"][1]


def test_masks_add_up(sparsify, perform, context_for, toy, start):
    first = perform(Sparsify(ratio=0.5), context_for(toy(), inputs={"start": (start(),)}))
    before, after, facts = sparsify(source=first, ratio=0.8)
    assert facts["sparsity"] == pytest.approx(0.8, abs=0.005)
    assert [edit.type for edit in after.edits] == ["mask"]
    assert all(((weight == 0) <= (weights(after)[name] == 0)).all() for name, weight in weights(before).items())
    with pytest.raises(RecipeError, match=r"'layer1\.0\.weight' has a sparsity of 0\.500 already, and 0\.3 is asked for"):
        sparsify(source=first, ratio=0.3)
    rounds = sparsify(source=first, ratio=0.8, rounds=2, training=TRAINING)[2]["rounds"]
    assert [done["sparsity"] for done in rounds] == pytest.approx([1 - (0.5 * 0.2) ** 0.5, 0.8], abs=0.01)


def test_a_layer_without_weights_is_named(sparsify, start):
    source = start()
    largest = float(weights(restore.checkpoint(source).network)["fc.weight"].abs().max())
    _, after, facts = sparsify(source=source, threshold=largest)
    assert not weights(after)["fc.weight"].any()
    assert facts["notes"] == ["1 layers have no weight left (fc.weight): nothing passes them"]


@pytest.fixture
def recipe(tmp_path):
    """recipe(stage): a file with a teacher that keeps epochs 0 and 2, and the stage."""

    def _recipe(stage):
        path = tmp_path / "r.yaml"
        training = "{epochs: 2, precision: float32, keep_epochs: [0, 2]}"
        path.write_text(
            "dataset: digits\nstages:\n"
            f"  - {{type: train, name: big, model: {{type: mlp, hidden: [8]}}, training: {training}}}\n  - {stage}\n"
        )
        return path

    return _recipe


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            "{type: sparsify, ratio: 0.5, rewind: big, rewind_epoch: 1}",
            "r.yaml:4: stages[1]: rewind_epoch: the training of 'big' keeps 0, 2; set keep_epochs: [1] there",
        ),
        ("{type: sparsify, ratio: 1.5}", "r.yaml:4: stages[1].ratio: must be less than 1 (got 1.5)"),
        ("{type: sparsify, ratio: 0.5, criterion: snap}", "there is no saliency 'snap'; did you mean 'snip'?"),
        ("{type: sparsify, ratio: 0.5, rewind: bigg, rewind_epoch: 1}", "rewind 'bigg' is no stage of this recipe"),
    ],
)
def test_a_plan_refuses_what_can_not_work(compress, recipe, stage, message):
    outcome = compress("plan", recipe(stage))
    assert outcome.code == 2
    assert message in " ".join(outcome.err.split())


def test_a_stage_that_keeps_no_epoch_is_named(sparsify):
    stage = Sparsify(ratio=0.5, rewind="big", rewind_epoch=1)
    with pytest.raises(RecipeError, match=r"the training of 'big' keeps none; set keep_epochs: \[1\] there"):
        stage.check_sources({"rewind": (Sparsify(ratio=0.5),)})


def test_it_learns_from_a_teacher_online_or_from_its_table(sparsify, start, perform, context_for, toy):
    """The same numbers, but for the order of sums in batches of another size; other ones than from labels alone."""
    teacher, source = start(Convnet(widths=(9,), convs=1)), start()
    table = Stage.model_validate({"type": "teacher_table", "views": 1})
    stored = perform(table, context_for(toy(), inputs={"teacher": (teacher,)}), Table)
    taught = {"source": source, "ratio": 0.6, "rounds": 2, "training": TRAINING, "teacher": "t"}
    online = sparsify(**taught, inputs={"teacher": (teacher,)})[1]
    cached = sparsify(**taught, teacher_cache=True, inputs={"teacher": (teacher,), "t_table": (stored,)})[1]
    alone = sparsify(**{**taught, "teacher": []})[1]
    torch.testing.assert_close(dict(online.state_dict()), dict(cached.state_dict()), rtol=1e-3, atol=1e-4)
    assert (online.body.fc.weight - alone.body.fc.weight).abs().max() > 0.01
    assert Sparsify(ratio=0.5, training=TRAINING, teacher="t", teacher_cache=True).needs().keys() == {"t_table"}


def test_a_criterion_that_reads_gradients_needs_samples(start, perform, context_for, toy):
    source = start()
    with pytest.raises(StageError, match="criterion snip reads gradients of training samples, and the train split is empty"):
        perform(Sparsify(ratio=0.5, criterion="snip"), context_for(toy(train=0), inputs={"start": (source,)}))


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


class Mortal(Saves):
    """Saves that end the process, as it were, after so many pieces of work."""

    def __init__(self, folder, left):
        super().__init__(folder, Saving(steps=1, epochs=1))
        self.left = left

    def step(self, state, epoch_ended=False):
        super().step(state, epoch_ended)
        self.left -= 1
        if not self.left:
            raise Killed


SCHEDULES = {
    "gradual": {"ratio": 0.8, "gradual": {"end": 2, "every": 1}, "training": {**TRAINING, "epochs": 3, "ema": 0.9}},
    "movement": {"ratio": 0.8, "criterion": "movement", "gradual": {"end": 1, "every": 1}, "training": TRAINING},
    "rounds": {"ratio": 0.8, "rounds": 3, "rewind": "start", "rewind_epoch": 0, "training": {**TRAINING, "epochs": 1}},
}


@pytest.mark.parametrize("case", SCHEDULES)
def test_killed_anywhere_and_resumed_it_ends_in_the_same_bytes(sparsify, start, tmp_path, case):
    source = start()
    _, expected, facts = sparsify(source=source, **SCHEDULES[case])
    for left in range(1, 10 if case != "movement" else 7):
        folder = tmp_path / f"saves{left}"
        folder.mkdir()
        with pytest.raises(Killed):
            sparsify(source=source, context={"saves": Mortal(folder, left)}, **SCHEDULES[case])
        _, again, resumed = sparsify(source=source, context={"saves": Saves(folder)}, **SCHEDULES[case])
        assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in expected.state_dict().items()), left
        assert again.edits == expected.edits
        assert resumed["epochs"] == facts["epochs"]


ON_A_DEVICE = {
    **SCHEDULES,
    "taylor": {**SCHEDULES["gradual"], "criterion": "taylor"},
    "gates": {
        "ratio": 0.5,
        "training": {
            **TRAINING,
            "clip_norm": 1.0,
            "regularizers": [{"type": "l0", "weight": 1e-3}, {"type": "l1", "weight": 1e-3}],
        },
    },
}


@pytest.mark.parametrize("case", ON_A_DEVICE)
def test_on_a_device_it_makes_what_it_makes_on_the_processor(sparsify, start, pretended_cuda, case):
    source = start()
    expected = sparsify(source=source, **ON_A_DEVICE[case])[1]
    with pretended_cuda.device():
        found = sparsify(source=source, context={"device": "cuda"}, **ON_A_DEVICE[case])[1]
    assert found.edits == expected.edits
    torch.testing.assert_close(dict(found.state_dict()), dict(expected.state_dict()), rtol=1e-4, atol=1e-5)


def test_a_smoke_run_tries_the_final_ratio(sparsify):
    for case in SCHEDULES.values():
        assert sparsify(context={"limit": 2}, **case)[2]["sparsity"] == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "give one target"),
        ({"ratio": 0.5, "threshold": 0.1}, "give one target"),
        ({"ratio": 1.0}, "less than 1"),
        ({"ratio": 0}, "greater than 0"),
        ({"layers": {"fc": 1.2}}, "less than 1"),
        ({"n_of_m": {"n": 4, "m": 4}}, "n must be below m"),
        ({"ratio": 0.5, "scope": "global", "layers": {"fc": 0.5}}, "'layers', 'threshold' and 'n_of_m' do not fit"),
        ({"ratio": 0.5, "criterion": "lamp"}, "lamp compares layers; set scope: global"),
        ({"ratio": 0.5, "criterion": "movement"}, "movement scores weights while they are trained: add gradual and training"),
        ({"threshold": 0.5, "criterion": "snip"}, "threshold compares absolute values"),
        ({"ratio": 0.5, "criterion": "l3"}, "there is no saliency 'l3'; choose from: "),
        ({"ratio": 0.5, "rounds": 2}, "'rounds' does nothing without 'training'"),
        ({"ratio": 0.5, "teacher": "big"}, "'teacher' does nothing without 'training'"),
        ({"n_of_m": {"n": 2, "m": 4}, "rounds": 2, "training": TRAINING}, "'rounds' raises a ratio step by step"),
        ({"ratio": 0.5, "gradual": {"end": 3}, "training": TRAINING}, "after 3 epochs, and training ends after 2"),
        ({"ratio": 0.5, "gradual": {"begin": 2, "end": 2}, "training": TRAINING}, "end must come after begin"),
        ({"ratio": 0.5, "rewind": "teacher"}, "'rewind' names a stage and 'rewind_epoch' an epoch"),
        ({"ratio": 0.5, "score": "rewound"}, "score: rewound scores the weights of 'rewind'"),
        (
            {"ratio": 0.5, "score": "rewound", "rewind": "s", "rewind_epoch": 0, "criterion": "hessian"},
            "criterion hessian reads one sample at a time",
        ),
        (
            {"ratio": 0.5, "teacher": "t", "losses": ["cross_entropy"], "training": TRAINING},
            "none of the losses learns from 't'",
        ),
        ({"ratio": 0.5, "losses": ["soft_targets"], "training": TRAINING}, "'soft_targets' learns from a teacher; name one"),
        ({"ratio": 0.5, "training": {**TRAINING, "keep_epochs": [3]}}, "there is no epoch 3; the last one is 2"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValidationError, match=message):
        Stage.model_validate({"type": "sparsify", **settings})


def test_settings_survive_dump_and_load():
    stage = Sparsify(ratio=0.5, gradual={"end": 1}, criterion="movement", training={"epochs": 2}, teacher="big")
    assert Stage.model_validate(json.loads(json.dumps(stage.model_dump(mode="json")))) == stage


def test_weights_that_are_not_numbers(sparsify, monkeypatch):
    load = restore.checkpoint

    def spoilt(source):
        restored = load(source)
        restored.network.body.get_parameter("layer1.0.weight").data[3] = float("nan")
        return restored

    monkeypatch.setattr(restore, "checkpoint", spoilt)
    with pytest.raises(StageError, match=r"the scores of 'layer1\.0\.weight' are not numbers"):
        sparsify(ratio=0.5)


@pytest.mark.parametrize("schedule", [{}, {"training": TRAINING}, {"training": TRAINING, "gradual": {"end": 1}}])
def test_a_smoke_run_takes_no_sparsity_of_random_weights_for_that_of_trained_ones(schedule, start, toy, context_for, perform):
    """A threshold masks more of the random weights than of the trained ones."""
    sparse = perform(Sparsify(threshold=0.08), context_for(toy(), inputs={"start": (start(),)}))
    assert sparse.manifest.facts["sparsity"] > 0.3
    stage = Sparsify.model_validate({"ratio": 0.3, "scope": "global", **schedule})
    with pytest.raises(RecipeError, match=r"already, and 0\.3 is asked for"):
        stage.run(context_for(toy(), inputs={"start": (sparse,)}))
    facts = stage.run(context_for(toy(), inputs={"start": (sparse,)}, limit=2))
    assert facts["sparsity"] >= sparse.manifest.facts["sparsity"]


def test_a_plan_refuses_a_ratio_below_that_of_the_stage_before():
    earlier, less, more = (Sparsify(name="first", ratio=ratio) for ratio in (0.8, 0.5, 0.9))
    with pytest.raises(RecipeError, match=r"'first' masks 0\.8 of the weights already"):
        less.check_sources({"start": (earlier,)})
    more.check_sources({"start": (earlier,)})
    Sparsify(ratio=0.5, ignore=("fc",)).check_sources({"start": (earlier,)})
