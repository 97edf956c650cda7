"""What a training run looks like from its environment: the same thin wrapper and the same clock for every library."""

from __future__ import annotations

from time import perf_counter
from typing import Any, NamedTuple, SupportsFloat

import gymnasium

CHECK_EPISODES = 20
"""Episodes of an evaluation during training, in runs that end at a return."""
VIDEO = "video.gif"
"""The video, in the folder of a comparison."""


class Check(NamedTuple):
    """One evaluation during training."""

    steps: int
    """Environment steps of training before it."""
    seconds: float
    """Since the start of the run, without the time of evaluations."""
    mean: float
    """Return, over its episodes."""


class TrainingLog:
    """Steps, episode returns, evaluations and three moments of one training run; its clock starts when it is made.

    The clock stands still during evaluations.

    Args:
        budget: the environment steps that the run was asked for; half of them count as warm-up.
    """

    def __init__(self, budget: int) -> None:
        self.steps = 0
        self.episode_steps: list[int] = []
        """Environment steps of the run at the end of each episode."""
        self.episode_returns: list[float] = []
        """The return of each episode, exploration included."""
        self.checks: list[Check] = []
        self.evaluating = 0.0
        """Seconds of evaluations so far."""
        self._half = max(1, budget // 2)
        self._began = perf_counter()
        self._first = self._halfway = self._ended = 0.0

    def stepping(self) -> None:
        """Note that a step is about to be made."""
        if self.steps == 0:
            self._first = perf_counter()
        self.steps += 1
        if self.steps == self._half:
            self._halfway = self._now()

    def checked(self, mean: float) -> None:
        """Note the mean return of an evaluation that has just ended."""
        self.checks.append(Check(self.steps, self._now() - self._began, mean))

    def _now(self) -> float:
        return perf_counter() - self.evaluating

    def episode_ended(self, total: float) -> None:
        """Note the return of an episode that has just ended."""
        self.episode_steps.append(self.steps)
        self.episode_returns.append(total)

    def finish(self) -> None:
        """Stop the clock.

        Raises:
            RuntimeError: if the run made less than half of its steps, so that there is nothing to measure.
        """
        import torch

        if torch.cuda.is_initialized():
            torch.cuda.synchronize()  # work that is still queued belongs to the run
        self._ended = self._now()
        if self.steps < self._half:
            raise RuntimeError(f"the training ended after {self.steps} environment steps, before half of its budget")

    @property
    def seconds(self) -> float:
        """The whole run."""
        return self._ended - self._began

    @property
    def startup_seconds(self) -> float:
        """From the start of the run to its first environment step."""
        return self._first - self._began

    @property
    def warm_rate(self) -> float:
        """Environment steps per second, learning included, over the second half of the run."""
        return (self.steps - self._half + 1) / (self._ended - self._halfway)


class Evaluated(gymnasium.Wrapper[Any, Any, Any, Any]):
    """The environment of one evaluation: from its making to its end the clock of a `TrainingLog` stands still."""

    def __init__(self, env: gymnasium.Env[Any, Any], log: TrainingLog, began: float) -> None:
        super().__init__(env)
        self._log, self._began = log, began

    def close(self) -> None:
        """As the environment's own."""
        super().close()
        self._log.evaluating += perf_counter() - self._began


class Recorded(gymnasium.Wrapper[Any, Any, Any, Any]):
    """An environment that notes its steps and episode returns in a `TrainingLog` and changes nothing."""

    def __init__(self, env: gymnasium.Env[Any, Any], log: TrainingLog) -> None:
        super().__init__(env)
        self._log = log
        self._total = 0.0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """As the environment's own."""
        self._total = 0.0
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        """As the environment's own."""
        self._log.stepping()
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._total += float(reward)
        if terminated or truncated:
            self._log.episode_ended(self._total)
        return observation, reward, terminated, truncated, info
