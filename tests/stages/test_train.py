"""`train`: a checkpoint of a fresh model, or of an earlier one trained further."""

import pytest
import torch
from pydantic import ValidationError

from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.stages import Stage
from compress_cli.stages.train import Train
from compress_cli.store.artifact import Checkpoint, Draft

pytestmark = pytest.mark.usefixtures("one_thread")

MODEL = {"type": "convnet", "widths": [4, 6], "convs": 1}
TRAINING = {"epochs": 2, "batch": 16, "precision": "float32"}


def run(stage, context):
    facts = stage.run(context)
    return Draft(Checkpoint, "k", stage.model_dump(mode="json"), facts).commit(context.output)


def stage(**settings):
    return Stage.model_validate({"type": "train", "training": TRAINING, **settings})


def weights(checkpoint):
    return restore.checkpoint(checkpoint).network.state_dict()


def test_it_makes_a_checkpoint_with_its_curve(toy, context_for):
    checkpoint = run(stage(model=MODEL), context_for(toy()))
    assert isinstance(checkpoint, Checkpoint)
    assert [epoch["epoch"] for epoch in checkpoint.manifest.facts["epochs"]] == [1, 2]
    network = restore.checkpoint(checkpoint).network
    assert network.signature == toy().signature()
    untrained = restore.build(restore.checkpoint(checkpoint).model, network.signature, 0).network
    assert not torch.equal(network.body.fc.weight, untrained.body.fc.weight)


def test_the_same_bytes_again(toy, context_for):
    first, again, other = (run(stage(model=MODEL), context_for(toy(), seed=seed)) for seed in (0, 0, 1))
    assert first.digest == again.digest != other.digest


def test_start_goes_on_from_a_checkpoint(toy, context_for):
    first = run(stage(model=MODEL), context_for(toy()))
    still = {**TRAINING, "optimizer": {"type": "sgd", "learning_rate": 1e-12}, "keep": "last"}
    second = run(stage(start="train", training=still), context_for(toy(), inputs={"start": (first,)}))
    old, new = weights(first), weights(second)
    for name in (name for name in old if "running" not in name and "tracked" not in name):
        torch.testing.assert_close(new[name], old[name], rtol=0, atol=1e-8)
    with pytest.raises(RecipeError, match=r"are {'logits': 3}, and the dataset asks for {'logits': 4}"):
        run(stage(start="train"), context_for(toy(classes=4), inputs={"start": (first,)}))


def test_a_loss_of_ones_own(toy, context_for):
    plain, smooth = (
        run(stage(model=MODEL, **more), context_for(toy()))
        for more in ({}, {"loss": {"type": "cross_entropy", "label_smoothing": 0.3}})
    )
    assert plain.digest != smooth.digest


@pytest.mark.parametrize(("settings", "word"), [({}, "neither is named"), ({"model": MODEL, "start": "a"}, "not both")])
def test_one_beginning(settings, word):
    with pytest.raises(ValidationError, match=f"name a model .*{word}"):
        stage(**settings)


def test_a_misspelt_training_field_is_answered():
    with pytest.raises(ValidationError, match="no field 'epochen'; did you mean 'epochs'"):
        Train.model_validate({"model": MODEL, "training": {"epochen": 3}})
