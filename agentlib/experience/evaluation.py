"""The returns of an agent: one number per episode, on episodes that are the same for every agent.

Any object with Stable-Baselines3's `predict` can be scored: our agents, SB3's models, scripted experts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import gymnasium
import numpy as np
from numpy.typing import NDArray

from agentlib.core.names import readable, shown
from agentlib.core.numbers import whole
from agentlib.core.progress import watched
from agentlib.core.spaces import ACTION_MASK
from agentlib.envs.checks import EnvironmentFailure, Unfit, begin, finite_number_of, is_single, truth_of, warn_of_length
from agentlib.envs.making import limited, make_env
from agentlib.experience.asking import best_action
from agentlib.metrics.intervals import Interval, bootstrap_interval, interquartile_mean

FIRST_EPISODE_SEED = 1 << 30
"""Evaluation resets environments with seeds from here on; seeds of training lie below."""


class Predictor(Protocol):
    """The interface that evaluation needs: `predict` with the signature and meaning that Stable-Baselines3 gave it."""

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False
    ) -> tuple[Any, Any]:
        """The action for an observation, and the recurrent state to hand in next time."""
        ...


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The outcome of `evaluate`."""

    returns: NDArray[np.float64]
    """The undiscounted sum of rewards of each episode, shape (episodes,)."""
    lengths: NDArray[np.int64]
    """Environment steps of each episode, shape (episodes,)."""
    seed: int
    """The seed that the episodes' seeds are derived from."""

    @property
    def mean(self) -> float:
        """The mean return."""
        return float(self.returns.mean())

    @property
    def std(self) -> float:
        """The standard deviation of the returns over the episodes (of the population, as SB3 reports it)."""
        return float(self.returns.std())

    @property
    def iqm(self) -> float:
        """The interquartile mean of the returns."""
        return float(interquartile_mean(self.returns))

    @property
    def interval(self) -> Interval:
        """The 95% bootstrap interval of the mean return, over episodes."""
        return bootstrap_interval(self.returns)

    @property
    def iqm_interval(self) -> Interval:
        """The 95% bootstrap interval of the interquartile mean, over episodes."""
        return bootstrap_interval(self.returns, interquartile_mean)

    def __str__(self) -> str:
        return (
            f"mean return {readable(self.mean)} +/- {readable(self.std)}, 95% interval of the mean {self.interval}, "
            f"interquartile mean {readable(self.iqm)} ({self.returns.size} episodes)"
        )


def episode_seed(seed: int, index: int) -> int:
    """The seed of one evaluation episode, from 2**30 to 2**31 - 1, where no training seed is.

    It depends on `seed` and `index` alone, so that episode 3 is the same whether 4 or 400 are played.
    """
    word = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])
    return FIRST_EPISODE_SEED | (word >> 2)  # below 2**31: some simulators keep their seed in a C int


def evaluate(
    agent: Predictor,
    env: str | gymnasium.Env[Any, Any] | Callable[[], gymnasium.Env[Any, Any]] | None = None,
    *,
    episodes: int = 100,
    seed: int = 0,
    max_steps: int | None = None,
) -> Evaluation:
    """Play whole episodes with deterministic actions and return the return of each.

    The agent is left as it was (its train/eval mode too). An environment instance is reset and stepped and left open;
    one made from an id or a factory is closed.

    Args:
        agent: anything with `predict`: an `agentlib.Agent`, a Stable-Baselines3 model, a scripted expert.
        env: an environment id, a single environment, or a function that makes one; by default the one that an agent was
            trained in, with the arguments that it had there.
        episodes: how many episodes; each is reset with `episode_seed(seed, index)`.
        seed: a non-negative integer; two agents evaluated with one seed meet the same episodes.
        max_steps: cut an episode off after this number of steps; None leaves its end to the environment.

    Raises:
        TypeError: if `agent` has no `predict`, or `env` is a vector environment.
        ValueError: if `episodes` or `max_steps` is below 1, the spaces of agent and environment differ, or there is
            none.
        EnvironmentFailure: the environment's `reset` takes no seed, or a reward or a flag is none.
    """
    if not callable(getattr(agent, "predict", None)):
        raise TypeError(f"evaluate needs an object with a predict method, not {type(agent).__name__}")
    if hasattr(env, "num_envs"):
        raise TypeError("evaluate seeds each episode by itself: pass an id, a single environment or a factory")
    episodes, seed = whole("episodes", episodes, 1), whole("seed", seed)
    about = getattr(agent, "about", {})
    if env is None:
        env_id, kwargs = own_environment(about)
        env = partial(make_env, env_id, env_kwargs=kwargs, training=False)
    elif isinstance(env, str) and env == about.get("trained_on") and about.get("env_kwargs"):
        hint = f"the agent was trained in {env} with {shown(about['env_kwargs'])}, and is evaluated without"
        warnings.warn(f"{hint}: leave out the environment to evaluate it where it was trained", stacklevel=2)
    world = make_env(env, training=False)
    try:
        check_spaces(agent, world)
        played_in = limited(world, max_steps)
        with modes_kept(agent):
            numbers = watched(range(episodes), "evaluating")
            played = [_play(agent, played_in, episode_seed(seed, index)) for index in numbers]
    finally:
        if not is_single(env):
            world.close()
    returns, lengths = zip(*played, strict=True)
    return Evaluation(np.array(returns, dtype=np.float64), np.array(lengths, dtype=np.int64), seed)


