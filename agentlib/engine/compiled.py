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
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx

from agentlib.core.learner import Learner, Update, cycle
from agentlib.core.source import Source
from agentlib.core.trees import leaves
from agentlib.engine import libraries, torch_private
from agentlib.engine.captured import Captured
from agentlib.engine.rewriting import rewrite
from agentlib.engine.stand_ins import StandIns, form
from agentlib.engine.tape import INTERNAL, CannotCompile, Ref, Tape
from agentlib.engine.trace import Place, Trace

CHECK_EVERY = 16
"""Updates from one look at the attributes that the graph takes for granted to the next."""
WRITING = 4
"""Raised when other code is written for the same trace."""
MOST_TRACES = 64
"""Different traces of one run before that is thought to happen without end."""


notices: ContextVar[Callable[[str], object]] = ContextVar("telling", default=lambda text: None)
"""What is called with a line for whoever waits, when something takes long."""


def compiler() -> str | None:
    """The C++ compiler that is used: the one that the environment variable `CXX` names, or the first one found."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for path in map(shutil.which, names) if path is not None), None)


def compiler_found() -> bool:
    """Whether torch can build CPU code here."""
    return compiler() is not None


class CompiledCycle:
    """`cycle`, compiled; one for each run.

    Python is only run while tracing, so what changes from update to update must be in tensors. Whether a module's
    tensors were replaced by others is looked at each time, and the attributes that were read, such as numbers, every
    `CHECK_EVERY` updates; after a change it is traced anew. The second update is traced, too: where it is another, a
    number came from elsewhere, such as one of Python's random generators.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.traces = 1
        """Those that were not as the one before."""
        self.graph: Graph | None = None
        self.is_tracing = False
        """Whether tracing has begun and not ended; after an error, whether that was while tracing."""

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
        self.is_tracing = True
        before, trace = self.graph, traced(learner, source)
        self.is_tracing = False
        difference = None if before is None else before.trace.difference(trace)
        if before is None or difference is None:  # an attribute that was read may change without being of effect
            return Graph(trace)
        if self.calls == 1 and before.follow() and not before.changes():
            raise CannotCompile(
                "two updates were not the same tensor work: what changes belongs in tensors, as the batch's clock "
                f"is, and random numbers come from torch's default generator ({difference})"
            )
        self.traces += 1
        if self.traces > MOST_TRACES:
            changes = ", ".join(before.changes()) or "tensors of other sizes"
            raise CannotCompile(f"it was traced {MOST_TRACES} times ({changes}): what changes belongs in tensors")
        return Graph(trace)


def traced(learner: Learner, source: Source) -> Trace:
    """Traces one update, and leaves tensors, attributes and torch's generators as they were.

    Raises:
        CannotCompile: it does what is not the same tensor work each time.
    """
    if not torch_private.is_tested():
        tested = " and ".join(torch_private.TESTED)
        raise CannotCompile(f"torch {torch.__version__} is installed, and compiling was tested for {tested} only")
    modules = list(dict.fromkeys([*learner.modules(), *source.modules()]))
    places, known = dict[int, Place](), dict[int, Tensor]()
    for held in (held for module in modules for held in (module._parameters, module._buffers, module.__dict__)):
        for name in held:
            for leaf, tensor in enumerate(leaves(held[name]) if name not in INTERNAL else ()):
                places.setdefault(id(tensor), Place(held, name, leaf))
                known[id(tensor)] = tensor
    tape, stand_ins, device = Tape(known.values()), StandIns(), source.ticks.device
    try:
        forked = torch.random.fork_rng(devices=[device] if device.type == "cuda" else [])
        with forked, tape:
            update = cycle(stand_ins.of(learner), stand_ins.of(source))
            stand_ins.put_in_place()
            reported = Update(tape.refs(update.metrics), tape.refs(update.per_sample))
    finally:
        tape.undo()
    if tape.changed_twice:
        raise CannotCompile("tensors of the learner or its source that share memory are changed")
    if tape.has_other_forms:
        raise CannotCompile("update leaves a tensor with another `grad`, another size or other memory")
    inputs = {ref: tape.tensors[ref.number] for ref in tape.inputs}
    found = {ref: places[id(tensor)] for ref, tensor in inputs.items() if id(tensor) in places}
    return Trace(tape.operations, inputs, found, reported, stand_ins.reads)


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
                if now is None or (now is not before and form(now) != form(before)):
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
    header = [str(WRITING), torch.__version__, _processor(), threads, repr(sorted(torch_private.OPTIONS.items()))]
    digest = hashlib.sha256("\n".join([*header, text]).encode()).hexdigest()
    try:
        return _loaded(libraries.kept(digest[:32], lambda folder: _built(trace, folder)))
    except Exception as error:  # of a compiler, a disk, a cache, or torch's own
        raise CannotCompile(f"it could not be built: {in_one_line(error)}") from error


def in_one_line(error: Exception) -> str:
    """An error's class, unless that is `CannotCompile`, and the first line of what it says."""
    first = next(filter(None, map(str.strip, str(error).splitlines())), "")[:200]
    return first if isinstance(error, CannotCompile) else f"{type(error).__name__}: {first}"


@cache
def _loaded(path: Path) -> Any:
    return torch_private.load_library(path)


def _built(trace: Trace, folder: Path) -> Path:
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
    notices.get()("compiling the update: half a minute, only this time")
    return torch_private.build_library(graph, list(trace.inputs.values()), folder, compiler())


@cache
def _processor() -> str:
    """What code for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"
