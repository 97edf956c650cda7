"""A bonus for unusual observations, by a model of their distribution that learns as it goes (Bellemare et al. 2016).

    N(x) = rho (1 - rho') / (rho' - rho),     reward + scale / sqrt(N(x) + 0.01)

rho is the model's probability of x, and rho' its probability after x was learned once more (arXiv:1606.01868). Of a
model that counts whole observations N is the number of times that x was seen; of any other it is a pseudo-count, which
also grows by observations that are like x. We differ from the paper in the model, a product over the parts of x.
"""

from __future__ import annotations

import math
from typing import Any, Protocol

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.numbers import whole
from agentlib.envs.wrappers import Step

PRIOR = 0.5
"""How often each value of a part counts as seen before the first one (Krichevsky & Trofimov 1981)."""


class Density(Protocol):
    """A model of observations that learns one after the other."""

    def log_probability(self, observation: Any) -> float:
        """The log probability of an observation."""

    def learn(self, observation: Any) -> None:
        """Takes in one observation."""


class Frequencies:
    """p(x) = prod_i p(x_i), each by the frequencies of the values of that part so far.

    Args:
        space: `Discrete` (one part), `MultiDiscrete`, `MultiBinary`, or a bounded `Box`, its numbers put into bins.
        bins: of each number of a `Box`.

    Raises:
        ValueError: another space, or a `Box` without bounds.
    """

    def __init__(self, space: spaces.Space[Any], bins: int = 8) -> None:
        self.space, bins = space, whole("bins", bins, 2)
        if isinstance(space, spaces.Box):
            if not space.is_bounded():
                raise ValueError(
                    "frequencies need bounds for each number, and the Box has none: give a model of your own"
                )
            low, high = space.low.astype(np.float64).ravel(), space.high.astype(np.float64).ravel()
            self._low, self._high, self._width = low, high, np.maximum(high - low, 1e-12) / bins
            sizes = np.full(len(low), bins)
        elif isinstance(space, spaces.Discrete):
            sizes = np.array([space.n])
        elif isinstance(space, spaces.MultiDiscrete):
            sizes = space.nvec.ravel()
        elif isinstance(space, spaces.MultiBinary):
            sizes = np.full(math.prod(space.shape), 2)
        else:
            raise ValueError(f"frequencies are of Discrete, MultiDiscrete, MultiBinary or Box, not of {space}")
        self.sizes, self.seen = sizes.astype(np.int64), 0
        self.counts = np.zeros((len(sizes), int(sizes.max())))
        self._parts = np.arange(len(sizes))

    def log_probability(self, observation: Any) -> float:
        counts = self.counts[self._parts, self._values(observation)]
        return float(np.log((counts + PRIOR) / (self.seen + PRIOR * self.sizes)).sum())

    def learn(self, observation: Any) -> None:
        self.counts[self._parts, self._values(observation)] += 1
        self.seen += 1

    def _values(self, observation: Any) -> NDArray[np.int64]:
        values = np.asarray(observation).ravel()
        if isinstance(self.space, spaces.Box):
            inside = np.clip(values, self._low, self._high)  # others may be too large for a whole number
            values = ((inside - self._low) / self._width).astype(np.int64)
        elif not isinstance(self.space, spaces.MultiBinary):
            values = values - np.ravel(self.space.start)  # type: ignore[attr-defined]
        return np.clip(values.astype(np.int64), 0, self.sizes - 1)


def pseudo_count(before: float, after: float) -> float:
    """N by the log probabilities of an observation before and after it was learned; infinite where nothing was learned.

    N = (1 - rho') / (rho' / rho - 1), which also holds for a rho too small to be written down.
    """
    gain = after - before
    return -math.expm1(after) / math.expm1(min(gain, 700.0)) if gain > 0.0 else math.inf


class NoveltyBonus(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Adds a bonus to each reward, the larger the fewer observations like the new one there were.

    The bonus alone is `info["novelty_bonus"]`. Returns in this wrapper have the bonus in them: evaluate in the
    environment itself. Each copy in a vector environment has a model of its own. A run that is resumed has new
    environments, and new models with them.

    Args:
        env: the environment.
        scale: of the bonus of an observation that was seen once.
        model: of observations; by default their `Frequencies`.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], scale: float = 0.1, model: Density | None = None) -> None:
        super().__init__(env)
        self.scale = float(scale)
        self.model: Density = Frequencies(env.observation_space) if model is None else model

    def step(self, action: Any) -> Step:
        observation, reward, terminated, truncated, info = self.env.step(action)
        before = self.model.log_probability(observation)
        self.model.learn(observation)
        count = pseudo_count(before, self.model.log_probability(observation))
        bonus = self.scale / math.sqrt(count + 0.01)
        return observation, float(reward) + bonus, terminated, truncated, {**info, "novelty_bonus": bonus}
