"""Channels are followed through a model while it runs once: which weights make, scale and read the same ones.

Every operator that PyTorch executes is seen below autograd, where few kinds are left: those that move elements are applied to
the numbers of their channels, those that compute element by element or by contraction join channels, and an operator that is
not known here makes the channels that it takes remain.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from compress_cli.pruning.channels import attention_unfused
from compress_cli.pruning.joining import Plane
from compress_cli.pruning.layer_rules import Followed, LayerRules, Slot

MOVES = {
    "view", "_unsafe_view", "reshape", "permute", "transpose", "t", "unsqueeze", "squeeze", "expand", "clone", "contiguous",
    "alias", "detach", "roll", "flip", "lift_fresh", "slice", "select", "split", "split_with_sizes", "unbind",
    "index", "index_select", "view_as", "_reshape_alias", "narrow", "unfold", "chunk", "split_with_sizes_copy",
    "repeat", "pixel_shuffle", "pixel_unshuffle",
}  # fmt: skip
RESHAPES = {"view", "_unsafe_view", "reshape", "_reshape_alias", "view_as"}
SPATIAL = {
    "max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d", "adaptive_max_pool2d", "upsample_nearest2d",
    "_adaptive_avg_pool3d",
    "upsample_bilinear2d", "avg_pool1d", "avg_pool3d", "max_pool3d_with_indices", "reflection_pad2d", "replication_pad2d",
    "upsample_bicubic2d", "_upsample_bicubic2d_aa", "_upsample_bilinear2d_aa",
}  # fmt: skip
REDUCTIONS = {
    "mean", "sum", "amax", "amin", "max", "min", "var", "std", "var_mean", "linalg_vector_norm", "any", "all", "prod",
}  # fmt: skip
ALONG_AN_AXIS = {"_softmax": 1, "_log_softmax": 1, "_safe_softmax": 1, "cumsum": 1}  # -> position of the argument
VALUELESS = {
    "new_zeros", "new_empty", "new_full", "new_ones", "zeros_like", "ones_like", "empty_like", "full_like", "rand_like",
    "bernoulli", "fill_", "zero_", "as_strided_", "empty", "_local_scalar_dense", "bernoulli_", "is_same_size",
}  # fmt: skip
NORMALISATIONS = {"native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
ELEMENTWISE = {  # beside those that PyTorch tags; each in place too
    "_prelu_kernel", "_to_copy", "copy", "to", "dropout", "native_dropout", "nan_to_num", "hardswish", "log_sigmoid_forward",
    "triu", "tril",
}  # fmt: skip


def follow(body: nn.Module, inputs: tuple[Tensor, ...]) -> Followed:
    """Run `body` once on the inputs and follow its channels; exceptions are those of the model's own code."""
    mode = _Follower(body)
    with torch.no_grad(), attention_unfused(), sdpa_kernel(SDPBackend.MATH), mode:
        outputs = body(*inputs)
    mode.end(outputs)
    return mode.followed


