"""All that is private of torch, in one place, with the versions of torch on which it was tested.

On other versions no update is compiled or captured, and training runs in plain PyTorch.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

TESTED = ("2.13",)
"""The versions of torch for which everything below was tested."""

OPTIONS: dict[str, Any] = {
    "fallback_random": True,  # the numbers that torch would draw uncompiled
    "size_asserts": False,  # the graph is called with tensors that fit, or not at all
    "alignment_asserts": False,
    "scalar_asserts": False,
}
"""Of Inductor, torch's compiler."""

BATCH_NORMS = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm")
"""They change the fourth and the fifth argument, the running mean and variance, and their schema does not say so."""

FILLING = (
    *("aten::bernoulli_", "aten::cauchy_", "aten::exponential_", "aten::geometric_"),
    *("aten::log_normal_", "aten::normal_", "aten::random_", "aten::uniform_"),
)
"""They overwrite their argument with random numbers."""

if TYPE_CHECKING:
    from torch.utils._python_dispatch import TorchDispatchMode
else:
    try:
        from torch.utils._python_dispatch import TorchDispatchMode
    except ImportError:  # of another version, for which nothing is traced
        TorchDispatchMode = object


class DispatchMode(TorchDispatchMode):
    """Sees each operation of torch that runs inside, below autograd and autocast."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # else torch imports its compiler, for seconds, only to keep it from compiling this


def is_tested() -> bool:
    """Whether this version of torch is one for which this file was tested."""
    return torch.__version__.startswith(tuple(f"{version}." for version in TESTED))


def storage_id(tensor: Tensor) -> int:
    """The address of what holds a tensor's memory; of no other storage while this one lives."""
    return tensor.untyped_storage()._cdata  # type: ignore[no-any-return]


def written_by(operation: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Iterator[Any]:
    """The arguments that an operation changes in place: tensors, or nodes of a graph."""
    for position, argument in enumerate(operation._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            value = args[position] if position < len(args) else kwargs.get(argument.name)
            yield from value if isinstance(value, list | tuple) else () if value is None else (value,)
    if operation._schema.name in BATCH_NORMS and args[5]:  # training
        yield from (statistic for statistic in args[3:5] if statistic is not None)


def is_operation(operation: Any) -> bool:
    """Whether a node's target is an operation of torch."""
    return hasattr(operation, "_schema")


def gives_views(operation: Any) -> bool:
    """Whether what an operation returns may share memory with its arguments."""
    return any(result.alias_info is not None for result in operation._schema.returns)


def depends_on_numbers(operation: Any) -> bool:
    """Whether the shape of what comes out, or a number of Python, depends on what a tensor holds."""
    tags = operation.tags
    return torch.Tag.data_dependent_output in tags or torch.Tag.dynamic_output_shape in tags


def fills_with_random_numbers(operation: Any) -> bool:
    """Whether an operation overwrites its first argument with random numbers."""
    return operation._schema.name in FILLING


def fused_convolution_and_relu(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Both in one pass over the output, by oneDNN."""
    fused = torch.ops.mkldnn._convolution_pointwise
    return fused(x, weight, bias, padding, stride, dilation, groups, "relu", [], "")  # type: ignore[no-any-return]


def build_library(graph: fx.Graph, tensors: Sequence[Tensor], folder: Path, compiler: str | None) -> Path:
    """Compiles a graph to machine code for the CPU, into a folder; returns the library's path.

    Raises:
        RuntimeError: an operation has no C interface, so that the library would fail when it is called.
    """
    from torch import _inductor

    options = OPTIONS | {"aot_inductor.output_path": str(folder / "graph.so")}
    if compiler is not None:
        options["cpp.cxx"] = (compiler,)
    limit = sys.getrecursionlimit()  # the host's; Inductor raises it
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch warns of its own future
            module = fx.GraphModule(nn.Module(), graph)
            path = Path(str(_inductor.aot_compile(module, tuple(t.detach() for t in tensors), options=options)))
    finally:
        sys.setrecursionlimit(limit)
    called = [json.loads(file.read_text()).get("nodes", []) for file in folder.glob("*.json")]
    names = sorted({node["node"]["target"] for nodes in called for node in nodes})
    if names:
        raise RuntimeError(f"{', '.join(names)} cannot be called from compiled code")
    return path


def load_library(path: Path) -> Any:
    """A library that `build_library` made; `run(tensors)` calls it."""
    runners: Any = torch._C._aoti
    return runners.AOTIModelContainerRunnerCpu(str(path), 1)


def fake_tensors() -> Any:
    """A mode in which tensors have shapes and devices, but no numbers; those of two devices refuse to meet."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()
