"""Environments that others step: actors, each with some of the environments and a copy of the policy.

The learner and its replay stay here. A block of steps is asked of all actors at once and comes whole, as arrays. While
the learner consumes block b, step after step as if the environments were here, the actors make block b + 1 with the
weights that were here when block b came: those of version b, which have learned from the b blocks before it. So each
block is acted one version behind, whatever the timing, and a run depends on its seed alone. Learners that need steps of
the present policy have none behind: a block is a rollout, and is asked for when the last one is used up. An actor that
dies is replaced; the new one goes on from where the block began and makes the same block again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agentlib.core.source import Diverged
from agentlib.core.spaces import flatten, unflatten
from agentlib.envs import journal
from agentlib.envs.checks import EnvironmentFailure
from agentlib.envs.making import is_made, make_envs
from agentlib.envs.vector import Environments, Stepped
from agentlib.experience.actor_worker import Block, Failed, Parts

LENGTH = 256
"""Steps of each environment in a block, so that the same environments give the same run with any number of actors."""
DEATHS = 3
"""Of one actor in one block: a block that kills it more often ends the run."""


class ActorLost(Exception):
    """An actor's process, or its machine, is gone."""


class Fleet(Protocol):
    """What starts actors and talks with them; `agentlib.experience.ray_fleet` has that of Ray."""

    def start(self, parts: Parts) -> None:
        """Starts all actors, each a `Worker`, and waits for them."""

    def put(self, value: Any) -> Any:
        """The value, or what stands for it, as an argument of several calls."""

    def call(self, index: int, method: str, *arguments: Any) -> Any:
        """Calls a method of an actor; returns a ticket at once."""

    def result(self, ticket: Any) -> Any:
        """Waits for the result of a call; raises `ActorLost`."""

    def replace(self, index: int) -> None:
        """Starts another actor in the place of one that is lost."""

    def close(self) -> None:
        """Ends all actors."""


class Recorded:
    """The exploration or the actor of a collector whose steps are made elsewhere: the actions that were taken there."""

    def __init__(self, actors: Actors, exploration: Any) -> None:
        self.actors, self.num_envs = actors, actors.num_envs
        self.rate = getattr(exploration, "rate", None)

    def __call__(self, *_: Any) -> NDArray[Any]:
        """The actions `(num_envs, ...)` of the next step."""
        return self.actors.next_action()


