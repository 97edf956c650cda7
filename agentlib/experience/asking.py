"""Asking an expert: a program, an agent, a Stable-Baselines3 model or a person, behind one call."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.spaces import ACTION_MASK, action_to_space, flatten, leaf_shape, leaf_spaces, to_actions, unflatten
from agentlib.envs.checks import is_single
from agentlib.envs.playing import ExpertLeft as ExpertLeft
from agentlib.envs.vector import Environments

Bools = NDArray[np.bool_]


def best_action(
    agent: Any, observation: Any, action_mask: Any = None, state: Any = None, episode_start: Any = None
) -> tuple[Any, Any]:
    """The best action by SB3's `predict`, and the next state: how any agent is asked, in every place.

    An agent that knows masks of legal actions is given `action_mask`; None where the environment gave none. Masks from
    here are none that the agent's owner gives: it still warns where its owner gives none.
    """
    masks = {ACTION_MASK: action_mask} if action_mask is not None and getattr(agent, "takes_masks", False) else {}
    asked = getattr(agent, "agent", agent)  # the one under attack
    knows_masks = getattr(asked, "_knows_masks", None)
    try:
        found: tuple[Any, Any] = agent.predict(
            observation, state=state, episode_start=episode_start, deterministic=True, **masks
        )
    finally:
        if masks and knows_masks is not None:
            asked._knows_masks = knows_masks
    return found


class Onlooker:
    """An expert for one environment at a time, which may look into it.

    For functions of a single observation, and for experts that see more than the learner:

        Onlooker(lambda env, observation: my_rule(observation))
        Onlooker(lambda env, observation: cartpole_expert(np.array(env.unwrapped.state)))

    Args:
        function: `(environment, observation) -> action`.
    """

    looks_on = True

    def __init__(self, function: Callable[[gymnasium.Env[Any, Any], Any], Any]) -> None:
        self.function = function

    def __call__(self, env: gymnasium.Env[Any, Any], observation: Any) -> Any:
        """The action for one observation in one environment."""
        return self.function(env, observation)


class Expert:
    """Any kind of expert as one function from observations to checked actions.

    Args:
        answers: a function of a batch of observations; anything with SB3's `predict`, such as an `Agent` or an SB3
            model; or an `Onlooker`. Actions are as the environment takes them.
        envs: the environments that observations come from.

    Raises:
        TypeError: it is none of these, or an onlooker cannot reach the environments.
        ValueError: an agent or model for other spaces.
    """

    def __init__(self, answers: Any, envs: Environments) -> None:
        self.answers, self.envs = answers, envs
        self.observation_space, self.action_space = envs.observation_space, envs.action_space
        self.state: Any = None
        self.worlds = single_environments(envs) if getattr(answers, "looks_on", False) else []
        self.predicts = not self.worlds and callable(getattr(answers, "predict", None))
        if not self.predicts and not callable(answers):
            raise TypeError(
                f"an expert is a function of a batch of observations, an agent, an SB3 model or an Onlooker, "
                f"not {type(answers).__name__}"
            )
        for kind, mine in (("observation", self.observation_space), ("action", self.action_space)):
            theirs = getattr(answers, f"{kind}_space", mine) if self.predicts else mine
            if theirs is not None and theirs != mine:
                raise ValueError(f"the expert's {kind} space is {theirs}, the environment's is {mine}")

    def __call__(self, observation: Any, asked: Bools, episode_start: Bools) -> NDArray[Any]:
        """Actions for the rows that are `asked`, `(k, ...)`.

        Args:
            observation: batched, of all n environments.
            asked: `(n,)`.
            episode_start: `(n,)`: where the observation is the first of an episode, for experts with a memory.

        Raises:
            ExpertLeft: a person went away.
            TypeError: the answer is of another kind than the environment's actions.
            ValueError: the answer has another shape, or is not in the action space; the message has its index.
        """
        rows = np.flatnonzero(asked)
        if self.predicts:
            # All rows, also those that are not asked: a memory must see every step.
            mask = self.envs.action_mask
            answer, self.state = best_action(self.answers, observation, mask, self.state, episode_start)
            return self._checked(answer, len(asked))[rows]
        if not rows.size:
            return self._checked(np.empty((0, *leaf_shape(leaf_spaces(self.action_space)[0])), np.int8), 0)
        if self.worlds:
            singles = [
                self.answers(self.worlds[row], rows_of(self.observation_space, observation, row)) for row in rows
            ]
            return self._checked(np.stack([np.asarray(action) for action in singles]), len(rows))
        return self._checked(self.answers(rows_of(self.observation_space, observation, rows)), len(rows))

    def remembers(self) -> dict[str, Any]:
        """The expert's memory for a checkpoint, as far as it can be saved."""
        parts = self.state if isinstance(self.state, tuple) else ()
        known = all(isinstance(part, np.ndarray) and part.dtype.kind in "biuf" for part in parts)
        own = self.answers.state() if hasattr(self.answers, "load_state") else None
        return {"state": parts if parts and known else None, "own": own}

    def remember(self, kept: dict[str, Any]) -> None:
        """Puts back what `remembers` gave."""
        self.state = kept["state"]
        if hasattr(self.answers, "load_state"):
            self.answers.load_state(kept["own"])

    def _checked(self, answer: Any, count: int) -> NDArray[Any]:
        try:
            actions = to_actions(self.action_space, answer)
            if len(actions) != count:
                raise ValueError(f"{len(actions)} actions for {count} observations")
        except ValueError as error:
            raise ValueError(f"{error}{self.hint if np.shape(answer)[:1] != (count,) else ''}") from None
        return actions

    @property
    def hint(self) -> str:
        """A hint for a function that was written for one observation."""
        if self.worlds or self.predicts:
            return ""
        return (
            ". An expert takes a batch of observations; wrap one that takes a single observation: "
            "Onlooker(lambda env, observation: expert(observation))"
        )


