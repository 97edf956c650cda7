"""An alarm for an agent: how much a transition surprises a model of the world that it was trained in.

    d(o, a) ~ E[o' - o],    s(o, a, o') = 1/n sum_i ((o'_i - o_i - d_i(o, a)) / sigma_i)^2

d is a regression on transitions of the usual world, sigma the deviation of its errors there. A broken sensor and
changed dynamics both break the prediction, also where single observations and the policy's own confidence look as
usual: the maximum softmax of a policy may well grow when a sensor is stuck.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from agentlib.backbones import MLP, Chain, RunningNorm, adam
from agentlib.core import Cosine
from agentlib.core.host import plain_torch
from agentlib.core.numbers import whole
from agentlib.core.randomness import fresh_weights
from agentlib.core.spaces import ACTION_MASK
from agentlib.data import Batches, Dataset
from agentlib.engine import run
from agentlib.envs.checks import begin
from agentlib.envs.wrappers import Checked
from agentlib.experience.asking import best_action
from agentlib.learners.supervised.regressor import Regressor, RegressorConfig
from agentlib.policies.predictor import Predictor

BATCH_SIZE, LEARNING_RATE, HELD_OUT = 128, 3e-3, 0.2


class Transitions(NamedTuple):
    """Observations, actions and next observations."""

    observation: NDArray[np.float32]
    """`(N, n)`"""
    action: NDArray[np.int64]
    """`(N,)`"""
    next_observation: NDArray[np.float32]
    """`(N, n)`"""


def played(
    agent: Any, env: gymnasium.Env[Any, Any], steps: int, *, random_share: float = 0.1, seed: int = 0
) -> Transitions:
    """Transitions of an agent, with a share of random actions, so that they cover more than its usual states.

    Args:
        agent: with `predict`.
        env: with vectors of floating-point numbers to observe, and discrete actions.
        steps: number of transitions.
        random_share: of the actions.
        seed: of the environment and the random actions.

    Raises:
        TypeError: other observations or actions.
        ValueError: `steps` is no whole number from 1, or `seed` none from 0.
    """
    box, action_space = env.observation_space, env.action_space
    if not isinstance(box, spaces.Box) or len(box.shape) != 1 or not isinstance(action_space, spaces.Discrete):
        raise TypeError(f"this needs vectors to observe and discrete actions, not {box} and {action_space}")
    steps, seed = whole("steps", steps, 1), whole("seed", seed)
    generator, env = np.random.default_rng(seed), Checked(env)
    observation, info = begin(env, seed)
    rows: list[tuple[Any, int, Any]] = []
    for _ in range(steps):
        before, mask = np.array(observation), info.get(ACTION_MASK)  # the environment may write into its array
        if generator.random() >= random_share:
            action = int(best_action(agent, observation, mask)[0])
        elif mask is None:
            action = int(generator.integers(action_space.n)) + int(action_space.start)
        else:
            action = int(generator.choice(np.flatnonzero(mask))) + int(action_space.start)
        observation, _, terminated, truncated, info = env.step(action)
        rows.append((before, action - int(action_space.start), np.array(observation)))
        if terminated or truncated:
            observation, info = env.reset()
    first, actions, after = zip(*rows, strict=True)
    return Transitions(np.array(first, np.float32), np.array(actions, np.int64), np.array(after, np.float32))


class DynamicsAlarm:
    """Scores transitions by their surprise.

    Args:
        usual: transitions of the usual world; the last fifth of them is for the size of errors.
        n_actions: number of actions.
        hidden: widths of the network's layers.
        updates: of its training.
        seed: of weights and batches.

    Raises:
        ValueError: a number of these is no whole number.
    """

    @plain_torch()
    def __init__(
        self,
        usual: Transitions,
        n_actions: int,
        *,
        hidden: tuple[int, ...] = (64, 64),
        updates: int = 1500,
        seed: int = 0,
    ) -> None:
        self.n_actions, seed = whole("n_actions", n_actions, 1), whole("seed", seed)
        x, change = self._inputs(usual), _changes(usual)
        kept = len(x) - int(HELD_OUT * len(x))
        with fresh_weights(seed):
            network = Chain([RunningNorm((x.shape[1],)), MLP(x.shape[1], hidden)])
            self.model = Predictor(network, change.shape[1])
        self.model.observe(x[:kept])
        self.model.fit_scale(change[:kept])
        config = RegressorConfig(learning_rate=Cosine(LEARNING_RATE), batch_size=BATCH_SIZE)
        learner = Regressor(self.model, adam(config.learning_rate), config)
        source = Batches(Dataset(x[:kept], change[:kept]), BATCH_SIZE, seed=seed)
        for _ in run(learner, source, whole("updates", updates, 1), compile=False):
            pass
        self.model.eval()
        errors = self._errors(x[kept:], change[kept:])
        # A number that is always predicted exactly would make everything a surprise.
        self.deviation = errors.square().mean(0).sqrt().clamp_min(1e-6)

    def __call__(self, transitions: Transitions) -> NDArray[np.float64]:
        """The surprise of each transition, `(N,)`: about 1 in the usual world."""
        errors = self._errors(self._inputs(transitions), _changes(transitions))
        return (errors / self.deviation).square().mean(1).double().numpy()

    @torch.no_grad()
    def _errors(self, x: Tensor, change: Tensor) -> Tensor:
        errors: Tensor = self.model(x)[0] - change
        return errors

    def _inputs(self, transitions: Transitions) -> Tensor:
        actions = np.eye(self.n_actions, dtype=np.float32)[transitions.action]
        return torch.from_numpy(np.concatenate([transitions.observation, actions], axis=1))  # (N, n + n_actions)


def _changes(transitions: Transitions) -> Tensor:
    return torch.from_numpy(transitions.next_observation - transitions.observation)
