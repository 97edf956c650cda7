"""Stand-ins of a learner and its source, on which an update is traced: other objects that hold the same tensors."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterable
from dataclasses import is_dataclass
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from agentlib.core.trees import leaves
from agentlib.engine.tape import INTERNAL, PLAIN, CannotCompile

LONGEST = 10_000
"""Containers with more items are taken to hold no modules."""


OWN = ("agentlib", "torch")
"""The packages whose modules and functions do the same tensor work at each update; tests see to it."""


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
        return _is_same(now, self.value)


class StandIns:
    """Copies of modules and of the containers, methods, partials, closures and dataclasses that lead to modules.

    Everything else is shared: tensors, numbers, generators, environments. So an update of the copies is an update of
    the same tensors, and the modules keep their classes and attributes, which another thread may be reading or
    setting. A copy notes which of its attributes are read. Modules that are reached in other ways, such as by global
    names or through objects of other classes, are shared, and their attributes are not noted.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[Any, Any]] = {}
        """Values and their stand-ins, by the values' ids."""
        self._modules: dict[int, tuple[nn.Module, dict[str, Any]]] = {}
        """By the ids of their stand-ins: modules, and the attributes that they had."""
        self._containers: list[tuple[str, Any, list[Any]]] = []
        """The copied containers with their names and their first contents."""
        self._dictionaries: list[tuple[str, dict[str, Any], dict[str, Any]]] = []
        """Those of the stand-ins, with their classes' names and their first contents."""
        self.foreign: str | None = None
        """A class or a function among them that is neither agentlib's nor torch's."""
        self._shared: list[tuple[Any, Any]] = []
        """The containers that lead to no module, with copies of them as they were."""
        self._kinds: dict[type[nn.Module], type[nn.Module]] = {}
        self._reads: dict[tuple[int, str], Read] = {}

    @property
    def reads(self) -> list[Read]:
        """The attributes that were read, each with its value before."""
        return list(self._reads.values())

    def of(self, value: Any) -> Any:
        """The stand-in of a value, which is the value itself where it leads to no module."""
        if isinstance(value, (Tensor, *PLAIN)):
            return value
        if id(value) not in self._known:
            self._known[id(value)] = value, value  # meanwhile: a container may hold itself
            definition = value if isinstance(value, FunctionType) else type(value)
            if isinstance(value, nn.Module | FunctionType) and definition.__module__.split(".")[0] not in OWN:
                self.foreign = f"{definition.__module__}.{definition.__qualname__}"
            if isinstance(value, nn.Module) and not isinstance(value, torch.jit.ScriptModule):
                self._copy_module(value)
            else:
                self._known[id(value)] = value, self._copy(value)
        return self._known[id(value)][1]

    def put_in_place(self) -> None:
        """Where an update put another tensor in a tensor's place, copies its numbers to the old one.

        Raises:
            CannotCompile: the update changed something else than tensors.
        """
        replaced: list[tuple[Tensor, Tensor]] = []
        for kind, held, before in self._dictionaries:
            for name in dict.fromkeys([*held, *before]):
                new, old = held.get(name), before.get(name)
                if (name in held) == (name in before) and (name in INTERNAL or _is_same(new, old)):
                    continue
                if not isinstance(new, Tensor) or not isinstance(old, Tensor) or form(new) != form(old):
                    raise CannotCompile(f"update changes {kind}.{name}: what it changes belongs in buffers")
                replaced.append((old, new))
        for kind, container, contents in self._containers:
            if [*map(id, _contents(container))] != [*map(id, contents)]:
                raise CannotCompile(f"update changes a {kind} that holds modules")
        with torch.no_grad():
            written = {old.untyped_storage().data_ptr() for old, _ in replaced}
            # Tensors can change places: then each is read before it is written.
            values = [new.clone() if new.untyped_storage().data_ptr() in written else new for _, new in replaced]
            for (old, _), value in zip(replaced, values, strict=True):
                old.copy_(value)

    def put_back(self) -> str | None:
        """Gives containers that are shared their contents back; returns the kind of one that was changed."""
        kind = None
        for container, before in self._shared:
            if len(container) != len(before) or any(a is not b for a, b in zip(container, before, strict=True)):
                kind = type(container).__name__
                container.clear()
                (container.extend if isinstance(container, list | deque) else container.update)(before)
        return kind

    def _copy_module(self, module: nn.Module) -> None:
        kind = type(module)
        if kind not in self._kinds:
            self._kinds[kind] = self._watched(kind)
        stand_in = object.__new__(self._kinds[kind])
        self._known[id(module)] = module, stand_in
        before, own = dict(module.__dict__), stand_in.__dict__
        self._modules[id(stand_in)] = module, before
        for name, value in before.items():
            if name in ("_parameters", "_buffers"):
                own[name] = copy.copy(value)
                self._dictionaries.append((kind.__name__, own[name], dict(value)))
            else:
                own[name] = self.of(value)
        self._dictionaries.append((kind.__name__, own, dict(own)))

    def _watched(self, kind: type[nn.Module]) -> type[nn.Module]:
        """A class below a module's class that notes what is read."""
        modules, reads = self._modules, self._reads

        def read(stand_in: nn.Module, name: str) -> Any:
            value = kind.__getattribute__(stand_in, name)
            if (id(stand_in), name) not in reads and name not in INTERNAL and id(stand_in) in modules:
                module, before = modules[id(stand_in)]
                if name in before:
                    reads[id(stand_in), name] = Read(module, name, before[name])
            return value

        members: dict[str, Any] = {"__getattribute__": read, "__module__": kind.__module__}
        if hasattr(kind, "__del__"):
            members["__del__"] = lambda stand_in: None  # it would close what the module goes on using
        return type(kind.__name__, (kind,), members)

    def _copy(self, value: Any) -> Any:
        if isinstance(value, list | tuple | deque) and len(value) <= LONGEST:
            items = [self.of(item) for item in value]
            if _are_same(items, value):
                return self._watched_as_is(value)
            if isinstance(value, tuple):
                return tuple.__new__(type(value), items)
            found = copy.copy(value)
            found.clear()
            found.extend(items)
            return self._noted(found)
        if isinstance(value, dict) and len(value) <= LONGEST:
            return self._with_items(value, value)
        if isinstance(value, MethodType):
            owner = self.of(value.__self__)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, partial):
            parts = [self.of(value.func), self.of(value.args), self.of(value.keywords)]
            same = _are_same(parts, [value.func, value.args, value.keywords])
            return value if same else partial(parts[0], *parts[1], **parts[2])
        if isinstance(value, FunctionType):
            return self._function(value)
        if is_dataclass(value) and not isinstance(value, type) and hasattr(value, "__dict__"):
            return self._with_items(value, value.__dict__)
        return value

    def _with_items(self, value: Any, items: dict[Any, Any]) -> Any:
        """A copy of a dictionary, or of an object with one, that holds stand-ins; itself if there are none in it."""
        new = {key: self.of(item) for key, item in items.items()}
        if _are_same(new.values(), items.values()):
            return self._watched_as_is(value)
        found = copy.copy(value)
        (found if isinstance(found, dict) else found.__dict__).update(new)
        return self._noted(found)

    def _watched_as_is(self, value: Any) -> Any:
        if isinstance(value, list | deque | dict):
            self._shared.append((value, copy.copy(value)))
        return value

    def _function(self, function: FunctionType) -> Any:
        cells = function.__closure__ or ()
        closure, defaults = tuple(map(self._cell, cells)), self.of(function.__defaults__)
        if _are_same(closure, cells) and defaults is function.__defaults__:
            return function
        found = FunctionType(function.__code__, function.__globals__, function.__name__, defaults, closure)
        found.__kwdefaults__ = self.of(function.__kwdefaults__)
        found.__dict__.update(function.__dict__)
        return found

    def _cell(self, cell: CellType) -> CellType:
        try:
            value = cell.cell_contents
        except ValueError:  # nothing in it yet
            return cell
        stand_in = self.of(value)
        return cell if stand_in is value else CellType(stand_in)

    def _noted(self, container: Any) -> Any:
        self._containers.append((type(container).__name__, container, _contents(container)))
        return container


def form(tensor: Tensor) -> tuple[Any, ...]:
    """What tensors have in common that can take each other's place in a graph."""
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.device


def _is_same(new: Any, old: Any) -> bool:
    return new is old or (isinstance(new, PLAIN) and type(new) is type(old) and bool(new == old))


def _are_same(new: Iterable[Any], old: Iterable[Any]) -> bool:
    return all(one is other for one, other in zip(new, old, strict=True))


def _contents(container: Any) -> list[Any]:
    """All that a container, or an object with attributes, refers to."""
    held = container if isinstance(container, dict | list | deque) else container.__dict__
    return [*held.keys(), *held.values()] if isinstance(held, dict) else list(held)
