"""A trace as machine code.

What is written in a trace names a library that does the same. Inductor, torch's compiler, builds it the first time, and
it is kept on disk: a later run of the same structure, in this process or another, only traces. On a GPU, where starting
a kernel takes longer than most kernels, the trace is captured as a CUDA graph instead (`captured.py`).
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from contextvars import ContextVar
from functools import cache
from operator import getitem
from pathlib import Path
from typing import Any

import torch
from torch import fx

from agentlib.engine import libraries, torch_private
from agentlib.engine.captured import Captured
from agentlib.engine.rewriting import rewrite
from agentlib.engine.tape import CannotCompile, Ref
from agentlib.engine.trace import Trace


def _on_terminal(text: str) -> None:
    if sys.stderr is not None and sys.stderr.isatty():
        sys.stderr.write(f"agentlib: {text}\n")


notices: ContextVar[Callable[[str], object]] = ContextVar("notices", default=_on_terminal)
"""Called with a line where something takes long; by default it is printed where there is a terminal."""


def compiler() -> str | None:
    """The C++ compiler that is used: the one that the environment variable `CXX` names, or the first one found."""
    if os.name == "nt":  # the commands and flags are those of g++ and clang++ on Unix
        return None
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "clang++", "c++"]
    return next((path for path in map(shutil.which, names) if path is not None), None)


def compiler_found() -> bool:
    """Whether torch can build CPU code here."""
    return compiler() is not None


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
    header = [_writing(), torch.__version__, _processor(), threads, repr(sorted(torch_private.OPTIONS.items()))]
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
    if not compiler_found():
        raise CannotCompile("no C++ compiler was found (g++ or clang++; on Windows none is looked for)")
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
    notices.get()("compiling, half a minute or so; later runs only load it ...")
    start = time.perf_counter()
    inputs, headers = list(trace.inputs.values()), libraries.folder()
    path = torch_private.build_library(graph, inputs, folder, headers, compiler(), notices.get())
    notices.get()(f"compiled in {time.perf_counter() - start:.0f} s")
    return path


@cache
def _writing() -> str:
    """A digest of all that decides which code is written for a trace, but for torch itself."""
    room = Path(__file__).parent
    files = ("compiled.py", "rewriting.py", "runtime.cpp", "torch_private.py")
    return hashlib.sha256(b"".join((room / name).read_bytes() for name in files)).hexdigest()


@cache
def _processor() -> str:
    """What code for this processor depends on."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith(("flags", "Features")))
    except (OSError, StopIteration):
        flags = platform.processor()
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {flags}"
