"""Rollouts of policies with memory: minibatches of whole sequences, each with the state in which it was acted."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.core.modes import in_eval_mode
from agentlib.core.schedules import Clock
from agentlib.core.spaces import to_tensors
from agentlib.core.trees import leaves, mapped
from agentlib.envs.vector import Environments
from agentlib.experience.advantages import Floats, RewardScale
from agentlib.experience.replay import Collector
from agentlib.experience.rollout import Rollout, Steps
from agentlib.experience.transition import Minibatch
from agentlib.policies import ActorCritic, NoiseMatrices, StateDependentNoisePolicy


class RecurrentActor:
    """Draws actions from a policy with memory while its critic reads along, by their present weights.

    Args:
        networks: the policy and its critic.
        observation_space: of one environment.
        num_envs: environments that it acts in, side by side.
        rollout_length, sample_freq: see `NoiseMatrices`, for a policy with such noise.
        seed: of its own generator.
    """

    def __init__(
        self,
        networks: ActorCritic,
        observation_space: spaces.Space[Any],
        num_envs: int,
        rollout_length: int,
        sample_freq: int = -1,
        seed: int = 0,
    ) -> None:
        self.networks, self.space = networks, observation_space
        self.generator = np.random.default_rng([seed, 3])
        self.memory = networks.initial_state(num_envs)
        self.noise: NoiseMatrices | None = None
        if isinstance(networks.policy, StateDependentNoisePolicy):
            self.noise = NoiseMatrices(networks.policy, num_envs, rollout_length, sample_freq, seed)
        self.starts = np.ones(num_envs, bool)
        """Where the memory is reset before the next observations are read."""
        self.value, self.log_prob = np.zeros(num_envs), np.zeros(num_envs)
        """Of the last observations and actions."""

    def __call__(self, observation: Any, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Actions `(n, ...)` for a batch of observations, among the legal ones if a `mask (n, A)` is given."""
        policy: Any = self.networks.policy
        features, self.value, self.memory = self.read(observation)
        self.starts = np.zeros(len(self.starts), bool)
        with in_eval_mode(self.networks):
            output = policy.output_of(features)
            if mask is not None:
                output = policy.masked(output, torch.as_tensor(mask, device=output.device))
            if self.noise is None:
                generator = torch.Generator(output.device).manual_seed(int(self.generator.integers(2**63)))
                action = policy.sample(output, generator)
            else:
                action = policy.sample_with(features, self.noise.next())
            self.log_prob = policy.log_prob(output, action).cpu().double().numpy()
        return action.cpu().numpy()  # type: ignore[no-any-return]

    def read(self, observation: Any) -> tuple[Tensor, Floats, Any]:
        """The policy's features `(n, k)` of the next observations, their values `(n,)`, and the memory behind them."""
        device = self.networks.head.weight.device
        tensors = mapped(to_tensors(self.space, observation, device), lambda leaf: leaf[:, None])  # (n, 1, ...)
        starts = torch.as_tensor(self.starts, device=device)[:, None]
        with in_eval_mode(self.networks):
            features, value, memory = self.networks.read(tensors, self.memory, starts)
        return features[:, 0], value[:, 0].cpu().double().numpy(), memory

    def state(self) -> dict[str, Any]:
        """The memory and the generator's state, for a checkpoint."""
        generator = self.generator.bit_generator.state
        noise = {} if self.noise is None else self.noise.state()
        return {"memory": leaves(self.memory), "starts": self.starts.copy(), "generator": generator, "noise": noise}

    def load_state(self, state: dict[str, Any]) -> None:
        """Puts back what `state` gave."""
        parts = iter(state["memory"])
        self.memory = mapped(self.memory, lambda like: next(parts).to(like.device))
        self.starts = np.array(state["starts"])
        self.generator.bit_generator.state = state["generator"]
        if self.noise is not None:
            self.noise.load_state(state["noise"])


