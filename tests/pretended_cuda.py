"""A pretended CUDA device: tensors say `cuda:0`, compute on the CPU, and refuse what PyTorch refuses.

    with device() as machine:
        x = torch.ones(3, device="cuda")
        x + torch.ones(3)  # RuntimeError: Expected all tensors to be on the same device ...

Tensors on it wrap tensors in the CPU's memory. To Python they are CUDA's; to PyTorch's C++ they are on the device `meta`, which
no machine lacks and no kernel knows, so that what C++ makes along with them lands there too. Where an operator would start a
kernel stands one handler: it raises where that kernel would have been given tensors of two devices, and notes where the
program would have waited for the device. What kernels do, how fast, in which order and memory, is not pretended.
"""

import contextlib
import linecache
import sys
import weakref
from collections import Counter
from pathlib import Path
from unittest import mock

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

aten = torch.ops.aten
CPU, CUDA, META = torch.device("cpu"), torch.device("cuda", 0), torch.device("meta")
FREE_BYTES, TOTAL_BYTES = 8 << 30, 16 << 30

COPIES = {aten._to_copy.default, aten.copy_.default}
INDEXING = {aten.index.Tensor, aten.index_put.default, aten.index_put_.default}
READS = {aten._local_scalar_dense.default, aten.equal.default, aten.nonzero.default, aten.masked_select.default}


class Machine:
    """What is known of the pretended device: its generator, and who waited for it."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(1)
        self.waits = Counter()  # "file.py: line of source", of the package -> times

    def wait(self, device=None):
        frame = sys._getframe()
        while frame and "/compress_cli/" not in frame.f_code.co_filename:
            frame = frame.f_back
        code = frame and frame.f_code
        line = f"{Path(code.co_filename).name}: {linecache.getline(code.co_filename, frame.f_lineno).strip()}" if code else ""
        self.waits[line] += 1


class Pretended(torch.Tensor):
    """A tensor on the pretended device; `inner` holds its values."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=META
        )

    def __init__(self, inner):
        self.inner = inner

    def __repr__(self):
        return f"Pretended({self.inner!r})"

    def __tensor_flatten__(self):  # nn.Module.to asks for it
        return ["inner"], None

    @staticmethod
    def __tensor_unflatten__(parts, context, size, stride):
        return Pretended(parts["inner"])

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func}: a pretended tensor outlived its device")

    device = property(lambda self: CUDA)
    is_cuda = property(lambda self: True)
    is_cpu = is_meta = property(lambda self: False)

    def get_device(self):
        return 0

    def numpy(self, *, force=False):
        if force:
            return self.detach().cpu().numpy()
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy the tensor to host memory first."
        )

    def __array__(self, dtype=None, copy=None):
        return self.numpy()

    def tolist(self):
        return self.detach().cpu().tolist()

    def new_tensor(self, data, *, dtype=None, device=None, requires_grad=False):
        return torch.tensor(data, dtype=dtype or self.dtype, device=device or CUDA, requires_grad=requires_grad)


class _Kernels(TorchDispatchMode):
    """Where operators would start kernels."""

    def __init__(self, machine):
        super().__init__()
        self.machine = machine

    @classmethod
    def _should_skip_dynamo(cls):
        return False  # or else PyTorch's compiler is imported, for three seconds

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        leaves = list(_leaves((*args, *kwargs.values())))
        tensors = [each for each in leaves if isinstance(each, torch.Tensor)]
        asked = CUDA if kwargs.get("device") == META else kwargs.get("device")
        if func is aten._pin_memory.default:
            return _pinned(args[0])
        if not any(isinstance(each, Pretended) for each in tensors) and (asked is None or asked.type != "cuda"):
            return func(*args, **kwargs)
        where = _where(func, args, tensors, asked)
        if self._waits(func, args, kwargs, tensors, where):
            self.machine.wait()
        if any(isinstance(each, torch.Generator) and each.device.type != where.type for each in leaves):
            raise RuntimeError(f"Expected a '{where.type}' device type for generator but found 'cpu'")
        if asked is not None:
            kwargs["device"] = CPU
        with self._drawing(func, where):
            out = func(*_each(_inner, args), **{name: _each(_inner, value) for name, value in kwargs.items()})
        if where.type == "cuda":
            out = _each(_wrapped, out)
        return return_and_correct_aliasing(func, args, kwargs, out) if func._schema.is_mutable else out

    def _waits(self, func, args, kwargs, tensors, where):
        """Whoever reads a value waits, or asks how many there are, or copies between the CPU and the device; only a copy
        to the device may be told not to."""
        if func in COPIES:
            source = tensors[0 if func is aten._to_copy.default else 1]
            told_not_to = kwargs.get("non_blocking", func is aten.copy_.default and args[2:] == (True,))
            return source.device.type != where.type and not (told_not_to and where.type == "cuda")
        masked = func in INDEXING and any(each.dtype in (torch.bool, torch.uint8) for each in args[1] if each is not None)
        from_the_cpu = func in INDEXING and any(each.device.type == "cpu" for each in args[1] if each is not None)
        return func in READS or masked or from_the_cpu

    @contextlib.contextmanager
    def _drawing(self, func, where):
        """Random operators draw from the device's own generator."""
        if where.type == "cpu" or torch.Tag.nondeterministic_seeded not in func.tags:
            yield
            return
        before = torch.get_rng_state()
        torch.set_rng_state(self.machine.generator.get_state())
        yield
        self.machine.generator.set_state(torch.get_rng_state())
        torch.set_rng_state(before)


