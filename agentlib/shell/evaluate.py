"""`agentlib evaluate`: how good an agent is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

import agentlib
from agentlib.envs.making import make_env
from agentlib.families.demonstrations import expert_of
from agentlib.shell.options import EnvId, EnvKwargs, Options, keywords


@dataclass(frozen=True, kw_only=True)
class Evaluate(Options):
    """Play whole episodes with an agent, and print its return with a 95% interval."""

    file: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="FILE|sb3:ZIP", help_behavior_hint="")]
    """The agent, such as runs/dqn-CartPole-v1-1/agent.safetensors."""
    env: EnvId
    """The environment's id."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False."""
    episodes: int = 100
    """Number of episodes."""
    seed: int = 0
    """Seed of the episodes: two agents evaluated with one seed meet the same ones."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Evaluate, prog="agentlib evaluate", args=arguments)
    name = str(options.file)
    agent: Any = expert_of(name, options.env) if name.startswith("sb3:") else agentlib.Agent.load(options.file)
    with closing(make_env(options.env, env_kwargs=keywords(options.env_kwargs), training=False)) as env:
        print(agentlib.evaluate(agent, env, episodes=options.episodes, seed=options.seed))
    return 0
