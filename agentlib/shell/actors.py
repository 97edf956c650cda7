"""What plays on the command line, and where: an agent, a scripted expert, SB3's model, or random actions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from agentlib.agent import Agent
from agentlib.envs.making import make_env
from agentlib.experience.evaluation import own_environment
from agentlib.families.demonstrations import expert_of
from agentlib.policies.acting import RandomActor
from agentlib.shell.flags import keywords
from agentlib.shell.stopping import UsageError


def actor_of(name: str, best: bool, env: str | None, env_kwargs: Sequence[str], seed: int) -> Any:
    """What has SB3's `predict`, by its name on the command line; with `best`, the best agent of a run.

    Raises:
        UsageError: the run kept no best agent, or a name that needs an environment has none.
    """
    if best:
        folder = Path(name) if Path(name).is_dir() else Path(name).parent
        if not (folder / "best_agent.safetensors").is_file():
            raise UsageError(f"there is no best agent in {folder}: `agentlib train ... --eval-every N` keeps one")
        return Agent.load(folder / "best_agent.safetensors")
    if name not in ("random", "scripted"):
        return expert_of(name, env)
    if env is None:
        raise UsageError(f"say where: {name} --env ID, such as {name} --env CartPole-v1")
    if name == "random":
        with closing(make_env(env, env_kwargs=keywords(env_kwargs), training=False)) as world:
            return RandomActor(world.observation_space, world.action_space, seed)
    expert = expert_of(name, env)
    return SimpleNamespace(predict=lambda observation, state=None, **_: (expert(np.asarray(observation)), state))


def world_of(actor: Any, env: str | None, env_kwargs: Sequence[str]) -> tuple[str, dict[str, Any]]:
    """The environment's id and arguments: those that were given, before those of the agent's training.

    Raises:
        ValueError: none was given, and the agent's file names none.
    """
    about = getattr(actor, "about", {})
    if env is None:
        env, kwargs = own_environment(about)
    else:
        kwargs = about.get("env_kwargs", {}) if env == about.get("trained_on") else {}
    return env, (kwargs if isinstance(kwargs, dict) else {}) | keywords(env_kwargs)