def _where(func, args, tensors, asked):
    """The device on which an operator runs and leaves its result; RuntimeError where it would be given two."""
    if func in COPIES:
        return asked or tensors[0].device
    found = {each.device.type for each in tensors if not _may_come_from_the_cpu(func, args, each)}
    if len(found) > 1:
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu! (in {func})"
        )
    return asked or CUDA


def _may_come_from_the_cpu(func, args, tensor):
    """A single number in an operator that goes value by value, unless it is written to; and indices of what it holds."""
    if tensor.device.type != "cpu":
        return False
    if func in INDEXING:
        return any(tensor is each for each in args[1]) or (tensor is not args[0] and tensor.ndim == 0)
    written = func._schema.is_mutable and tensor is args[0]
    one_for_all = func._schema.name.startswith("aten::_foreach") and any(tensor is each for each in args)
    return tensor.ndim == 0 and not written and (torch.Tag.pointwise in func.tags or one_for_all)


def _pinned(tensor):
    if isinstance(tensor, Pretended):
        raise RuntimeError("cannot pin 'torch.cuda.FloatTensor' only dense CPU tensors can be pinned")
    return tensor.clone()


def _leaves(given):
    for each in given:
        if isinstance(each, list | tuple):
            yield from _leaves(each)
        else:
            yield each


def _each(change, given):
    """Lists and tuples stay, all that is in them is changed."""
    return type(given)(_each(change, each) for each in given) if isinstance(given, list | tuple) else change(given)


def _inner(leaf):
    return leaf.inner if isinstance(leaf, Pretended) else leaf


def _wrapped(leaf):
    return Pretended(leaf) if isinstance(leaf, torch.Tensor) else leaf


class _Autocast(TorchFunctionMode):
    """torch.autocast on CUDA: what is computed in the lower precision, and what in float32 all the same."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def __torch_function__(self, func, types, args=(), kwargs=None):
        dtype = self.dtype if func in LOWER else torch.float32 if func in FULL else None
        if dtype is not None:
            args = _each(lambda each: self._cast(each, dtype), args)
        return func(*args, **(kwargs or {}))

    def _cast(self, leaf, dtype):
        floats = isinstance(leaf, Pretended) and leaf.dtype in (torch.float32, self.dtype)
        return leaf.to(dtype) if floats else leaf


def attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
    """Written out: which of its kernels to take, PyTorch would ask the device."""
    return aten._scaled_dot_product_attention_math(
        query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )[0]


LOWER = {
    functional.conv1d, functional.conv2d, functional.conv3d, functional.conv_transpose2d, functional.linear, functional.prelu,
    torch.matmul, torch.mm, torch.bmm, torch.addmm, torch.baddbmm, torch.Tensor.matmul, torch.Tensor.__matmul__, attention,
}  # fmt: skip
FULL = {
    functional.softmax, functional.log_softmax, functional.layer_norm, functional.group_norm, functional.softplus,
    *(getattr(home, name) for home in (torch, torch.Tensor) for name in ("exp", "log", "pow", "sum", "softmax", "log_softmax")),
}  # fmt: skip
AUTOCAST = torch.autocast


APPLY = nn.Module._apply


def _apply(module, fn, recurse=True):
    """A parameter that a graph holds too can't become the device's in place: another stands for it."""
    renewed = fn.__dict__.setdefault("renewed", {})  # what two layers share stays shared
    for name, each in module._parameters.items():
        if each is not None and (weakref.getweakrefs(each) or each._use_count() > 1):
            module._parameters[name] = renewed.setdefault(id(each), (nn.Parameter(each.detach(), each.requires_grad), each))[0]
    return APPLY(module, fn, recurse)


def _autocast(device_type, dtype=torch.float16, **settings):
    return _Autocast(dtype) if device_type == "cuda" else AUTOCAST(device_type, dtype, **settings)


@contextlib.contextmanager
def device():
    """Within it PyTorch finds one CUDA device; yields the Machine. Tensors must not outlive it."""
    machine, lifted = Machine(), torch._C._only_lift_cpu_tensors()
    cuda = {
        "_initialized": True, "is_available": lambda: True, "device_count": lambda: 1, "current_device": lambda: 0,
        "default_generators": (machine.generator,), "mem_get_info": lambda device=None: (FREE_BYTES, TOTAL_BYTES),
        "synchronize": machine.wait, "get_device_name": lambda device=None: "Pretended",
    }  # fmt: skip
    torch._C._ensureCUDADeviceGuardSet()  # where there is no driver "cuda" has no number else
    with contextlib.ExitStack() as stack:
        stack.enter_context(mock.patch.multiple(torch.cuda, **cuda))
        by_name = {name: cuda[name] for name in ("current_device", "device_count")}
        stack.enter_context(mock.patch.multiple(torch.cuda.random, **by_name))
        stack.enter_context(mock.patch.object(torch, "autocast", _autocast))
        stack.enter_context(mock.patch.object(nn.Module, "_apply", _apply))
        stack.enter_context(mock.patch.object(functional, "scaled_dot_product_attention", attention))
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device="cuda") begins on the CPU
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(_Kernels(machine))
        yield machine
