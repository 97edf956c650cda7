"""Agents as files for other runtimes: ONNX, archives of torch.export, Python. `Exported` says what goes in and out."""

from __future__ import annotations

import copy
import importlib.util
import io
import json
import keyword
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from agentlib.backbones.files import replacing
from agentlib.core.spaces import space_to_json, unflatten
from agentlib.policies.exported import Exported
from agentlib.policies.exporting_numpy import numpy_source

Agent = Any
"""An `agentlib.Agent`, a floor above this file."""

Arrays = dict[str, NDArray[Any]]
Run = Callable[[Arrays], Arrays]
"""Acts by an exported policy: from named inputs to named outputs."""

BATCHES, STEPS = (3, 1, 64), 5
"""What is compared with the agent."""
TOLERANCE = 1e-3
"""Of real numbers, as a share of the largest."""
NUDGES, NUDGE = 32, 1e-4
"""How often and how far an output is moved, as a share of its size, to see whether a choice hangs on rounding."""


def export(agent: Agent, path: Path, action_mask: bool) -> Path:
    """The work of `Agent.export`."""
    writers: dict[str, Callable[[Exported, str], tuple[bytes, Run]]] = {
        ".onnx": _to_onnx,
        ".pt2": _to_archive,
        ".py": partial(_to_program, name=path.stem),
    }
    if path.suffix not in writers:
        raise ValueError(f"{path} ends neither in .onnx nor in .pt2 (torch.export) nor in .py: which shall it be?")
    if path.suffix == ".py" and (not path.stem.isidentifier() or keyword.iskeyword(path.stem)):
        raise ValueError(f"{path.stem} is no name that Python can import: choose one such as policy.py")
    if action_mask and not agent.takes_masks:
        raise TypeError(f"action_mask=True, but {type(agent.policy).__name__} knows no masks")
    policy = copy.deepcopy(agent.policy).cpu().eval()  # whatever the agent's owner does with it meanwhile
    exported = Exported(policy, agent.observation_space, agent.action_space, action_mask)
    twin = type(agent)(policy, agent.observation_space, agent.action_space)
    spaces = {name: space_to_json(getattr(agent, name)) for name in ("observation_space", "action_space")}
    about = json.dumps({"file": "agentlib exported policy", **spaces, "inputs": list(exported.example())})
    with torch.no_grad(), _quiet():
        content, run = writers[path.suffix](exported, about)
        _compare(exported, twin, run)
    with replacing(path) as temporary:
        temporary.write_bytes(content)
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters warn of their own insides, and log what they skip."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript")]
    levels = [logger.level for logger in loggers]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _traced(exported: Exported) -> torch.export.ExportedProgram:
    example = {name: torch.from_numpy(array) for name, array in exported.example().items()}
    batch = torch.export.Dim("batch", min=1)
    try:
        return torch.export.export(exported, (example,), dynamic_shapes=({name: {0: batch} for name in example},))
    except Exception as error:
        reason = str(error).strip().partition("\n")[0]
        raise RuntimeError(f"nothing was written: torch cannot export this policy for any batch: {reason}") from error


def _to_archive(exported: Exported, about: str) -> tuple[bytes, Run]:
    buffer = io.BytesIO()
    torch.export.save(_traced(exported), buffer, extra_files={"agentlib.json": about})
    module = torch.export.load(io.BytesIO(buffer.getvalue())).module()

    def run(arrays: Arrays) -> Arrays:
        outputs = module({name: torch.from_numpy(array) for name, array in arrays.items()})
        return {name: tensor.numpy() for name, tensor in outputs.items()}

    return buffer.getvalue(), run


def _to_program(exported: Exported, about: str, name: str) -> tuple[bytes, Run]:
    source = numpy_source(exported, name)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.py"
        path.write_text(source, encoding="utf-8")
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    return source.encode(), lambda arrays: {"action": module.act(arrays["observation"])}


