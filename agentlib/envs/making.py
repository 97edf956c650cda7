"""Environments from what a user gives: an id, an instance, or a factory."""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable
from typing import Any

import gymnasium
from gymnasium.vector import VectorEnv

import agentlib.envs  # noqa: F401 - registers our environments
from agentlib.core.numbers import whole
from agentlib.envs.checks import is_single

EnvLike = str | gymnasium.Env[Any, Any] | VectorEnv[Any, Any, Any] | Callable[[], Any]
"""An environment's id, an instance (also a vector environment), or a function that makes one."""


def make_env(
    env: EnvLike, *, env_kwargs: dict[str, Any] | None = None, render_mode: str | None = None, training: bool = True
) -> gymnasium.Env[Any, Any]:
    """One environment.

    Atari games (ids of ALE) get the usual preprocessing: 84x84 grey frames, every fourth one, four of them stacked.
    For training, rewards are cut to their sign and a lost life ends the episode; otherwise the game is scored whole. Of
    MiniGrid's observations the mission, a sentence, is left out.

    Raises:
        ValueError: an unknown id (the message names close ones), or a factory that makes no environment.
    """
    if is_single(env):
        return env
    if callable(env):
        made = env(**(env_kwargs or {}))
        if not is_single(made):
            raise ValueError(f"the environment factory returned {type(made).__name__}, not a gymnasium.Env")
        return made
    if not isinstance(env, str):
        raise ValueError(f"an environment is given as an id, a gymnasium.Env or a factory, not {type(env).__name__}")
    kwargs = dict(env_kwargs or {})
    if render_mode is not None:
        kwargs["render_mode"] = render_mode
    spec = gymnasium.registry.get(env)
    if env.startswith("ALE/") or (spec is not None and str(spec.entry_point).startswith("ale_py")):
        return _make_atari(env, kwargs, training)
    if env.startswith(("MiniGrid-", "BabyAI-")):
        return _make_minigrid(env, kwargs)
    return _registered(env, kwargs)


def _registered(env_id: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        # The checker's warnings are for those who write the environment.
        return gymnasium.make(env_id, disable_env_checker=True, **kwargs)
    except gymnasium.error.UnregisteredEnv as error:
        close = difflib.get_close_matches(env_id, list(gymnasium.registry), n=4, cutoff=0.5)
        hint = f"; close matches: {', '.join(close)}" if close else ""
        raise ValueError(f"unknown environment {env_id!r}{hint}") from error


def _make_atari(env_id: str, kwargs: dict[str, Any], training: bool) -> gymnasium.Env[Any, Any]:
    try:
        import ale_py
    except ImportError:
        raise ImportError(f"{env_id} needs the Atari emulator: pip install 'agentlib-rl[atari]'") from None
    from agentlib.envs.wrappers import EpisodicLife, FireOnReset, SeededGame, Signed

    gymnasium.register_envs(ale_py)
    frames = {"frameskip": 1, "obs_type": "ram", **kwargs, "repeat_action_probability": 0.0}
    env: gymnasium.Env[Any, Any] = SeededGame(_registered(env_id, frames))
    if stickiness := (gymnasium.spec(env_id).kwargs | kwargs).get("repeat_action_probability", 0.0):
        env = gymnasium.wrappers.StickyAction(env, stickiness)
    meanings: list[str] = env.unwrapped.get_action_meanings()  # type: ignore[attr-defined]
    noops = 30 if meanings[0] == "NOOP" else 0  # two games have no such action
    env = gymnasium.wrappers.AtariPreprocessing(env, noop_max=noops, frame_skip=4, screen_size=84)
    if training:
        env = EpisodicLife(env)
    if meanings[1] == "FIRE":
        env = FireOnReset(env)
    if training:
        env = Signed(env)
    return gymnasium.wrappers.FrameStackObservation(env, 4)


def _make_minigrid(env_id: str, kwargs: dict[str, Any]) -> gymnasium.Env[Any, Any]:
    try:
        import minigrid  # noqa: F401 - registers its environments
    except ImportError:
        raise ImportError(f"{env_id} needs the grid worlds: pip install 'agentlib-rl[minigrid]'") from None
    return gymnasium.wrappers.FilterObservation(_registered(env_id, kwargs), ["direction", "image"])


def limited(env: Any, max_steps: int | None) -> Any:
    """The environment, whose episodes are cut off after `max_steps`; as it is without a number.

    Raises:
        ValueError: no whole number, or a vector environment.
    """
    if max_steps is None:
        return env
    if not is_single(env):
        raise ValueError(f"max_steps is for single environments, not for {type(env).__name__}: limit those inside it")
    return gymnasium.wrappers.TimeLimit(env, whole("max_steps", max_steps, 1))


def frame_stack(env: Any) -> int:
    """How many frames `FrameStackObservation` stacks in this environment; 1 without it.

    Only a stack that is the outermost change of the observation counts: what a buffer sees must be whole stacks.
    """
    layer = env.envs[0] if isinstance(env, gymnasium.vector.SyncVectorEnv) else env
    while isinstance(layer, gymnasium.Wrapper):
        if isinstance(layer, gymnasium.wrappers.FrameStackObservation):
            return int(layer.stack_size)
        if isinstance(layer, gymnasium.ObservationWrapper):
            return 1
        layer = layer.env
    return 1


NOT_ITS_OWN = ("render_mode", "num_envs", "vectorization_mode", "vector_kwargs")
"""Arguments of `gymnasium.make` and `make_vec` that make the environment no other one."""


def arguments_of(env: Any, env_kwargs: dict[str, Any]) -> Any:
    """The arguments with which an environment was made, for a file: a dict, or a text where JSON does not hold them."""
    spec = getattr(env, "spec", None)
    made, usual = getattr(spec, "kwargs", {}), {"max_episode_steps": getattr(spec, "max_episode_steps", None)}
    kwargs = {
        name: value
        for name, value in (made | env_kwargs).items()
        if name not in NOT_ITS_OWN and (name not in usual or value != usual[name])
    }
    try:
        return json.loads(json.dumps(kwargs, allow_nan=False))
    except (TypeError, ValueError):
        return repr(kwargs)


def is_made(env: Any) -> bool:
    """Whether it is an environment, or several (also SB3's), and not an id or what makes one."""
    return isinstance(env, gymnasium.Env | VectorEnv) or hasattr(env, "step_wait")


def make_envs(
    env: EnvLike, n_envs: int = 1, env_kwargs: dict[str, Any] | None = None, max_steps: int | None = None
) -> Any:
    """One environment, or `n_envs` of them side by side, `limited`; an instance is taken as it is.

    Raises:
        ValueError: what `make_env` and `limited` raise; or `n_envs` with an instance, which cannot be copied.
    """
    n_envs = whole("n_envs", n_envs, 1)
    if is_made(env):
        if n_envs != 1:
            raise ValueError("n_envs needs an id or a factory: an environment that exists already cannot be multiplied")
        return limited(env, max_steps)
    if n_envs == 1:
        return limited(make_env(env, env_kwargs=env_kwargs), max_steps)
    return gymnasium.vector.SyncVectorEnv(
        [lambda: limited(make_env(env, env_kwargs=env_kwargs), max_steps)] * n_envs,
        autoreset_mode=gymnasium.vector.AutoresetMode.DISABLED,  # each episode can be given a seed
    )
