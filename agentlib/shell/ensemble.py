"""`agentlib ensemble`: several agents as one, whose members decide together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from agentlib.shell.flags import Options, flag
from agentlib.shell.stopping import UsageError

if TYPE_CHECKING:
    from agentlib.agent import Agent


@dataclass(frozen=True, kw_only=True)
class Ensemble(Options):
    """Put agents together to one that averages them, or lets them vote, and write it to a file."""

    files: Annotated[
        tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="DIR|FILE ...", help_behavior_hint="")
    ]
    """The agents, such as those of several seeds: their files, or the folders of their runs."""
    out: Annotated[Path, flag("FILE")] = Path("ensemble.safetensors")
    """Write the ensemble into this file."""
    vote: Literal["mean", "majority"] = "mean"
    """Average probabilities, action values or numbers; or take the option that most members choose."""


def run(arguments: list[str]) -> int:
    """Runs the command."""
    options = tyro.cli(Ensemble, prog="agentlib ensemble", args=arguments)
    from agentlib.agent import Agent

    if len(options.files) < 2:
        raise UsageError("an ensemble has two agents or more: agentlib ensemble FILE FILE --out FILE")
    agents = [Agent.load(path) for path in options.files]
    file = together(agents, [str(path) for path in options.files], options.vote).save(options.out)
    print(f"{file}: {len(agents)} agents that decide by {options.vote}")
    return 0


def together(agents: Sequence[Agent], names: Sequence[str], vote: Literal["mean", "majority"] = "mean") -> Agent:
    """One agent whose policy is the ensemble of the agents' policies; it has the notes that all of them have.

    Raises:
        ValueError: other observations, actions or classes than the first agent has; or what `EnsemblePolicy` raises.
    """
    from agentlib.agent import Agent
    from agentlib.policies import EnsemblePolicy

    first = agents[0]
    for name, agent in zip(names, agents, strict=True):
        pairs = {
            "observations": (agent.observation_space, first.observation_space),
            "actions": (agent.action_space, first.action_space),
            "classes": (agent.about.get("classes"), first.about.get("classes")),
        }
        for part, (its, others) in pairs.items():
            if its != others:
                raise ValueError(
                    f"an ensemble is for one problem: {name} has the {part} {its}, {names[0]} has {others}"
                )
    policy = EnsemblePolicy([agent.policy for agent in agents], vote)
    shared = {key: note for key, note in first.about.items() if all(one.about.get(key) == note for one in agents)}
    about = shared | {"members": len(agents), "vote": vote}
    rate = min(agent.exploration_rate for agent in agents)
    return Agent(policy, first.observation_space, first.action_space, exploration_rate=rate, about=about)
