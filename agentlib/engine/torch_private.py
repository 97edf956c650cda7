"""All that is private of torch, in one place, with the versions of torch on which it was tested.

On other versions no update is compiled or captured, and training runs in plain PyTorch.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from subprocess import DEVNULL, PIPE, STDOUT
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx, nn

TESTED = ("2.13",)
"""The versions of torch for which everything below was tested."""

OPTIONS: dict[str, Any] = {
    "layout_optimization": False,  # channels last in memory: slower with normalization between convolutions
    "fallback_random": True,  # the numbers that torch would draw uncompiled
    "size_asserts": False,  # the graph is called with tensors that fit, or not at all
    "alignment_asserts": False,
    "scalar_asserts": False,
    "cpp.vec_isa_ok": True,  # known from the processor; else a file is compiled to see it
    "aot_inductor.precompile_headers": False,  # `build_library` has one of its own
    "aot_inductor.enable_line_tables": False,
}
"""Of Inductor, torch's compiler."""

BATCH_NORMS = ("aten::native_batch_norm", "aten::cudnn_batch_norm", "aten::miopen_batch_norm")
"""They change the fourth and the fifth argument, the running mean and variance, and their schema does not say so."""

FILLING = (
    *("aten::bernoulli_", "aten::cauchy_", "aten::exponential_", "aten::geometric_"),
    *("aten::log_normal_", "aten::normal_", "aten::random_", "aten::uniform_"),
)
"""They overwrite their argument with random numbers."""

NUMBERS: dict[Any, int] = {
    **{torch.uint8: 0, torch.int8: 1, torch.int16: 2, torch.int32: 3, torch.int64: 4, torch.float16: 5},
    **{torch.float32: 6, torch.float64: 7, torch.complex64: 9, torch.complex128: 10, torch.bool: 11},
    **{torch.bfloat16: 15, torch.strided: 0, torch.contiguous_format: 0, torch.preserve_format: 1},
    **{torch.channels_last: 2, torch.channels_last_3d: 3},
}
"""Under which the interpreter knows types of numbers and formats of memory."""

LONGEST_BUILD = 600.0
"""Seconds after which a compiler is taken to hang."""
PREFIX = "#include <torch/csrc/inductor/cpp_prefix.h>\n"
"""With this line Inductor begins each kernel."""

FILLED = ("aten::fill", "aten::full_like", "aten::masked_fill", "aten::new_full")
"""They write a number into a tensor whose type the number does not change."""

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


class Script:
    """A function of torch's interpreter, written operation by operation."""

    def __init__(self) -> None:
        self.graph: Any = torch._C.Graph()
        self.constants: dict[tuple[type, str], Any] = {}
        self.last: Any = None
        """The node that was added last."""

    def input(self) -> Any:
        """A further argument of the function: a tensor."""
        value = self.graph.addInput()
        value.setType(torch._C.TensorType.get())
        return value

    def call(self, operation: Any, args: Sequence[Any], kwargs: dict[str, Any], results: int) -> list[Any]:
        """Adds a call; tensors among the arguments, and what comes out, are values of this script."""
        schema, inputs = operation._schema, []
        for position, argument in enumerate(schema.arguments):
            given = position < len(args) and not argument.kwarg_only
            default = argument.default_value if argument.has_default_value() else None
            value = args[position] if given else kwargs.get(argument.name, default)
            if isinstance(value, bool) and argument.type.kind() == "NumberType":
                if schema.name.rstrip("_") not in FILLED and (schema.name != "aten::full" or not kwargs.get("dtype")):
                    raise TypeError(f"{operation} is not known for a truth value")
                value = int(value)  # the tensor has its type from elsewhere
            inputs.append(self._value(value, argument.type))
        outputs = self._node(schema.name, inputs, [result.type for result in schema.returns])
        if self.last.schema() == "(no schema)":
            raise TypeError(f"{operation} is not known for these arguments")
        if len(outputs) == 1 and schema.returns[0].type.kind() == "ListType":
            outputs = self._node("prim::ListUnpack", outputs, [torch._C.TensorType.get()] * results)
        return outputs

    def function(self, outputs: Sequence[Any]) -> Callable[..., tuple[Tensor, ...]]:
        """The function that returns these values; the interpreter does it as it stands, without rewriting it."""
        together = torch._C.TupleType([torch._C.TensorType.get()] * len(outputs))
        self.graph.registerOutput(self._node("prim::TupleConstruct", list(outputs), [together])[0])
        self.graph.lint()
        function = torch._C._create_function_from_graph("update", self.graph)

        def as_it_stands(*tensors: Tensor) -> tuple[Tensor, ...]:
            optimizes = torch._C._get_graph_executor_optimize()  # of this thread
            torch._C._set_graph_executor_optimize(False)
            try:
                return function(*tensors)  # type: ignore[no-any-return]
            finally:
                torch._C._set_graph_executor_optimize(optimizes)

        return as_it_stands

    def _node(self, name: str, inputs: Sequence[Any], types: Sequence[Any]) -> list[Any]:
        self.last = self.graph.create(name, inputs, len(types))
        self.graph.appendNode(self.last)
        outputs = list(self.last.outputs())
        for output, kind in zip(outputs, types, strict=True):
            output.setType(kind)
        return outputs

    def _value(self, given: Any, kind: Any) -> Any:
        if isinstance(given, torch._C.Value):
            return given
        if kind.kind() == "OptionalType" and given is not None:
            return self._value(given, kind.getElementType())
        if isinstance(given, list | tuple):
            items = [self._value(item, kind.getElementType()) for item in given]
            return self._node("prim::ListConstruct", items, [kind])[0]
        if isinstance(given, torch.dtype | torch.memory_format | torch.layout):
            given = NUMBERS[given]
        elif kind.kind() == "FloatType":
            given = None if given is None else float(given)
        constant = type(given), repr(given)
        if constant not in self.constants:
            self.constants[constant] = self.graph.insertConstant(given)
        return self.constants[constant]


