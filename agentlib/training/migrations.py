"""Checkpoints of earlier versions, brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from agentlib.data.priorities import WIDTH, Priorities
from agentlib.data.ring import Ring

VERSION = 5
"""Of what is written now. Who changes what a checkpoint holds adds 1, and a function to `MIGRATIONS`."""

MOST_ENVS = 1 << 16


def _from_1(state: Any) -> Any:
    """Episodes under way became part of the state, and large columns of replay memory rings."""
    if not isinstance(state, dict) or set(state) != {"learner_class", "learner", "source", "extra"}:
        return state  # no checkpoint of a run
    source, extra = dict(state["source"]), dict(state["extra"])
    own = dict(source.get("_extra_state") or {})
    buffer = dict(source.get("buffer._extra_state") or {})
    if "columns" in buffer:
        counts = [int(count) for count in (buffer["frames"] if "frames" in buffer else buffer["count"])]
        frames = {name: column for name, column in buffer["columns"].items() if name.startswith("frame_")}
        buffer["columns"] = {name: column for name, column in buffer["columns"].items() if name not in frames}
        buffer["rings"] = {name: Ring(column, counts) for name, column in frames.items()}
        source["buffer._extra_state"] = buffer
    if "collector" in own:
        n, has_memory = buffer["layout"]["num_envs"], "period" in buffer["layout"]
        if n > MOST_ENVS:
            raise ValueError(f"it says that it has {n} environments")
        began = {"envs": {"steps": own["collector"]["steps"]}, "return": np.zeros(n), "length": np.zeros(n, np.int64)}
        own["collector"] = own["collector"] | began
        if has_memory:
            own["collector"]["actor"] = {"memory": [], "starts": np.zeros(n, np.bool_)}
    if "demonstrations" in own:
        own["counters"] = own["counters"] | {"left": False}
        own["student"] = {"generator": own["student"], "memory": [], "envs": 0} if own["student"] else {}
        own |= {"gate": {"temperature": 1.0}, "recorder": {}, "expert": {"state": None, "own": None}}
    if "best_weights" in extra:
        extra |= {"metrics": {}, "next_log": 0, "next_eval": 0, "engine": {}}
    return state | {"source": source | {"_extra_state": own}, "extra": extra}


def _from_2(state: Any) -> Any:
    """Priorities have narrower nodes."""
    source = state.get("source") if isinstance(state, dict) else None
    name = "buffer.priorities."
    if not isinstance(source, dict) or name + "entries" not in source:
        return state
    layout = source["buffer._extra_state"]["layout"]
    entries = torch.as_tensor(source[name + "entries"]).flatten()
    if layout["transitions"] > len(entries):  # memory is taken for what is there
        raise ValueError(f"it has {len(entries)} priorities, not {layout['transitions']}")
    priorities = Priorities(layout["transitions"])
    entries = entries[: layout["transitions"]]
    for index in torch.arange(len(entries)).split(1 << 14):
        priorities.set(index, entries[index])
    kept = {key: value for key, value in source.items() if not key.startswith(name)}
    return state | {"source": kept | {name + key: value for key, value in priorities.state_dict().items()}}


def _from_3(state: Any) -> Any:
    """The checksum covers the version's number, too."""
    return state


def _from_4(state: Any) -> Any:
    """Up to 32 nodes of priorities have no sums above them."""
    source = state.get("source") if isinstance(state, dict) else None
    if not isinstance(source, dict):
        return state
    name = "buffer.priorities.level_"
    levels = sorted((key for key in source if key.startswith(name)), key=lambda key: int(key.removeprefix(name)))
    needless = {above for level, above in pairwise(levels) if len(source[level]) <= WIDTH}
    return state | {"source": {key: value for key, value in source.items() if key not in needless}}


MIGRATIONS: dict[int, Callable[[Any], Any]] = {1: _from_1, 2: _from_2, 3: _from_3, 4: _from_4}
"""From each version to the next."""


def migrated(state: Any, version: int) -> Any:
    """A state as the present version has it."""
    for number in range(version, VERSION):
        state = MIGRATIONS[number](state)
    return state
