"""Common to all families: the network under a learner's head, the learner on its device, and the job around it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from gymnasium import spaces
from torch import nn

from agentlib.backbones.choice import backbone_for
from agentlib.core.learner import Learner
from agentlib.core.modes import in_eval_mode
from agentlib.core.progress import watched
from agentlib.core.randomness import fresh_weights
from agentlib.core.recipe import Job, Judge, Length, Problem, Recipe, device_for
from agentlib.core.source import Source


def network_for(
    problem: Problem,
    space: spaces.Space[Any],
    actions: spaces.Space[Any] | None = None,
    memory: bool = False,
    **layers: Any,
) -> nn.Module:
    """The problem's backbone for observations of `space`, or a copy of the policy of the agent that it starts from.

    The last arguments are those of `backbone_for`.
    """
    config = problem.config
    if problem.agent is not None:
        return copy.deepcopy(problem.agent.policy).requires_grad_(True)  # type: ignore[no-any-return]
    net_arch, normalize = getattr(config, "net_arch", None), getattr(config, "normalize", False)
    return backbone_for(space, problem.backbone, net_arch, normalize, actions, memory, **layers)


def learner_for(recipe: Recipe, problem: Problem, network: Callable[[], nn.Module], facts: Any) -> Any:
    """The recipe's learner with weights from the problem's seed, on the problem's device.

    `network` makes the backbone, or a whole policy; `facts` describe the problem for `build`, or are made right before
    the network, by a function.

    Raises:
        TypeError: `build` returned something else than a learner.
    """
    with fresh_weights(problem.seed):
        facts = facts() if callable(facts) else facts
        backbone = network()
        if not backbone.training:  # as files and finished runs give it; inside it, what its owner froze stays so
            backbone.train()
        if any(parameter.is_inference() for parameter in backbone.parameters()):
            backbone = copy.deepcopy(backbone)  # nothing learns in weights that were made in inference mode
        learner = recipe.learner.build(backbone.float(), problem.config, facts)  # also a backbone of float64
    if not isinstance(learner, Learner):
        raise TypeError(f"{recipe.learner.__name__}.build must return a learner, not a {type(learner).__name__}")
    return learner.to(device_for(problem.device, learner))


def with_reach(network: nn.Module, steps: int) -> nn.Module:
    """The network, if it reads windows of so many steps at once.

    Raises:
        ValueError: it was built or saved for fewer; the message has the number to give.
    """
    reach = getattr(network, "reach", math.inf)
    if reach < steps:
        raise ValueError(
            f"the backbone reads {reach} steps at once, fewer than context_length asks for: give "
            f"context_length={reach}, or another backbone"
        )
    return network


def job_for(problem: Problem, learner: Learner, source: Source, product: Any, judge: Judge) -> Job:
    """A job of `problem.steps` updates, its source on the learner's device."""
    steps = int(problem.steps or 1)
    return Job(learner, source.to(device_of(learner)), Length(steps, steps), product, judge)


def device_of(network: nn.Module) -> torch.device:
    """Where a network's parameters are."""
    return next(network.parameters()).device


def predicted(learner: Learner, x: torch.Tensor) -> torch.Tensor:
    """The learner's predictions `(N, ...)`, as `in_chunks` has them."""
    return in_chunks(learner, learner.predict, x)


def in_chunks(network: nn.Module, function: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The function `(N, ...)` of examples by a network in eval mode, without gradients, in chunks.

    On the CPU in small ones: activations of tens of megabytes would be mapped and unmapped by the system each time,
    which takes more time than the convolutions.
    """
    with in_eval_mode(network):
        parts = watched(x.split(128 if x.is_cpu else 1024), "judging")
        return torch.cat([function(part) for part in parts])
