"""From a network to the JSON that rebuilds it, and back."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones.adaptation import merged
from agentlib.core.names import close_matches, shown
from agentlib.core.randomness import host_generator_kept
from agentlib.core.spaces import space_to_json

Spec = dict[str, Any]
"""`{"name": ..., "arguments": {...}}`, JSON-able: enough to build the module again."""
Classes = Mapping[str, Callable[..., nn.Module]]
"""Classes by name, or functions that build a module."""

BACKBONES: dict[str, type[nn.Module]] = {}
"""The library's networks by name; `agentlib.backbones` fills it."""


class Described(nn.Module):
    """A module with a spec: each argument of its constructor is an attribute of the same name."""

    kind = ""
    """The name in the spec; by default that of the class."""

    @property
    def spec(self) -> Spec:
        """The name and the JSON-able arguments that rebuild this network."""
        return described(self)


def spec_of(module: nn.Module) -> Spec:
    """The spec that rebuilds a network.

    A module without a `spec` has one all the same if each argument of its constructor is an attribute of the same name,
    or if it is an `nn.Sequential`: then it is its name alone, and a function that builds it is given at load.

    Raises:
        ValueError: there is no spec, so that a file could not say how to build the network again.
    """
    module = merged(module)
    spec = getattr(module, "spec", None)
    if isinstance(spec, dict):
        return spec
    return {"name": type(module).__name__, "arguments": {}} if isinstance(module, nn.Sequential) else described(module)


def described(module: nn.Module, **others: Any) -> Spec:
    """The spec by the attributes; `others` are the arguments that are no attributes of the same name."""
    named = [cls for cls in type(module).__mro__ if issubclass(cls, Described) and cls.__dict__.get("kind")]
    cls = named[0] if named else type(module)
    arguments: dict[str, Any] = {}
    for parameter in inspect.signature(cls).parameters.values():
        value = others.get(parameter.name, getattr(module, parameter.name, parameter.default))
        plain = _plain(value)
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY) or (
            value is not None and plain is None
        ):
            raise ValueError(
                f"{cls.__name__} has no `spec`, and no attribute {parameter.name!r} that JSON can hold, as its "
                f'constructor takes it: give it a `spec`, {{"name": "{cls.__name__}", "arguments": {{...}}}}, so that '
                "it can be rebuilt from a file"
            )
        arguments[parameter.name] = plain
    if named:
        return {"name": named[0].kind, "arguments": arguments}
    spec = {"name": cls.__name__, "arguments": arguments}
    with host_generator_kept():
        again = from_spec(spec, {type(part).__name__: type(part) for part in module.modules()})
    shapes, mine = ({name: value.shape for name, value in one.state_dict().items()} for one in (again, module))
    if shapes != mine:
        raise ValueError(
            f"{cls.__name__} has no `spec`, and built from its attributes {arguments} it has other weights: give it a "
            "`spec` with the arguments that rebuild it"
        )
    return spec


def _plain(value: Any) -> Any:
    """The value as JSON has it; None for what JSON cannot hold."""
    if isinstance(value, nn.Module):
        return [spec_of(part) for part in value] if isinstance(value, nn.ModuleList) else spec_of(value)
    if isinstance(value, spaces.Space):
        return space_to_json(value)
    try:
        plain = value.tolist() if isinstance(value, np.ndarray | Tensor) else value
        return json.loads(json.dumps(plain, allow_nan=False))
    except (TypeError, ValueError):
        return None


def from_spec(spec: Spec, classes: Classes | None = None) -> nn.Module:
    """Builds the module that a spec describes; the weights are fresh.

    Args:
        spec: `{"name": ..., "arguments": {...}}`; arguments may be specs themselves, also in lists and dicts.
        classes: classes of your own by name, in addition to the library's.

    Raises:
        ValueError: unknown name, or arguments that the class does not take.
    """
    known: dict[str, Callable[..., nn.Module]] = {**BACKBONES, **(classes or {})}

    def build(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"name", "arguments"}:
                return from_spec(value, classes)
            return {key: build(item) for key, item in value.items()}
        return [build(item) for item in value] if isinstance(value, list) else value

    if not isinstance(spec, dict) or set(spec) != {"name", "arguments"} or not isinstance(spec["arguments"], dict):
        raise ValueError(f'a spec is {{"name": ..., "arguments": {{...}}}}, not {shown(spec)}')
    name = spec["name"]
    if not isinstance(name, str) or name not in known:
        close = close_matches(str(name), known)
        first, last = ("", close) if close.startswith("; known") else (close, "")
        raise ValueError(
            f"unknown network {shown(name)}{first}. A class of your own is passed at load, "
            f"classes={{{shown(name)}: YourClass}}, or a function that builds it, as an nn.Sequential needs; "
            "a network of a newer agentlib needs that agentlib"
            f"{last}"
        )
    try:
        return known[name](**{key: build(value) for key, value in spec["arguments"].items()})
    except TypeError as error:
        raise ValueError(
            f"the arguments of network {name!r} do not fit: {error}; if a newer agentlib wrote them, update agentlib"
        ) from None