def fused_convolution_and_relu(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, dilation: Any, groups: int
) -> Tensor:
    """Both in one pass over the output, by oneDNN."""
    fused = torch.ops.mkldnn._convolution_pointwise
    return fused(x, weight, bias, padding, stride, dilation, groups, "relu", [], "")  # type: ignore[no-any-return]


def build_library(
    graph: fx.Graph,
    tensors: Sequence[Tensor],
    folder: Path,
    headers: Path,
    compiler: str | None,
    notice: Callable[[str], object] = lambda text: None,
) -> Path:
    """Compiles a graph to machine code for the CPU; returns the library's path.

    Args:
        graph: of `torch.ops.aten` operations.
        tensors: its inputs, or others of their sizes and types.
        folder: where it is built.
        headers: where compiled headers are kept, which are the same for all graphs.
        compiler: for C++; None leaves it to torch.
        notice: called with a line where this takes longer than usual.

    Raises:
        RuntimeError: an operation has no C interface, so that the library would fail when it is called.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of its own future
        import_module("torch._inductor.codecache")  # not by two threads at once
        with ThreadPoolExecutor(1) as other:  # it waits for a compiler while the rest is imported
            found = other.submit(_compiled_header, headers, compiler)
            import_module("torch._inductor.compile_fx")
            header = found.result()
    files = _compile(graph, tensors, folder, compiler, {"package": True, "package_cpp_only": True})
    called = [json.loads(file.read_text(encoding="utf-8")).get("nodes", []) for file in folder.glob("*.json")]
    names = sorted({node["node"]["target"] for nodes in called for node in nodes})
    if names:
        raise RuntimeError(f"{', '.join(names)} cannot be called from compiled code")
    try:
        path = _build_in_runtime(next(Path(file) for file in files if str(file).endswith(".cpp")), header)
        load_library(path)
        return path
    except Exception as error:  # of a graph that needs more of the container than `runtime.cpp` has
        if header is not None:
            header.with_suffix(".h.gch").unlink(missing_ok=True)  # it may be damaged
        notice(f"building it again in torch's own container ({str(error).strip().splitlines()[:1]})")
        return Path(str(_compile(graph, tensors, folder, compiler, {})))


def _compile(
    graph: fx.Graph, tensors: Sequence[Tensor], folder: Path, compiler: str | None, settings: dict[str, Any]
) -> Any:
    from torch import _inductor

    aot = {"output_path": str(folder / "graph.so"), **settings}
    options = OPTIONS | {f"aot_inductor.{name}": value for name, value in aot.items()}
    if compiler is not None:
        options["cpp.cxx"] = (compiler,)
    limit = sys.getrecursionlimit()  # the host's; Inductor raises it
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # torch warns of its own future
            module = fx.GraphModule(nn.Module(), graph)
            return _inductor.aot_compile(module, tuple(t.detach() for t in tensors), options=options)
    finally:
        sys.setrecursionlimit(limit)


def _compiled_header(headers: Path, compiler: str | None) -> Path | None:
    """The header of all kernels, if it is compiled; if it is not, begins to compile it for later graphs.

    That takes longer than a graph takes, so nobody waits: a process of low priority does it, and ends in seconds.
    """
    from torch._inductor import config, cpp_builder, cpu_vec_isa

    with config.patch(OPTIONS if compiler is None else OPTIONS | {"cpp.cxx": (compiler,)}):
        options = cpp_builder.CppTorchDeviceOptions(
            vec_isa=cpu_vec_isa.pick_vec_isa(), device_type="cpu", aot_mode=True, compile_only=True
        )
    flags = {name: getattr(options, f"get_{name}")() for name in ("compiler", "cflags", "definitions")}
    flags |= {name: getattr(options, f"get_{name}")() for name in ("include_dirs", "passthrough_args")}
    command = _command(flags)
    version = Path(shutil.which(command[0]) or command[0]).resolve().stat()
    text = "\n".join([torch.__version__, str(version.st_mtime_ns), str(version.st_size), *command])
    header = headers / f"kernels-{hashlib.sha256(text.encode()).hexdigest()[:16]}.h"
    compiled, part = header.with_suffix(".h.gch"), header.with_name(f"{header.stem}-{os.getpid()}.part")
    if compiled.exists():
        return header
    _sweep(headers)
    tools = shutil.which("sh"), shutil.which("nice")
    if None not in tools and (os.cpu_count() or 1) > 1 and not part.exists():
        header.write_text(PREFIX, encoding="utf-8")
        compiling = shlex.join(["nice", "-n", "19", *command, "-O3", "-x", "c++-header", str(header), "-o", str(part)])
        script = f"{compiling} && mv {shlex.quote(str(part))} {shlex.quote(str(compiled))}"
        silent: Any = {"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL}
        subprocess.run(["sh", "-c", f"({script}) &"], check=False, start_new_session=True, **silent)
    return None


def _sweep(headers: Path) -> None:
    """Deletes what processes left that were killed while they compiled a header."""
    for part in headers.glob("kernels-*.part"):
        try:
            os.kill(int(part.stem.rpartition("-")[2]), 0)
        except (ProcessLookupError, ValueError):
            part.unlink(missing_ok=True)
        except OSError:  # somebody else's process
            pass


def _command(flags: dict[str, Any]) -> list[str]:
    """The compiler's command with Inductor's flags."""
    return [
        *(flags["compiler"], "-w"),
        *(f"-{flag}" for flag in flags["cflags"] if flag != "shared"),
        *(f"-D{name.strip()}" for name in flags["definitions"] if "PRECOMPILE" not in name),
        *(f"-I{path}" for path in flags["include_dirs"]),
        *(word for words in flags["passthrough_args"] for word in words.split()),
    ]


def _build_in_runtime(source: Path, header: Path | None) -> Path:
    """Builds the library of an update from Inductor's source, with `runtime.cpp` around it; returns its path."""
    folder = source.parent
    flags = json.loads(source.with_name(f"{source.stem}_linker_flags.json").read_text(encoding="utf-8"))
    wrapper, prefix, kernels = source.read_text(encoding="utf-8").partition(PREFIX)
    declarations = wrapper.split('} // extern "C"\n')[-1].split("AOTInductorModel::AOTInductorModel(")[0]
    update = wrapper[wrapper.index("void AOTInductorModel::run_impl(") :].split("} // namespace torch::aot_inductor")[0]
    (folder / "kernels.h").write_text(declarations.replace("namespace torch::aot_inductor {\n", ""), encoding="utf-8")
    (folder / "update.h").write_text(
        update.replace("__check_inputs_outputs(input_handles, output_handles);", ""), encoding="utf-8"
    )
    if header is not None:
        prefix, kernels = f'#include "{header}"\n', kernels.replace(PREFIX, "")
    (folder / "kernels.cpp").write_text(prefix + kernels, encoding="utf-8")
    outputs = max(int(number) for number in re.findall(r"outputs_info_\[(\d+)\]", wrapper)) + 1
    command, runtime = _command(flags), [f"-DOUTPUTS={outputs}", f"-I{folder}"]
    # Kernels take most of an update's time, and the rest takes longer to compile with more than -O1 than it gains.
    objects = [str(folder / "kernels.o"), str(folder / "runtime.o")]
    _run_together(
        [
            [*command, "-O3", "-c", str(folder / "kernels.cpp"), "-o", objects[0]],
            [*command, *runtime, "-O1", "-c", str(Path(__file__).with_name("runtime.cpp")), "-o", objects[1]],
        ]
    )
    library = folder / "update.so"
    libraries = [*(f"-L{path}" for path in flags["libraries_dirs"]), *(f"-l{name}" for name in flags["libraries"])]
    _run_together([[*command, "-shared", *objects, "-o", str(library), *libraries]])
    return library


def _run_together(commands: Sequence[Sequence[str]]) -> None:
    """Runs commands at the same time; the first one that fails is an error with its output."""
    running = [
        subprocess.Popen(command, stdout=PIPE, stderr=STDOUT, text=True, errors="replace", start_new_session=True)
        for command in commands
    ]
    try:
        for process in running:
            output, _ = process.communicate(timeout=LONGEST_BUILD)
            if process.returncode:
                raise RuntimeError(output)
    finally:
        for process in running:
            _end(process)


def _end(process: subprocess.Popen[Any]) -> None:
    """Ends a compiler and its children, if it has not ended."""
    if process.poll() is None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    if process.stdout is not None:
        process.stdout.close()


def load_library(path: Path) -> Any:
    """A library that `build_library` made; `run(tensors)` calls it."""
    runners: Any = torch._C._aoti
    return runners.AOTIModelContainerRunnerCpu(str(path), 1)


def fake_tensors() -> Any:
    """A mode in which tensors have shapes and devices, but no numbers; those of two devices refuse to meet."""
    from torch._subclasses.fake_tensor import FakeTensorMode

    return FakeTensorMode()
