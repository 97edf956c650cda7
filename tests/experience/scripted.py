"""A scripted environment that writes down what it does, and the plain list of transitions that its record says.

Nothing here uses agentlib: it is the other side of the comparison.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces

Script = list[tuple[int, str]]
"""(length, ending) of the episodes, from the start again when all are played."""

ENDINGS = {"terminated": (True, False), "truncated": (False, True), "both": (True, True)}

VECTOR = spaces.Box(0, 255, (3,), np.float32)
LEAVES: dict[str, spaces.Space] = {
    "vector": VECTOR,
    "double": spaces.Box(-np.inf, np.inf, (3,), np.float64),
    "image": spaces.Box(0, 255, (1, 2, 3), np.uint8),
    "discrete": spaces.Discrete(8 * 64 * 16),
    "bits": spaces.MultiBinary(13),
    "grid": spaces.MultiBinary((2, 13)),
    "counts": spaces.MultiDiscrete([8, 64, 16]),
}


def encode(space: spaces.Space, number: int, episode: int, t: int) -> Any:
    """An observation that says in each of its leaves which environment, episode and step it is of."""
    if isinstance(space, spaces.Dict):
        return {key: encode(part, number, episode, t) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(encode(part, number, episode, t) for part in space.spaces)
    code = (number * 64 + episode) * 16 + t
    if isinstance(space, spaces.Discrete):
        return np.int64(code)
    if isinstance(space, spaces.MultiBinary):
        return np.resize(np.array([code >> bit & 1 for bit in range(13)], space.dtype), space.shape)
    assert isinstance(space, spaces.Box | spaces.MultiDiscrete)
    return np.resize(np.array([number, episode, t], space.dtype), space.shape)


class Scripted(gymnasium.Env):
    """Plays `script`, whatever the actions; `log` holds all resets and steps in order."""

    def __init__(
        self, number: int, script: Script, space: spaces.Space = VECTOR, action_space: spaces.Space | None = None
    ) -> None:
        self.observation_space = space
        self.action_space = spaces.Discrete(5) if action_space is None else action_space
        self.number, self.script = number, script
        self.log: list[Event] = []
        self.episode, self.t = -1, 0

    def reset(self, *, seed=None, options=None):
        self.episode, self.t = self.episode + 1, 0
        observation = encode(self.observation_space, self.number, self.episode, 0)
        self.log.append(Event(observation))
        return observation, {}

    def step(self, action):
        length, ending = self.script[self.episode % len(self.script)]
        self.t += 1
        assert self.t <= length, "stepped beyond the end of an episode"
        observation = encode(self.observation_space, self.number, self.episode, self.t)
        reward = float((7 * self.episode + 3 * self.t + self.number) % 11 - 5)
        terminated, truncated = ENDINGS[ending] if self.t == length else (False, False)
        self.log.append(Event(observation, np.copy(action), reward, terminated, truncated))
        return observation, reward, terminated, truncated, {}


class Event(NamedTuple):
    """A reset (no action) or a step of a scripted environment."""

    observation: Any
    action: Any = None
    reward: float = 0.0
    terminated: bool = False
    truncated: bool = False


class Fact(NamedTuple):
    """One transition, as the record says."""

    frames: list[Any]
    """The last frames seen before the action, the newest last."""
    action: Any
    reward: float
    next_frames: list[Any]
    terminated: bool
    last: bool
    """Nothing follows in this episode: it ended, or was left."""
    oldest_frame: int
    """Number of frames[0] among all frames of this environment, were they written in order."""


def facts_of(log: list[Event], stack: int, padding: str) -> tuple[list[Fact], int]:
    """The transitions of one environment, and how many frames have been written: `stack` per reset, 1 per step."""
    facts: list[Fact] = []
    frames: list[Any] = []
    written = 0
    for event in log:
        if event.action is None:
            if facts:
                facts[-1] = facts[-1]._replace(last=True)
            pad = event.observation if padding == "reset" else zeros(event.observation)
            frames = [pad] * (stack - 1) + [event.observation]
            written += stack
        else:
            following = [*frames[1:], event.observation]
            last = event.terminated or event.truncated
            facts.append(Fact(frames, event.action, event.reward, following, event.terminated, last, written - stack))
            frames = following
            written += 1
    return facts, written


class Outcome(NamedTuple):
    """What n steps from a transition lead to."""

    action: Any
    reward: float
    next_frames: list[Any]
    terminated: bool
    discount: float


def outcome(facts: list[Fact], start: int, n_steps: int, gamma: float) -> Outcome:
    """The n-step return that begins with `facts[start]`, spelled out."""
    total, discount = 0.0, 1.0
    for fact in facts[start : start + n_steps]:
        total += discount * fact.reward
        discount *= gamma
        if fact.last:
            break
    return Outcome(facts[start].action, total, fact.next_frames, fact.terminated, discount)


def leaves(tree: Any) -> list[np.ndarray]:
    """The arrays of a tree of dicts and tuples (keys in alphabetical order)."""
    if isinstance(tree, dict):
        return [leaf for key in sorted(tree) for leaf in leaves(tree[key])]
    if isinstance(tree, tuple):
        return [leaf for part in tree for leaf in leaves(part)]
    return [np.asarray(tree)]


def zeros(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {key: zeros(part) for key, part in tree.items()}
    if isinstance(tree, tuple):
        return tuple(zeros(part) for part in tree)
    return np.zeros_like(tree)


def stacked(frames: list[Any], stack: int | None) -> list[np.ndarray]:
    """The leaves of an observation: of the newest frame, or of all of them along a first axis."""
    if stack is None:
        return leaves(frames[-1])
    return [np.stack(parts) for parts in zip(*map(leaves, frames), strict=True)]


def key(parts: list[np.ndarray]) -> bytes:
    """The same for equal observations, whatever their dtypes; another for any other."""
    return b"".join(part.astype(np.float64).tobytes() for part in parts)
