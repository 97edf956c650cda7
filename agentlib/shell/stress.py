"""`agentlib stress`: how good a classifier or an agent is on corrupted observations."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from agentlib.shell.flags import EnvId, EnvKwargs, Watched, flag, progress_of, whole_numbers
from agentlib.shell.stopping import UsageError


@dataclass(frozen=True, kw_only=True)
class Stress(Watched):
    """Corrupt images, or the sensors of an agent, and print accuracies, or returns, with their 95% intervals."""

    file: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="DIR|FILE")]
    """The run's folder, such as runs/classifier-digits-1, or the agent's file."""
    data: Annotated[str | None, flag("NAME|PATH")] = None
    """Labelled images for a classifier; it is judged on their test part."""
    env: EnvId = None
    """The environment of an agent; the default is the one that it was trained in."""
    env_kwargs: EnvKwargs = ()
    """Arguments of the environment, such as is_slippery=False; the default are those of the training."""
    examples: int = 2_000
    """Largest number of images."""
    episodes: int = 20
    """Number of episodes for each kind of fault and each severity."""
    severities: Annotated[tuple[int, ...], tyro.conf.arg(metavar="N ...")] = (1, 2, 3, 4, 5)
    """Severities, from 1 to 5, of which each kind has the mean."""
    seed: int = 0
    """Seed of the episodes and the corruptions; the test part of data is that of the training."""
    out: Annotated[Path | None, flag("FILE")] = None
    """The picture, as .png; the default is stress.png beside the agent."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Stress, prog="agentlib stress", args=arguments, registry=whole_numbers())
    if options.data is not None and options.env is not None:
        raise UsageError("--data is for classifiers, --env for agents: give one of them")
    if options.out is not None and options.out.suffix != ".png":
        raise UsageError(f"the picture is written as .png, not as {options.out.name}")
    from contextlib import closing

    from agentlib.agent import Agent
    from agentlib.core.names import shown
    from agentlib.core.progress import showing
    from agentlib.data import parts
    from agentlib.envs.making import make_env
    from agentlib.learners.robustness.stress import stress_agent, stress_classifier
    from agentlib.plots import charts, pictures
    from agentlib.shell.actors import world_of

    agent = Agent.load(options.file)
    with showing(progress_of(options.progress)):
        if options.data is not None:
            seed = agent.about.get("seed", 0)  # of the training, which saw the other parts
            test, label = parts(options.data, seed, predict="classes").test, "Accuracy"
            if (names := agent.about.get("classes")) not in (None, list(test.classes)):
                raise UsageError(f"the model tells {shown(names)} apart, and the data has {shown(list(test.classes))}")
            x, y = test.x[: options.examples].to(agent.device), test.targets[: options.examples].to(agent.device)
            found = stress_classifier(agent.policy, x, y, severities=options.severities, seed=options.seed)
        else:
            env_id, kwargs = world_of(agent, options.env, options.env_kwargs)
            label, episodes = "Return", options.episodes
            with closing(make_env(env_id, env_kwargs=kwargs, training=False)) as env:
                found = stress_agent(agent, env, episodes=episodes, severities=options.severities, seed=options.seed)
    for name, value in found.items():
        print(f"{name:<18}{value}")
    place = Path(options.file)
    out = options.out or (place if place.is_dir() else place.parent) / "stress.png"
    bars = {name: value.value for name, value in found.items()}
    print(pictures.save(charts.bars(bars, f"{label} on corrupted observations", label.lower(), ["clean"]), out))
    return 0
