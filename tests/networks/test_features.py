"""Observed layers, in modules and in exported graphs, against computing them by hand."""

import pytest
import torch
from torch import nn

from compress_cli.data.batch import Batch
from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks import features, restore
from compress_cli.networks.models.convnet import Convnet

pytestmark = pytest.mark.usefixtures("one_thread")

SIGNATURE = Signature(
    inputs={"image": Input(shape=(1, 6, 6), mean=(3.0,), deviation=(2.0,))}, heads={"logits": Head(shape=(3,))}
)
IMAGES = torch.rand(4, 1, 6, 6, generator=torch.Generator().manual_seed(0))
LAYERS = ("layer1.0", "layer1.1", "layer1", "layer2", "fc")


@pytest.fixture
def network():
    return restore.build(Convnet(widths=(4, 6), convs=1), SIGNATURE, 0).network.eval()


def by_hand(network):
    conv, norm, _ = network.body.layer1
    first = conv((IMAGES - 3) / 2)
    second = norm(first)
    third = second.relu()
    fourth = network.body.layer2(nn.functional.max_pool2d(third, 2))
    return dict(zip(LAYERS, (first, second, third, fourth, network.body.fc(fourth.mean((2, 3)))), strict=True))


def test_hooks_see_what_the_layers_gave_before_it_was_changed_in_place(network):
    with features.observe(network, LAYERS) as seen:
        network(IMAGES)
    assert set(seen) == set(LAYERS)
    for layer, expected in by_hand(network).items():
        torch.testing.assert_close(seen[layer], expected)


def test_an_exported_graph_is_observed_by_the_origin_of_its_nodes(network):
    graph = torch.export.export(network, (IMAGES,)).module()
    code = graph.code
    with features.observe(graph, LAYERS) as seen:
        heads = graph(IMAGES)
    for layer, expected in by_hand(network).items():
        torch.testing.assert_close(seen[layer], expected)
    torch.testing.assert_close(heads["logits"], network(IMAGES)["logits"])
    assert graph.code == code
    with pytest.raises(RecipeError, match="no layer 'layer3'; did you mean 'layer"), features.observe(graph, ("layer3",)):
        pass


@pytest.mark.parametrize("exported", [False, True])
def test_a_layer_may_be_named_by_its_position_among_the_outermost(network, exported):
    expected = by_hand(network)
    observed = torch.export.export(network, (IMAGES,)).module() if exported else network
    with features.observe(observed, ("0", "-1", "layer2")) as seen:
        observed(IMAGES)
    for layer, name in (("0", "layer1"), ("-1", "fc"), ("layer2", "layer2")):
        torch.testing.assert_close(seen[layer], expected[name])
    for wrong in ("6", "-7", "²"):  # convnet has layer1, pool1, layer2, avgpool, flatten, fc
        message = (
            f"there is no layer '{wrong}'" if wrong == "²" else rf"no layer at position {wrong}; .* 0 \(layer1\) to 5 \(fc\)"
        )
        with pytest.raises(RecipeError, match=message), features.observe(network, (wrong,)):
            pass


def test_a_layer_that_is_not_there_is_answered_with_those_that_are(network):
    with pytest.raises(RecipeError) as error, features.observe(network, ("layr2",)):
        pass
    assert str(error.value) == (
        "there is no layer 'layr2'; did you mean 'layer2'? There are: layer1, pool1, layer2, avgpool, flatten, fc; "
        "6 more lie within them, such as layer2.2"
    )


def test_a_name_comes_before_a_position():
    body = nn.ModuleDict({"1": nn.Linear(2, 2), "0": nn.Linear(2, 2)})
    with features.observe(body, ("0",)) as seen:
        expected = body["0"](torch.ones(1, 2))
    torch.testing.assert_close(seen["0"], expected)


def test_nothing_is_left_behind(network):
    with features.observe(network, LAYERS) as seen:
        pass
    network(IMAGES)
    assert seen == {}


def test_gradients_flow_through_features(network):
    with features.observe(network, ("layer1.1",)) as seen:
        network(IMAGES)
        seen["layer1.1"].square().mean().backward()
    assert network.body.layer1[0].weight.grad.abs().sum() > 0
    assert network.body.fc.weight.grad is None


def test_an_unknown_layer_is_refused_with_the_nearest(network):
    with pytest.raises(RecipeError, match=r"no layer 'layer1\.10'; did you mean"), features.observe(network, ("layer1.10",)):
        pass


def test_a_layer_that_does_not_run_is_an_error(network):
    network.body.add_module("idle", nn.Linear(2, 2))
    network.body.forward = lambda x: network.body.fc(torch.zeros(len(x), 6))
    batch = Batch({"image": IMAGES}, {}, torch.arange(4))
    with features.observe(network, ("fc", "idle")) as seen, pytest.raises(RecipeError, match="'idle' was not run"):
        features.outputs(network, SIGNATURE, batch, ("fc", "idle"), seen)


def test_an_input_that_the_data_lacks_is_named(network):
    batch = Batch({"picture": IMAGES}, {}, torch.arange(4))
    with pytest.raises(RecipeError, match="takes an input 'image'; the dataset gives: picture"):
        features.outputs(network, SIGNATURE, batch, (), {})


@pytest.mark.slow  # torchao takes seconds to import
def test_a_quantised_graph_is_observed(network):
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.testing.pt2e._xnnpack_quantizer import XNNPACKQuantizer, get_symmetric_quantization_config

    quantizer = XNNPACKQuantizer().set_global(get_symmetric_quantization_config())
    prepared = prepare_pt2e(torch.export.export(network, (IMAGES,)).module(), quantizer)
    prepared(IMAGES)
    converted = convert_pt2e(prepared)
    layers = ("layer1", "layer2", "fc")
    with features.observe(converted, layers) as seen:
        converted(IMAGES)
    for layer in layers:
        expected = by_hand(network)[layer]
        assert (seen[layer] - expected).norm() < 0.1 * expected.norm()