class Actors(Environments):
    """The environments of all actors, as a collector steps them: a step only reads what an actor has sent.

    Args:
        fleet_of: what starts a number of actors; `close` closes it.
        env: an id, or a function that makes an environment.
        num_envs: environments in all.
        actors: how many share them.
        env_kwargs: for the environment's constructor.
        max_steps: of the longest episode.

    Raises:
        ValueError: the environments cannot be shared out.
    """

    def __init__(
        self,
        fleet_of: Callable[[int], Fleet],
        env: Any,
        num_envs: int,
        actors: int,
        env_kwargs: dict[str, Any] | None = None,
        max_steps: int | None = None,
    ) -> None:
        if is_made(env):
            raise ValueError("actors make environments of their own: give env= as an id or a function that makes one")
        if num_envs % actors:
            raise ValueError(f"{num_envs} environments cannot be shared out: n_envs must be a multiple of {actors=}")
        super().__init__(make_envs(env, 1, env_kwargs, max_steps))  # one environment here, for its spaces
        try:
            self.fleet, self.actors = fleet_of(actors), actors
        except BaseException:
            super().close()
            raise
        self.num_envs, self._all = num_envs, np.ones(num_envs, bool)
        self.origin = env, env_kwargs or {}, max_steps, gymnasium.registry.get(env) if isinstance(env, str) else None
        self.has_started = False
        self.length, self.is_behind = LENGTH, True
        self.block: Block | None = None
        """That of all actors, which is being consumed."""
        self.at, self.start, self.received = 0, 0, 0
        self.pending: list[tuple[Any, ...]] = []
        """Of each actor, the ticket of the last call, its method and arguments."""
        self.starts: list[Any] = []
        """The states of the actors where the present block began, and, `ends`, where it ends."""
        self.ends: list[Any] = []
        self.weights: list[Any] = [None, None]
        """Those that made the present block and make the next one."""

    def acting(self, actor: Any, exploration: Any, total_steps: int, rollout_length: int | None = None) -> Recorded:
        """Sets how actors act, by copies of what one process would act by; returns what a collector takes for it.

        With `rollout_length`, blocks have this many steps, and are acted by the present policy.
        """
        if rollout_length is not None:
            self.length, self.is_behind = rollout_length, False
        self.policy, its_copy = actor.policy, copy.deepcopy(actor)
        its_copy.policy.to("cpu")
        self.parts = Parts(*self.origin, its_copy, exploration, self.num_envs, self.actors, total_steps)
        return Recorded(self, exploration)

    # What a collector calls --------------------------------------------------------------------------------------

    def reset(self, seed: int | None = None) -> Any:
        """New episodes everywhere; environment i begins with `seed + i`. Returns the batched first observations."""
        self._start()
        self.block, self.ends, self.start = None, [], self.steps
        self._call("begin", [seed or 0] * self.actors)
        firsts, ends = zip(*map(self._result, range(self.actors)), strict=True)
        self.ends = list(ends)
        leaves = [np.concatenate(parts) for parts in zip(*[leaves for leaves, _ in firsts], strict=True)]
        self.action_mask = _side_by_side([mask for _, mask in firsts], [parts[0] for parts, _ in firsts], 0)
        self.observation = unflatten(self.observation_space, leaves)
        return self.observation

    def next_action(self) -> NDArray[Any]:
        """The actions of the next step."""
        if self.block is None or self.at == self.length:
            self._receive()
        assert self.block is not None
        action: NDArray[Any] = self.block.action[self.at]
        return action

    def step(self, action: NDArray[Any]) -> Stepped:
        """The next step, whose actions are known."""
        block, at = self.block, self.at
        assert block is not None
        self.at += 1
        terminated, truncated = block.terminated[at], block.truncated[at]
        ended, valid = terminated | truncated, self._all
        begun = ended
        if at == 0 and block.is_torn.any():
            valid, begun = ~block.is_torn, ended | block.is_torn
        after = unflatten(self.observation_space, [leaf[at] for leaf in block.after])
        next_mask = None if block.mask is None else block.mask[at]
        self.observation, self.action_mask = self._next(at) if ended.any() else (after, next_mask)
        self.steps += int(valid.sum())
        flags = valid is self._all, bool(ended.any()), bool(begun.any())
        ends = block.reward[at], terminated, truncated
        return Stepped(self.observation, after, *ends, valid, begun, *flags, {}, next_mask)

    def _next(self, at: int) -> tuple[Any, Any]:
        """The observations to act on after a step of the block, with those that begin episodes; the legal actions."""
        assert self.block is not None
        leaves = [leaf[at].copy() for leaf in self.block.after]
        mask = None if self.block.mask is None else self.block.mask[at].copy()
        for row in range(self.num_envs):
            if (at, row) in self.block.begun:
                first, legal = self.block.begun[at, row]
                for leaf, part in zip(leaves, first, strict=True):
                    leaf[row] = part
                if mask is not None:
                    mask[row] = True if legal is None else legal
        return unflatten(self.observation_space, leaves), mask

    def close(self) -> None:
        """Ends the actors."""
        try:
            super().close()
        finally:
            self.fleet.close()

    # Blocks ------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        if not self.has_started:
            self.fleet.start(self.parts)
            self.has_started = True

    def _call(self, method: str, *arguments: list[Any]) -> None:
        """Calls a method of all actors; one list of arguments for each of its parameters."""
        calls = list(enumerate(zip(*arguments, strict=True)))
        self.pending = [(self.fleet.call(index, method, *given), method, *given) for index, given in calls]

    def _result(self, index: int) -> Any:
        """The result of an actor's last call; of another one that takes its place, if it is lost."""
        ticket, method, *given = self.pending[index]
        for left in reversed(range(DEATHS)):
            try:
                return self._opened(self.fleet.result(ticket))
            except ActorLost as error:
                if not left:
                    raise EnvironmentFailure(f"actor {index} died {DEATHS} times in one block: {error}") from error
            ticket = self._again(index, method, *given)
        raise AssertionError

    def _again(self, index: int, method: str, *given: Any) -> Any:
        """The same call to a new actor, where the old one was before it."""
        self.fleet.replace(index)
        if method == "block":
            ticket = self.fleet.call(index, "load", self.ends[index], self.start)
            with suppress(ActorLost):  # which the next call meets, too
                self._opened(self.fleet.result(ticket))
        return self.fleet.call(index, method, *given)

    def _opened(self, reply: Any) -> Any:
        """What an actor returned; its warnings are given here, and its error raised."""
        result, texts = reply
        for text in texts:
            warnings.warn(text, stacklevel=2)
        if isinstance(result, Failed):
            error = (
                Diverged(result.message, result.step) if result.is_divergence else EnvironmentFailure(result.message)
            )
            error.add_note(f"of an actor:\n{result.trace}")
            raise error
        return result

    def _ask(self, version: int, weights: Any, total_steps: int | None = None) -> None:
        """Asks all actors for the block from step `start` on, made with these weights in a run of that length."""
        total = self.parts.total_steps if total_steps is None else total_steps
        sent = self.fleet.put(weights)
        self._call("block", *[[value] * self.actors for value in (sent, version, self.start, self.length, total)])
        self.weights = [self.weights[1], weights]

    def _receive(self, next_weights: Any = None) -> None:
        """Waits for the next block; asks for the one after it, if that is acted one behind and the run goes on."""
        if not self.pending or self.pending[0][1] != "block":
            self._ask(self.received, self._snapshot())
        blocks, ends = zip(*map(self._result, range(self.actors)), strict=True)
        self.pending, self.starts, self.ends = [], self.ends, list(ends)
        self.block, self.at = _whole(blocks), 0
        self.start += self.length * self.num_envs
        if self.is_behind and self.start < self.parts.total_steps:
            self._ask(self.received, self._snapshot() if next_weights is None else next_weights)
        else:
            self.weights = [self.weights[1], None]
        self.received += 1

    def _snapshot(self) -> dict[str, NDArray[Any]]:
        """The policy's weights and statistics as they are now."""
        return {name: part.detach().cpu().numpy().copy() for name, part in self.policy.state_dict().items()}

    # State -------------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Where the present block began, how far it is consumed, and the weights that make it and the next one."""
        if self.observation is None or self.block is None:
            return {"steps": self.steps}
        counters = {"start": self.start, "received": self.received, "at": self.at, "version": self.block.version}
        counters["total_steps"] = self.block.total_steps
        return {
            "steps": self.steps,
            "block": counters | {"weights": list(self.weights)},
            "actors": list(self.starts),
            "observation": [np.array(leaf) for leaf in flatten(self.observation_space, self.observation)],
        }

    def _play_again(self, state: dict[str, Any]) -> None:
        """Has the present block made again, and asks for the one after it as `_receive` does."""
        block, states = state["block"], state["actors"]
        self._start()
        self._call("load", states, [block["start"]] * self.actors)
        loaded = [self._result(index) for index in range(self.actors)]
        if not all(loaded):
            raise journal.Diverged("an actor could not play its episode again")
        self.ends, self.received = states, block["received"] - 1
        self.start = block["start"] - self.length * self.num_envs
        now, after = block["weights"]
        self._ask(block["version"], now, block["total_steps"])  # as it was made, though the run may be longer now
        self._receive(after)
        self.at = block["at"]
        observation, self.action_mask = self._next(self.at - 1)
        for leaf, before in zip(flatten(self.observation_space, observation), state["observation"], strict=True):
            journal.require_same(leaf, before, "observation")
        self.observation = observation


