"""On-policy experience as a source: steps of the present policy, their advantages, and minibatches of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.modes import in_eval_mode
from agentlib.core.schedules import Clock
from agentlib.core.source import Diverged, Source
from agentlib.core.spaces import (
    LEARNED_WITH_MASKS,
    choices,
    flatten,
    is_masked,
    leaf_dtype,
    leaf_shape,
    leaf_spaces,
    to_tensors,
    unflatten,
)
from agentlib.envs.vector import Environments
from agentlib.experience.actors import Actors
from agentlib.experience.advantages import Floats, RewardScale, gae
from agentlib.experience.replay import Collector
from agentlib.experience.transition import Minibatch
from agentlib.policies import ActorCritic, exploring_actor

LARGE_REWARD = 1e4
"""Larger ones are named where a loss is not finite."""
CHUNK = 1_024
"""Observations that the networks see at once after a rollout."""


def chosen(actor: Any, observation: Any, clock: Clock, *masks: NDArray[np.bool_]) -> NDArray[Any]:
    """The actor's actions for observations, which are finite: the exploration of rollouts.

    Raises:
        Diverged: they are not.
    """
    action: NDArray[Any] = actor(observation, *masks)
    if action.dtype.kind == "f" and not np.isfinite(action).all():
        raise Diverged.at(clock, f"the policy chose the action {action.tolist()}")
    return action


class Steps:
    """The last n_steps of n environments, `(T, n, ...)` in numpy: the buffer and the exploration of a `Collector`.

    A plain object and no module: it runs at every environment step.
    """

    def __init__(self, envs: Environments, n_steps: int, reward_scale: RewardScale | None) -> None:
        self.observation_space, self.reward_scale = envs.observation_space, reward_scale
        self.remedy = "normalize_reward=True" if reward_scale is None else None  # for rewards that are too large
        self.n_choices = sum(choices(envs.action_space))
        shape = (n_steps, envs.num_envs)
        parts = leaf_spaces(envs.observation_space)
        self.leaves = [np.zeros((*shape, *leaf_shape(part)), leaf_dtype(part)) for part in parts]
        dtype = np.float32 if isinstance(envs.action_space, spaces.Box) else np.int64
        self.action = np.zeros((*shape, *(envs.action_space.shape or ())), dtype)
        self.reward = np.zeros(shape)
        self.terminated, self.truncated, self.valid = (np.zeros(shape, bool) for _ in range(3))
        self.mask: NDArray[np.bool_] | None = None
        self.finals: list[tuple[int, int, list[NDArray[Any]]]] = []
        """Steps and environments whose episode was cut off there, and the leaves of the final observation."""
        self.size = 0

    def clear(self) -> None:
        """Makes room for other steps."""
        self.size = 0
        self.finals.clear()

    def begin(self, *_: Any, **__: Any) -> None:
        """Nothing: the observation of each step is kept when it is acted on."""

    def act(self, actor: Any, observation: Any, clock: Clock, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """The actor's actions, kept with what they were chosen for."""
        t, action = self.size, chosen(actor, observation, clock, *(() if mask is None else (mask,)))
        for column, leaf in zip(self.leaves, flatten(self.observation_space, observation), strict=True):
            column[t] = leaf
        if mask is not None and self.mask is None:
            self.mask = np.ones((*self.reward.shape, self.n_choices), bool)
        if self.mask is not None:
            self.mask[t] = True if mask is None else mask
        self.action[t] = action
        return action

    def add(
        self,
        action: NDArray[Any],
        reward: Floats,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        after: Any,
        valid: NDArray[np.bool_] | None = None,
        next_mask: Any = None,
    ) -> None:
        """The outcome of the actions."""
        t = self.size
        if self.reward_scale is not None:
            reward = self.reward_scale(reward, terminated | truncated)
        self.reward[t], self.terminated[t], self.truncated[t] = reward, terminated, truncated
        self.valid[t] = True if valid is None else valid
        cut = truncated & ~terminated
        if cut.any():
            leaves = flatten(self.observation_space, after)
            self.finals += [(t, row, [np.array(leaf[row]) for leaf in leaves]) for row in np.flatnonzero(cut).tolist()]
        self.size += 1


