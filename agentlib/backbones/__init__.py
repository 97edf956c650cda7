"""Networks from observations to features, and what trains them: optimizer rules and schedules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from agentlib.backbones.base import Backbone, Observation, Spec
from agentlib.backbones.cnn import NatureCNN
from agentlib.backbones.combine import Chain, Nested, OneHot
from agentlib.backbones.mlp import MLP
from agentlib.backbones.normalization import RunningNorm
from agentlib.backbones.optimizers import Rule, adam, adamw, rmsprop, sgd
from agentlib.backbones.schedules import Clock, Cosine, Linear, Schedule, at

__all__ = [
    "BACKBONES",
    "MLP",
    "Backbone",
    "Chain",
    "Clock",
    "Cosine",
    "Linear",
    "NatureCNN",
    "Nested",
    "Observation",
    "OneHot",
    "Rule",
    "RunningNorm",
    "Schedule",
    "Spec",
    "adam",
    "adamw",
    "at",
    "from_spec",
    "rmsprop",
    "sgd",
    "spec_of",
]

BACKBONES: dict[str, type[nn.Module]] = {
    "mlp": MLP,
    "nature_cnn": NatureCNN,
    "one_hot": OneHot,
    "nested": Nested,
    "chain": Chain,
    "running_norm": RunningNorm,
}


def spec_of(module: nn.Module) -> Spec:
    """The spec that rebuilds a backbone.

    Raises:
        ValueError: the module has no `spec`, so that a file could not say how to build it again.
    """
    spec = getattr(module, "spec", None)
    if not isinstance(spec, dict):
        raise ValueError(
            f"{type(module).__name__} has no `spec`: give it one, "
            f'{{"name": "{type(module).__name__}", "arguments": {{...}}}}, so that it can be rebuilt from a file'
        )
    return spec


def from_spec(spec: Spec, classes: Mapping[str, type[nn.Module]] | None = None) -> nn.Module:
    """Builds the module that a spec describes; the weights are fresh.

    Args:
        spec: `{"name": ..., "arguments": {...}}`; arguments may be specs themselves, also in lists and dicts.
        classes: classes of your own by name, in addition to the library's.

    Raises:
        ValueError: unknown name, or arguments that the class does not take.
    """
    known = {**BACKBONES, **(classes or {})}

    def build(value: Any) -> Any:
        if isinstance(value, dict):
            if set(value) == {"name", "arguments"}:
                return from_spec(value, classes)
            return {key: build(item) for key, item in value.items()}
        return [build(item) for item in value] if isinstance(value, list) else value

    if not isinstance(spec, dict) or set(spec) != {"name", "arguments"} or not isinstance(spec["arguments"], dict):
        raise ValueError(f'a spec is {{"name": ..., "arguments": {{...}}}}, not {str(spec)[:200]}')
    name = spec["name"]
    if name not in known:
        raise ValueError(
            f"unknown network {name!r}; known: {', '.join(known)}. A class of your own is passed at load: "
            f"Agent.load(path, classes={{{name!r}: YourClass}})"
        )
    try:
        return known[name](**{key: build(value) for key, value in spec["arguments"].items()})
    except TypeError as error:
        raise ValueError(f"the arguments of network {name!r} do not fit: {error}") from None