class _Follower(LayerRules, TorchDispatchMode):
    def __init__(self, body: nn.Module):
        super().__init__()
        self._takers: dict[str, list[str]] = {}  # layer -> the operators and normalisations that took its output
        self._rows: list[Plane] = []  # of tensors whose channels vary along several axes
        self._selected: list[tuple[Plane, int]] = []  # planes of which code picks places along an axis
        stored = body.state_dict().keys()  # a buffer that is not stored is code's own, of fixed size
        for name, tensor in (*body.named_parameters(), *body.named_buffers()):
            if name in stored:
                self._enter(name, tensor)

    def _enter(self, name: str, tensor: Tensor) -> None:
        self._names[tensor.untyped_storage().data_ptr()] = name
        planes = []
        for axis, length in enumerate(tensor.shape):
            if length > 1:
                slot = Slot(name, axis, self.channels.fresh(length))
                self.followed.slots[name, axis, 1] = slot
                planes.append(slot.numbers.reshape([-1 if number == axis else 1 for number in range(tensor.dim())]))
        self._planes[tensor] = planes

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == "glu":
            with self:  # as its definition, of operators that are followed
                values, gates = args[0].chunk(2, *(args[1:] or (-1,)))
                return values * gates.sigmoid()
        before = [(tensor.shape, self.planes(tensor)) for tensor in _tensors(args)]
        result = func(*args, **(kwargs or {}))
        try:
            self._follow(name, func, args, kwargs or {}, result, before)
        except (RuntimeError, IndexError, ValueError, KeyError):
            self._lose(name, before)
        return result

    def _follow(self, name: str, func: Any, args: Any, kwargs: Any, result: Any, before: list[Any]) -> None:
        outputs, sources = _tensors([result]), _tensors(args)
        if name not in MOVES:
            self._take(name, sources)
        if name in VALUELESS or not outputs:
            return
        if name in MOVES and sources:
            self._move(name, func, args, kwargs, outputs)
        elif name == "cat":
            axis = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % outputs[0].dim()
            self._planes[outputs[0]] = self.channels.concatenated(before, axis)
        elif name == "stack":
            axis = (args[1] if len(args) > 1 else 0) % outputs[0].dim()
            joined = self.channels.merged((plane.unsqueeze(axis) for _, planes in before for plane in planes), outputs[0].dim())
            self._planes[outputs[0]] = joined
        elif name in ("convolution", "_convolution"):
            self._convolve(args, outputs[0])
        elif name in ("addmm", "mm", "bmm", "baddbmm", "mv", "dot"):
            self._multiply(args, outputs[0])
        elif name in NORMALISATIONS:
            self._normalise(args[0], args[1:5], 1, 1, outputs[0])
            if True in args[5:6]:  # by statistics of these very values
                self._must_not_vary(self.planes(args[0]), set(range(args[0].dim())) - {1}, name)
        elif name == "native_layer_norm":
            self._normalise(args[0], args[2:4], 1 - len(args[1]) - 1 + args[0].dim(), len(args[1]), outputs[0])
        elif name == "native_group_norm":
            self._normalise_groups(args, outputs[0])
        elif name == "embedding":
            self._embed(args, outputs[0])
        elif name == "constant_pad_nd":
            source = args[0]
            self._planes[outputs[0]] = [self.channels.padded(p, source.shape, args[1]) for p in self.planes(source)]
        elif name in SPATIAL:
            self._keep_channels(before[0][1], outputs, 1 if outputs[0].dim() < 4 else 2, name)
        elif name in REDUCTIONS:
            self._reduce(name, args, kwargs, before, outputs)
        elif name in ALONG_AN_AXIS:
            planes = before[0][1]
            self._planes[outputs[0]] = self._taken_along(planes, {args[ALONG_AN_AXIS[name]] % outputs[0].dim()}, name)
        elif name in ("channel_shuffle", "native_channel_shuffle"):
            self._shuffle(args, outputs[0])
        elif name in ("rrelu_with_noise", "rrelu_with_noise_"):
            self._combine(before[:1], outputs[0])  # the noise takes part in training only
        elif _is_elementwise(func, name):
            self._combine(before, outputs[0])
        else:
            self._lose(name, before)

    def _lose(self, name: str, before: list[Any]) -> None:
        for _, planes in before:
            for plane in planes:
                self.channels.fix(plane, f"the operation '{name}' takes them, through which channels can't be followed")

    def _must_not_vary(self, planes: Iterable[Plane], axes: set[int], name: str) -> None:
        for plane in planes:
            if axes & {axis for axis, length in enumerate(plane.shape) if length > 1}:
                self.channels.fix(plane, f"the operation '{name}' takes all of them together")

    def _taken_along(self, planes: Iterable[Plane], axes: set[int], name: str) -> list[Plane]:
        """The planes, with channels joined along axes of which an operation takes all places together: rows of a matrix remain
        whole, and its columns can be cut."""
        found = []
        for plane in planes:
            plane = self.channels.compact(plane)
            along = axes & {axis for axis, length in enumerate(plane.shape) if length > 1}
            if along and plane.numel() > prod(plane.shape[axis] for axis in along):
                for axis in along:
                    plane = self.channels.join_along(plane, axis)
            elif along:
                self.channels.fix(plane, f"the operation '{name}' takes all of them together")
            found.append(plane)
        return found

    def _move(self, name: str, func: Any, args: Any, kwargs: Any, outputs: list[Tensor]) -> None:
        source, planes = args[0], self.planes(args[0])
        collected: list[list[Plane]] = [[] for _ in outputs]
        for plane in planes:
            whole = plane.expand(source.shape)
            moved = whole.reshape(outputs[0].shape) if name in RESHAPES else func(whole, *args[1:], **kwargs)
            for position, piece in enumerate(_tensors([moved])):
                collected[position].append(self.channels.compact(piece))
        for output, found in zip(outputs, collected, strict=True):
            self._planes[output] = [plane for plane in found if plane.numel() > 1]
            self._rows += [plane for plane in found if sum(length > 1 for length in plane.shape) > 1]
            if source in self._maker:
                self._maker[output] = self._maker[source]
        self._select(name, args, outputs)

    def _select(self, name: str, args: Any, outputs: list[Tensor]) -> None:
        """Note which planes lose places along an axis by code: its numbers would mean other channels after a cut."""
        source = args[0]
        if name in ("split", "split_with_sizes", "chunk", "split_with_sizes_copy"):
            axis = (args[2] if len(args) > 2 else 0) % source.dim()
            even = len({output.shape[axis] for output in outputs}) == 1
            for plane in self.planes(source):
                if plane.shape[axis] > 1 and even:
                    self._rows.append(plane.unflatten(axis, (len(outputs), -1)))
                elif plane.shape[axis] > 1:
                    self._selected.append((plane, axis))
        elif name in ("slice", "select", "index_select", "unbind", "narrow", "unfold"):
            axis = (args[1] if len(args) > 1 else 0) % source.dim()
            if name == "slice" and outputs[0].shape == source.shape:
                return
            varying = [plane for plane in self.planes(source) if plane.shape[axis] > 1]
            if name == "slice" and _is_piece(outputs[0].shape[axis], source.shape[axis], *args[2:]):
                self._rows += [plane.unflatten(axis, (-1, outputs[0].shape[axis])) for plane in varying]
            else:
                self._selected += [(plane, axis) for plane in varying]
        elif name == "index":
            axes = [axis for axis, index in enumerate(args[1]) if index is not None]
            self._selected += [(plane, axis) for plane in self.planes(source) for axis in axes if plane.shape[axis] > 1]
        elif name in ("roll", "flip"):
            axes = [axis % source.dim() for axis in (args[2 if name == "roll" else 1] or range(source.dim()))]
            self._selected += [(plane, axis) for plane in self.planes(source) for axis in axes if plane.shape[axis] > 1]

    def _combine(self, before: list[Any], output: Tensor) -> None:
        """Element by element: a tensor of fixed size beside channels keeps these from being cut."""
        joined = self.channels.merged((plane for _, planes in before for plane in planes), output.dim())
        for shape, planes in before:
            aligned = (1,) * (output.dim() - len(shape)) + tuple(shape)
            for whole in joined:
                for axis, length in enumerate(whole.shape):
                    there = any(p.shape[axis - output.dim()] > 1 for p in planes if p.dim() >= output.dim() - axis)
                    if length > 1 and aligned[axis] > 1 and not there:
                        self.channels.fix(whole, "it is combined with a tensor of fixed size")
        self._planes[output] = joined

    def _keep_channels(self, planes: list[Plane], outputs: list[Tensor], spatial: int, name: str) -> None:
        axes = set(range(outputs[0].dim() - spatial, outputs[0].dim()))
        self._must_not_vary(planes, axes, name)
        for output in outputs:
            self._planes[output] = [plane for plane in planes if all(plane.shape[axis] == 1 for axis in axes)]

    def _reduce(self, name: str, args: Any, kwargs: Any, before: list[Any], outputs: list[Tensor]) -> None:
        shape, planes = before[0]
        given = args[1] if len(args) > 1 else kwargs.get("dim")
        given = args[2] if name == "linalg_vector_norm" and len(args) > 2 else given
        axes = set(range(len(shape))) if given is None or given == [] else {given} if isinstance(given, int) else set(given)
        axes = {axis % len(shape) for axis in axes}
        kept = [plane for plane in self._taken_along(planes, axes, name) if all(plane.shape[axis] == 1 for axis in axes)]
        for output in outputs:
            narrowed = output.dim() < len(shape)
            self._planes[output] = [
                plane.reshape([n for axis, n in enumerate(plane.shape) if axis not in axes]) if narrowed else plane
                for plane in kept
            ]

    def _shuffle(self, args: Any, output: Tensor) -> None:
        source, groups = args[0], args[1]
        collected = []
        for plane in self.planes(source):
            rows = plane.expand(source.shape).unflatten(1, (groups, -1))
            self._rows.append(self.channels.compact(rows))
            collected.append(self.channels.compact(rows.transpose(1, 2).flatten(1, 2)))
        self._planes[output] = collected

    def _take(self, name: str, sources: list[Tensor]) -> None:
        for tensor in sources:
            if tensor in self._maker:
                self._takers.setdefault(self._maker[tensor], []).append(name)

    def end(self, outputs: Any) -> None:
        """What holds only once everything is joined."""
        for tensor in _tensors([outputs]):
            for plane in self.planes(tensor):
                self.channels.fix(plane, "it makes an output of the model")
        joined = True
        while joined:
            joined = False
            for plane in self._rows:
                *others, _ = [*self.channels.varying(plane), None]
                for axis in others[:-1]:
                    plane, joined = self.channels.join_along(plane, axis), True
        for plane, axis in self._selected:
            if axis in self.channels.varying(plane):
                self.channels.fix(plane, "code picks some of its channels by number")
        takers = self._takers
        self.followed.normalised = {norm: layer for norm, layer in self.followed.normalised.items() if len(takers[layer]) == 1}


def _is_piece(taken: int, length: int, start: int | None = 0, end: int | None = None, step: int = 1) -> bool:
    """Whether a slice takes one of several equal pieces, as a split does."""
    return step == 1 and taken > 1 and length % taken == 0 and (start or 0) % taken == 0


def _is_elementwise(func: Any, name: str) -> bool:
    """Whether an operator computes element by element; PyTorch has not tagged every one that works in place."""
    plain = name.removesuffix("_")
    if torch.Tag.pointwise in func.tags or plain in ELEMENTWISE:
        return True
    forms = getattr(torch.ops.aten, plain) if plain != name and hasattr(torch.ops.aten, plain) else None
    return forms is not None and any(torch.Tag.pointwise in getattr(forms, form).tags for form in forms.overloads())


def _tensors(values: Any) -> list[Tensor]:
    """All tensors in nested tuples, lists and mappings."""
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, dict):
        values = list(values.values())
    return [tensor for value in values for tensor in _tensors(value)] if isinstance(values, list | tuple) else []