def _to_onnx(exported: Exported, about: str) -> tuple[bytes, Run]:
    try:
        import onnx  # noqa: F401
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"ONNX needs {error.name}: pip install 'agentlib-rl[export]'") from None
    names = ["action", *(f"next_{name}" for name in exported.states)]
    traced = _traced(exported)
    try:
        program: Any = torch.onnx.export(
            traced, input_names=list(exported.example()), output_names=names, verbose=False, external_data=False
        )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise RuntimeError(f"nothing was written: this policy has no form in ONNX: {reason}") from error
    program.model.metadata_props["agentlib"] = about
    model = program.model_proto
    _name_batch(model.graph)
    content: bytes = model.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}

    def run(arrays: Arrays) -> Arrays:
        given = {name: array for name, array in arrays.items() if name in wanted}
        return dict(zip(names, session.run(names, given), strict=True))

    return content, run


def _name_batch(graph: Any) -> None:
    """Calls the one free axis by its name; torch calls it as its tracer did."""
    for value in (*graph.input, *graph.output, *graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param.isidentifier():  # no sum or product of it
                axis.dim_param = "batch"


def _compare(exported: Exported, twin: Agent, run: Run) -> None:
    """Raises RuntimeError where the exported policy does not act as the agent, on random observations."""
    for number, batch in enumerate(BATCHES):
        alike = np.ones(batch, bool)  # rows with the same past: a choice that hangs on rounding may end that
        memory: Arrays = {}
        state = None
        for step in range(STEPS if exported.has_memory else 1):
            inputs = exported.example(batch, seed=STEPS * number + step) | memory
            if step:
                inputs["episode_start"] = np.arange(batch) % STEPS == step  # some episodes begin on the way
            observation = unflatten(twin.observation_space, [inputs[name] for name in exported.leaves])
            wanted, state = twin.predict(
                observation, state, inputs.get("episode_start"), True, action_mask=inputs.get("action_mask")
            )
            outputs = run(inputs)
            same = _same(outputs["action"], wanted)
            wrong = alike & ~same
            if wrong.any():
                wrong &= ~_hangs_on_rounding(exported, inputs)
            if wrong.any():
                row = int(wrong.argmax())
                raise RuntimeError(
                    f"nothing was written: the exported policy acts otherwise than the agent, "
                    f"{outputs['action'][row]} in place of {wanted[row]}"
                )
            alike &= same
            memory = {name: outputs[f"next_{name}"] for name in exported.states}
            for (name, theirs), ours in zip(memory.items(), state or (), strict=True):
                if not _same(theirs, ours)[alike].all():
                    raise RuntimeError(f"nothing was written: the exported policy remembers otherwise, in {name}")


def _same(first: NDArray[Any], second: NDArray[Any]) -> NDArray[np.bool_]:
    """`(B,)`: the rows that are equal; real numbers but for rounding."""
    if first.shape != second.shape or first.dtype != second.dtype:
        return np.zeros(len(first), bool)
    if first.dtype.kind == "f":
        size = np.abs(second[np.isfinite(second)]).max(initial=0.0)
        same = np.isclose(first, second, rtol=0.0, atol=TOLERANCE * size, equal_nan=True)
    else:
        same = np.asarray(first == second)
    return same.all(tuple(range(1, first.ndim)))  # type: ignore[no-any-return]


def _hangs_on_rounding(exported: Exported, inputs: Arrays) -> NDArray[np.bool_]:
    """`(B,)`: where a hair's change of the policy's output changes its choice."""
    tensors = {name: torch.from_numpy(array) for name, array in inputs.items()}
    output, masks, _ = exported.output_of(tensors)
    usual = exported.in_space(exported.policy.choose(output, *masks)).numpy()
    generator, unsure = torch.Generator().manual_seed(0), np.zeros(len(usual), bool)
    for _ in range(NUDGES):
        noise = torch.randn(output.shape, generator=generator, dtype=output.dtype)
        nudged = output + NUDGE * output.abs().amax() * noise
        unsure |= ~_same(exported.in_space(exported.policy.choose(nudged, *masks)).numpy(), usual)
    return unsure
