"""The whole update as one compiled graph.

An update is traced once per run: all that torch does in it, gradients and optimizer included, is written down. What is
written names a library of machine code that does the same. Inductor, torch's compiler, builds it the first time, and it
is kept on disk: a later run of the same structure, in this process or another, only traces. On a GPU, where starting
a kernel takes longer than most kernels, the trace is captured as a CUDA graph instead (`captured.py`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import tempfile
import warnings
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from operator import getitem
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx, nn

from agentlib.data.source import Source
from agentlib.training.captured import Captured
from agentlib.training.learner import Learner, Update
from agentlib.training.rewriting import rewrite
from agentlib.training.tape import INTERNAL, PLAIN, CannotCompile, Operation, Read, Ref, Tape, attributes_read
from agentlib.training.trees import leaves

CHECK_EVERY = 16
"""Updates from one look at the attributes that the graph takes for granted to the next."""
WRITING = 4
"""Raised when other code is written for the same trace."""
MOST_TRACES = 64
"""Times that one run is traced before that is thought to happen without end."""

OPTIONS: dict[str, Any] = {
    "fallback_random": True,  # the numbers that torch would draw uncompiled
    "size_asserts": False,  # the graph is called with tensors that fit, or not at all
    "alignment_asserts": False,
    "scalar_asserts": False,
}


telling: ContextVar[Callable[[str], object]] = ContextVar("telling", default=lambda text: None)
"""What is called with a line for whoever waits, when something takes long."""


def compiler_found() -> bool:
    """Whether torch can build CPU code here."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def cycle(learner: Learner, source: Source) -> Update:
    """Sample, update, feedback: what is compiled as one graph.

    Raises:
        TypeError: the learner's `update` returned something else.
    """
    batch = source.sample()
    update = learner.update(batch)
    if not isinstance(update, Update):
        name, found = type(learner).__name__, type(update).__name__
        raise TypeError(f"{name}.update returned a {found}, and not an Update of its metrics")
    source.feedback(batch, update.per_sample)
    return update


class CompiledCycle:
    """`cycle`, compiled; one for each run.

    Python is only run while tracing, so what changes from update to update must be in tensors. Whether a module's
    tensors were replaced by others is looked at each time, and the attributes that were read, such as numbers, every
    `CHECK_EVERY` updates; after a change it is traced anew. The second update is traced, too: where it is another, a
    number came from elsewhere, such as one of Python's random generators.
    """

    def __init__(self) -> None:
        self.calls = self.traces = 0
        self.graph: Graph | None = None

    def __call__(self, learner: Learner, source: Source) -> Update:
        """Does one update.

        Raises:
            CannotCompile: updates are not always the same tensor work; nothing has changed then.
        """
        graph = self.graph
        if graph is None or self._is_in_doubt(graph):
            graph = self.graph = self._traced(learner, source)
        self.calls += 1
        return graph()

    def _is_in_doubt(self, graph: Graph) -> bool:
        return self.calls == 1 or not graph.follow() or (self.calls % CHECK_EVERY == 0 and bool(graph.changes()))

    def _traced(self, learner: Learner, source: Source) -> Graph:
        before, trace = self.graph, traced(learner, source)
        self.traces += 1
        if before is None:
            return Graph(trace)
        if self.calls == 1 and before.follow() and not before.changes():
            difference = before.trace.difference(trace)
            if difference is not None:
                raise CannotCompile(
                    "two updates were not the same tensor work: what changes belongs in tensors, as the batch's clock "
                    f"is, and random numbers come from torch's default generator ({difference})"
                )
        if self.traces > MOST_TRACES:
            changes = ", ".join(before.changes()) or "tensors of other sizes"
            raise CannotCompile(f"it was traced {MOST_TRACES} times ({changes}): what changes belongs in tensors")
        return Graph(trace)


class Place(NamedTuple):
    """Where a module holds a tensor, or a list, tuple or dict of them."""

    held: dict[str, Any]
    name: str
    leaf: int
    """Its number in a tree; 0 of a tensor by itself."""

    def look(self) -> Tensor | None:
        """What is there now."""
        value = self.held.get(self.name)
        if isinstance(value, Tensor):
            return value
        found = leaves(value)
        return found[self.leaf] if self.leaf < len(found) else None


