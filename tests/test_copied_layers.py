"""Layers of one network that start as those of another."""

import pytest

from compress_cli import plugin
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks import restore
from compress_cli.networks.models import Model
from compress_cli.networks.models.convnet import Convnet

pytestmark = pytest.mark.usefixtures("one_thread")

IMAGES = Signature(inputs={"image": Input(shape=(1, 8, 8))}, heads={"logits": Head(shape=(3,))})
TOKENS = Signature(
    inputs={"ids": Input(shape=(5,), dtype="int64"), "attention_mask": Input(shape=(5,), dtype="int64")},
    heads={"logits": Head(shape=(3,))},
)


@pytest.fixture(scope="module")
def encoder(request):
    """encoder(depth): a model of tokens, from a plugin file."""
    plugin.register(request.path.parent / "encoder.py")
    yield lambda depth: plugin.find(Model, "encoder")(depth=depth)
    del plugin._OUTSIDE[Model]["encoder"]  # other tests count the models there are


def made(model, signature, lively, seed):
    network = restore.build(model, signature, seed).network
    lively(network, seed)
    return network


def state(network, layer=""):
    module = network.body.get_submodule(layer)
    return {name: each.clone() for name, each in module.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(one[name].equal(other[name]) for name in one)


def test_every_second_block_of_a_deep_encoder(encoder, lively):
    """DistilBERT's way (Sanh et al. 2019, arXiv:1910.01108): what is listed is copied bit for bit, and nothing else."""
    deep, shallow = made(encoder(4), TOKENS, lively, 0), made(encoder(2), TOKENS, lively, 1)
    before = state(shallow)
    pairs = [("embedding", "embedding"), ("layers.0", "layers.0"), ("layers.2", "layers.1")]
    copied = restore.copy_layers(deep, shallow, pairs)
    assert copied == sum(len(state(deep, theirs)) for theirs, _ in pairs) > 20
    for theirs, own in pairs:
        assert same(state(shallow, own), state(deep, theirs))
    rest = {name for name in before if not name.startswith(("embedding.", "layers."))}
    assert rest == {"position", "fc.weight", "fc.bias"}
    assert all(state(shallow)[name].equal(before[name]) for name in rest)
    deep.body.layers[2].norm1.weight.data.fill_(9)
    assert not shallow.body.layers[1].norm1.weight.eq(9).any()  # a copy, not the same memory


def test_a_block_brings_its_statistics(lively):
    one, other = (made(Convnet(widths=(4, 6), convs=2), IMAGES, lively, seed) for seed in (0, 1))
    other.body.layer1[1].num_batches_tracked.fill_(7)
    assert (
        restore.copy_layers(other, one, [("layer1", "layer1"), ("-1", "fc")]) == 14
    )  # twice a convolution and five tensors of its norm, and two
    assert same(state(one, "layer1"), state(other, "layer1"))
    assert one.body.layer1[1].num_batches_tracked == 7
    assert same(state(one, "fc"), state(other, "fc"))
    assert not same(state(one, "layer2"), state(other, "layer2"))


@pytest.mark.parametrize(
    ("pairs", "word"),
    [
        ([("layer2", "layer1")], r"into 'layer1': layer1.0.weight is \(6, 4, 3, 3\) in the teacher and \(4, 1, 3, 3\) in"),
        ([("layer1.0", "layer1")], r"layer1.0.weight is missing in the teacher and \(4, 1, 3, 3\) in the student"),
        ([("pool1", "pool1")], "the layer 'pool1' has no weights to start from"),
        ([("layer3", "layer1")], "there is no layer 'layer3'; did you mean 'layer"),
        ([("fc", "fc"), ("fc", "-1")], "the layer '-1' would start from two layers; leave one of them out"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(lively, pairs, word):
    one, other = (made(Convnet(widths=(4, 6), convs=1), IMAGES, lively, seed) for seed in (0, 1))
    with pytest.raises(RecipeError, match=word):
        restore.copy_layers(other, one, pairs)
