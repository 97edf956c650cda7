"""What a function does with tensors, written down operation by operation, and undone."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentlib.engine.torch_private import (
    DispatchMode,
    depends_on_numbers,
    fills_with_random_numbers,
    storage_id,
    written_by,
)

aten = torch.ops.aten
OF_A_SIZE = {
    aten.rand_like.default: aten.rand.default,
    aten.randn_like.default: aten.randn.default,
}
"""What draws random numbers like another tensor, and what does it by its size alone."""
KEPT = (None, torch.preserve_format)
"""The formats of memory that are those of the other one."""

INTERNAL = nn.Module().__dict__.keys() - {"training"}
"""What torch keeps in every module."""
PLAIN = (bool, int, float, complex, str, bytes, type(None))


class CannotCompile(RuntimeError):
    """What runs is not the same tensor work each time."""


class Ref(NamedTuple):
    """The number of a tensor on a tape."""

    number: int

    def __repr__(self) -> str:
        return f"%{self.number}"


class Operation(NamedTuple):
    """One line of a tape: tensors among the arguments are `Ref`s; `results` are the tensors that came out."""

    function: Any
    args: Any
    kwargs: Any
    results: tuple[Ref | None, ...]
    is_tuple: bool
    """Whether the results come together, even if there is only one."""


class Form(NamedTuple):
    """What belongs to a tensor besides its numbers."""

    tensor: Tensor
    alias: Tensor
    """The same memory, shape and strides."""
    gradient: Tensor | None

    @classmethod
    def of(cls, tensor: Tensor) -> Form:
        """The form of a tensor now."""
        return cls(tensor, tensor.detach(), tensor.grad if tensor.is_leaf else None)

    def holds(self) -> bool:
        """Whether the tensor has this form still."""
        gradient = self.tensor.grad if self.tensor.is_leaf else None
        return _region(self.tensor) == _region(self.alias) and gradient is self.gradient

    def put_back(self) -> None:
        """Gives the tensor this form again."""
        self.tensor.data = self.alias
        if self.tensor.is_leaf:
            self.tensor.grad = self.gradient


class Tape(DispatchMode):
    """Writes down each operation of torch that runs inside, gradients included; it does run.

    What it changed in tensors that were there before, `undo` puts back. Each operation's schema says which tensors it
    writes. These are saved before it runs, whichever view of a storage they are, unless the storage was made inside.

    Args:
        known: tensors whose memory, shape and `grad` are put back, too, whether or not an operation is given them.
        most_bytes: raises `CannotCompile` where the tensors made inside have more bytes; none is freed meanwhile.
    """

    def __init__(self, known: Iterable[Tensor] = (), most_bytes: float = math.inf) -> None:
        super().__init__()
        self.bytes_left = most_bytes
        self.operations: list[Operation] = []
        self.tensors: list[Tensor] = []
        """By their numbers; kept, so that no id is given twice."""
        self.inputs: list[Ref] = []
        """Tensors that no operation here made."""
        self._numbers: dict[int, Ref] = {}
        self._in_storage: dict[int, list[Tensor]] = {}
        self._made: dict[int, torch.UntypedStorage] = {}
        """The storages made inside; kept, so that no address is given twice."""
        self._saved: dict[tuple[Any, ...], tuple[Tensor, Tensor]] = {}
        """By their regions, in the order of the first writes: a tensor on the memory, and a copy of its numbers."""
        self._fresh = set[int]()
        """The ids of tensors made here for random numbers."""
        self._forms = {id(tensor): Form.of(tensor) for tensor in known if tensor.layout is torch.strided}
        self.has_other_forms = False
        """Whether a tensor from before was given other memory, another shape or another `grad`; known after `undo`."""

    def input(self, tensor: Tensor) -> Ref:
        """The reference of a tensor; one that is not known yet was there before."""
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        ref = self._new(tensor)
        self.inputs.append(ref)
        self._in_storage.setdefault(_storage(tensor), []).append(tensor)
        if id(tensor) not in self._forms:
            self._forms[id(tensor)] = Form.of(tensor)
        return ref

    def _new(self, tensor: Tensor) -> Ref:
        ref = self._numbers[id(tensor)] = Ref(len(self.tensors))
        self.tensors.append(tensor)
        return ref

    def refs(self, value: Any) -> Any:
        """A tree of arguments with references in place of its tensors."""
        if isinstance(value, Tensor):
            return self.input(value)
        if isinstance(value, list | tuple):
            return [self.refs(item) for item in value]
        if isinstance(value, dict):
            return {name: self.refs(item) for name, item in value.items()}
        if isinstance(value, torch.Generator):
            raise CannotCompile("a torch.Generator of its own cannot be compiled: draw from torch's default one")
        return value

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        _check(func, args)
        if self._is_laid_over(func, args, kwargs):
            with self:
                return self._drawn(func, args, kwargs)
        operation = func, self.refs(args), self.refs(kwargs)
        changed: list[Tensor] = list(written_by(func, args, kwargs))
        for tensor in changed:
            self._save(tensor)
        out = func(*args, **kwargs)
        results = out if isinstance(out, list | tuple) else [out]
        made = [self._result(one) if isinstance(one, Tensor) else None for one in results]
        if any(made) or changed:
            together = isinstance(out, list | tuple)
            self.operations.append(Operation(*operation, tuple(made), together))
        return out

    def _is_laid_over(self, func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
        """Whether random numbers are laid over a tensor in the order of its memory.

        A compiler may give a tensor that an operation made another order, as it does with what comes out of a
        convolution. Then they would lie elsewhere. (Where a tensor isn't contiguous, they still do.)
        """
        if func in OF_A_SIZE:
            return args[0].is_contiguous() and kwargs.get("memory_format") in KEPT
        if not fills_with_random_numbers(func) or not args[0].is_contiguous():
            return False
        return _storage(args[0]) in self._made and id(args[0]) not in self._fresh

    def _drawn(self, func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
        """The same numbers, drawn into a tensor that is contiguous for a compiler, too."""
        like: Tensor = args[0]
        kind = {"dtype": like.dtype, "device": like.device}
        if func in OF_A_SIZE:
            kind |= {name: value for name, value in kwargs.items() if value is not None and name != "memory_format"}
            return OF_A_SIZE[func](list(like.shape), **kind)  # type: ignore[no-any-return]
        fresh = aten.empty.memory_format(list(like.shape), **kind)
        self._fresh.add(id(fresh))
        return like.copy_(func(fresh, *args[1:], **kwargs))

    def _result(self, tensor: Tensor) -> Ref:
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        storage = _storage(tensor)
        if storage not in self._in_storage and storage not in self._made:  # else it is a view
            self._made[storage] = tensor.untyped_storage()
            self.bytes_left -= tensor.untyped_storage().nbytes()
            if self.bytes_left < 0:
                raise CannotCompile("an update makes tensors of too many bytes to be traced")
        return self._new(tensor)

    def _save(self, tensor: Tensor) -> None:
        region = _region(tensor)
        if region[0] not in self._made and region not in self._saved:
            alias = tensor.detach()
            self._saved[region] = alias, alias.clone()

    @property
    def changed_twice(self) -> bool:
        """Whether a tensor from before was changed, and through its memory another one."""
        return any(_overlap(self._in_storage.get(storage, [])) for storage, *_ in self._saved)

    def undo(self) -> None:
        """Gives all tensors from before their values back, and their forms.

        Regions can overlap. A number was saved for the first time before it was first written; this comes back last.
        """
        forms = [form for form in self._forms.values() if not form.holds()]
        self.has_other_forms |= bool(forms)
        with torch.no_grad():
            for form in forms:
                form.put_back()
            for alias, value in reversed(self._saved.values()):
                alias.copy_(value)


def _storage(tensor: Tensor) -> int:
    if tensor.layout is not torch.strided:
        raise CannotCompile(f"a tensor of layout {tensor.layout} cannot be compiled")
    return storage_id(tensor)


def _region(tensor: Tensor) -> tuple[Any, ...]:
    """Which memory a tensor reads, and how."""
    return _storage(tensor), tensor.dtype, tensor.storage_offset(), tensor.shape, tensor.stride()


def _overlap(tensors: list[Tensor]) -> bool:
    """Whether tensors of one storage reach into each other's part of it."""
    parts = [(t.storage_offset() * t.itemsize, (t.storage_offset() + _reach(t)) * t.itemsize) for t in tensors]
    parts.sort()
    return any(second[0] < first[1] for first, second in pairwise(parts))


def _reach(tensor: Tensor) -> int:
    """Numbers from a tensor's first to its last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps) if tensor.numel() else 0


def _check(func: Any, args: Any) -> None:
    masked = func is torch.ops.aten.index.Tensor
    if masked and not any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
        return
    if depends_on_numbers(func):
        raise CannotCompile(
            f"{func} depends on what a tensor holds: `.item()`, a branch in Python, or a selection by a mask cannot be "
            "compiled; `torch.where` can"
        )
