"""What the file of an agent holds: its policy, its spaces, and notes. Nothing of it is unpickled or run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gymnasium import spaces
from torch import nn

from agentlib.backbones import spec_of
from agentlib.backbones.files import read, rebuilt, with_suffix, write
from agentlib.core.names import one_line
from agentlib.core.spaces import space_from_json, space_to_json
from agentlib.policies import POLICIES
from agentlib.policies.acting import check_fit

FILE_KIND, FILE_VERSION = "agentlib agent", 1
Contents = tuple[nn.Module, spaces.Space[Any], spaces.Space[Any], float, dict[str, Any]]
"""The policy, the spaces of observations and actions, the exploration rate, and notes."""


def write_agent(path: str | Path, *contents: Any) -> Path:
    """Writes `Contents` to one file, whole or not at all; returns its path."""
    policy, observation_space, action_space, exploration_rate, about = contents
    description = {
        "file": FILE_KIND,
        "version": FILE_VERSION,
        "policy": spec_of(policy),
        "observation_space": space_to_json(observation_space),
        "action_space": space_to_json(action_space),
        "exploration_rate": exploration_rate,
        "about": about,
    }
    return write(path, policy, description)


def agent_file(path: Path) -> Path:
    """The file at a path: itself, that of the folder of a run, or a name without its suffix, as `write_agent` takes it.

    Raises:
        FileNotFoundError: there is none.
    """
    if path.is_file():
        return path
    found = [other for other in (path / "agent.safetensors", with_suffix(path)) if other.is_file()]
    if not found:
        made = [path / f"{kind}.safetensors" for kind in ("backbone", "model")]
        hint = next((f"; the run made a {one.stem}, {one}, and no agent" for one in made if one.is_file()), "")
        raise FileNotFoundError(f"no agent file at {path}{hint}")
    return found[0]


def read_agent(path: Path, classes: Mapping[str, Callable[..., nn.Module]] | None = None) -> Contents:
    """What a file holds that `write_agent` wrote; files that anybody may have written are refused or understood.

    Args:
        path: the file.
        classes: network classes of your own by name, or functions that build such networks.

    Raises:
        ValueError: the file is damaged, is no agent, is of a newer version, or holds a policy for other spaces.
    """
    description, tensors = read(path, FILE_KIND, FILE_VERSION)
    missing = {"policy", "observation_space", "action_space", "exploration_rate", "about"} - set(description)
    if missing:
        raise ValueError(f"{path} is damaged: it does not give {', '.join(sorted(missing))}")
    try:
        observation_space = space_from_json(description["observation_space"])
        action_space = space_from_json(description["action_space"])
        exploration_rate, about = float(description["exploration_rate"]), dict(description["about"])
        if not 0.0 <= exploration_rate <= 1.0:
            raise ValueError(f"exploration_rate is {exploration_rate}, and no share")
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"{path} is damaged: {one_line(error)}") from None
    check = None if classes else partial(check_fit, observation_space=observation_space, action_space=action_space)
    policy = rebuilt(path, description["policy"], tensors, {**POLICIES, **(classes or {})}, check)
    return policy, observation_space, action_space, exploration_rate, about