class Trace(NamedTuple):
    """What one update does, and with which tensors."""

    operations: list[Operation]
    inputs: dict[Ref, Tensor]
    places: dict[Ref, Place]
    """Of those inputs that modules hold."""
    update: Update
    """With references in place of tensors."""
    reads: list[Read]

    @property
    def outputs(self) -> list[Ref]:
        """The tensors of the update."""
        values: tuple[Any, ...] = (*self.update.metrics.values(), self.update.per_sample)
        return [value for value in values if isinstance(value, Ref)]

    def text(self) -> str:
        """All that the compiled code depends on."""
        signature = [
            f"{ref} = {tensor.dtype}{list(tensor.shape)}, strides {tensor.stride()}, on {tensor.device}"
            for ref, tensor in self.inputs.items()
        ]
        return "\n".join([*signature, *map(repr, self.operations), repr(self.outputs)])

    def difference(self, other: Trace) -> str | None:
        """What is not the same in another trace, the values of constants included."""
        for here, there in zip(self.text().splitlines(), other.text().splitlines(), strict=False):
            if here != there:
                return f"{here[:200]} is not {there[:200]}"
        for ref in self.inputs.keys() - self.places.keys():
            if not torch.equal(self.inputs[ref], other.inputs[ref]):
                return f"a tensor of {list(self.inputs[ref].shape)} numbers came from outside of torch"
        return None


def traced(learner: Learner, source: Source) -> Trace:
    """Traces one update, and leaves tensors, attributes and torch's generators as they were.

    Raises:
        CannotCompile: it does what is not the same tensor work each time.
    """
    modules = list(dict.fromkeys([*learner.modules(), *source.modules()]))
    places, known = dict[int, Place](), dict[int, Tensor]()
    for held in (held for module in modules for held in (module._parameters, module._buffers, module.__dict__)):
        for name in held:
            for leaf, tensor in enumerate(leaves(held[name]) if name not in INTERNAL else ()):
                places.setdefault(id(tensor), Place(held, name, leaf))
                known[id(tensor)] = tensor
    before = [[(held, dict(held)) for held in (m.__dict__, m._parameters, m._buffers)] for m in modules]
    tape, device = Tape(known.values()), source.ticks.device
    try:
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with forked, attributes_read(modules) as reads, tape:
            update = cycle(learner, source)
            for module, dicts in zip(modules, before, strict=True):
                for held, old in dicts:
                    _copy_back(module, held, old)
            reported = Update(tape.refs(update.metrics), tape.refs(update.per_sample))
    finally:
        for held, old in (pair for dicts in before for pair in dicts):
            _restore(held, old)
        tape.undo()
    if tape.changed_twice:
        raise CannotCompile("tensors of the learner or its source that share memory are changed")
    if tape.has_other_forms:
        raise CannotCompile("update leaves a tensor with another `grad`, another size or other memory")
    inputs = {ref: tape.tensors[ref.number] for ref in tape.inputs}
    found = {ref: places[id(tensor)] for ref, tensor in inputs.items() if id(tensor) in places}
    return Trace(tape.operations, inputs, found, reported, reads())


def _copy_back(module: nn.Module, held: dict[str, Any], before: dict[str, Any]) -> None:
    """Where an update put another tensor in a tensor's place: the old one gets its values."""
    for name, new in held.items():
        old = before.get(name)
        if new is old or name in INTERNAL or (isinstance(new, PLAIN) and type(new) is type(old) and new == old):
            continue
        if not isinstance(new, Tensor) or not isinstance(old, Tensor) or _form(new) != _form(old):
            raise CannotCompile(f"update changes {type(module).__name__}.{name}: what it changes belongs in buffers")
        with torch.no_grad():
            old.copy_(new)


def _restore(held: dict[str, Any], before: dict[str, Any]) -> None:
    """Entry by entry: another thread may be acting with these modules."""
    for name in [name for name in held if name not in before]:
        del held[name]
    for name, old in before.items():
        if held.get(name) is not old or name not in held:
            held[name] = old


