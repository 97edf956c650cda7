"""What a function does with tensors, written down operation by operation, and undone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from agentlib.training.trees import leaves

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


class Tape(TorchDispatchMode):
    """Writes down each operation of torch that runs inside, gradients included; it does run.

    What it changed in tensors that were there before, `undo` puts back.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations: list[Operation] = []
        self.tensors: list[Tensor] = []
        """By their numbers; kept, so that no id is given twice."""
        self.inputs: list[Ref] = []
        """Tensors that no operation here made."""
        self._numbers: dict[int, Ref] = {}
        self._in_storage: dict[int, list[Tensor]] = {}
        self._saved: dict[int, list[tuple[Tensor, Tensor]]] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for seconds, only to keep it from compiling this

    def input(self, tensor: Tensor) -> Ref:
        """The reference of a tensor; one that is not known yet was there before."""
        if id(tensor) in self._numbers:
            return self._numbers[id(tensor)]
        ref = self._new(tensor)
        self.inputs.append(ref)
        self._in_storage.setdefault(_storage(tensor), []).append(tensor)
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
        operation = func, self.refs(args), self.refs(kwargs)
        changed = list(changed_by(func, args, kwargs))
        for tensor in changed:
            self._save(_storage(tensor))
        out = func(*args, **kwargs)
        results = out if isinstance(out, list | tuple) else [out]
        made = [isinstance(one, Tensor) and (self._numbers.get(id(one)) or self._new(one)) for one in results]
        if any(made) or changed:
            together = isinstance(out, list | tuple)
            self.operations.append(Operation(*operation, tuple(ref or None for ref in made), together))
        return out

    def _save(self, storage: int) -> None:
        if storage in self._in_storage and storage not in self._saved:
            self._saved[storage] = [(tensor, tensor.detach().clone()) for tensor in self._in_storage[storage]]

    @property
    def changed_twice(self) -> bool:
        """Whether a tensor from before was changed, and through its memory another one."""
        return any(_overlap(self._in_storage[storage]) for storage in self._saved)

    def undo(self) -> None:
        """Gives all tensors from before their values back."""
        with torch.no_grad():
            for tensor, value in (pair for pairs in self._saved.values() for pair in pairs):
                tensor.copy_(value)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


def _overlap(tensors: list[Tensor]) -> bool:
    """Whether tensors of one storage reach into each other's part of it."""
    parts = [(t.storage_offset(), t.storage_offset() + _reach(t)) for t in tensors]
    parts.sort()
    return any(second[0] < first[1] for first, second in pairwise(parts))


def _reach(tensor: Tensor) -> int:
    """Numbers from a tensor's first to its last one."""
    steps = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in steps) if tensor.numel() else 0


def _check(func: Any, args: Any) -> None:
    tags = func.tags
    masked = func is torch.ops.aten.index.Tensor
    if masked and not any(isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8) for index in args[1]):
        return
    if torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags:
        raise CannotCompile(
            f"{func} depends on what a tensor holds: `.item()`, a branch in Python, or a selection by a mask cannot be "
            "compiled; `torch.where` can"
        )


def changed_by(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Tensor]:
    """The tensors that an operation changes in place."""
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else () if value is None else (value,)


class Read(NamedTuple):
    """A plain attribute that was read from a module."""

    module: nn.Module
    name: str
    value: Any

    def still_holds(self) -> bool:
        """Whether it would be read so again."""
        now = self.module.__dict__.get(self.name, self)
        if tensors := leaves(self.value):  # which are looked up at each update
            return len(leaves(now)) == len(tensors)
        same = isinstance(now, PLAIN) and type(now) is type(self.value) and now == self.value
        return same or now is self.value


@contextmanager
def attributes_read(modules: Iterable[nn.Module]) -> Iterator[Callable[[], list[Read]]]:
    """Notes which of the modules' own attributes are read inside, and their values.

    For as long, each module has a class of its own below the one it has.
    """
    seen: dict[tuple[int, str], Read] = {}

    def watched(kind: type[nn.Module]) -> type[nn.Module]:
        def read(self: nn.Module, name: str) -> Any:
            value = kind.__getattribute__(self, name)
            own = kind.__getattribute__(self, "__dict__")
            if name in own and name not in INTERNAL and (id(self), name) not in seen:
                seen[id(self), name] = Read(self, name, value)
            return value

        return type(kind.__name__, (kind,), {"__getattribute__": read, "__module__": kind.__module__})

    classes: dict[type[nn.Module], type[nn.Module]] = {}
    kinds = [(module, type(module)) for module in modules]
    for module, kind in kinds:
        if kind not in classes:
            classes[kind] = watched(kind)
        module.__class__ = classes[kind]
    try:
        yield lambda: list(seen.values())
    finally:
        for module, kind in kinds:
            module.__class__ = kind