def _side_by_side(masks: Sequence[Any], like: Sequence[NDArray[Any]], axis: int) -> Any:
    """Masks of all actors `(..., n, A)`; where one gave none, all actions are legal."""
    known = next((mask for mask in masks if mask is not None), None)
    if known is None:
        return None
    shapes = [(*part.shape[: axis + 1], known.shape[-1]) for part in like]
    full = [np.ones(shape, bool) if mask is None else mask for mask, shape in zip(masks, shapes, strict=True)]
    return np.concatenate(full, axis)


def _whole(blocks: Sequence[Block]) -> Block:
    """The blocks of all actors as one of all environments; `is_torn` is `(n,)` there."""
    join = partial(np.concatenate, axis=1)
    sizes = [block.reward.shape[1] for block in blocks]
    firsts = np.cumsum([0, *sizes]).tolist()
    pairs = list(zip(firsts, blocks, strict=False))
    return blocks[0]._replace(
        action=join([block.action for block in blocks]),
        reward=join([block.reward for block in blocks]),
        terminated=join([block.terminated for block in blocks]),
        truncated=join([block.truncated for block in blocks]),
        after=[join(parts) for parts in zip(*[block.after for block in blocks], strict=True)],
        mask=_side_by_side([block.mask for block in blocks], [block.reward for block in blocks], 1),
        begun={(at, first + row): found for first, block in pairs for (at, row), found in block.begun.items()},
        is_torn=np.repeat([block.is_torn for block in blocks], sizes),
    )
