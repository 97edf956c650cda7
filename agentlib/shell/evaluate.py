"""`agentlib evaluate`: how good an agent is."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from typing import Annotated

import tyro

from agentlib.shell.flags import Best, EnvId, EnvKwargs, MaxSteps, Watched, progress_of, whole_numbers


@dataclass(frozen=True, kw_only=True)
class Evaluate(Watched):
    """Play whole episodes with an agent, and print its return with a 95% interval."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE|DIR|random|scripted|sb3:ZIP")]
    """The agent, or its run, such as runs/dqn-CartPole-v1-1; random actions; or the scripted expert."""
    env: EnvId = None
    """The environment's id; the default is the one that the agent was trained in."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False; the default are those of the training."""
    best: Best = False
    """Evaluate the best agent of the run in place of the last one."""
    episodes: int = 100
    """Number of episodes."""
    max_steps: MaxSteps = None
    """Cut an episode off after this number of steps; the default leaves its end to the environment."""
    seed: int = 0
    """Seed of the episodes: two agents evaluated with one seed meet the same ones."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Evaluate, prog="agentlib evaluate", args=arguments, registry=whole_numbers())
    import agentlib  # late, like what follows: a mistake on the command line need not wait for torch
    from agentlib.core.progress import showing
    from agentlib.envs.making import make_env
    from agentlib.shell.actors import actor_of, world_of

    agent = actor_of(options.file, options.best, options.env, options.env_kwargs, options.seed)
    env_id, kwargs = world_of(agent, options.env, options.env_kwargs)
    with closing(make_env(env_id, env_kwargs=kwargs, training=False)) as env, showing(progress_of(options.progress)):
        result = agentlib.evaluate(
            agent, env, episodes=options.episodes, seed=options.seed, max_steps=options.max_steps
        )
    given = ", ".join([env_id, *(f"{name}={value!r}" for name, value in kwargs.items())])
    print(result if options.env is not None else f"{given}: {result}")
    return 0
