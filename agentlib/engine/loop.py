"""The one loop: `run`."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from typing import Any, Literal

import torch
from torch import nn

from agentlib.core.learner import Learner, Update, cycle
from agentlib.core.randomness import generator_lock
from agentlib.core.ranks import shared_cycle
from agentlib.core.schedules import Clock
from agentlib.core.source import Source
from agentlib.core.step import Step
from agentlib.engine.compiled import compiler_found, in_one_line, library
from agentlib.engine.interpreted import MOST_BYTES, Interpreted
from agentlib.engine.tape import CannotCompile
from agentlib.engine.traced import TracedCycle

Compile = bool | Literal["auto", "try", "eager"]
Precision = Literal["float32", "bfloat16"]
"""What matrix products and convolutions are computed in; weights, losses and optimizers always keep float32."""

AUTO_COMPILE_UPDATES = 20_000
"""With compile="auto", runs of at least this many updates are compiled: from there on it pays for itself."""
AUTO_COMPILE_LARGE_UPDATES = 5_000
"""The same with `LARGE` parameters to train or more, of which an update takes some milliseconds."""
LARGE = 1 << 17
AUTO_CAPTURE_UPDATES = 8_000
"""The same on a GPU, where nothing is built."""
AUTO_INTERPRET_UPDATES = 100
"""Shorter calls of `run` stay in Python: tracing an update twice takes as long as they do."""


def run(
    learner: Learner, source: Source, updates: int, *, compile: Compile = "auto", precision: Precision = "float32"
) -> Iterator[tuple[Clock, Update]]:
    """Trains, and yields `(clock, update)` after each update; logging, evaluating, saving, stopping are the caller's.

    Around each update it uses the source's random state, and gives the caller's back before it yields. Gradients are
    on and autocast is off while it works, whatever they are for the caller. The learner is put into training mode, but
    a module inside one of its networks that is in eval mode, while that network is not, stays so: a normalization that
    its owner froze.

    Args:
        learner: what learns.
        source: where its batches come from.
        updates: how many updates to do, on top of those already done.
        compile: True compiles sample, update and feedback into one graph; "try" does, or warns and goes on uncompiled
            where that cannot be; "auto" tries for long runs where a compiler is at hand. False does not compile: where
            the learner, the source and their networks are agentlib's and torch's own, torch's interpreter does on the
            CPU what was traced, with the numbers of plain PyTorch and in less than half the time for small networks.
            Anything else runs in Python, and so does all with "eager", as a debugger needs it. On a GPU no compiler is
            needed: the update is captured as a CUDA graph.
        precision: "bfloat16" computes matrix products and convolutions of updates with 8 bits of mantissa in place of
            24 (torch's autocast), which is quicker for large networks on processors and GPUs that can do it. Acting
            stays as it is.

    Raises:
        ValueError: `compile=True` with a learner that steps by `torch.optim`, or whose batches several processes share;
            an unknown precision.
        CannotCompile: `compile=True` with a learner or a source whose updates are not always the same tensor work.
    """
    step = (
        TracedCycle(library) if compiles(learner, updates, compile) else _uncompiled(learner, source, updates, compile)
    )
    still = [module for network in learner.children() if network.training for module in _frozen(network)]
    _train(learner, still)
    source.planned_updates = max(source.planned_updates, source.updates + updates)
    device = source.ticks.device.type
    autocast, own_random_state = _autocast(device, precision), _OwnRandomState(source)
    for _ in range(updates):
        with _modes(device):
            source.advance()
            clock = source.clock
            learner.before_update(clock)
            source.fill_ticks(clock)
            if not learner.training:  # the caller may have evaluated in between
                _train(learner, still)
            with generator_lock(), own_random_state, autocast:
                try:
                    update = step(learner, source)
                except Exception as error:
                    cannot = isinstance(error, CannotCompile) or getattr(step, "is_tracing", False)
                    was_compiled = isinstance(step, TracedCycle) and step.program is library
                    if compile is True or not cannot:
                        raise
                    step, update = cycle, cycle(learner, source)  # whose own error, if any, is raised here
                    if was_compiled:
                        step = _uncompiled(learner, source, updates, compile)
                        warnings.warn(f"training runs uncompiled and slower: {in_one_line(error)}", stacklevel=2)
            source.count_update()
        yield source.clock, update


def _frozen(network: nn.Module) -> Iterator[nn.Module]:
    """Modules in eval mode inside a network in training mode; no whole backbone, as loading gives it."""
    for child in network.children():
        if child.training:
            yield from _frozen(child)
        elif not hasattr(child, "feature_dim"):
            yield from (module for module in child.modules() if not module.training)


def _train(learner: Learner, still: list[nn.Module]) -> None:
    """Puts the learner into training mode, but for these modules."""
    learner.train()
    for module in still:
        module.training = False


def compiles(learner: Learner, updates: int, compile: Compile) -> bool:
    """Whether a run of this many updates is compiled; `compile` as `run` takes it.

    Raises:
        ValueError: `compile=True` with a learner that steps by `torch.optim`, or whose batches several processes share.
    """
    if learner.ranks is not None and compile is True:
        raise ValueError("compile=True is for one process: leave it out where several share the batches")
    if compile == "eager" or learner.ranks is not None:  # the others' gradients come in the middle of an update
        return False
    if compile == "auto":
        if updates < updates_to_compile(learner) or _steps_eagerly(learner):
            return False
        if not compiler_found() and next(learner.parameters()).device.type != "cuda":
            warnings.warn("no C++ compiler found (g++ or clang++): training runs uncompiled and slower", stacklevel=3)
            return False
        return True
    if compile is True and _steps_eagerly(learner):
        raise ValueError("compile=True needs a rule of agentlib.backbones (adam, sgd, ...) in place of torch.optim")
    return bool(compile) and not _steps_eagerly(learner)


def updates_to_compile(learner: Learner) -> int:
    """The length of a run from which on "auto" compiles."""
    if next(learner.parameters()).device.type == "cuda":
        return AUTO_CAPTURE_UPDATES
    trained = sum(parameter.numel() for parameter in learner.parameters() if parameter.requires_grad)
    return AUTO_COMPILE_UPDATES if trained < LARGE else AUTO_COMPILE_LARGE_UPDATES


def _steps_eagerly(learner: Learner) -> bool:
    """Whether an optimizer of `torch.optim` steps, whose state is not all in tensors."""
    return any(isinstance(module, Step) and module.rule is None for module in learner.modules())


def _uncompiled(
    learner: Learner, source: Source, updates: int, compile: Compile
) -> Callable[[Learner, Source], Update]:
    """What does an update without a compiler."""
    if learner.ranks is not None:
        return shared_cycle
    is_short = updates < AUTO_INTERPRET_UPDATES
    if compile == "eager" or is_short or source.ticks.device.type != "cpu" or _steps_eagerly(learner):
        return cycle
    return TracedCycle(Interpreted, MOST_BYTES, is_cautious=True)


def engine(source: Source, compiled: bool, precision: Precision) -> dict[str, Any]:
    """What decides over the last bits of a run's numbers."""
    device = source.ticks.device
    return {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "compiled": compiled,
        "precision": precision,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def _autocast(device_type: str, precision: Precision) -> AbstractContextManager[object]:
    if precision == "float32":
        return nullcontext()
    if precision != "bfloat16":
        raise ValueError(f'precision is "float32" or "bfloat16", not {precision!r}')
    return torch.autocast(device_type, torch.bfloat16)


class _OwnRandomState:
    """Inside, torch draws from the source's random state; afterwards from the caller's again."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.device = source.ticks.device if source.ticks.is_cuda else None
        if self.device is not None and source.cuda_random_state is None:
            source.cuda_random_state = torch.Generator(self.device).manual_seed(source.seed).get_state()

    def __enter__(self) -> None:
        self.host_state = torch.default_generator.get_state()
        torch.default_generator.set_state(self.source.random_state)
        if self.device is not None:
            assert self.source.cuda_random_state is not None
            self.host_cuda_state = torch.cuda.get_rng_state(self.device)
            torch.cuda.set_rng_state(self.source.cuda_random_state, self.device)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.source.random_state = torch.default_generator.get_state()
            if self.device is not None:
                self.source.cuda_random_state = torch.cuda.get_rng_state(self.device)
        torch.default_generator.set_state(self.host_state)
        if self.device is not None:
            torch.cuda.set_rng_state(self.host_cuda_state, self.device)


_NOTHING: AbstractContextManager[object] = nullcontext()


def _modes(device_type: str) -> AbstractContextManager[object]:
    """Gradients on, autocast off. What is made while advancing counts too: autograd takes no inference tensors."""
    autocast = torch.is_autocast_enabled(device_type)
    if torch.is_grad_enabled() and not torch.is_inference_mode_enabled() and not autocast:
        return _NOTHING  # as most callers have it, and at every update
    stack = ExitStack()
    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    if autocast:
        stack.enter_context(torch.autocast(device_type, enabled=False))
    return stack
