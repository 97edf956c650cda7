"""A policy as one Python file that needs numpy and nothing else: MLPs and tables, with what is before and behind."""

from __future__ import annotations

import base64
import copy
import zlib
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import MLP, Chain, OneHot, RunningNorm, Table
from agentlib.core.spaces import leaf_spaces
from agentlib.policies.exported import Exported
from agentlib.policies.numpy_shortcut import numpy_shortcut

ACTIVATIONS = {"relu": "np.maximum(x, np.float32(0))", "tanh": "np.tanh(x)"}
HEAD = '''"""A policy that agentlib wrote; it needs numpy and nothing else.

    from {name} import act

    action = act(observation)    # of one observation, or of a batch of them

Observations are {observation}.
Actions are {action}, the best ones.
"""

import base64
import zlib

import numpy as np


def numbers(text, dtype, *shape):
    """Numbers that are written as text."""
    return np.frombuffer(zlib.decompress(base64.b85decode(text)), dtype).reshape(shape)


'''
ACT = '''SHAPE = {shape}


def act(observation):
    """The best action for one observation, or the best actions for a batch of them."""
    observation = np.asarray(observation)
    batch = observation.shape[: max(observation.ndim - {dimensions}, 0)]
    if len(batch) > 1 or observation.shape != (*batch, *SHAPE):
        raise ValueError(f"an observation has the shape {{SHAPE}}, not {{observation.shape}}")
    x = observation.reshape(-1, {size})
{body}    return actions if batch else actions[0]
'''


def numpy_source(exported: Exported, name: str) -> str:
    """The program; `name` is that of its module.

    Raises:
        RuntimeError: a policy of another kind.
    """
    policy, space = exported.policy, exported.observation_space
    is_nested = isinstance(space, spaces.Dict | spaces.Tuple)
    backbone = getattr(policy, "backbone", policy)
    stages: list[Any] = list(backbone.stages) if type(backbone) is Chain else [backbone]
    kinds = [type(stage) for stage in stages[:-1]]
    plain = _with_backbone(policy, stages[-1])
    shortcut = None if plain is None or exported.takes_mask or exported.observed_width else numpy_shortcut(plain)
    if is_nested or shortcut is None or shortcut.convolutions or set(kinds) - {RunningNorm, OneHot}:
        kind = f"a {type(policy).__name__} on {' and '.join(type(stage).__name__ for stage in stages)}"
        raise RuntimeError(f"nothing was written: a .py holds MLPs with relu or tanh and tables, without masks, memory "
                           f"and nested observations, and this is {kind}: write .onnx")  # fmt: skip
    leaf = leaf_spaces(space)[0]
    text, body = _Text(), ["x = x.astype(np.float32)"] if leaf.dtype == np.float64 else []  # as an agent sees them
    for stage in stages[:-1]:
        body += text.norm(stage) if isinstance(stage, RunningNorm) else text.categories(stage)
    body += text.entries(stages[-1]) if isinstance(stages[-1], Table) else ["x = x.astype(np.float32)"]
    activation = ACTIVATIONS[stages[-1].activation if type(stages[-1]) is MLP else "relu"]
    for number, (weight, bias) in enumerate(shortcut.layers):
        if number:
            body.append(f"x = {activation}")
        body.append(f"x = x @ {text.add(weight, 'WEIGHT')} + {text.add(bias, 'BIAS')}")
    body += _choice(shortcut, exported.action_space, text)
    head = HEAD.format(name=name, observation=_words(space), action=_words(exported.action_space))
    size, shape = int(np.prod(leaf.shape or (1,))), tuple(leaf.shape or ())
    lines = "".join(f"    {line}\n" for line in body)
    return head + "".join(text.lines) + ACT.format(size=size, shape=shape, dimensions=len(shape), body=lines)


class _Text:
    """Named arrays as lines of a program, and lines that use them."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, array: Any, name: str) -> str:
        """Writes an array; returns its name."""
        array = np.ascontiguousarray(array.numpy() if isinstance(array, Tensor) else array)
        array = array.astype(array.dtype.newbyteorder("<"))
        name = f"{name}_{len(self.lines)}"
        packed = base64.b85encode(zlib.compress(array.tobytes())).decode()
        shape = "".join(f", {length}" for length in array.shape)
        self.lines.append(f'{name} = numbers({packed!r}, "{array.dtype.str}"{shape})\n')
        return name

    def norm(self, stage: RunningNorm) -> list[str]:
        """As `RunningNorm.forward`."""
        variance = stage.variance.numpy()
        deviation = np.where(variance > 0.0, np.sqrt(variance + 1e-8), 1.0)
        mean, scale = self.add(stage.mean.ravel(), "MEAN"), self.add(deviation.ravel(), "SCALE")
        return [f"x = np.clip((x - {mean}) / {scale}, {-stage.clip}, {stage.clip}).astype(np.float32)"]

    def categories(self, stage: OneHot) -> list[str]:
        """As `OneHot.forward`."""
        first = self.add(stage.first, "FIRST")
        return [
            f"x = x.astype(np.int64) - {first}",
            f"x = np.concatenate([x[:, i, None] == np.arange(n) for i, n in enumerate({stage.sizes})], 1)",
        ]

    def entries(self, stage: Table) -> list[str]:
        """As `Table.forward`."""
        first, stride = self.add(stage.first, "FIRST"), self.add(stage.stride, "STRIDE")
        index = f"((x.astype(np.int64) - {first}) @ {stride})"
        return [f"x = ({index}[:, None] == np.arange({stage.feature_dim})).astype(np.float32)"]


def _choice(shortcut: Any, space: spaces.Space[Any], text: _Text) -> list[str]:
    """From the last layer to actions of the space, as the shortcut and `Exported.in_space` do it."""
    if shortcut.policy is None:
        lines = [f"x = x.reshape(len(x), -1, {shortcut.n_atoms}).mean(2)"] if shortcut.n_atoms > 1 else []
        return [*lines, f'actions = (x.argmax(1) + {int(getattr(space, "start", 0))}).astype("{space.dtype}")']
    assert isinstance(space, spaces.Box)
    lines, policy = [], shortcut.policy
    if policy.squashed:
        limit = getattr(policy, "limit", None)
        lines += [] if limit is None else [f"x = np.clip(x, {-limit}, {limit})"]
        names = [text.add(getattr(shortcut, side), side.upper()) for side in ("bounded", "middle", "half_range")]
        lines.append("x = np.where({}, {} + {} * np.tanh(x), x)".format(*names))
    low, high = text.add(shortcut.low, "LOW"), text.add(shortcut.high, "HIGH")
    rounded = "" if np.dtype(space.dtype).kind == "f" else "np.rint(x)"
    lines += [f"x = np.clip(x, {low}, {high})", *([f"x = {rounded}"] if rounded else [])]
    return [*lines, f'actions = x.reshape(-1, *{space.shape}).astype("{space.dtype}")']


def _with_backbone(policy: Any, backbone: nn.Module) -> Any:
    """A view of the policy on the last stage of its backbone; None where it has none."""
    if not hasattr(policy, "head"):
        return None
    view = copy.copy(policy)
    view._modules = {**policy._modules, "backbone": backbone}
    return view


def _words(space: spaces.Space[Any]) -> str:
    if isinstance(space, spaces.Box):
        return f"arrays of the shape {space.shape} and the type {space.dtype}"
    return str(space)
