"""What every network for small images must stand: odd sizes, training, tracing, pruning, ONNX."""

import copy

import onnxruntime
import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.errors import RecipeError
from compress_cli.networks.features import observe
from compress_cli.networks.models import Model, Shuffle

SHUFFLED = [f"layer{stage}.0.{last}" for stage in (1, 2, 3) for last in ("short.1.0", "branch.2.0")]
NARROW = {
    "resnet": {"type": "resnet", "depth": 8, "widths": [4, 8, 12], "stem": 6},
    "resnet_padding": {"type": "resnet", "depth": 8, "widths": [4, 8, 13], "shortcut": "padding"},
    "resnet_padding_behind": {"type": "resnet", "depth": 8, "widths": [4, 8, 12], "shortcut": "padding_behind"},
    "wide_resnet": {"type": "wide_resnet", "depth": 10, "widths": [2, 4, 6], "stem": 6, "dropout": 0.1},
    "vgg": {"type": "vgg", "depth": 8, "widths": [4, 6, 8, 8, 8], "dropout": 0.1},
    "mobilenet_v2": {"type": "mobilenet_v2", "width": 0.125, "expansion": 2, "dropout": 0.1},
    "shufflenet_v1": {"type": "shufflenet_v1", "widths": [36, 60, 84], "blocks": [1, 1, 1], "stem": 12},
    "shufflenet_v2": {"type": "shufflenet_v2", "widths": [8, 16, 24], "blocks": [2, 1, 1], "stem": 4, "last": 16},
    "lenet": {"type": "lenet", "widths": [4, 6], "hidden": 16},
    "mlp": {"type": "mlp", "hidden": [16, 8]},
}
SLOW = set(NARROW) - {"shufflenet_v1", "lenet"}  # to export; these two have most of the operators
EXPORTED = [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in NARROW]
CUT = [
    *(pytest.param(name, ["fc"], 2) for name in ("resnet", "wide_resnet", "vgg")),
    pytest.param("resnet_padding", ["fc", "conv1", *(f"layer{stage}.0.conv2" for stage in (1, 2, 3))], 3),
    pytest.param("mobilenet_v2", ["fc"], 20, marks=pytest.mark.slow),
    pytest.param("shufflenet_v2", ["fc", "layer1.1.branch.2.0", *SHUFFLED], 6),  # conv1, conv2, inside four branches
    pytest.param("lenet", ["fc2"], 3),
    pytest.param("mlp", ["5"], 2),
]


@pytest.mark.parametrize("name", NARROW)
@pytest.mark.parametrize("data", [{"channels": 1, "pixels": 28, "classes": 10}, {"channels": 3, "pixels": 33, "classes": 2}])
def test_every_parameter_learns(name, data, network):
    net = network(NARROW[name], **data)
    net.train()
    images = 255 * torch.rand(4, data["channels"], data["pixels"], data["pixels"])
    logits = net(images)["label"]
    assert logits.shape == (4, data["classes"])
    nn.functional.cross_entropy(logits, torch.tensor([0, 1, 1, 0])).backward()
    idle = [key for key, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.isfinite().all()]
    assert idle == []


@pytest.mark.parametrize("name", NARROW)
def test_weights_are_a_function_of_the_seed(name, network, signature):
    one, same = network(NARROW[name]).state_dict(), network(NARROW[name]).state_dict()
    torch.manual_seed(1)
    other = Model.model_validate(NARROW[name]).build(signature()).state_dict()
    assert all(torch.equal(one[key], same[key]) for key in one)
    assert any(not torch.equal(one[f"body.{key}"], other[key]) for key in other)


@pytest.mark.parametrize("name", NARROW)
def test_settings_survive_a_dump(name):
    model = Model.model_validate(NARROW[name])
    assert Model.model_validate(model.model_dump(mode="json")) == model


@pytest.mark.parametrize("name", [name for name in NARROW if name != "mlp"])
def test_what_is_no_picture_is_refused(name):
    rows = Signature(inputs={"row": Input(shape=(7,))}, heads={"label": Head(shape=(2,))})
    with pytest.raises(RecipeError, match="takes one image input"):
        Model.model_validate(NARROW[name]).build(rows)


@pytest.mark.parametrize("name", EXPORTED)
def test_onnx_gives_what_the_network_gives_at_another_batch_size(name, settled):
    net = settled(NARROW[name], channels=1, pixels=28, classes=10)
    batch = {0: torch.export.Dim("batch")}
    traced = torch.export.export(net, (255 * torch.rand(2, 1, 28, 28),), dynamic_shapes=((batch,),))
    images = 255 * torch.rand(5, 1, 28, 28)
    with torch.no_grad():
        expected = net(images)["label"]
        torch.testing.assert_close(traced.module()(images)["label"], expected)
    file = torch.onnx.export(traced, dynamo=True, external_data=False, verbose=False).model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(file)
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    assert expected.std() > 0.01
    torch.testing.assert_close(torch.from_numpy(logits), expected, rtol=1e-4, atol=1e-4)


