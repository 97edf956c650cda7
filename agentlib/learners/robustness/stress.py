"""How well classifiers and agents do on corrupted observations.

Images are corrupted in 15 ways (`agentlib.data.corruptions`), other observations by five faults of sensors, in five
severities s each, in units of the deviation of each number in episodes without a fault:

| fault | the observation x becomes |
|---|---|
| `noise` | x + 0.2 s n,  n ~ N(0, 1) at each step |
| `offset` | x + 0.2 s u,  u = -1 or 1, the same in all steps |
| `gain` | mean + (1 + 0.15 s u) (x - mean) |
| `dropout` | the mean, with probability 0.1 s, each number by itself |
| `delay` | x of s steps ago |
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.backbones.image_choice import is_image, is_picture, layout_of
from agentlib.backbones.images import ImageLayout
from agentlib.core.names import close_matches, shown
from agentlib.core.numbers import whole
from agentlib.core.progress import watched
from agentlib.data.corruptions import CORRUPTIONS, corrupt
from agentlib.experience.evaluation import evaluate
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.intervals import Estimate, t_interval

FAULTS = ("noise", "offset", "gain", "dropout", "delay")
"""Of sensors, for observations that are no images."""
SEVERITIES = (1, 2, 3, 4, 5)


def stress_classifier(
    policy: nn.Module, x: Tensor, y: Tensor, *, severities: Iterable[int] = SEVERITIES, seed: int = 0
) -> dict[str, Estimate]:
    """The accuracy on images as they are ("clean"), by corruption, and over all corruptions ("mean").

    The interval is Student's, over the images; each has its mean over the severities.

    Args:
        policy: with logits, such as a classifier's agent has it.
        x: images `(N, C, H, W)` between 0 and 1.
        y: labels `(N,)`.
        severities: of each corruption, 1 to 5.
        seed: of the corruptions.

    Raises:
        ValueError: no images, or another severity.
    """
    severities = tuple(severities)

    def right(images: Tensor) -> Tensor:
        return torch.cat([logits_of(policy, part).argmax(1) for part in images.split(1_000)]) == y

    hits = {"clean": right(x).double()}
    for kind in watched(CORRUPTIONS, "stressing"):
        hits[kind] = torch.stack([right(corrupt(x, kind, severity, seed)).double() for severity in severities]).mean(0)
    hits["mean"] = torch.stack([hits[kind] for kind in CORRUPTIONS]).mean(0)
    return {name: _estimate(values.cpu().numpy()) for name, values in hits.items()}


def stress_agent(
    agent: Any, env: Any = None, *, episodes: int = 20, severities: Iterable[int] = SEVERITIES, seed: int = 0
) -> dict[str, Estimate]:
    """The return of an agent without a fault ("clean"), by fault or corruption, and over all of these ("mean").

    Each kind is played for `episodes` episodes in each severity, the same ones for all; an interval is Student's, over
    episodes.

    Args:
        agent: anything with `predict` and `observation_space`.
        env: as `agentlib.evaluate` takes it.
        episodes: of each kind and severity.
        severities: 1 to 5.
        seed: of the episodes and the faults.

    Raises:
        TypeError: observations that are no array of numbers.
        ValueError: another severity.
    """
    usual, severities = Faulty(agent, seed=seed), tuple(severities)
    returns = {"clean": evaluate(usual, env, episodes=episodes, seed=seed).returns}
    for kind in watched(usual.kinds, "stressing"):
        common = {"seed": seed, "mean": usual.mean, "deviation": usual.deviation}
        faulty = [Faulty(agent, kind, severity, **common) for severity in severities]
        returns[kind] = np.mean([evaluate(one, env, episodes=episodes, seed=seed).returns for one in faulty], 0)
    returns["mean"] = np.mean([returns[kind] for kind in usual.kinds], 0)
    return {name: _estimate(values) for name, values in returns.items()}


def _estimate(values: np.ndarray[Any, Any]) -> Estimate:
    return Estimate(float(values.mean()), t_interval(values))


class Faulty:
    """An agent whose observations are spoiled before it sees them, one at a time; for `agentlib.evaluate`.

    Without a `kind` it sees them as they are, and `mean` and `deviation` are those of all that it saw.

    Args:
        agent: anything with `predict` and an `observation_space` of numbers.
        kind: a name of `FAULTS`, or for images of `CORRUPTIONS`.
        severity: 1 to 5.
        seed: of the fault.
        mean: of each number of an observation.
        deviation: of each number; the unit of faults.

    Raises:
        TypeError: observations that are no array of numbers.
        ValueError: an unknown kind, or another severity.
    """

    def __init__(
        self,
        agent: Any,
        kind: str | None = None,
        severity: int = 3,
        *,
        seed: int = 0,
        mean: Any = 0.0,
        deviation: Any = 1.0,
    ) -> None:
        space = agent.observation_space
        if not isinstance(space, spaces.Box):
            raise TypeError(f"faults are of arrays of numbers, not of observations in {space}")
        self.layout = ImageLayout(*layout_of(space.shape)) if is_image(space) or is_picture(space) else None
        self.kinds: tuple[str, ...] = FAULTS if self.layout is None else tuple(CORRUPTIONS)
        if kind is not None and kind not in self.kinds:
            raise ValueError(f"unknown fault {shown(kind)}{close_matches(kind, self.kinds)}")
        if severity not in SEVERITIES:
            raise ValueError(f"severity is a whole number from 1 to 5, not {severity!r}")
        self.agent, self.policy, self.kind, self.severity = agent, getattr(agent, "policy", None), kind, severity
        self.about, self.takes_masks = getattr(agent, "about", {}), getattr(agent, "takes_masks", False)
        self.observation_space, self.action_space = space, agent.action_space
        self.generator = np.random.default_rng(whole("seed", seed))
        self.signs = self.generator.choice([-1.0, 1.0], space.shape)
        self.before: deque[Any] = deque(maxlen=severity + 1)
        self._mean, self._deviation = mean, deviation
        self.seen: list[Any] = []

    @property
    def mean(self) -> Any:
        """Of each number of the observations that were seen without a fault."""
        return np.mean(self.seen, 0) if self.seen else self._mean

    @property
    def deviation(self) -> Any:
        """The same of their standard deviations."""
        return np.std(self.seen, 0) if self.seen else self._deviation

    def predict(
        self, observation: Any, state: Any = None, episode_start: Any = None, deterministic: bool = False, **more: Any
    ) -> tuple[Any, Any]:
        """The agent's action for the spoiled observation."""
        if episode_start is not None and np.any(episode_start):
            self.before.clear()
        seen = self.spoiled(np.asarray(observation))
        found: tuple[Any, Any] = self.agent.predict(seen, state, episode_start, deterministic, **more)
        return found

    def spoiled(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """One observation as the agent gets it."""
        if self.kind is None:
            if self.layout is None:
                self.seen.append(x.astype(np.float64))
            return x
        if self.layout is not None:
            return self._corrupted(x)
        self.before.append(x)
        size, deviation, mean = self.severity, self._deviation, self._mean
        found: Any = self.before[0]  # of "delay"
        if self.kind == "noise":
            found = x + 0.2 * size * deviation * self.generator.normal(size=x.shape)
        elif self.kind == "offset":
            found = x + 0.2 * size * deviation * self.signs
        elif self.kind == "gain":
            found = mean + (1.0 + 0.15 * size * self.signs) * (x - mean)
        elif self.kind == "dropout":
            found = np.where(self.generator.random(x.shape) < 0.1 * size, mean, x)
        within: np.ndarray[Any, Any] = np.clip(found, self.observation_space.low, self.observation_space.high)
        return within.astype(x.dtype)

    def _corrupted(self, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Frames of a stack are corrupted alike, as those of one camera."""
        layout: Any = self.layout
        images = layout(torch.from_numpy(x.copy())[None])  # (1, C, H, W)
        found = corrupt(images, str(self.kind), self.severity, int(self.generator.integers(2**31)))
        if layout.channels_last and layout.channels > 1:
            found = found.unflatten(1, (*layout.shape[:-3], layout.shape[-1])).movedim(-3, -1)
        array: np.ndarray[Any, Any] = found.reshape(x.shape).numpy()
        return (255.0 * array).round().astype(np.uint8) if x.dtype == np.uint8 else array.astype(x.dtype)
