"""Experts that Stable-Baselines3 trains with the zoo's settings, for imitation and as a measure."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones.layers import ACTIVATIONS
from agentlib.core.host import global_generators_kept
from agentlib.core.names import close_matches
from agentlib.envs.making import make_env
from agentlib.sb3.training import import_sb3, sb3_noise, sb3_schedule
from agentlib.sb3.zoo_file import Named, ZooSection, read_zoo_section

ALGORITHMS = ("a2c", "ddpg", "dqn", "ppo", "sac", "td3")


def train_sb3_expert(
    algorithm: str,
    env: str | Callable[[], gymnasium.Env[Any, Any]],
    zoo: str | Path | ZooSection,
    *,
    steps: int | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> Agent:
    """Trains a model of Stable-Baselines3, and returns it as an agent; normalization is part of it.

    Args:
        algorithm: one of `ALGORITHMS`.
        env: an id, or a function that makes the environment, with the wrappers that the settings ask for.
        zoo: settings: a file of the zoo, or a section of one.
        steps: environment steps; by default the number in the settings.
        seed: for the model and the environments.
        device: as torch names it.

    Raises:
        ImportError: Stable-Baselines3 is absent; the message names the extra.
        ValueError: an unknown algorithm, or settings that cannot be followed; the message says which.
    """
    import_sb3()
    import stable_baselines3
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    if algorithm not in ALGORITHMS:
        raise ValueError(f"unknown algorithm {algorithm!r}{close_matches(algorithm, list(ALGORITHMS))}")
    if not isinstance(zoo, ZooSection):
        if not isinstance(env, str):
            raise ValueError("a file is searched by the environment's id: give a section, by read_zoo_section")
        zoo = read_zoo_section(zoo, env)
    _refuse_what_is_not_done(zoo, env)
    steps = zoo.steps if steps is None else steps
    if steps is None:
        raise ValueError(f"section {zoo.section} says no n_timesteps: give steps=")
    with global_generators_kept():
        venv: Any = DummyVecEnv([lambda: make_env(env, env_kwargs=zoo.env_kwargs)] * zoo.n_envs)
        try:
            arguments = sb3_arguments_of(zoo, venv.action_space)
            if zoo.normalize is not None:
                gamma = {"gamma": arguments["gamma"]} if "gamma" in arguments else {}
                venv = VecNormalize(venv, **gamma, **zoo.normalize)
            model = getattr(stable_baselines3, algorithm.upper())(env=venv, seed=seed, device=device, **arguments)
            model.learn(steps)
            return Agent.from_sb3(model)
        finally:
            venv.close()


def sb3_arguments_of(section: ZooSection, action_space: spaces.Space[Any]) -> dict[str, Any]:
    """The arguments of an algorithm of Stable-Baselines3 that a section describes, `policy` among them.

    Raises:
        ValueError: a class that is not known; none is looked up by its name.
    """
    arguments = {name: _as_sb3_takes_it(name, value) for name, value in section.hyperparameters.items()}
    kwargs = {name: _as_sb3_takes_it(name, value) for name, value in section.policy_kwargs.items()}
    widths = kwargs.get("net_arch")
    if isinstance(widths, list) and len(widths) == 1 and isinstance(widths[0], dict):
        kwargs["net_arch"] = widths[0]  # as it was written before SB3 1.8
    if kwargs:
        arguments["policy_kwargs"] = kwargs
    if section.noise_type is not None:
        arguments["action_noise"] = sb3_noise(section.noise_type, section.noise_std, action_space)
    return {"policy": section.policy or "MlpPolicy", **arguments}


def _refuse_what_is_not_done(section: ZooSection, env: Any) -> None:
    missing = section.environment_changes(env) if isinstance(env, str) else []  # a function makes what it should
    missing += [name for name, value in section.others.items() if value]
    if missing:
        raise ValueError(
            f"section {section.section} asks for {', '.join(missing)}: make such an environment in a function of your "
            "own, give that as env=, and delete these keys from the section"
        )


def _as_sb3_takes_it(name: str, value: Any) -> Any:
    if isinstance(value, Named):
        return _known_class(name, value)
    return sb3_schedule(value) if callable(value) else value


def _known_class(argument: str, name: str) -> Any:
    short = name.rpartition(".")[2]
    for activation in ACTIVATIONS.values():
        if activation.__name__ == short:
            return activation
    if short == "RMSpropTFLike":
        from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

        return RMSpropTFLike
    raise ValueError(f"{argument}: the class {name} is not known here")
