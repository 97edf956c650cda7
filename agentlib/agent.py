"""An agent: a policy with the spaces it acts in, in one safe file."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import nn

from agentlib.core.modes import in_eval_mode
from agentlib.core.numbers import whole
from agentlib.core.spaces import (
    LEARNED_WITH_MASKS,
    action_to_space,
    choices,
    observed_mask,
    observes_mask,
    random_actions,
    to_batch,
    to_tensors,
    unflatten,
)
from agentlib.envs.checks import Checks
from agentlib.policies import GreedyActor
from agentlib.policies.acting import actions_and_output, decide, filled_state, state_arrays
from agentlib.policies.agent_files import agent_file, read_agent, write_agent
from agentlib.policies.base import state_after


class Agent:
    """A policy with its spaces, ready to act anywhere: `action = agent.act(observation)`.

    It keeps its own random generator, and touches nothing of the host's.

    Args:
        policy: as `agentlib.policies` has them.
        observation_space: of one environment.
        action_space: of one environment.
        exploration_rate: share of random actions in `predict(deterministic=False)`, as SB3's DQN does it.
        about: JSON-able notes that are saved with the agent (how it was trained).
        seed: of its generator.
    """

    def __init__(
        self,
        policy: nn.Module,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        *,
        exploration_rate: float = 0.0,
        about: Mapping[str, Any] | None = None,
        seed: int = 0,
    ) -> None:
        self.policy = policy
        self.observation_space, self.action_space = observation_space, action_space
        self.exploration_rate, self.about = exploration_rate, dict(about or {})
        self.generator = np.random.default_rng(whole("seed", seed))
        self.training: Any = None
        """The recipe, the options and the learner that trained it here: not in files, nor in copies."""
        self._actor = GreedyActor(policy, observation_space)
        self._knows_masks = False  # whether it was given one, or warned that it acts without
        self._memory: tuple[Any, NDArray[np.bool_]] | None = None  # the state, and the rows to be reset before use

    @property
    def backbone(self) -> nn.Module:
        """The network under the policy's head."""
        backbone = getattr(self.policy, "backbone", None)
        if not isinstance(backbone, nn.Module):
            raise AttributeError(
                f"{type(self.policy).__name__} has no backbone of its own; those of an ensemble are "
                "agent.policy.members[i].backbone"
            )
        return backbone

    @property
    def device(self) -> torch.device:
        """Where the policy lives."""
        return next(self.policy.parameters()).device

    @property
    def takes_masks(self) -> bool:
        """Whether its policy respects masks of legal actions. Those in Dict observations are found by themselves."""
        return bool(getattr(self.policy, "takes_masks", False))

    def act(self, observation: Any, *, action_mask: Any = None) -> Any:
        """The best action for one observation, or the actions for a batch of them.

        An agent with memory keeps it from call to call, for each row of the batch; call `reset` when an episode ends.

        Args:
            observation: one, or a batch.
            action_mask: `(A,)`, or `(B, A)` for a batch, nonzero where an action is legal, such as Gymnasium's
                `info["action_mask"]`. For MultiDiscrete actions the masks of the components stand side by side.

        Raises:
            TypeError: the pair `(observation, info)`, or a dtype or structure that does not fit the space; a mask, and
                the policy knows none.
            ValueError: a shape that does not fit the space, or NaN; with memory, a batch of another size than before;
                a mask that leaves no legal action.
        """
        batch, size, single, mask = self._batch(observation, action_mask)
        if not self.has_memory:
            return self._in_space(self._actor(batch, mask), single)
        if self._memory is None:
            self._memory = self.policy.initial_state(size), np.zeros(size, bool)  # type: ignore[operator]
        state, starts = self._memory
        if len(starts) != size:
            raise ValueError(
                f"a batch of {size} observations, after batches of {len(starts)}: an agent with memory goes on with "
                "as many episodes as it began with; call agent.reset() to begin others"
            )
        actions, state = decide(self.policy, self.observation_space, batch, state, starts, mask=mask)
        self._memory = state, np.zeros(size, bool)
        return self._in_space(actions, single)

    def _batch(self, observation: Any, action_mask: Any = None) -> tuple[Any, int, bool, NDArray[np.bool_] | None]:
        """The observations as a batch, its size, whether it was a single one, and the masks of legal actions."""
        parts, single = to_batch(self.observation_space, observation)
        batch, size = unflatten(self.observation_space, parts), len(parts[0])
        if action_mask is None:
            if self.about.get(LEARNED_WITH_MASKS) and not self._knows_masks:
                self._knows_masks = True
                warnings.warn(
                    "this agent learned with masks of legal actions, and acts without one: give it action_mask=, such "
                    'as info["action_mask"]',
                    stacklevel=3,
                )
            return batch, size, single, None
        if not self.takes_masks:
            raise TypeError(f"an action mask was given, but {type(self.policy).__name__} knows none")
        reader = Checks(self.observation_space, self.action_space)
        masks = np.stack([reader.one(mask) for mask in ([action_mask] if single else action_mask)])
        self._knows_masks = True
        if len(masks) != size:
            raise ValueError(f"{len(masks)} action masks do not fit a batch of {size} observations")
        if reader.without_choice(masks) is not None:
            raise ValueError("the action mask leaves no legal action")
        return batch, size, single, masks

    def predict(
        self,
        observation: Any,
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        *,
        action_mask: Any = None,
    ) -> tuple[Any, tuple[NDArray[Any], ...] | None]:
        """SB3's `predict`: actions for one observation or a batch, and the recurrent state (None without memory).

        The memory is yours here: give back the state that came with the last actions, None at first; it is reset in
        the rows where `episode_start` is true. With `deterministic=False` actions are drawn from the policy's
        distribution, or, with action values, a share of `exploration_rate` of them is random; always by the agent's
        own generator. Raises what `act` raises.
        """
        batch, size, single, mask = self._batch(observation, action_mask)
        draws = not deterministic and bool(getattr(self.policy, "is_stochastic", False))
        seed = int(self.generator.integers(2**63)) if draws else None
        if self.has_memory:
            memory = self.policy.initial_state(size)  # type: ignore[operator]
            memory = memory if state is None else filled_state(memory, state)
            starts = None if episode_start is None else np.asarray(episode_start, bool).reshape(size)
            actions, memory = decide(self.policy, self.observation_space, batch, memory, starts, seed, mask)
        elif draws:
            actions, _ = decide(self.policy, self.observation_space, batch, seed=seed, mask=mask)
        else:
            actions = self._actor(batch, mask)
        if not deterministic and not draws and self.exploration_rate > 0.0:
            actions = self._varied(actions, batch, mask)
            if self.has_memory:
                memory = state_after(self.policy, memory, torch.as_tensor(actions, device=self.device))
        state = state_arrays(memory) if self.has_memory else state
        return np.asarray(self._in_space(actions, single)), state

    def _varied(self, actions: NDArray[Any], batch: Any, mask: NDArray[np.bool_] | None) -> NDArray[Any]:
        """A share of the actions random among the legal ones. (SB3 draws once per call, we once per observation.)"""
        random = self.generator.random(len(actions)) < self.exploration_rate
        others = random_actions(self.generator, choices(self.action_space), len(actions), self._legal(batch, mask))
        return np.where(random.reshape(-1, *[1] * (actions.ndim - 1)), others.reshape(actions.shape), actions)

    def _legal(self, batch: Any, mask: NDArray[np.bool_] | None) -> NDArray[np.bool_] | None:
        """The masks of legal actions that were given, or else those in the observations, if any."""
        observed = mask is None and observes_mask(self.observation_space, self.action_space)
        return observed_mask(batch, sum(choices(self.action_space))) if observed else mask

    def confidence(self, observation: Any) -> Any:
        """The probability that the policy gives to the action that `act` takes: of one observation, or `(B,)`.

        Raises:
            TypeError: the policy gives no probabilities (action values, real numbers), or has memory.
        """
        if self.has_memory or isinstance(self.action_space, spaces.Box) or not hasattr(self.policy, "log_prob"):
            raise TypeError(f"confidence needs discrete actions with probabilities, and no memory; this is {self}")
        batch, _, single, _ = self._batch(observation)
        chosen, output, _ = actions_and_output(self.policy, self.observation_space, batch)
        with torch.no_grad():
            probability = self.policy.log_prob(output, chosen).exp().cpu().numpy()  # type: ignore[operator]
        return probability[0] if single else probability

    def critic(self, observation: Any, *, action_mask: Any = None) -> Any:
        """The value of one observation, or the values `(B,)` of a batch, by the critic that learned with the policy.

        Critics of actions, as of SAC and TD3, value the one that `act` takes. Raises what `act` raises, and TypeError
        in other learners' agents, with memory, and in those from files and copies, which hold the policy alone.
        """
        value = getattr(self.training and self.training[2], "value", None)
        if value is None or self.has_memory:
            raise TypeError(f"there is no critic here: an agent has one where ppo, sac or their kin trained it; {self}")
        batch, _, single, mask = self._batch(observation, action_mask)
        masks = () if (mask := self._legal(batch, mask)) is None else (torch.as_tensor(mask, device=self.device),)
        with in_eval_mode(self.training[2]):
            values = value(to_tensors(self.observation_space, batch, self.device), *masks).cpu().numpy()
        return values[0] if single else values

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "training": None}

    def reset(self, seed: int | None = None, *, where: NDArray[Any] | None = None) -> None:
        """Forgets the memory of the episode; with a seed, the generator of random numbers starts again from it.

        Args:
            seed: of the generator.
            where: `(B,)`, forget only in the rows where this is true, such as `terminated | truncated` of a vector
                environment; the next batch may have another size if it is not given.

        Raises:
            ValueError: `where` has another size than the batches before.
        """
        if seed is not None:
            self.generator = np.random.default_rng(whole("seed", seed))
        if where is None:
            self._memory = None
        elif self._memory is not None:
            state, starts = self._memory
            if np.shape(where) != starts.shape:
                raise ValueError(f"where has the shape {np.shape(where)}, but the agent acts in {len(starts)} rows")
            self._memory = state, starts | np.asarray(where, bool)

    def rewarded(self, reward: Any) -> None:
        """Gives the agent the reward of its last action, or of each action of a batch `(B,)`.

        An agent that pursues a return (a decision transformer) subtracts it from the return it still wants; other
        agents ignore it.
        """
        tell = getattr(getattr(self.policy, "backbone", None), "rewarded", None)
        if tell is not None and self._memory is not None:
            state, starts = self._memory
            rewards = torch.as_tensor(np.broadcast_to(reward, starts.shape).astype(np.float32), device=self.device)
            self._memory = tell(state, rewards), starts

    @property
    def has_memory(self) -> bool:
        """Whether actions depend on earlier observations."""
        return bool(getattr(self.policy, "is_sequence", False))

    def _in_space(self, actions: NDArray[Any], single: bool) -> Any:
        actions = action_to_space(self.action_space, actions)
        if not single:
            return actions
        return np.asarray(actions[0]) if isinstance(self.action_space, spaces.Box) else actions[0]

    def save(self, path: str | Path) -> Path:
        """Writes the agent to one safetensors file, whole or not at all; returns its path (suffix .safetensors)."""
        spaces_of = self.observation_space, self.action_space
        return write_agent(path, self.policy, *spaces_of, self.exploration_rate, self.about)

    def export(self, path: str | Path, *, action_mask: bool = False) -> Path:
        """Writes the policy for other runtimes: ONNX (`policy.onnx`), an archive of torch.export (`.pt2`), or Python.

        Normalization, masks and memory are inside: raw observations go in, the best actions come out, by the names that
        `agentlib.policies.exported.Exported` has. It is first compared with the agent on random observations.

        Args:
            path: its ending says which; .py is a program that needs numpy alone, for MLPs and tables.
            action_mask: masks are an input, each with a legal action; one in a Dict observation needs none.

        Raises:
            ImportError: ONNX is not installed; the message names the extra.
            RuntimeError: it acts otherwise than the agent, or has no such form; nothing was written.
            TypeError: masks, and the policy knows none.
            ValueError: another ending.
        """
        from agentlib.policies.exporting import export

        return export(self, Path(path), action_mask)

    @classmethod
    def load(
        cls,
        path: str | Path,
        *,
        device: torch.device | str = "cpu",
        classes: Mapping[str, Callable[..., nn.Module]] | None = None,
    ) -> Self:
        """The agent in a file that `save` wrote. Nothing is unpickled and no code of the file is run.

        Args:
            path: the file, or the folder of a run.
            device: where the policy shall live.
            classes: network classes of your own by name, if the agent uses any, or functions that build such networks.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is damaged, is no agent, is of a newer version, or holds a policy for other spaces.
        """
        policy, *spaces_of, exploration_rate, about = read_agent(agent_file(Path(path)), classes)
        return cls(policy.to(device), *spaces_of, exploration_rate=exploration_rate, about=about)

    def push_to_hub(
        self, repo_id: str, *, env: Any = None, episodes: int = 20, film: bool = True, private: bool = False
    ) -> str:
        """Publishes the agent on the Hugging Face Hub: its file, a card with its return, and a film of one episode.

        You are who `hf auth login` or the variable HF_TOKEN says. Returns the address of the change.

        Args:
            repo_id: such as "me/dqn-CartPole-v1"; it is made if there is none, for you alone if `private`.
            env: an id or a factory; by default the environment that the agent was trained in.
            episodes: how many are played for the card; 0 leaves its return out.
            film: an episode as replay.mp4, where an environment with an id can be drawn.
            private: see `repo_id`.

        Raises:
            ImportError: huggingface_hub is missing, or what writes films; the message names the extra.
            ValueError: what `evaluate` raises; or a name without an owner.
            RuntimeError: the Hub refuses, or cannot be reached; the message says why.
        """
        return str(import_module("agentlib.runs.hub").push_agent(self, repo_id, env, episodes, film, private))

    @classmethod
    def from_hub(
        cls,
        repo_id: str,
        *,
        revision: str | None = None,
        device: torch.device | str = "cpu",
        classes: Mapping[str, Callable[..., nn.Module]] | None = None,
    ) -> Self:
        """The agent that `push_to_hub` published, read as `load` reads any file: no code of it is run.

        `revision` is a commit, branch or tag; only by the hash of a commit it is the same agent each time. Raises what
        `load` raises, ImportError without huggingface_hub, and RuntimeError where the Hub has no such file for you.
        """
        path = import_module("agentlib.runs.hub").downloaded(repo_id, "agent.safetensors", revision)
        return cls.load(path, device=device, classes=classes)

    @classmethod
    def from_sb3(
        cls,
        model: Any,
        *,
        observation_space: spaces.Space[Any] | None = None,
        action_space: spaces.Space[Any] | None = None,
        device: torch.device | str = "cpu",
    ) -> Self:
        """An agent that acts as a model of Stable-Baselines3 does: DQN, PPO, A2C, SAC, TD3 or DDPG.

        Nothing is unpickled, and Stable-Baselines3 need not be installed. A file does not hold the statistics of
        `VecNormalize`; those of a model in memory become part of the agent. `act` is without the noise of `use_sde`.

        Args:
            model: a file that the model's `save` wrote, or the model itself.
            observation_space: in place of the model's, such as `env.observation_space` with images `(H, W, C)`, which
                SB3 turns round in a wrapper of its own.
            action_space: in place of the model's.
            device: where the policy shall live.

        Raises:
            FileNotFoundError: no such file.
            TypeError: neither a path nor a model.
            ValueError: a damaged or foreign file, a model that is not supported, or spaces that do not fit.
        """
        # By name, since that room is above this one; most programs never need it.
        policy, read = import_module("agentlib.sb3.conversion").converted(model, observation_space, action_space)
        rate, about = read.exploration_rate, {"from": "stable-baselines3", "version": read.version}
        return cls(policy.to(device), read.observation_space, read.action_space, exploration_rate=rate, about=about)

    def check_spaces(self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> None:
        """Raises ValueError, naming both, if these are not the spaces that the agent was made for."""
        for kind, mine, theirs in (
            ("observation", self.observation_space, observation_space),
            ("action", self.action_space, action_space),
        ):
            if mine != theirs:
                raise ValueError(f"the agent's {kind} space is {mine}, the environment's is {theirs}")

    def __repr__(self) -> str:
        return f"Agent({self.observation_space} -> {self.action_space})"
