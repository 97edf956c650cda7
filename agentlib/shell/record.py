"""`agentlib record`: videos, and demonstrations by an agent, a scripted expert, or a person at the keyboard."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from agentlib.shell.flags import (
    Best,
    EnvId,
    EnvKwargs,
    MaxSteps,
    Watched,
    count,
    flag,
    keywords,
    progress_of,
    whole_numbers,
)
from agentlib.shell.screens import draw_in_memory
from agentlib.shell.stopping import UsageError

if TYPE_CHECKING:
    from agentlib.envs.playing import Screen
    from agentlib.experience import Demonstrations

MINARI = "minari:"


@dataclass(frozen=True, kw_only=True)
class Record(Watched):
    """Record episodes: as a video (.gif, .mp4), or as demonstrations to learn from (.safetensors, minari:ID)."""

    files: Annotated[tyro.conf.Positional[tuple[str, ...]], flag("FILE|DIR|random|scripted|sb3:ZIP ...")] = ()
    """The actor: an agent, or its run, such as runs/dqn-CartPole-v1-1; random actions; or the scripted expert. Several
    are filmed side by side, one episode of each."""
    best: Best = False
    """Take the best agent of the run in place of the last one."""
    play: tyro.conf.FlagCreatePairsOff[bool] = False
    """Play yourself, turn by turn at this terminal; the episodes so far are kept when you stop."""
    window: tyro.conf.FlagCreatePairsOff[bool] = False
    """With --play: play in a window, which does not wait for you."""
    keys: Annotated[tuple[str, ...], flag("KEY=ACTION ...")] = ()
    """With --play: the actions of keys, such as a=0 d=1; the default is the environment's own, or digits."""
    env: EnvId = None
    """The environment's id; the default is the one that the agent was trained in."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False; the default are those of the training."""
    episodes: int = 1
    """Number of episodes; a video shows those of `agentlib evaluate` with the same seed."""
    max_steps: MaxSteps = None
    """Cut an episode off after this number of steps; the default leaves its end to the environment."""
    seed: int = 0
    """Seed of the episodes."""
    noise: float = 0.0
    """Share of random actions in demonstrations in place of the actor's, while the labels stay the actor's."""
    width: int = 320
    """Width of each picture in a video of several actors, in pixels."""
    out: Annotated[str | None, flag("FILE")] = None
    """The file to write; the default is a .gif beside the agent, grid.gif for several, and demos.safetensors for your
    own play."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    print(record(tyro.cli(Record, prog="agentlib record", args=arguments, registry=whole_numbers())))
    return 0


def record(options: Record, screen: Screen | None = None) -> str:
    """Records what the options ask for; returns a line about it.

    Args:
        options: of the command.
        screen: where a person plays, in place of this terminal or a window.

    Raises:
        UsageError: nobody acts, or two do.
    """
    if options.play == bool(options.files):
        raise UsageError("say who acts: agentlib record FILE ..., or agentlib record --play ...")
    if (options.window or options.keys) and not options.play:
        raise UsageError("--window and --keys go with --play")
    out = options.out or _usual_name(options)
    if len(options.files) > 1:
        return _several(options, out)
    is_video = not out.startswith(MINARI) and not out.endswith(".safetensors")
    if options.play and is_video:
        raise UsageError("your own play is written as .safetensors, or to minari:ID")
    if not is_video and not out.startswith(MINARI) and Path(out).exists():
        raise UsageError(f"{out} exists already: choose another name with --out")
    return _written(_played(options, screen), out) if options.play else _acted(options, out, is_video)


def _usual_name(options: Record) -> str:
    if options.play:
        return "demos.safetensors"
    if len(options.files) > 1:
        return "grid.gif"
    path = Path(options.files[0])
    if path.is_dir():
        return str(path / ("best_agent.gif" if options.best else "agent.gif"))
    if options.best:
        return str(path.parent / "best_agent.gif")
    return str(path.with_suffix(".gif")) if path.exists() or path.suffix else f"{path.name}.safetensors"


def _acted(options: Record, out: str, is_video: bool) -> str:
    """A video or demonstrations of something that acts by itself."""
    from agentlib.core.progress import showing
    from agentlib.experience import record_episodes
    from agentlib.experience.video import record as filmed
    from agentlib.shell.actors import actor_of, world_of

    actor = actor_of(options.files[0], options.best, options.env, options.env_kwargs, options.seed)
    env_id, kwargs = world_of(actor, options.env, options.env_kwargs)
    common: Any = {"env_kwargs": kwargs, "episodes": options.episodes, "seed": options.seed}
    common["max_steps"] = options.max_steps
    with showing(progress_of(options.progress)):
        if not is_video:
            return _written(record_episodes(actor, env_id, noise=options.noise, **common), out)
        draw_in_memory()
        result = filmed(actor, env_id, out, **common)
    sizes = f"{count(options.episodes, 'episode')}, {count(int(result.lengths.sum()), 'step')}"
    return f"{out}: {sizes}, mean return {result.mean:.4g}"


def _several(options: Record, out: str) -> str:
    """One video of several actors, each in the environment that it was trained in unless one is given."""
    from agentlib.experience.video import record_grid
    from agentlib.shell.actors import actor_of, world_of

    if options.episodes != 1 or options.noise:
        raise UsageError("several actors are filmed for one episode each, without --episodes and --noise")
    settings = options.env, options.env_kwargs
    actors = [actor_of(name, options.best, *settings, options.seed) for name in options.files]
    worlds, kwargs = zip(*(world_of(actor, *settings) for actor in actors), strict=True)
    draw_in_memory()
    returns = record_grid(
        actors, worlds, out, env_kwargs=kwargs, seed=options.seed, max_steps=options.max_steps, width=options.width
    )
    found = (f"{name} {value:.4g}" for name, value in zip(options.files, returns, strict=True))
    return f"{out}: {count(len(actors), 'agent')}, returns: {', '.join(found)}"


def _played(options: Record, screen: Screen | None) -> Demonstrations:
    from agentlib.envs.making import make_env
    from agentlib.envs.playing import Person, Terminal, Window, render_mode_for
    from agentlib.experience import record_episodes

    if options.env is None:
        raise UsageError("say where you play: --env ID, such as --env CartPole-v1")
    kwargs = keywords(options.env_kwargs)
    mode = "rgb_array" if options.window else render_mode_for(options.env, kwargs)
    person = Person(_keys(options.keys) or None, screen or (Window() if options.window else Terminal()))
    with closing(make_env(options.env, env_kwargs=kwargs, render_mode=mode, training=False)) as env:
        return record_episodes(person, env, options.episodes, seed=options.seed, max_steps=options.max_steps)


def _keys(pairs: Sequence[str]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        key, equals, text = pair.rpartition("=")
        if not equals or not key:
            raise UsageError(f"--keys takes KEY=ACTION, such as a=0, not {pair!r}")
        try:
            found[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            raise UsageError(f"--keys takes actions as numbers or lists of numbers, not {text!r}") from None
    return found


def _written(demonstrations: Demonstrations, out: str) -> str:
    if not len(demonstrations):
        return "nothing was played, and nothing was written"
    if out.startswith(MINARI):
        demonstrations.to_minari(out.removeprefix(MINARI))
    else:
        out = str(demonstrations.save(out))
    sizes = f"{count(len(demonstrations), 'episode')}, {count(demonstrations.steps, 'step')}"
    summary = f"{out}: {sizes}, mean return {demonstrations.returns.mean():.4g}"
    return f"{summary}\nTo learn from it: agentlib train bc --demos {out} --env {demonstrations.env_id}"
