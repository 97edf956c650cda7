"""The whole update as one compiled graph, and a short way to call it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch

from agentlib.data.source import Source
from agentlib.training.learner import Learner, Update

CHECK_EVERY = 16
"""Updates from one check of what the graph takes for granted to the next: a check costs a fifth of a small update."""

OPTIONS: dict[str, Any] = {
    "fallback_random": True,  # the numbers that torch would draw uncompiled
    "cpp_wrapper": True,  # kernels are called from C++, not from Python
    "size_asserts": False,  # what the guards have checked already
    "alignment_asserts": False,
    "scalar_asserts": False,
}


def compiler_found() -> bool:
    """Whether torch.compile can build CPU code here."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def cycle(learner: Learner, source: Source) -> Update:
    """Sample, update, feedback: what is compiled or captured as one graph.

    A function of the module's top level, with learner and source as arguments, so that a second run of the same
    structure finds the graph of the first.
    """
    batch = source.sample()
    update = learner.update(batch)
    source.feedback(batch, update.per_sample)
    return update


class CompiledCycle:
    """`cycle`, compiled; one for each run.

    torch.compile guards all that a graph takes for granted: types, sizes, numbers that are attributes. For a small
    update, checking that and getting to the graph takes longer than the graph itself. Within a run it does not change,
    so it is checked every `CHECK_EVERY` updates, and the graph is called directly in between.
    """

    def __init__(self) -> None:
        self.calls = 0
        self.direct: Callable[[Learner, Source], Update] | None = None
        self.guards: Any = None

    def __call__(self, learner: Learner, source: Source) -> Update:
        if self.calls % CHECK_EVERY == 0 and not self._still_fits(learner, source):
            self.direct = None
        self.calls += 1
        if self.direct is not None:
            return self.direct(learner, source)
        update = _guarded(learner, source)
        self._find(learner, source)
        return update

    def _still_fits(self, learner: Learner, source: Source) -> bool:
        return self.direct is not None and bool(self.guards.check({"learner": learner, "source": source}))

    def _find(self, learner: Learner, source: Source) -> None:
        """The graph among all that were compiled; without torch's means to look for it, calls stay guarded."""
        try:
            from torch._dynamo.eval_frame import _debug_get_cache_entry_list

            for entry in _debug_get_cache_entry_list(cycle.__code__):
                if entry.guard_manager.check({"learner": learner, "source": source}):
                    self.direct, self.guards = FunctionType(entry.code, globals(), "cycle"), entry.guard_manager
                    return
        except (ImportError, AttributeError):
            self.direct = None


_compiled: Callable[[Learner, Source], Update] | None = None


def _guarded(learner: Learner, source: Source) -> Update:
    """Compiles at the first call for a structure, and checks all guards at every one."""
    global _compiled
    if _compiled is None:
        # One graph for a fixed set of shapes.
        _compiled = torch.compile(cycle, fullgraph=True, dynamic=False, options=OPTIONS)
    from torch._dynamo import config, exc

    try:
        return _compiled(learner, source)
    except (exc.Unsupported, exc.FailOnRecompileLimitHit):
        # Tracing `torch.autograd.grad` needs a flag, and many structures a larger limit; both only while tracing,
        # and entering the patch at every update would cost more than the update.
        with config.patch(trace_autograd_ops=True, recompile_limit=64):
            return _compiled(learner, source)
