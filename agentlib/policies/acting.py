"""From observations in numpy to actions in numpy: the best ones, with memory or without, and random ones."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.modes import in_eval_mode
from agentlib.core.names import one_line
from agentlib.core.numbers import whole
from agentlib.core.schedules import Clock, Schedule, at
from agentlib.core.spaces import (
    action_to_space,
    choices,
    is_masked,
    leaf_dtype,
    leaf_shape,
    leaf_spaces,
    observed_mask,
    observes_mask,
    random_actions,
    to_batch,
    to_tensors,
    unflatten,
)
from agentlib.core.trees import leaves, mapped
from agentlib.policies.base import state_after
from agentlib.policies.numpy_shortcut import NumpyShortcut, numpy_shortcut
from agentlib.policies.q_heads import NoisyLinear, noisy_weights


class Among(NamedTuple):
    """A batch as a part of a larger one."""

    rows: slice
    size: int
    """Of the larger one."""


def decide(
    policy: nn.Module,
    space: spaces.Space[Any],
    observation: Any,
    state: Any = None,
    episode_start: NDArray[np.bool_] | None = None,
    seed: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    among: Among | None = None,
) -> tuple[NDArray[Any], Any]:
    """Actions `(B, ...)` of a policy for a batch of observations (numpy), and its next state, once they are taken.

    Args:
        policy: as `agentlib.policies` has them, with memory or without.
        space: of one observation.
        observation: batched.
        state: of a policy with memory; the initial state by default.
        episode_start: `(B,)`, true where the state is to be reset first.
        seed: draw actions by a generator with this seed, in place of the best ones.
        mask: `(B, A)`, true where an action is legal, for policies of discrete actions; the mask in a Dict observation
            is found without it.
        among: the part of a larger batch that the observations are: random actions are those of the larger batch.
    """
    actions, _, state = actions_and_output(policy, space, observation, state, episode_start, seed, mask, among)
    with torch.no_grad():
        return actions.cpu().numpy(), state_after(policy, state, actions)


def actions_and_output(
    policy: nn.Module,
    space: spaces.Space[Any],
    observation: Any,
    state: Any = None,
    episode_start: NDArray[np.bool_] | None = None,
    seed: int | None = None,
    mask: NDArray[np.bool_] | None = None,
    among: Among | None = None,
) -> tuple[Tensor, Tensor, Any]:
    """As `decide`: actions, the output behind them, and the next state as it is before they are taken."""
    if mask is None and getattr(policy, "takes_masks", False) and is_masked(space):
        mask = observed_mask(observation, sum(policy.branches))  # type: ignore[arg-type]
    device = next(policy.parameters()).device
    tensors = to_tensors(space, observation, device)
    with in_eval_mode(policy):
        if getattr(policy, "is_sequence", False):
            tensors = mapped(tensors, lambda leaf: leaf[:, None])  # (B, 1, ...)
            starts = None if episode_start is None else torch.as_tensor(episode_start, device=device)[:, None]
            output, state = policy(tensors, state, starts)
            output = output[:, 0]  # (B, n)
        else:
            output, state = policy(tensors, state)
        actions: Tensor
        masks = () if mask is None else (torch.as_tensor(mask, device=device),)
        if seed is None:
            actions = policy.choose(output, *masks)  # type: ignore[operator]
        else:
            output = policy.masked(output, *masks) if masks else output  # type: ignore[operator]
            whole, rows = output, slice(None)
            if among is not None:
                rows, whole = among.rows, output.new_zeros(among.size, *output.shape[1:])
                whole[rows] = output
            actions = policy.sample(whole, torch.Generator(device).manual_seed(int(seed)))[rows]  # type: ignore[operator]
    return actions, output, state


def check_fit(policy: nn.Module, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
    """Raises ValueError for a policy that takes no such observations, or gives no such actions.

    It acts once, unless that could take long or much memory.
    """
    sizes = choices(action_space)
    found: Any = getattr(policy, "branches", None) or getattr(policy, "sizes", ())
    zeros = [np.zeros((1, *leaf_shape(leaf)), leaf_dtype(leaf)) for leaf in leaf_spaces(observation_space)]
    width = max((weight.shape[0] for weight in policy.parameters() if weight.dim() > 1), default=1)
    memory = leaves(policy.initial_state(1)) if getattr(policy, "is_sequence", False) else []  # type: ignore[operator]
    numbers, longest = sum(map(np.size, zeros)), max((side for part in memory for side in part.shape), default=0)
    fits = not sizes or tuple(found) == sizes
    if fits and numbers <= 1 << 15 and numbers * width <= 1 << 26 and longest <= 1 << 10:
        try:
            actions, _, _ = actions_and_output(policy, observation_space, unflatten(observation_space, zeros))
        except Exception as error:  # whatever a network says of an input that it is not for
            raise ValueError(f"the policy takes no observations of {observation_space}: {one_line(error)}") from None
        is_real = isinstance(action_space, spaces.Box)
        fits = actions.numel() == np.prod(action_space.shape or ()) and actions.is_floating_point() == is_real
    if not fits:
        raise ValueError(f"the policy gives no actions of {action_space}")


class GreedyActor:
    """The best actions for batches of observations, always by the policy's present weights; without memory.

    A plain MLP on the CPU is computed by numpy on views of its weights, for up to `NUMPY_ROWS` observations at once,
    and the Nature CNN for one (`agentlib/policies/numpy_shortcut.py`).

    Args:
        policy: as `agentlib.policies` has them.
        observation_space: of one environment.
        noise_seed: act by weights with fresh noise at each call, where the policy has noisy layers; without it, by
            their means.
    """

    always_asked = False

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any], noise_seed: int | None = None) -> None:
        self.policy, self.space = policy, observation_space
        self.shortcut = numpy_shortcut(policy)
        noisy = noise_seed is not None and any(isinstance(layer, NoisyLinear) for layer in policy.modules())
        self.generator = np.random.default_rng([noise_seed or 0, 2]) if noisy else None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "shortcut": None}  # the copy of a view would see no changes of the weights

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.shortcut = numpy_shortcut(self.policy)

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(B, ...)` for a batch of observations.

        Where a `mask (B, A)` of legal actions is given, only these are chosen.
        """
        shortcut = self._shortcut(observation)
        if shortcut is not None:
            return shortcut(observation, mask)
        with nullcontext() if self.generator is None else noisy_weights(self.policy, self.generator):
            return decide(self.policy, self.space, observation, mask=mask)[0]

    def logits(self, observation: Any) -> NDArray[np.float32] | None:
        """Logits or values `(B, n)` of one choice by the shortcut; None where there is none."""
        shortcut = self._shortcut(observation)
        return None if shortcut is None or not shortcut.gives_logits else shortcut.output(observation)

    def _shortcut(self, observation: Any, size: int | None = None) -> NumpyShortcut | None:
        """The shortcut where it takes these observations, a part of a batch of that size; else None."""
        shortcut = self.shortcut
        if shortcut is None or not shortcut.takes(observation, size):
            return None
        if not shortcut.is_current():
            self.shortcut = numpy_shortcut(self.policy)
        return self.shortcut

    def state(self) -> dict[str, Any]:
        """The state of the noise's generator, for a checkpoint."""
        return {} if self.generator is None else dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        if self.generator is not None:
            self.generator.bit_generator.state = state