class RecurrentSteps(Steps):
    """`Steps`, and beside them where the memory was reset, its states, and the values while acting."""

    def __init__(
        self,
        envs: Environments,
        n_steps: int,
        reward_scale: RewardScale | None,
        actor: RecurrentActor,
        sequence_length: int,
    ) -> None:
        super().__init__(envs, n_steps, reward_scale)
        self.actor, self.sequence_length = actor, sequence_length
        shape = self.reward.shape
        self.start, self.cut = np.zeros(shape, bool), np.zeros(shape, bool)
        self.value, self.log_prob, self.value_at_cut = (np.zeros(shape) for _ in range(3))
        self.states: list[list[Tensor]] = []
        """The memory at the start of each sequence, a list of tensors `(n, ...)`."""

    def clear(self) -> None:
        super().clear()
        self.states.clear()

    def begin(self, observation: Any, where: NDArray[np.bool_] | None = None, mask: Any = None) -> None:
        """Episodes begin, everywhere by default: there memory is reset before it is used."""
        self.actor.starts = self.actor.starts | (True if where is None else where)

    def act(self, actor: Any, observation: Any, clock: Clock, mask: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        t = self.size
        if t % self.sequence_length == 0:
            self.states.append(leaves(actor.memory))
        self.start[t] = actor.starts
        action = super().act(actor, observation, clock, mask)
        self.value[t], self.log_prob[t] = actor.value, actor.log_prob
        return action

    def add(
        self,
        action: NDArray[Any],
        reward: Floats,
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
        after: Any,
        *rest: Any,
    ) -> None:
        self.cut[self.size] = cut = truncated & ~terminated
        if cut.any():  # the memory goes on to the true final observation
            self.value_at_cut[self.size] = self.actor.read(after)[1]
        super().add(action, reward, terminated, truncated, after, *rest)


class SequenceRollout(Rollout):
    """Rollouts of a policy and a critic with memory, which are learned from in sequences.

    The steps of each environment are cut into sequences of `sequence_length`, of which a minibatch has as many as
    `batch_size` holds; they are shuffled in each epoch. Memory starts from its state while acting, and is reset where
    an episode starts. Where lengths do not divide, what fills up has the weight 0.

    Args are those of `Rollout`, and:

        sequence_length: steps; None for as many as a minibatch and a rollout have.

    Raises:
        ValueError: a sequence is longer than a minibatch or a rollout.
    """

    start: Tensor

    def __init__(
        self,
        envs: Any,
        networks: ActorCritic,
        *,
        n_steps: int = 128,
        batch_size: int | None = 128,
        sequence_length: int | None = None,
        sde_sample_freq: int = -1,
        seed: int = 0,
        **arguments: Any,
    ) -> None:
        arguments |= {"n_steps": n_steps, "batch_size": batch_size, "seed": seed}
        super().__init__(envs, networks, **arguments)
        longest = min(n_steps, self.batch_size)
        length = longest if sequence_length is None else sequence_length
        if length > longest:
            raise ValueError(
                f"sequence_length={length} is longer than n_steps={n_steps} or batch_size={batch_size}: a minibatch "
                "holds whole sequences of one rollout"
            )
        envs, space, scale = self.collector.envs, self.observation_space, self.made.reward_scale
        actor = RecurrentActor(networks, space, envs.num_envs, n_steps, sde_sample_freq, seed)
        self.sequence_length, self.n_sequences = length, envs.num_envs * -(-n_steps // length)
        self.epoch_size = self.n_sequences * length
        self.batch_size = self.epoch_size if batch_size is None else batch_size // length * length
        self.made: RecurrentSteps = RecurrentSteps(envs, n_steps, scale, actor, length)
        self.collector = Collector(envs, self.made, actor, self.made.act)  # type: ignore[arg-type]
        self._allocate()
        self._like = mapped(networks.initial_state(1), Tensor.detach)
        self._states = [f"state_{i}" for i in range(len(leaves(self._like)))]
        for name, part in zip(self._states, leaves(self._like), strict=True):
            column = part.new_zeros(self.n_sequences, *part.shape[1:])
            self.register_buffer(name, column, persistent=False)
        self.register_buffer("start", torch.zeros(self.size, dtype=torch.bool), persistent=False)
        self.names += ["start", *self._states]

    def _made(self) -> dict[str, NDArray[Any]]:
        return super()._made() | {"start": self.made.start}

    def _evaluate(self) -> None:
        """Values, log probabilities and states are those of acting."""
        made = self.made
        for name, parts in zip(self._states, zip(*made.states, strict=True), strict=True):
            getattr(self, name).copy_(torch.cat(parts))
        self.value.copy_(torch.from_numpy(made.value.ravel()))
        self.log_prob.copy_(torch.from_numpy(made.log_prob.ravel()))
        last = self.made.actor.read(self.collector.observation)[1]
        next_value = np.where(made.cut, made.value_at_cut, np.concatenate([made.value[1:], last[None]]))
        next_value[made.terminated] = 0.0
        self._credit(made.value, next_value)

    def _divide(self) -> None:
        self.count = self._per_epoch()

    def _shuffle(self) -> None:
        length, (n_steps, num_envs) = self.sequence_length, self.made.reward.shape
        sequence = self.generator.permutation(self.n_sequences)[:, None]
        t, env = sequence // num_envs * length + np.arange(length), sequence % num_envs  # (n_sequences, L)
        rows = np.minimum(t, n_steps - 1) * num_envs + env
        flat = np.zeros(len(self.weights))
        flat[: rows.size] = ((t < n_steps) & self.made.valid.ravel()[rows]).ravel()
        weight = flat.reshape(-1, self.batch_size)
        weight /= weight.sum(1, keepdims=True).clip(1.0)
        self.order.zero_()
        self.order[: rows.size] = torch.from_numpy(rows.ravel())
        self.weights.copy_(torch.from_numpy(weight.ravel()))

    def sample(self) -> Minibatch:
        """The minibatch that `advance` chose."""
        batch, length, num_envs = super().sample(), self.sequence_length, self.made.reward.shape[1]
        first = self.rows[::length]
        t = torch.div(first, num_envs * length, rounding_mode="floor")  # sequences of an environment before it
        states = iter([getattr(self, name)[t * num_envs + first % num_envs] for name in self._states])
        return batch._replace(
            observation=mapped(batch.observation, lambda leaf: leaf.unflatten(0, (-1, length))),
            state=mapped(self._like, lambda _: next(states)),
            episode_start=self.start[self.rows].unflatten(0, (-1, length)),
        )
