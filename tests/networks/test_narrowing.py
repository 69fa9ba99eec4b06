"""What a narrower model computes is what the whole one computes with the removed channels masked, or it is not made."""

import copy

import pytest
import torch
from torch import nn

from compress_cli.data.signature import Head, Input, Signature
from compress_cli.networks.models.shufflenet_v1 import ShufflenetV1
from compress_cli.networks.narrowing import Proof, narrow
from compress_cli.pruning import dependency_graph

SIGNATURE = Signature(inputs={"image": Input(shape=(3, 8, 8))}, heads={"logits": Head(shape=(10,))})
pytestmark = pytest.mark.usefixtures("one_thread")


def images(seed=0, samples=4):
    return (torch.randn(samples, 3, 8, 8, generator=torch.Generator().manual_seed(seed)),)


def offered(body, inputs):
    return dependency_graph.build(body, inputs).groups


def without_makers(body, groups, removed):
    """The body with the filters, scales and biases of removed channels set to 0; what reads them keeps its weights."""
    silent = copy.deepcopy(body)
    for group, numbers in zip(groups, removed, strict=True):
        for part in group.parts:
            if part.role != "reads":
                silent.state_dict()[part.name].movedim(part.axis, 0)[part.index[numbers].flatten()] = 0
    return silent


NARROW = {"widths": (48, 96, 192), "blocks": (2, 2, 2)}