class Rollout(Source):
    """Steps environments by the present policy, and learns from these steps alone: `n_epochs` times, then others come.

    `advance` makes `n_steps` of each environment where the last ones are used up, and computes advantages. `sample`
    gives their minibatches, shuffled in each epoch. Where these do not divide the rollout, the last of an epoch has
    fewer samples, as in SB3, and its others have the weight 0; so do steps that only reset an environment.

    Args:
        envs: `Environments`; or an environment of any kind that these take, which `close` leaves open.
        networks: the policy that acts and the critic; referred to, not a submodule: the learner owns them.
        n_steps: steps of each environment in a rollout.
        gamma: discount per step.
        gae_lambda: see `gae`.
        n_epochs: how often each step is learned from.
        batch_size: steps per minibatch; None for the whole rollout.
        target_kl: an update whose mean `per_sample`, the divergence from the policy that acted, is above 1.5 times this
            is the last of its rollout; None lets all be made.
        total_steps: the length of the run, for schedules.
        observe: takes the observations of each rollout (trees of tensors) after it was learned from, for running
            statistics, which so stand still from a step to its last update.
        normalize_reward: see `RewardScale`.
        sde_sample_freq: see `agentlib.policies.NoiseMatrices`, as `sample_freq`.
        seed: of environments, actions and shuffling.

    Raises:
        ValueError: a minibatch is larger than a rollout.
    """

    action: Tensor
    log_prob: Tensor
    value: Tensor
    advantage: Tensor
    returns: Tensor
    order: Tensor
    weights: Tensor
    rows: Tensor
    weight: Tensor
    divergence: Tensor

    def __init__(
        self,
        envs: Any,
        networks: ActorCritic,
        *,
        n_steps: int = 2_048,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        n_epochs: int = 10,
        batch_size: int | None = 64,
        target_kl: float | None = None,
        total_steps: int = 1,
        observe: Any = None,
        normalize_reward: bool = False,
        sde_sample_freq: int = -1,
        seed: int = 0,
    ) -> None:
        super().__init__(seed)
        environments = envs if isinstance(envs, Environments) else Environments(envs, is_owned=False)
        self.size = n_steps * environments.num_envs
        self.batch_size = self.size if batch_size is None else batch_size
        self.epoch_size = self.size
        if self.batch_size > self.size:
            raise ValueError(
                f"batch_size={batch_size} is larger than a rollout: n_steps={n_steps} of {environments.num_envs} "
                f"environments are {self.size} steps; take a smaller batch_size, or more steps or environments"
            )
        self.n_steps, self.gamma, self.gae_lambda, self.n_epochs = n_steps, gamma, gae_lambda, n_epochs
        self.target_kl, self.total_steps, self.observe = target_kl, total_steps, observe
        self.wants_feedback = target_kl is not None
        self.observation_space = environments.observation_space
        scale = RewardScale(environments.num_envs, gamma) if normalize_reward else None
        self.made = Steps(environments, n_steps, scale)
        space, n_envs = environments.observation_space, environments.num_envs
        actor: Any = exploring_actor(networks.policy, space, n_envs, n_steps, sde_sample_freq, seed)
        if isinstance(environments, Actors):
            actor = environments.acting(actor, chosen, total_steps, rollout_length=n_steps)
        self.collector = Collector(environments, self.made, actor, self.made.act)  # type: ignore[arg-type]
        self.networks = (networks,)  # in a tuple, so that they are no submodule
        self.done, self.count = 0, 0
        """Minibatches of this rollout so far, and of one epoch."""
        self.explained_variance = 0.0
        self._allocate()

    def _allocate(self) -> None:
        """Registers the columns; not persistent, since `get_extra_state` saves them."""
        per_epoch = self._per_epoch()
        columns = {f"leaf_{i}": torch.from_numpy(leaf).flatten(0, 1) for i, leaf in enumerate(self.made.leaves)}
        columns["action"] = torch.from_numpy(self.made.action).flatten(0, 1)
        sizes = dict.fromkeys(("log_prob", "value", "advantage", "returns"), self.size)
        sizes |= {"weights": per_epoch * self.batch_size, "weight": self.batch_size}
        columns |= {name: torch.ones(size, dtype=torch.float32) for name, size in sizes.items()}
        columns["order"] = torch.zeros(per_epoch * self.batch_size, dtype=torch.int64)
        columns["rows"] = torch.zeros(self.batch_size, dtype=torch.int64)
        columns["divergence"] = torch.zeros((), dtype=torch.float32)
        for name, column in columns.items():
            self.register_buffer(name, column.clone(), persistent=False)
        self.names = [*columns]

    @property
    def clock(self) -> Clock:
        """Where the run is; its steps are environment steps."""
        return Clock(self.updates, self.collector.steps, self.collector.steps / self.total_steps)

    @property
    def finished(self) -> bool:
        """Whether the run's environment steps are made, and all is learned from them."""
        return self.collector.steps >= self.total_steps and self._is_used_up()

    def updates_for(self, steps: int) -> int:
        """How many updates belong to a run of `steps` environment steps, if no divergence ends an epoch."""
        return -(-steps // self.size) * self.n_epochs * self._per_epoch()

    def _per_epoch(self) -> int:
        return -(-self.epoch_size // self.batch_size)

    def _is_used_up(self) -> bool:
        if self.done >= self.n_epochs * self.count:
            return True
        return self.target_kl is not None and float(self.divergence) > 1.5 * self.target_kl

    def advance(self) -> None:
        """Chooses the next minibatch, of another rollout where this one is used up."""
        while self._is_used_up():  # again, where steps only reset environments
            self.collect()
        place = self.done % self.count
        if place == 0:
            self._shuffle()
        part = slice(place * self.batch_size, (place + 1) * self.batch_size)
        self.rows.copy_(self.order[part])
        self.weight.copy_(self.weights[part])
        self.done += 1

    def collect(self) -> None:
        """A rollout with its advantages, in place of the last one."""
        collector, made = self.collector, self.made
        if self.count and self.observe is not None:
            self.observe(self._observations(slice(None)))
        if collector.observation is None:
            collector.reset(seed=int(self.generator.integers(2**30)))
        made.clear()
        while made.size < self.n_steps:
            collector.step(self.clock)
        if made.mask is not None and "mask" not in self.names:
            self._keep_masks()
        for name, column in self._made().items():
            getattr(self, name).copy_(torch.from_numpy(column.reshape(self.size, *column.shape[2:])))
        self._evaluate()
        self._divide()
        self.done = 0
        self.divergence.zero_()

    def _divide(self) -> None:
        """The number of minibatches of an epoch, and the weights in each."""
        valid = int(self.made.valid.sum())
        self.count = -(-valid // self.batch_size)
        last = valid - (self.count - 1) * self.batch_size
        self.order.zero_()
        self.weights.fill_(1.0 / self.batch_size)
        start = (self.count - 1) * self.batch_size
        self.weights[start : start + last] = 1.0 / last
        self.weights[start + last :] = 0.0

    def _shuffle(self) -> None:
        """The order of an epoch."""
        valid = np.flatnonzero(self.made.valid)
        self.order[: len(valid)] = torch.from_numpy(self.generator.permutation(valid))

    def _made(self) -> dict[str, NDArray[Any]]:
        columns = {f"leaf_{i}": leaf for i, leaf in enumerate(self.made.leaves)} | {"action": self.made.action}
        return columns if self.made.mask is None else columns | {"mask": self.made.mask}

    def _keep_masks(self) -> None:
        width = self.made.n_choices
        mask = torch.ones(self.size, width, dtype=torch.bool, device=self.rows.device)
        self.register_buffer("mask", mask, persistent=False)
        self.names.append("mask")

    def _observations(self, rows: Any) -> Any:
        leaves = [getattr(self, f"leaf_{i}")[rows] for i in range(len(self.made.leaves))]
        return unflatten(self.observation_space, leaves)

    def _evaluate(self) -> None:
        """Values and log probabilities by the networks that acted, and from them the advantages."""
        (networks,), made, space = self.networks, self.made, self.observation_space
        policy: Any = networks.policy
        with in_eval_mode(networks):
            for start in range(0, self.size, CHUNK):
                rows = slice(start, start + CHUNK)
                output, self.value[rows] = networks(self._observations(rows))
                if "mask" in self.names:
                    output = policy.masked(output, self.get_buffer("mask")[rows])
                self.log_prob[rows] = policy.log_prob(output, self.action[rows])
            after = [flatten(space, self.collector.observation), *[[leaf[None] for leaf in f[2]] for f in made.finals]]
            parts = [np.concatenate([np.asarray(leaf) for leaf in leaves]) for leaves in zip(*after, strict=True)]
            last = networks(to_tensors(space, unflatten(space, parts), self.value.device))[1].cpu().double().numpy()
        value = self.value.cpu().double().numpy().reshape(made.reward.shape)
        num_envs = value.shape[1]
        next_value = np.concatenate([value[1:], last[None, :num_envs]])
        next_value[made.terminated] = 0.0
        for (t, row, _), of_final in zip(made.finals, last[num_envs:], strict=True):
            next_value[t, row] = of_final
        self._credit(value, next_value)

    def _credit(self, value: Floats, next_value: Floats) -> None:
        """Advantages and returns from the values `(T, n)` before and after each step."""
        made = self.made
        ended = made.terminated | made.truncated
        advantage = gae(made.reward, value, next_value, ended, self.gamma, self.gae_lambda)
        self.advantage.copy_(torch.from_numpy(advantage.ravel()))
        self.returns.copy_(torch.from_numpy((advantage + value).ravel()))
        if not np.isfinite(value.sum() + float(self.log_prob.sum())):
            raise Diverged.at(
                self.clock, "the value of an observation or the log probability of an action is NaN or infinite"
            )
        spread = float((advantage + value).var())
        self.explained_variance = 1.0 - float(advantage.var()) / spread if spread > 0.0 else 0.0

    def sample(self) -> Minibatch:
        """The minibatch that `advance` chose."""
        rows = self.rows
        names = ("action", "log_prob", "value", "advantage", "returns")
        columns = {name: getattr(self, name)[rows] for name in names}
        mask = self.get_buffer("mask")[rows] if "mask" in self.names else None
        return Minibatch(self._observations(rows), **columns, weight=self.weight, clock=self.batch_clock, mask=mask)

    def feedback(self, batch: Minibatch, per_sample: Tensor | None) -> None:
        """The divergence of the policy from the one that acted, where `target_kl` bounds it."""
        if self.target_kl is not None and per_sample is not None:
            self.divergence.copy_((batch.weight * per_sample).sum())

    def measures(self) -> dict[str, float]:
        """Episodes, their last returns and lengths, and how much of the returns the critic explains."""
        return self.collector.measures() | {"train/explained_variance": self.explained_variance}

    def trouble(self) -> str | None:
        """Large rewards."""
        largest = float(np.abs(self.made.reward).max())
        return f"rewards are up to {largest:.3g}: normalize_reward=True scales them" if largest > LARGE_REWARD else None

    def about(self) -> dict[str, Any]:
        """Whether there were masks of legal actions in infos."""
        came_apart = "mask" in self.names and not is_masked(self.observation_space)
        return {LEARNED_WITH_MASKS: True} if came_apart else {}

    def close(self) -> None:
        """Closes the environments, except those that are the caller's."""
        self.collector.envs.close()

    def get_extra_state(self) -> dict[str, Any]:
        """Counters, generators, the rollout with its order, and the episodes under way."""
        scale = self.made.reward_scale
        return super().get_extra_state() | {
            "done": self.done,
            "count": self.count,
            "explained_variance": self.explained_variance,
            "columns": {name: getattr(self, name) for name in self.names},
            "valid": self.made.valid.copy(),
            "reward_scale": None if scale is None else {**vars(scale), "returns": scale.returns.copy()},
            "collector": self.collector.state(),
        }

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave; `Environments.load_state` plays the episodes under way again."""
        super().set_extra_state(state)
        self.done, self.count = state["done"], state["count"]
        self.explained_variance = state["explained_variance"]
        if "mask" in state["columns"] and "mask" not in self.names:
            self._keep_masks()
            self.made.mask = np.ones((*self.made.reward.shape, self.made.n_choices), bool)
        for name, column in state["columns"].items():
            getattr(self, name).copy_(column)
        self.made.valid[:] = state["valid"]
        if self.made.reward_scale is not None:
            vars(self.made.reward_scale).update(state["reward_scale"])
        self.collector.load_state(state["collector"])
