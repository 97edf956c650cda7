"""Demonstrations as recipes take them: from what a user gives, checked, scored, and shown to a policy."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones import AfterAction, RunningNorm
from agentlib.data import Demonstration, Demonstrations, Episode
from agentlib.data.asking import taken
from agentlib.data.demonstration_batches import Labelled
from agentlib.envs.making import make_envs
from agentlib.envs.spaces import action_from_space
from agentlib.envs.vector import Environments
from agentlib.policies.acting import in_eval_mode, to_tensors
from agentlib.recipes.problem import Problem
from agentlib.training.trees import mapped


def demonstrations_of(demos: Any) -> Demonstrations:
    """Demonstrations from what a user gives.

    Args:
        demos: `Demonstrations`; "minari:ID"; the path of a file that `Demonstrations.save` wrote; a Minari dataset.

    Raises:
        FileNotFoundError: no such file or dataset.
        ValueError: none of these, or no episodes.
    """
    if isinstance(demos, str) and demos.startswith("minari:"):
        demos = Demonstrations.from_minari(demos.removeprefix("minari:"))
    elif isinstance(demos, str | Path):
        demos = Demonstrations.load(demos)
    elif hasattr(demos, "iterate_episodes"):
        demos = Demonstrations.from_minari(demos)
    if demos is None:
        raise ValueError('there are no demonstrations: give demos=, such as demos="minari:ID", or a path')
    if not isinstance(demos, Demonstrations):
        hint = "; of arrays, Demonstrations.from_arrays makes them"
        if isinstance(demos, list | tuple) and demos and isinstance(demos[0], Episode | Demonstration):
            hint = ": make them by Demonstrations.from_episodes(episodes, observation_space, action_space)"
        raise ValueError(
            f'demos are Demonstrations, "minari:ID", a path of a .safetensors file, or a Minari dataset, '
            f"not {type(demos).__name__}{hint}"
        )
    if not len(demos):
        raise ValueError("the demonstrations are empty: they have no episodes")
    return demos


def held_out_scores(policy: Any, demonstrations: Demonstrations) -> dict[str, float]:
    """How well steps that nothing was learned from are predicted: mean loss, and the share of equal actions.

    The loss is -log pi(a | o), or the squared error of a policy without a distribution. A memory is carried through
    whole episodes.
    """
    losses = agreements = count = 0.0
    for batch, output in answered(policy, demonstrations):
        axes = batch.weight.dim()
        with in_eval_mode(policy):
            choice = policy.choose(output)
            if hasattr(policy, "log_prob"):
                loss = -policy.log_prob(output, batch.action)
            else:
                loss = (choice - batch.action).square().flatten(axes).mean(-1)
        equal = torch.isclose(choice.float(), batch.action.float(), atol=1e-3)
        equal = equal.flatten(axes).all(-1) if equal.dim() > axes else equal
        losses += float((loss * batch.weight).sum())
        agreements += float((equal * batch.weight).sum())
        count += float(batch.weight.sum())
    return {"eval/loss": losses / max(count, 1.0), "eval/agreement": agreements / max(count, 1.0)}


def answered(policy: nn.Module, demonstrations: Demonstrations) -> Iterator[tuple[Labelled, Tensor]]:
    """Each episode once, `(T,)`, or `(1, T)` for a policy with memory, with the policy's output for it."""
    for batch in _in_order(policy, demonstrations):
        with in_eval_mode(policy):
            output, _ = policy(batch.observation, None, batch.episode_start if batch.weight.dim() > 1 else None)
        yield batch, output


def _in_order(policy: nn.Module, demonstrations: Demonstrations) -> Iterator[Labelled]:
    """Each episode once: `(T,)`, or `(1, T)` for a policy with memory; without the final observations."""
    device = next(policy.parameters()).device
    memory = getattr(policy, "is_sequence", False)
    for episode in demonstrations:
        length = len(episode.rewards)
        observed = taken(demonstrations.observation_space, episode.observations, slice(length))
        action = action_from_space(demonstrations.action_space, episode.labels)
        start = np.arange(length) == 0
        observation: Any = to_tensors(demonstrations.observation_space, observed, device)
        if memory and reads_actions(policy):
            done = action_from_space(demonstrations.action_space, episode.actions)
            none = np.full_like(done[:1], 0 if isinstance(demonstrations.action_space, spaces.Box) else -1)
            observation = AfterAction(observation, torch.from_numpy(np.concatenate([none, done[:-1]])).to(device))
        batch = Labelled(
            observation,
            torch.from_numpy(action).to(device),
            torch.from_numpy(episode.labelled.astype(np.float32)).to(device),
            torch.from_numpy(start).to(device),
        )
        yield mapped(batch, lambda tensor: tensor[None]) if memory else batch


def reads_actions(policy: nn.Module) -> bool:
    """Whether a policy's memory reads which action was taken last."""
    return any(getattr(module, "previous_action", None) is not None for module in policy.modules())


def observe_all(policy: Any, demonstrations: Demonstrations, first: int = 0) -> None:
    """Takes the demonstrations' observations, from this episode on, into the policy's running statistics, if any."""
    device = next(policy.parameters()).device
    if any(isinstance(module, RunningNorm) for module in policy.modules()):
        for index in range(first, len(demonstrations)):
            space = demonstrations.observation_space
            policy.observe(to_tensors(space, demonstrations[index].observations, device))


def balanced_weights(demonstrations: Demonstrations) -> tuple[float, ...]:
    """Labelled steps / (actions that occur * steps with this action), for each discrete action; 0 for absent ones.

    Raises:
        ValueError: the action space is not Discrete.
    """
    space = demonstrations.action_space
    if not isinstance(space, spaces.Discrete):
        raise ValueError(f"class_weights are for Discrete actions, not for {space}")
    labels = np.concatenate([episode.labels[episode.labelled] for episode in demonstrations])
    counts = np.bincount(labels - space.start, minlength=int(space.n))
    weights = np.divide(len(labels), counts * (counts > 0).sum(), out=np.zeros(len(counts)), where=counts > 0)
    return tuple(weights.tolist())


def check_environment(demonstrations: Demonstrations, problem: Problem) -> None:
    """Raises ValueError if the problem names an environment, and it has other spaces than the demonstrations."""
    if problem.env is None:
        return
    made = make_envs(problem.env, env_kwargs=problem.env_kwargs)
    envs = Environments(made)
    try:
        demonstrations.check_spaces(envs.observation_space, envs.action_space)
    finally:
        if made is not problem.env:
            envs.close()