def _form(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.dtype, tensor.stride(), tensor.device


class Graph:
    """A trace, compiled, with the tensors that it works on."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.inputs = list(trace.inputs.values())
        self.owned = [(number, trace.places[ref]) for number, ref in enumerate(trace.inputs) if ref in trace.places]
        self.metrics: dict[str, Any] = dict(trace.update.metrics)
        self.names = [name for name, value in self.metrics.items() if isinstance(value, Ref)]
        self.library = library(trace)

    def __call__(self) -> Update:
        outputs = self.library.run(self.inputs)
        metrics = self.metrics | dict(zip(self.names, outputs, strict=False))
        return Update(metrics, outputs[-1] if self.trace.update.per_sample is not None else None)

    def follow(self) -> bool:
        """Takes the tensors that modules hold now; False where those are of other sizes or types."""
        inputs = self.inputs
        for number, (held, name, leaf) in self.owned:
            if held.get(name) is not inputs[number]:  # almost always it is, and this is done at every update
                now, before = Place(held, name, leaf).look(), inputs[number]
                if now is None or (now is not before and _form(now) != _form(before)):
                    return False
                inputs[number] = now
        return True

    def changes(self) -> list[str]:
        """The attributes that were read and are different now."""
        return [f"{type(r.module).__name__}.{r.name}" for r in self.trace.reads if not r.still_holds()]


def library(trace: Trace) -> Any:
    """The machine code of a trace, from memory, from the disk or built now; `run(tensors)` calls it.

    On a GPU, a graph of the kernels that torch has already.

    Raises:
        CannotCompile: for another device.
    """
    device = next(iter(trace.inputs.values())).device.type
    if device == "cuda":
        return Captured(trace)
    if device != "cpu":
        raise CannotCompile(f"updates are compiled on the CPU and captured on CUDA, not on {device}")
    text = trace.text()
    threads = str(torch.get_num_threads())
    header = [str(WRITING), torch.__version__, _processor(), threads, repr(sorted(OPTIONS.items()))]
    digest = hashlib.sha256("\n".join([*header, text]).encode()).hexdigest()
    path = _folder() / f"{digest[:32]}.so"
    if not path.exists():
        _build(trace, path)
    return _loaded(str(path))


@cache
def _loaded(path: str) -> Any:
    runners: Any = torch._C._aoti
    return runners.AOTIModelContainerRunnerCpu(path, 1)


def _build(trace: Trace, path: Path) -> None:
    graph, nodes = fx.Graph(), dict[Any, fx.Node]()

    def with_nodes(value: Any) -> Any:
        if isinstance(value, Ref):
            return nodes[value]
        return [with_nodes(item) for item in value] if isinstance(value, list) else value

    for ref in trace.inputs:
        nodes[ref] = graph.placeholder(f"x{ref.number}")
    for function, args, kwargs, results, is_tuple in trace.operations:
        named = {name: with_nodes(value) for name, value in kwargs.items()}
        node = graph.call_function(function, tuple(map(with_nodes, args)), named)
        for position, result in enumerate(results):
            if result is not None and result not in nodes:
                nodes[result] = graph.call_function(getitem, (node, position)) if is_tuple else node
    # Copies, since what an update reports must not change with the tensors that it was read from.
    graph.output([graph.call_function(torch.ops.aten.clone.default, (nodes[ref],)) for ref in trace.outputs])
    rewrite(graph)
    telling.get()("compiling the update: half a minute, only this time")
    from torch import _inductor

    with tempfile.TemporaryDirectory(dir=path.parent) as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch warns of its own future
        options = OPTIONS | {"aot_inductor.output_path": str(Path(folder, "graph.so"))}
        built = _inductor.aot_compile(
            fx.GraphModule(nn.Module(), graph), tuple(t.detach() for t in trace.inputs.values()), options=options
        )
        os.replace(str(built), path)


@cache
def _processor() -> str:
    """What code for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"


def _folder() -> Path:
    """Where compiled code is kept: `AGENTLIB_CACHE`, or agentlib in the user's folder for caches."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(os.environ.get("AGENTLIB_CACHE") or Path(home, "agentlib"), "compiled")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
