"""The whole update as one trace, which is done in place of Python.

An update is traced once per run: all that torch does in it, gradients and optimizer included, is written down. A trace
is then done by torch's interpreter (`interpreted.py`), compiled (`compiled.py`), or captured on a GPU (`captured.py`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from agentlib.core.learner import Learner, Update, cycle
from agentlib.core.source import Source
from agentlib.core.trees import leaves
from agentlib.engine import torch_private
from agentlib.engine.stand_ins import StandIns, form
from agentlib.engine.tape import INTERNAL, CannotCompile, Ref, Tape
from agentlib.engine.trace import Place, Trace

CHECK_EVERY = 16
"""Updates from one look at the attributes that the graph takes for granted to the next."""
MOST_TRACES = 64
"""Different traces of one run before that is thought to happen without end."""


class Program(Protocol):
    """What does the update of a trace."""

    def run(self, tensors: Sequence[Tensor], /) -> Sequence[Tensor]:
        """Does the update on the trace's inputs, and returns its outputs, which are the caller's to keep."""


class TracedCycle:
    """`cycle` as a trace; one for each run.

    Python is only run while tracing, so what changes from update to update must be in tensors. Whether a module's
    tensors were replaced by others is looked at each time, and the attributes that were read, such as numbers, every
    `CHECK_EVERY` updates; after a change it is traced again. The second update is traced, too: where it is another, a
    number came from elsewhere, such as one of Python's random generators.

    Args:
        program: makes of a trace what does its updates.
        most_bytes: an update that makes more new tensors than this is not traced, as all of them live until it ends.
    """

    def __init__(self, program: Callable[[Trace], Program], most_bytes: float = math.inf) -> None:
        self.program = program
        self.most_bytes = most_bytes
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
        before, trace = self.graph, traced(learner, source, self.most_bytes)
        self.is_tracing = False
        difference = None if before is None else before.trace.difference(trace)
        if before is None or difference is None:  # an attribute that was read may change without being of effect
            return Graph(trace, self.program(trace))
        if self.calls == 1 and before.follow() and not before.changes():
            raise CannotCompile(
                "two updates were not the same tensor work: what changes belongs in tensors, as the batch's clock "
                f"is, and random numbers come from torch's default generator ({difference})"
            )
        self.traces += 1
        if self.traces > MOST_TRACES:
            changes = ", ".join(before.changes()) or "tensors of other sizes"
            raise CannotCompile(f"it was traced {MOST_TRACES} times ({changes}): what changes belongs in tensors")
        return Graph(trace, self.program(trace))


def traced(learner: Learner, source: Source, most_bytes: float = math.inf) -> Trace:
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
    tape, stand_ins, device = Tape(known.values(), most_bytes), StandIns(), source.ticks.device
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
    """A trace and its program, with the tensors that it works on."""

    def __init__(self, trace: Trace, program: Program) -> None:
        self.trace = trace
        self.program = program
        self.inputs = list(trace.inputs.values())
        self.owned = [(number, trace.places[ref]) for number, ref in enumerate(trace.inputs) if ref in trace.places]
        self.metrics: dict[str, Any] = dict(trace.update.metrics)
        self.names = [name for name, value in self.metrics.items() if isinstance(value, Ref)]

    def __call__(self) -> Update:
        outputs = self.program.run(self.inputs)
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