def own_environment(about: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The id of the environment that an agent was trained in, and its arguments, by what its file says.

    Raises:
        ValueError: the file names none; or one of a module, and none is imported because a file names it.
    """
    env_id, kwargs = about.get("trained_on"), about.get("env_kwargs", {})
    if not isinstance(env_id, str):
        raise ValueError("the agent does not know the environment that it was trained in: give env=...")
    is_foreign = ":" in env_id or env_id.startswith("GymV")  # those import what their arguments name
    if is_foreign or not (env_id in gymnasium.registry or env_id.startswith(("ALE/", "MiniGrid-", "BabyAI-"))):
        kind = "whose code is in another module" if is_foreign else "which is no environment here"
        raise ValueError(f"the agent was trained on {shown(env_id)}, {kind}: give env=...")
    if not isinstance(kwargs, dict):
        raise ValueError(f"the environment had arguments that a file does not hold, {shown(kwargs)}: give env=...")
    return env_id, kwargs


def _play(agent: Predictor, env: gymnasium.Env[Any, Any], seed: int) -> tuple[float, int]:
    """Return and length of one episode."""
    total, length = 0.0, 0
    for reward in playing(agent, env, seed):
        total, length = total + reward, length + 1
    return total, length


def playing(agent: Predictor, env: gymnasium.Env[Any, Any], seed: int) -> Iterator[float]:
    """The rewards of one episode, which is played as they are asked for."""
    observation, info = begin(env, seed)
    state, start = None, np.array([True])
    length, ended = 0, False
    while not ended:
        action, state = best_action(agent, observation, info.get(ACTION_MASK), state, start)
        # A discrete action comes as a 0-dim array, which environments cannot use as a key: [()] makes it a number.
        stepped = env.step(action[()] if isinstance(action, np.ndarray) else action)
        length += 1
        try:
            if len(stepped) != 5:
                raise Unfit(f"{len(stepped)} values in place of observation, reward, terminated, truncated and info")
            observation, reward, terminated, truncated, info = stepped
            paid = finite_number_of(reward)
            ended = truth_of(terminated, "terminated") or truth_of(truncated, "truncated")
        except Unfit as error:
            raise EnvironmentFailure(f"the environment gave {error} at step {length} of an episode") from None
        warn_of_length(length)
        start = np.array([False])
        yield paid


def check_spaces(agent: Predictor, env: gymnasium.Env[Any, Any]) -> None:
    """Raises ValueError if an agent does not fit an environment."""
    if hasattr(agent, "check_spaces"):  # one of ours
        agent.check_spaces(env.observation_space, env.action_space)
    space = getattr(agent, "action_space", None)
    if space is not None and space != env.action_space:
        raise ValueError(f"the agent acts in {space}, but the environment takes {env.action_space}")


@contextmanager
def modes_kept(agent: Predictor) -> Iterator[None]:
    """Give every module of the agent its train/eval mode back: predict may switch it (SB3's does)."""
    root = next((part for part in (agent, getattr(agent, "policy", None)) if hasattr(part, "modules")), None)
    modes = [] if root is None else [(module, module.training) for module in root.modules()]
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode
