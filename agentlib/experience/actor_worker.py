"""An actor's side of a run whose environments are stepped elsewhere (see `agentlib.experience.actors`)."""

from __future__ import annotations

import copy
import traceback
import warnings
from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from agentlib.core.schedules import Clock
from agentlib.core.source import Diverged
from agentlib.core.spaces import action_to_space, flatten
from agentlib.envs.making import make_envs
from agentlib.envs.vector import Environments
from agentlib.policies.acting import Among


class Parts(NamedTuple):
    """All that an actor needs to know."""

    env: Any
    """An id, or a function that makes an environment."""
    env_kwargs: dict[str, Any]
    max_steps: int | None
    spec: Any
    """What Gymnasium knows of the id, which the actor's process may not."""
    actor: Any
    """As `Replay` takes it, with a policy."""
    exploration: Any
    """Of the environments of all actors."""
    num_envs: int
    """Environments of all actors together."""
    actors: int
    total_steps: int


class Failed(NamedTuple):
    """The error of an actor, in words: those of others may not be known here."""

    is_divergence: bool
    message: str
    step: int
    trace: str


COLUMNS = ("reward", "terminated", "truncated")


class Block(NamedTuple):
    """k steps of m environments."""

    version: int
    """Of the weights that acted."""
    total_steps: int
    """The length of the run then, by which schedules go."""
    action: NDArray[Any]
    """`(k, m, ...)`: before they are the space's."""
    reward: NDArray[np.float64]
    """`(k, m)`"""
    terminated: NDArray[np.bool_]
    """`(k, m)`"""
    truncated: NDArray[np.bool_]
    """`(k, m)`"""
    after: list[NDArray[Any]]
    """`(k, m, ...)`: the observations after the steps, leaf by leaf; the final ones where episodes end."""
    mask: NDArray[np.bool_] | None
    """`(k, m, A)`: the legal actions there."""
    begun: dict[tuple[int, int], tuple[list[NDArray[Any]], NDArray[np.bool_] | None]]
    """By step and environment: the leaves of the first observation of an episode that follows, and the mask there."""
    is_torn: Any
    """Whether the first step belongs to another episode than that before, which could not be played again."""


class Rows:
    """A generator that draws for all environments, of which an actor takes its own: as one process would draw.

    Args:
        generator: of which each actor has an equal copy.
        count: environments in all.
        rows: those of this actor.
    """

    def __init__(self, generator: np.random.Generator, count: int, rows: slice) -> None:
        self.generator, self.count, self.rows = generator, count, rows

    @property
    def bit_generator(self) -> Any:
        """The state behind it."""
        return self.generator.bit_generator

    def standard_normal(self, size: tuple[int, ...], dtype: Any = np.float64) -> NDArray[Any]:
        return self.generator.standard_normal((self.count, *size[1:]), dtype)[self.rows]

    def gumbel(self, *, size: tuple[int, ...]) -> NDArray[Any]:
        return self.generator.gumbel(size=(self.count, *size[1:]))[self.rows]

    def integers(self, high: int) -> np.int64:
        """A seed of what torch draws for all."""
        return self.generator.integers(high)


def _reporting(method: Callable[..., Any]) -> Callable[..., Any]:
    """Returns the result, or what `Failed`, and the warnings on the way."""

    @wraps(method)
    def reported(self: Worker, *arguments: Any) -> tuple[Any, list[str]]:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("default")
            try:
                result = method(self, *arguments)
            except Exception as error:
                is_divergence, step = isinstance(error, Diverged), getattr(error, "step", None) or 0
                result = Failed(is_divergence, str(error), step, "".join(traceback.format_exception(error)))
        return result, list(dict.fromkeys(str(one.message) for one in seen))

    return reported


class Worker:
    """One actor: environments `rows` of all, and the policy, in a process of its own.

    Args:
        parts: the same for all actors.
        index: its number, from 0.
    """

    def __init__(self, parts: Parts, index: int) -> None:
        self.parts, self.count = parts, parts.num_envs // parts.actors
        self.rows = slice(index * self.count, (index + 1) * self.count)
        self.actor, self.exploration = copy.deepcopy(parts.actor), copy.deepcopy(parts.exploration)
        if hasattr(self.actor, "num_envs"):
            self.actor.num_envs = self.count
        if getattr(self.actor.policy, "is_stochastic", False):
            self.actor.generator = Rows(self.actor.generator, parts.num_envs, self.rows)
            self.actor.among = Among(self.rows, parts.num_envs)
        self.envs: Environments | None = None
        self.is_torn = False

    def ready(self) -> None:
        """Returns as soon as the process is there."""
        torch.set_num_threads(1)

    @_reporting
    def begin(self, seed: int) -> tuple[tuple[list[NDArray[Any]], Any], dict[str, Any]]:
        """New episodes; the first observations `(m, ...)`, leaf by leaf, the legal actions there, and the state."""
        envs, self.is_torn = self._made(), False
        observation = envs.reset(seed + self.rows.start)
        if hasattr(self.exploration, "begin"):
            self.exploration.begin()
        return (self._leaves(observation), envs.action_mask), self._state(envs)

    @_reporting
    def load(self, state: dict[str, Any], seed: int) -> bool:
        """Goes on from the end of a block; whether that could be: else there are new episodes, by this seed."""
        envs = self._made()
        for part, of_part in ((self.exploration, "exploration"), (self.actor, "actor")):
            if hasattr(part, "load_state"):
                part.load_state(state[of_part])
        self.is_torn = envs.load_state(state["envs"]) is None
        if self.is_torn:
            envs.reset(seed + self.rows.start)
        return not self.is_torn

    @_reporting
    def block(
        self, weights: dict[str, Any], version: int, start: int, length: int, total_steps: int
    ) -> tuple[Block, dict[str, Any]]:
        """`length` steps by these weights from step `start` of the run's `total_steps` on; and the state after them."""
        envs = self._made()
        torn, self.is_torn = self.is_torn, False
        self.actor.policy.load_state_dict({name: torch.from_numpy(np.array(part)) for name, part in weights.items()})
        actions, steps, after, begun = [], [], [], {}
        for step in range(length):
            action = self._action(envs, start + step * self.parts.num_envs, total_steps)
            stepped = envs.step(action_to_space(envs.action_space, action))
            actions.append(action)
            steps.append(stepped)
            after.append(self._leaves(stepped.next_observation))
            if stepped.any_begun:
                leaves = self._leaves(stepped.observation)
                for row in np.flatnonzero(stepped.begun).tolist():
                    mask = None if envs.action_mask is None else envs.action_mask[row]
                    begun[step, row] = [leaf[row].copy() for leaf in leaves], mask
                if hasattr(self.exploration, "begin"):
                    where = np.zeros(self.parts.num_envs, bool)
                    where[self.rows] = stepped.begun
                    self.exploration.begin(where)
        reward, terminated, truncated = (np.stack([getattr(one, name) for one in steps]) for name in COLUMNS)
        observed = [np.stack(parts) for parts in zip(*after, strict=True)]
        mask = _stacked([one.next_mask for one in steps])
        made = Block(
            version, total_steps, np.stack(actions), reward, terminated, truncated, observed, mask, begun, torn
        )
        return made, self._state(envs)

    def _state(self, envs: Environments) -> dict[str, Any]:
        states = {"exploration": self.exploration, "actor": self.actor}
        kept = {name: dict(part.state()) if hasattr(part, "load_state") else {} for name, part in states.items()}
        return {"envs": envs.state(), **kept}

    def _made(self) -> Environments:
        if self.envs is None:
            parts = self.parts
            if parts.spec is not None:
                gymnasium.registry.setdefault(parts.spec.id, parts.spec)
            self.envs = Environments(make_envs(parts.env, self.count, parts.env_kwargs, parts.max_steps))
        return self.envs

    def _leaves(self, observation: Any) -> list[NDArray[Any]]:
        assert self.envs is not None
        return [np.array(leaf) for leaf in flatten(self.envs.observation_space, observation)]

    def _action(self, envs: Environments, step: int, total_steps: int) -> NDArray[Any]:
        """Actions for this actor's rows; the exploration draws for all."""
        clock, count, rows = Clock(0, step, step / total_steps), self.parts.num_envs, self.rows

        def of_all(own: NDArray[Any], fill: Any = 0) -> NDArray[Any]:
            whole = np.full((count, *own.shape[1:]), fill, own.dtype)
            whole[rows] = own
            return whole

        def actor(observation: Any, *masks: NDArray[np.bool_]) -> NDArray[Any]:
            return of_all(self.actor(observation, *[mask[rows] for mask in masks]))

        masks = () if envs.action_mask is None else (of_all(envs.action_mask, True),)
        action: NDArray[Any] = self.exploration(actor, envs.observation, clock, *masks)[rows]
        return action


def _stacked(masks: list[Any]) -> NDArray[np.bool_] | None:
    """Masks of several steps; where an environment gave none, all actions are legal."""
    known = next((mask for mask in masks if mask is not None), None)
    return None if known is None else np.stack([np.ones_like(known) if mask is None else mask for mask in masks])
