"""`agentlib push`: a trained model on the Hugging Face Hub."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from agentlib.shell.flags import Best, EnvId, Watched, flag, progress_of, whole_numbers
from agentlib.shell.stopping import UsageError


@dataclass(frozen=True, kw_only=True)
class Push(Watched):
    """Publish an agent, model or backbone on the Hugging Face Hub, with a card; `hf auth login` says who you are."""

    file: Annotated[tyro.conf.Positional[Path], flag("FILE|DIR")]
    """The file, or the run, such as runs/dqn-CartPole-v1-1."""
    repo: Annotated[tyro.conf.Positional[str], flag("OWNER/NAME")]
    """The repository, such as me/dqn-CartPole-v1; it is made if there is none."""
    best: Best = False
    """Publish the best agent of the run in place of the last one."""
    env: EnvId = None
    """The environment that an agent is evaluated in for its card; the default is the one of its training."""
    episodes: int = 20
    """Number of episodes of this evaluation; 0 leaves it out."""
    film: bool = True
    """Film an episode of an agent, where its environment can be drawn."""
    private: tyro.conf.FlagCreatePairsOff[bool] = False
    """Make a new repository that you alone can see."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Push, prog="agentlib push", args=arguments, registry=whole_numbers())
    from agentlib.agent import Agent
    from agentlib.core.progress import showing
    from agentlib.runs.hub import described, push_file

    path = options.file.parent if options.best and options.file.is_file() else options.file
    if path.is_dir():
        names = ["best_agent"] if options.best else ["agent", "model", "backbone"]
        found = [file for name in names if (file := path / f"{name}.safetensors").is_file()]
        if not found:
            raise UsageError(f"there is no {' or '.join(names)}.safetensors in {path}")
        path = found[0]
    with showing(progress_of(options.progress)):
        if described(path)[0] != "agent":
            print(push_file(path, options.repo, options.private))
        else:
            played: Any = {"env": options.env, "episodes": options.episodes, "film": options.film}
            print(Agent.load(path).push_to_hub(options.repo, private=options.private, **played))
    return 0
