"""The whole update as one trace, which is done in place of Python.

An update is traced once per run: all that torch does in it, gradients and optimizer included, is written down. A trace
is then done by torch's interpreter (`interpreted.py`), compiled (`compiled.py`), or captured on a GPU (`captured.py`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
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
FEW_TRACES = 4
"""The same where nobody asked for a trace."""


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
        is_cautious: refuses modules and functions that are neither agentlib's nor torch's: they may do in Python what
            a trace leaves out, and looks at the attributes that were read at each update.
    """

    def __init__(
        self,
        program: Callable[[Trace], Program],
        most_bytes: float = math.inf,
        is_cautious: bool = False,
    ) -> None:
        self.program = program
        self.most_bytes, self.is_cautious = most_bytes, is_cautious
        self.most_traces = FEW_TRACES if is_cautious else MOST_TRACES
        self.calls: Counter[Hashable] = Counter()
        """Updates, by the phases of learner and source."""
        self.traces = 1
        """Those that were not as the one before."""
        self.graphs: dict[Hashable, Graph] = {}
        """One for each phase."""
        self.is_tracing = False
        """Whether tracing has begun and not ended; after an error, whether that was while tracing."""

    def __call__(self, learner: Learner, source: Source) -> Update:
        """Does one update.

        Raises:
            CannotCompile: updates are not always the same tensor work; nothing has changed then.
        """
        phase = learner.phase, source.phase
        graph, calls = self.graphs.get(phase), self.calls[phase]
        if graph is None or self._is_in_doubt(graph, calls):
            graph = self.graphs[phase] = self._traced(learner, source, graph, calls)
        self.calls[phase] = calls + 1
        return graph()

    def _is_in_doubt(self, graph: Graph, calls: int) -> bool:
        if calls == 1 or not graph.follow():
            return True
        is_due = calls % CHECK_EVERY == 0
        return ((is_due or self.is_cautious) and graph.has_changed()) or (is_due and not graph.forms_hold())

    def _traced(self, learner: Learner, source: Source, before: Graph | None, calls: int) -> Graph:
        self.is_tracing = True
        trace = traced(learner, source, self.most_bytes, self.is_cautious)
        self.is_tracing = False
        difference = None if before is None else before.trace.difference(trace)
        if before is None:
            return Graph(trace, self.program(trace))
        if difference is None:  # an attribute that was read may change without being of effect
            return Graph(trace, before.program)
        if calls == 1 and (before.trace.outside(trace) or (before.follow() and not before.changes())):
            raise CannotCompile(
                "two updates were not the same tensor work: what changes belongs in tensors, as the batch's clock "
                f"is, and random numbers come from torch's default generator ({difference})"
            )
        self.traces += 1
        if self.traces > self.most_traces:
            changes = ", ".join(before.changes()) or "tensors of other sizes"
            raise CannotCompile(f"it was traced {self.most_traces} times ({changes}): what changes belongs in tensors")
        return Graph(trace, self.program(trace))


def traced(learner: Learner, source: Source, most_bytes: float = math.inf, is_cautious: bool = False) -> Trace:
    """Traces one update, and leaves tensors, attributes and torch's generators as they were.

    The arguments are those of `TracedCycle`.

    Raises:
        CannotCompile: it does what is not the same tensor work each time.
    """
    if not torch_private.is_tested():
        tested = " and ".join(torch_private.TESTED)
        raise CannotCompile(f"torch {torch.__version__} is installed, and it was tested for {tested} only")
    modules = list(dict.fromkeys([*learner.modules(), *source.modules()]))
    hooks = [hooks for module in modules for hooks in (module._forward_hooks, module._forward_pre_hooks)]
    if any(hooks):
        raise CannotCompile("a module has a forward hook: Python that runs at each update cannot be compiled")
    if any(getattr(module, "gradient_checkpointing", False) for module in modules):
        raise CannotCompile(
            "with gradient_checkpointing layers are computed again, with the same random numbers, which Python sees "
            "to: such updates run uncompiled"
        )
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
            pair = stand_ins.of(learner), stand_ins.of(source)
            if is_cautious and stand_ins.foreign is not None:
                raise CannotCompile(f"{stand_ins.foreign} may do more than tensor work")
            update = cycle(*pair)
            stand_ins.put_in_place()
            reported = Update(tape.refs(update.metrics), tape.refs(update.per_sample))
    finally:
        tape.undo()
        changed = stand_ins.put_back()
    if changed is not None:
        raise CannotCompile(f"update changes a {changed}: what it changes belongs in buffers")
    if tape.changed_twice:
        raise CannotCompile("tensors of the learner or its source that share memory are changed")
    if tape.has_other_forms:
        raise CannotCompile("update leaves a tensor with another `grad`, another size or other memory")
    inputs = {ref: tape.tensors[ref.number] for ref in tape.inputs}
    found = {ref: places[id(tensor)] for ref, tensor in inputs.items() if id(tensor) in places}
    return Trace(tape.operations, inputs, found, reported, stand_ins.reads, hooks)


class Graph:
    """A trace and its program, with the tensors that it works on."""

    def __init__(self, trace: Trace, program: Program) -> None:
        self.trace = trace
        self.program = program
        self.inputs = list(trace.inputs.values())
        self.forms = [(tensor, form(tensor)) for tensor in self.inputs]
        self.owned = [(number, *trace.places[ref]) for number, ref in enumerate(trace.inputs) if ref in trace.places]
        self.metrics: dict[str, Any] = dict(trace.update.metrics)
        self.names = [name for name, value in self.metrics.items() if isinstance(value, Ref)]

    def __call__(self) -> Update:
        outputs = self.program.run(self.inputs)
        metrics = self.metrics | dict(zip(self.names, outputs, strict=False))
        return Update(metrics, outputs[-1] if self.trace.update.per_sample is not None else None)

    def follow(self) -> bool:
        """Takes the tensors that modules hold now; False where those are of other sizes or types."""
        inputs = self.inputs
        for number, held, name, leaf in self.owned:
            if held.get(name) is not inputs[number]:  # almost always it is, and this is done at every update
                now, before = Place(held, name, leaf).look(), inputs[number]
                if now is None or (now is not before and form(now) != form(before)):
                    return False
                inputs[number] = now
        return True

    def has_changed(self) -> bool:
        """Whether an attribute that was read is different now, or a module has got a forward hook."""
        for read in self.trace.reads:
            if read.module.__dict__.get(read.name, read) is not read.value and not read.still_holds():
                return True
        return any(self.trace.hooks)

    def forms_hold(self) -> bool:
        """Whether the tensors have the sizes and types that they had."""
        return all(form(tensor) == known for tensor, known in self.forms)

    def changes(self) -> list[str]:
        """The attributes that were read and are different now."""
        return [f"{type(r.module).__name__}.{r.name}" for r in self.trace.reads if not r.still_holds()]