def cut(net, keep):
    """Remove channel 0 of every group of torch-pruning's, and set it to zero in a copy; returns the copy and the cuts."""
    import torch_pruning

    masked, layers = copy.deepcopy(net), {module: name for name, module in net.named_modules()}
    graph = torch_pruning.DependencyGraph().build_dependency(net, (torch.rand(2, 1, 28, 28),))
    cuts = 0
    for group in list(graph.get_all_groups(ignored_layers=[net.get_submodule(name) for name in keep])):
        root = group[0].dep
        group = graph.get_pruning_group(root.target.module, root.handler, [0])
        for dependency, places in group:
            module = dependency.target.module
            if module in layers and graph.is_out_channel_pruning_fn(dependency.handler):
                twin = masked.get_submodule(layers[module])
                for tensor in twin.parameters(recurse=False):
                    tensor.data[places] = 0
        group.prune()
        cuts += 1
    return masked, cuts


@pytest.mark.parametrize(("name", "keep", "least"), CUT)
def test_cutting_a_channel_of_every_group_is_setting_them_to_zero(name, keep, least, settled):
    net = settled(NARROW[name], channels=1, pixels=28, classes=10).body
    masked, cuts = cut(net, keep)
    assert cuts >= least
    assert sum(parameter.numel() for parameter in net.parameters()) < sum(
        parameter.numel() for parameter in masked.parameters()
    )
    images = torch.randn(3, 1, 28, 28)
    torch.testing.assert_close(net(images), masked(images), rtol=1e-4, atol=1e-5)


def test_the_dependency_graph_traces_a_shuffle_between_grouped_convolutions(settled):
    import torch_pruning

    net = settled(NARROW["shufflenet_v1"], channels=1, pixels=28, classes=10).body
    graph = torch_pruning.DependencyGraph().build_dependency(net, (torch.rand(2, 1, 28, 28),))
    assert len(list(graph.get_all_groups())) >= 2  # through the reshapes of a shuffle it does not follow channels


def test_a_shuffle_deals_channels_round():
    channels = torch.arange(6.0).reshape(1, 6, 1, 1)
    assert Shuffle(2)(channels).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert Shuffle(3)(channels).flatten().tolist() == [0, 2, 4, 1, 3, 5]
    assert Shuffle(1)(channels).flatten().tolist() == [0, 1, 2, 3, 4, 5]


CIFAR = {  # settings -> layer -> shape of one sample of 32 x 32 pixels, as drawn in the papers
    "resnet": (
        {"type": "resnet"},
        {"conv1": (16, 32, 32), "layer1": (16, 32, 32), "layer2": (32, 16, 16), "layer3": (64, 8, 8)},
    ),
    "resnet8x4": (
        {"type": "resnet", "depth": 8, "widths": [64, 128, 256], "stem": 32},
        {"conv1": (32, 32, 32), "layer1": (64, 32, 32), "layer2": (128, 16, 16), "layer3.0.sum": (256, 8, 8)},
    ),
    "wrn_16_2": (
        {"type": "wide_resnet", "depth": 16},
        {"conv1": (16, 32, 32), "layer1": (32, 32, 32), "layer2": (64, 16, 16), "layer3": (128, 8, 8), "bn1": (128, 8, 8)},
    ),
    "vgg8": (
        {"type": "vgg", "depth": 8},
        {
            "layer1": (64, 32, 32),
            "layer2": (128, 16, 16),
            "layer3": (256, 8, 8),
            "layer4": (512, 4, 4),
            "layer5.1": (512, 4, 4),
        },
    ),
    "mobilenet_v2": (
        {"type": "mobilenet_v2", "width": 0.5},
        {"conv1": (16, 16, 16), "layer2": (12, 16, 16), "layer3": (16, 8, 8), "layer5": (48, 4, 4), "layer7": (160, 2, 2)},
    ),
    "shufflenet_v1": (
        {"type": "shufflenet_v1"},
        {
            "conv1": (24, 32, 32),
            "layer1": (240, 16, 16),
            "layer2": (480, 8, 8),
            "layer3": (960, 4, 4),
            "layer3.3.join": (960, 4, 4),
        },
    ),
    "shufflenet_v2": (
        {"type": "shufflenet_v2"},
        {"conv1": (24, 32, 32), "layer1": (116, 16, 16), "layer2": (232, 8, 8), "layer3": (464, 4, 4), "conv2": (1024, 4, 4)},
    ),
}


@pytest.mark.parametrize("name", CIFAR)
def test_layers_have_the_published_shapes(name, network):
    settings, shapes = CIFAR[name]
    net = network(settings).eval()
    with torch.no_grad(), observe(net, tuple(shapes)) as seen:
        net(torch.rand(1, 3, 32, 32))
    assert {layer: tuple(tensor.shape[1:]) for layer, tensor in seen.items()} == shapes