class MemoryActor:
    """The best actions of a policy with memory, which it keeps from call to call, by the policy's present weights.

    Args:
        policy: as `agentlib.policies` has them, over a backbone with memory.
        observation_space: of one environment.
    """

    always_asked = True
    """It has to see every observation, also where its action is not used."""

    def __init__(self, policy: nn.Module, observation_space: spaces.Space[Any]) -> None:
        self.policy, self.space = policy, observation_space
        self.before: Any = None
        """The state in which the last observations were read."""
        self.memory: Any = None
        """The state in which the next ones will be."""
        self.starts = np.zeros(0, bool)

    def begin(self, num_envs: int, where: NDArray[np.bool_] | None = None) -> None:
        """New episodes in the environments `where` (all by default): their memory is reset before it is used."""
        if where is None or self.memory is None:
            self.memory, self.starts = self.policy.initial_state(num_envs), np.ones(num_envs, bool)  # type: ignore[operator]
        else:
            self.starts = self.starts | where

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(n,)` for a batch of observations, among the legal ones if a mask `(n, A)` is given."""
        self.before = self.memory
        action, self.memory = decide(self.policy, self.space, observation, self.memory, self.starts, mask=mask)
        self.starts = np.zeros(len(self.starts), bool)
        return action

    def acted(self, action: NDArray[Any]) -> None:
        """These actions `(n, ...)` are taken, whatever was proposed."""
        device = next(self.policy.parameters()).device
        self.memory = state_after(self.policy, self.memory, torch.as_tensor(action, device=device))

    def state(self) -> dict[str, Any]:
        """The memory, for a checkpoint."""
        return {"memory": leaves(self.memory), "starts": self.starts.copy()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.starts = np.array(state["starts"])
        self.memory = remembered(self.policy, len(self.starts), state["memory"])


def remembered(policy: nn.Module, num_envs: int, parts: list[Tensor]) -> Any:
    """The memory of a policy in `num_envs` environments from its tensors; None if there are none."""
    if not parts:
        return None
    remaining = iter(parts)
    return mapped(policy.initial_state(num_envs), lambda like: next(remaining).to(like.device))  # type: ignore[operator]


def state_arrays(state: Any) -> tuple[NDArray[Any], ...]:
    """The tensors of a state, in a fixed order."""
    return tuple(tensor.detach().cpu().numpy() for tensor in leaves(state))


def filled_state(like: Any, arrays: tuple[NDArray[Any], ...]) -> Any:
    """A policy's state with the numbers that `predict` returned."""
    expected, given = [array.shape for array in state_arrays(like)], [np.asarray(array) for array in arrays]
    if [array.shape for array in given] != expected:
        raise ValueError(
            f"the state has the shapes {[array.shape for array in given]}, but a batch of {len(leaves(like)[0])} needs "
            f"{expected}: pass the state that came with the last actions, or None"
        )
    remaining = iter(given)
    return mapped(like, lambda tensor: torch.from_numpy(next(remaining).copy()).to(tensor))


class RandomActor:
    """Uniformly random actions, of the legal ones, by SB3's `predict`: the baseline of any agent.

    Args:
        observation_space: of one environment.
        action_space: of one environment; a copy of it draws.
        seed: of the actions.
    """

    takes_masks = True

    def __init__(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any], seed: int = 0) -> None:
        self.observation_space, self.action_space = observation_space, copy.deepcopy(action_space)
        seed = whole("seed", seed)
        self.action_space.seed(seed)
        self.generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
        *,
        action_mask: Any = None,
    ) -> tuple[Any, Any]:
        """An action for one observation, or the actions for a batch, `(B, ...)`; the state as it was."""
        parts, single = to_batch(self.observation_space, observation)
        sizes, count = choices(self.action_space), len(parts[0])
        if not sizes:
            actions = np.stack([np.asarray(self.action_space.sample()) for _ in range(count)])
            return (actions[0] if single else actions), state
        mask = None if action_mask is None else (np.asarray(action_mask) != 0).reshape(count, -1)
        if mask is None and observes_mask(self.observation_space, self.action_space):
            mask = observed_mask(unflatten(self.observation_space, parts), sum(sizes))
        actions = random_actions(self.generator, sizes, count, mask).reshape(count, *(self.action_space.shape or ()))
        actions = action_to_space(self.action_space, actions)
        return (actions[0] if single else actions), state


class EpsilonGreedy:
    """A uniformly random action with probability epsilon, else the actor's.

    Each environment draws for itself; where all of them draw a random action, the actor is not asked at all, except one
    with memory, which has to see everything (`always_asked`).

    Args:
        action_space: Discrete or MultiDiscrete; actions are indices from 0.
        num_envs: environments that act side by side.
        epsilon: a number or a schedule.
        random_steps: number of environment steps at the start in which all actions are random.
        seed: of its own generator.

    Raises:
        TypeError: the action space is of another kind.
    """

    def __init__(
        self,
        action_space: spaces.Space[Any],
        num_envs: int = 1,
        epsilon: Schedule = 0.05,
        random_steps: int = 0,
        seed: int = 0,
    ) -> None:
        self.sizes, self.num_envs = choices(action_space), num_envs
        self.is_discrete = isinstance(action_space, spaces.Discrete)
        if not self.sizes:
            raise TypeError(f"EpsilonGreedy chooses among Discrete or MultiDiscrete actions, not {action_space}")
        self.epsilon, self.random_steps = epsilon, random_steps
        self.generator = np.random.default_rng([whole("seed", seed), 1])

    def rate(self, clock: Clock) -> float:
        """The share of random actions now."""
        return 1.0 if clock.steps < self.random_steps else float(at(self.epsilon, clock))

    def __call__(
        self,
        actor: Callable[..., NDArray[Any]],
        observation: Any,
        clock: Clock,
        mask: NDArray[np.bool_] | None = None,
    ) -> NDArray[Any]:
        """Actions `(num_envs,)`, of several components `(num_envs, D)`, for batched observations.

        With a `mask (num_envs, A)` of legal actions only these are drawn; the actor gets the mask as an argument.
        """
        masks = () if mask is None else (mask,)
        if getattr(actor, "always_asked", False):
            greedy = actor(observation, *masks)
            random = self.generator.random(self.num_envs) < self.rate(clock)
            return np.where(random if self.is_discrete else random[:, None], self._random(mask), greedy)
        if self.num_envs == 1:  # the same, without the cost of arrays of one
            return self._random(mask) if self.generator.random() < self.rate(clock) else actor(observation, *masks)
        random = self.generator.random(self.num_envs) < self.rate(clock)
        if random.all():
            return self._random(mask)
        actions = actor(observation, *masks)
        if random.any():
            actions = np.where(random if self.is_discrete else random[:, None], self._random(mask), actions)
        return actions

    def _random(self, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        if self.is_discrete and mask is None:
            return self.generator.integers(self.sizes[0], size=self.num_envs)
        actions = random_actions(self.generator, self.sizes, self.num_envs, mask)
        return actions[:, 0] if self.is_discrete else actions

    def state(self) -> dict[str, Any]:
        """The generator's state, for a checkpoint."""
        return dict(self.generator.bit_generator.state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        self.generator.bit_generator.state = state
