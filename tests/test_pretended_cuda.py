"""The pretended device refuses what PyTorch refuses on a real one, and nothing else."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

pytestmark = pytest.mark.usefixtures("one_thread")

TWO = "Expected all tensors to be on the same device"
THREE = torch.arange(3.0)


@pytest.fixture
def machine(pretended_cuda):
    with pretended_cuda.device() as found:
        yield found


class Forgetful(nn.Module):
    """Keeps a mask as an attribute that `to` does not find."""

    def __init__(self):
        super().__init__()
        self.scale, self.mask = nn.Parameter(torch.ones(3)), torch.tensor([1.0, 0.0, 1.0])

    def forward(self, x):
        return x * self.scale * self.mask


def fused_step_of_another_device():
    weight = THREE.cuda().requires_grad_()
    weight.grad = torch.ones_like(weight)
    optimizer = torch.optim.AdamW([weight], fused=True)
    optimizer.step()
    optimizer.state[weight]["step"] = optimizer.state[weight]["step"].cpu()  # as a resume would leave it
    optimizer.step()


MIXED = {
    "a sum": lambda x: x + THREE,
    "a comparison": lambda x: x == THREE,
    "a product of matrices": lambda x: x[None] @ THREE[:, None],
    "torch.cat": lambda x: torch.cat([x, THREE]),
    "numbers that are stacked": lambda x: torch.stack([x[0], THREE[0]]),
    "written into the CPU's": lambda x: THREE.clone().add_(x),
    "a number of the CPU that is written to": lambda x: THREE[0].clone().add_(x[0]),
    "targets": lambda x: functional.cross_entropy(x[None], torch.tensor([1])),
    "a mask": lambda x: x.masked_fill(torch.tensor([True, False, True]), 0),
    "torch.where": lambda x: torch.where(torch.tensor([True, False, True]), x, 0.0),
    "places to gather from": lambda x: x.gather(0, torch.tensor([1])),
    "places to search for": lambda x: torch.searchsorted(x, THREE),
    "what was made without a device": lambda x: x * torch.arange(len(x)),
    "a random draw without a device": lambda x: x + torch.rand(3),
    "torch.from_numpy": lambda x: x + torch.from_numpy(np.ones(3, np.float32)),
    "an index of the device into the CPU's": lambda x: THREE[torch.tensor([0], device="cuda")],
    "a mask of the device on the CPU's": lambda x: THREE[x > 0],
    "lists": lambda x: torch._foreach_add([x, x], [THREE, THREE]),
    "a module's forgotten attribute": lambda x: Forgetful().to("cuda")(x),
    "a module that stayed behind": lambda x: nn.Linear(3, 2)(x),
    "an optimiser's state": lambda x: fused_step_of_another_device(),
    "equality": lambda x: torch.equal(x, THREE),
    "embedding": lambda x: functional.embedding(torch.tensor([0]), x[:, None]),
}


@pytest.mark.parametrize("what", MIXED)
def test_two_devices_in_one_operator_are_refused(machine, what):
    with pytest.raises(RuntimeError, match=TWO):
        MIXED[what](THREE.to("cuda"))


def test_arrays_are_made_of_the_cpu_s_tensors_alone(machine):
    x = THREE.to("cuda")
    for make in (lambda: x.numpy(), lambda: np.asarray(x), lambda: np.stack([x, x])):
        with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu\(\)"):
            make()
    assert x.cpu().numpy().tolist() == x.tolist() == [0, 1, 2]


def test_a_generator_of_the_cpu_draws_nothing_on_the_device(machine):
    with pytest.raises(RuntimeError, match="Expected a 'cuda' device type for generator but found 'cpu'"):
        torch.rand(3, device="cuda", generator=torch.Generator())


def test_what_pytorch_lets_pass_passes(machine):
    x, second = THREE.to("cuda"), torch.tensor([1])
    for result, expected in (
        (x + torch.tensor(2.0), [2, 3, 4]),
        (torch.lerp(x, x + 1, torch.tensor(0.5)), [0.5, 1.5, 2.5]),
        (torch._foreach_mul([x], torch.tensor(2.0))[0], [0, 2, 4]),
        (x[second], [1]),
        (x[torch.tensor([False, True, True])], [1, 2]),
        (x.clone().index_put_((second,), torch.tensor(7.0)), [0, 7, 2]),
        (torch.zeros(3, device="cuda").copy_(THREE), [0, 1, 2]),
        (x.new_tensor([5.0]), [5]),
        (x.new_zeros(2) + torch.ones_like(x)[:2], [1, 1]),
        (THREE.to(x), [0, 1, 2]),
    ):
        assert result.device == torch.device("cuda", 0)
        assert result.is_cuda
        assert result.tolist() == expected
    assert torch.ones(3).copy_(x).device.type == "cpu"


def test_it_computes_what_the_cpu_computes(machine):
    """Through operators that C++ puts together of others, forwards and backwards, and through every step of an optimiser."""

    def steps(device):
        torch.manual_seed(0)
        net = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(72, 6)
        )  # fmt: skip
        net.to(device).to(memory_format=torch.channels_last)
        images, labels = torch.rand(4, 3, 8, 8).to(device), torch.tensor([0, 1, 2, 5]).to(device)
        optimizer = torch.optim.AdamW(net.parameters(), fused=True)
        for _ in range(3):
            given = net(images)
            loss = functional.cross_entropy(given, labels, label_smoothing=0.1)
            loss = (
                loss + (functional.one_hot(labels, 6) * given).sort(1).values.cumsum(1).mean() + torch.cdist(given, given).sum()
            )
            loss = loss + functional.scaled_dot_product_attention(*[given.view(1, 4, 6)] * 3).square().mean()
            loss = loss + functional.interpolate(images * given.mean(), scale_factor=2.0).topk(3).values.sum()
            loss.backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
        assert all(each.device.type == device for each in net.state_dict().values())
        return net.to("cpu").state_dict()

    own, expected = steps("cuda"), steps("cpu")
    assert all(torch.equal(own[name], each) for name, each in expected.items())


def test_waiting_is_noted(machine):
    x = torch.ones(3, device="cuda")
    assert not machine.waits
    for waits in (
        lambda: x.sum().item(), lambda: x.cpu(), lambda: bool(x[0] > 0), lambda: x[x > 0], lambda: x.nonzero(), x.tolist,
        lambda: THREE.to("cuda"), lambda: x.copy_(THREE), lambda: torch.tensor([1.0], device="cuda"), torch.cuda.synchronize,
        lambda: x.to("cpu", non_blocking=True), lambda: x[torch.tensor([0])], lambda: x.new_tensor([1.0]),
    ):  # fmt: skip
        before = machine.waits.total()
        waits()
        assert machine.waits.total() > before
    before = machine.waits.total()
    for goes_on in (lambda: THREE.to("cuda", non_blocking=True), lambda: x.copy_(THREE, True), lambda: x * 2, lambda: x[:2]):
        goes_on()
    assert machine.waits.total() == before


def test_the_device_draws_by_itself(machine):
    torch.manual_seed(3)  # seeds both
    both = torch.rand(2), torch.rand(2, device="cuda").cpu()
    assert torch.equal(*both)
    torch.cuda.manual_seed(4)
    one, other = torch.rand(2), torch.rand(2, device="cuda").cpu()
    assert not torch.equal(one, other)
    with torch.random.fork_rng(devices=[torch.device("cuda")]):
        first = torch.rand(2, device="cuda").cpu()
    assert torch.equal(torch.rand(2, device="cuda").cpu(), first)


def test_autocast_lowers_products_alone(machine):
    x = torch.rand(3, 3, device="cuda", requires_grad=True)
    with torch.autocast("cuda", torch.bfloat16):
        assert (x @ x).dtype == functional.linear(x, x).dtype == torch.bfloat16
        assert (x @ x).softmax(1).dtype == (x + x).dtype == torch.float32
        assert (torch.rand(3, 3) @ torch.rand(3, 3)).dtype == torch.float32
    (x @ x).sum().backward()
    assert x.grad.dtype == torch.float32


def test_it_ends(pretended_cuda):
    before = torch.cuda.is_available(), torch.cuda.device_count(), torch.autocast, functional.scaled_dot_product_attention
    with pretended_cuda.device():
        outlives = torch.ones(3, device="cuda")
    assert before == (
        torch.cuda.is_available(), torch.cuda.device_count(), torch.autocast, functional.scaled_dot_product_attention,
    )  # fmt: skip
    with pytest.raises(AssertionError, match="a pretended tensor outlived its device"):
        outlives + 1
