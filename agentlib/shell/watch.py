"""`agentlib watch`: an agent at work, in a window, or without a screen in a film."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentlib.shell.flags import Best, EnvId, EnvKwargs, MaxSteps, Watched, count, flag, progress_of, whole_numbers
from agentlib.shell.screens import draw_in_memory, has_screen


@dataclass(frozen=True, kw_only=True)
class Watch(Watched):
    """Watch an agent in a window; without a screen, its episodes are written into a film."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="FILE|DIR|random|scripted|sb3:ZIP")]
    """The agent, or its run, such as runs/dqn-CartPole-v1-1; random actions; or the scripted expert."""
    env: EnvId = None
    """The environment's id; the default is the one that the agent was trained in."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False; the default are those of the training."""
    best: Best = False
    """Watch the best agent of the run in place of the last one."""
    episodes: int = 1
    """Number of episodes."""
    max_steps: MaxSteps = None
    """Cut an episode off after this number of steps; the default leaves its end to the environment."""
    seed: int = 0
    """Seed of the episodes."""
    out: Annotated[str | None, flag("FILE")] = None
    """The film, where no window is opened; the default is watch.gif, or watch-2.gif where that exists already."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Watch, prog="agentlib watch", args=arguments, registry=whole_numbers())
    from agentlib.core.progress import showing
    from agentlib.envs.making import make_env
    from agentlib.experience.evaluation import evaluate
    from agentlib.experience.video import record
    from agentlib.shell.actors import actor_of, world_of

    actor = actor_of(options.file, options.best, options.env, options.env_kwargs, options.seed)
    env_id, kwargs = world_of(actor, options.env, options.env_kwargs)
    settings: Any = {"episodes": options.episodes, "seed": options.seed, "max_steps": options.max_steps}
    reason = _no_window(env_id, kwargs)
    if reason is None:
        with closing(make_env(env_id, env_kwargs=kwargs, render_mode="human", training=False)) as env:
            result = evaluate(actor, env, **settings)
    else:
        draw_in_memory()
        film = Path(options.out) if options.out else _free("watch.gif")
        with showing(progress_of(options.progress)):
            result = record(actor, env_id, film, env_kwargs=kwargs, **settings)
        print(f"{reason}: the film is in {film}")
    print(f"{count(options.episodes, 'episode')}, {count(int(result.lengths.sum()), 'step')}, return {result.mean:.4g}")
    return 0


def _free(name: str) -> Path:
    """The name, with the first number that no file has where there is one of that name."""
    path, number = Path(name), 1
    while path.exists():
        number += 1
        path = Path(name).with_stem(f"{Path(name).stem}-{number}")
    return path


def _no_window(env_id: str, kwargs: dict[str, Any]) -> str | None:
    """Why no window is opened; None where one is."""
    from agentlib.envs.making import make_env

    if not has_screen():
        return "there is no screen"
    with closing(make_env(env_id, env_kwargs=kwargs, training=False)) as env:
        return None if "human" in env.metadata.get("render_modes", ()) else f"{env_id} has no window of its own"