class TakeoverGate:
    """Asks where the expert would step in: a person where it presses a key, anything else where it would act otherwise.

    Args:
        answers: a `Person`, or what `Expert` takes (without a memory).
        envs: the environments that observations come from.
        tolerance: real-valued actions that differ by no more than this share of the bounds' range count as equal.
    """

    def __init__(self, answers: Any, envs: Environments, tolerance: float = 0.1) -> None:
        self.answers, self.looks_on = answers, hasattr(answers, "takes_over")
        self.expert = Expert(answers, envs)
        space = envs.action_space
        self.tolerance: Any = 0
        if isinstance(space, spaces.Box):
            span = space.high - space.low
            self.tolerance = tolerance * np.where(np.isfinite(span), span, 1.0)

    def __call__(self, *situation: Any) -> Any:
        """Called as `Aggregate` calls its gates: whether, or where `(n,)`, to ask."""
        if self.looks_on:
            return self.answers.takes_over(*situation)
        observation, proposal = situation
        action = action_to_space(self.expert.action_space, proposal.action)
        everywhere = np.ones(len(action), np.bool_)
        far = np.abs(self.expert(observation, everywhere, ~everywhere) - action) > self.tolerance
        return far.any(tuple(range(1, far.ndim)))


def rows_of(space: spaces.Space[Any], observation: Any, rows: Any) -> Any:
    """These rows of a batch of observations."""
    return unflatten(space, [np.asarray(leaf)[rows] for leaf in flatten(space, observation)])


def single_environments(envs: Environments) -> list[gymnasium.Env[Any, Any]]:
    """The single environments behind what is stepped.

    Raises:
        TypeError: they are in other processes.
    """
    if is_single(envs.env):
        return [envs.env]
    inner = getattr(envs.env, "envs", None)
    if inner is None:
        raise TypeError(
            f"an expert that looks into the environment needs it in this process, which {type(envs.env).__name__} has "
            "not: give one environment, or a SyncVectorEnv"
        )
    return list(inner)