@pytest.mark.parametrize("seed", range(24))
def test_an_untrained_shufflenet_is_cut_right(seed):
    torch.manual_seed(seed)
    body = ShufflenetV1(**NARROW).build(SIGNATURE).eval().double()
    inputs = tuple(tensor.double() for tensor in images(seed))
    groups = offered(body, inputs)
    assert [group.layer for group in groups] == ["layer1.0.conv1", "layer2.1.conv1", "layer3.0.conv1", "layer3.1.conv1"]
    assert Proof(body, inputs).provable(groups) == list(groups)
    removed = [torch.randperm(group.channels)[: max(1, group.channels // 2)] for group in groups]
    with torch.no_grad():
        whole, expected = body(*inputs), without_makers(body, groups, removed)(*inputs)
        narrow(body, groups, removed)
        torch.testing.assert_close(body(*inputs), expected, rtol=1e-9, atol=1e-12)
    assert not torch.allclose(whole, expected, rtol=1e-6)


@pytest.mark.parametrize("settings", [
    {}, {"groups": 1, "widths": (40, 80, 160)}, {"groups": 2, "widths": (200, 400, 800)},
    {"groups": 4, "widths": (272, 544, 1088)},
])  # fmt: skip
def test_every_bottleneck_of_a_shufflenet_is_cut(settings):
    torch.manual_seed(0)
    body, inputs = ShufflenetV1(blocks=(2, 2, 2), **settings).build(SIGNATURE).eval(), images()
    groups = Proof(body, inputs).provable(offered(body, inputs))
    inner = {f"layer{stage}.{block}.conv1" for stage in (1, 2, 3) for block in (0, 1)}
    assert {group.layer for group in groups} & inner == inner
    removed = [torch.randperm(group.channels)[: group.channels // 2] for group in groups]
    with torch.no_grad():
        expected = without_makers(body, groups, removed)(*inputs)
        narrow(body, groups, removed)
        torch.testing.assert_close(body(*inputs), expected, rtol=1e-4, atol=1e-5)


class Reshaped(nn.Module):
    """A shuffle made of reshapes."""

    def __init__(self, width, normalised):
        super().__init__()
        self.first = nn.Conv2d(3, width, 1)
        self.norm = nn.GroupNorm(1, width) if normalised else nn.Identity()
        self.second, self.last = nn.Conv2d(width, width, 1, groups=3), nn.Conv2d(width, 8, 1, groups=1)
        self.fc = nn.Linear(8, 10)

    def forward(self, x):
        x = self.norm(self.first(x))
        n, channels, height, width = x.shape
        x = x.view(n, 3, channels // 3, height, width).transpose(1, 2).reshape(n, channels, height, width)
        return self.fc(torch.relu(self.last(torch.relu(self.second(x)))).mean((2, 3)))


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize("seed", range(20))
def test_a_shuffle_made_of_reshapes_is_followed(seed, normalised):
    """Row 2 of eight lies across two groups of the convolution behind it: rows go in threes, and two remain."""
    torch.manual_seed(seed)
    body, inputs = Reshaped(24, normalised).eval(), images(seed)
    groups = offered(body, inputs)
    assert [(group.layer, group.channels, group.multiple, group.fixed) for group in groups] == [
        ("first", 2, 9, 6), ("second", 8, 3, 0), ("last", 8, 1, 0)
    ]  # fmt: skip
    assert Proof(body, inputs).provable(groups) == list(groups)


class Unfollowed(Reshaped):
    """The same, its order read from a table in the code."""

    def forward(self, x):
        x = self.norm(self.first(x))
        order = torch.arange(x.shape[1]).reshape(3, -1).T.flatten()
        return self.fc(torch.relu(self.last(torch.relu(self.second(x[:, order])))).mean((2, 3)))


def test_a_shuffle_by_a_table_stays_whole():
    torch.manual_seed(0)
    body, inputs = Unfollowed(24, False).eval(), images()
    dependencies = dependency_graph.build(body, inputs)
    assert dependencies.whole["first"] == "code picks some of its channels by number"
    assert [group.layer for group in Proof(body, inputs).provable(dependencies.groups)] == ["second", "last"]


def test_channels_that_are_normalised_together_are_compared_by_value():
    """Statistics over fewer channels differ: the proof leaves them out, and still sees a channel too many."""
    torch.manual_seed(0)
    body = nn.Sequential(nn.Flatten(), nn.Linear(192, 12), nn.LayerNorm(12), nn.GELU(), nn.Linear(12, 10)).eval()
    inputs = images()
    (group,) = offered(body, inputs)
    proof = Proof(body, inputs)
    assert proof.provable([group]) == [group]
    wrong = copy.copy(group)
    parts = tuple(copy.copy(part) for part in group.parts)
    object.__setattr__(wrong, "parts", parts)
    reader = next(part for part in parts if part.role == "reads")
    object.__setattr__(reader, "index", reader.index.roll(1, 0))
    assert proof.provable([wrong]) == []


class Fixed(nn.Module):
    """Makes a tensor of single precision by itself."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Linear(8, 10)

    def forward(self, x):
        if self.one.out_channels == 7:
            raise ValueError("code that does not know 7 channels")
        return self.two(torch.relu(self.one(x)).mean((2, 3))) @ torch.eye(10)


def test_a_model_of_single_precision_is_proved_in_it():
    body, inputs = Fixed().eval(), images()
    (group,) = offered(body, inputs)
    proof = Proof(body, inputs)
    assert proof.holds([group], [torch.tensor([0, 2, 5, 7])])
    assert not proof.holds([group], [torch.tensor([0])])


class Rigid(nn.Module):
    """Normalises by statistics over eight values, however many there are."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(192, 8), nn.Linear(8, 10)

    def forward(self, x):
        return self.two(nn.functional.layer_norm(self.one(x.flatten(1)), (8,)).relu())


def test_a_normalisation_of_a_width_in_the_code_fails_the_first_proof_and_each_after_it():
    """What stands for normalisations in a proof would take any width."""
    torch.manual_seed(0)
    body, inputs = Rigid().eval(), images()
    (group,) = offered(body, inputs)
    proof = Proof(body, inputs)
    assert [proof.holds([group], [torch.tensor(numbers)]) for numbers in ([0, 3], [1])] == [False, False]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 10)), [torch.float64] * 4),
        (Fixed(), [torch.float64, *[torch.float32] * 4]),
    ],
    ids=["double", "single"],
)
def test_a_proof_runs_a_model_once_masked_and_once_narrower(body, expected):
    """And once more where its code makes tensors of single precision."""
    body, inputs, runs = copy.deepcopy(body).eval(), images(), []
    (group,) = offered(body, inputs)
    body.register_forward_pre_hook(lambda module, taken: runs.append(taken[0].dtype))
    proof = Proof(body, inputs)
    for numbers in ([0, 2], [3, 5]):
        assert proof.holds([group], [torch.tensor(numbers)])
    assert runs == expected
