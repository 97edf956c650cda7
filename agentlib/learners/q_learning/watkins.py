"""Q-learning with a table, one transition at a time (Watkins, Learning from Delayed Rewards, 1989).

    Q(s, a) <- Q(s, a) + alpha [r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a)]

Sutton and Barto, Reinforcement Learning (2nd edition, 2018), chapter 6.5. The lecture notes write r + max Q, without
the discount and the terminal mask, so that values leak from one episode into the next, and assign the target; sampled
targets need steps alpha towards it. A time limit is not terminal. Everything is float64.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from agentlib.core.config import Config, NonNegative, Unit
from agentlib.core.numbers import whole
from agentlib.envs.wrappers import Checked


@dataclass(frozen=True, kw_only=True)
class TabularQConfig(Config):
    """The numbers of tabular Q-learning."""

    gamma: Unit = 0.99
    """Discount factor per environment step."""
    learning_rate_power: NonNegative = 0.55
    """The learning rate of a pair (s, a) at its n-th visit is n ** -power; it converges for powers in (0.5, 1]."""
    exploration_fraction: Unit = 0.5
    """Share of the steps over which epsilon, the probability of a random action, falls linearly from 1."""
    exploration_final_eps: Unit = 0.1
    """Epsilon after it has fallen."""


def q_learning(env: gymnasium.Env[Any, Any], config: TabularQConfig, *, steps: int, seed: int) -> NDArray[np.float64]:
    """Watkins' Q-learning, by stepping the environment with an epsilon-greedy policy; gives Q `(S, A)`.

    Args:
        env: with Discrete observations and actions, both from 0.
        steps: environment steps.
        seed: of the environment's first reset and of the exploration.

    Raises:
        TypeError: a space is not Discrete.
        ValueError: `steps` or `seed` is no whole number from 0; or an observation is outside the space.
    """
    states, actions, steps, seed = env.observation_space, env.action_space, whole("steps", steps), whole("seed", seed)
    if not isinstance(states, spaces.Discrete) or not isinstance(actions, spaces.Discrete):
        raise TypeError(f"tabular Q-learning needs Discrete observations and actions, got {states} and {actions}")
    rng = np.random.default_rng([seed, 1])  # default_rng(seed) is the stream that the environment draws from
    # Lists: numpy is ten times slower on single numbers.
    q, visits = ([[zero] * int(actions.n) for _ in range(int(states.n))] for zero in (0.0, 0))
    env, state = Checked(env), int(env.reset(seed=seed)[0])  # a number of ours, not an array of the environment
    for step in range(steps):
        progress = min(1.0, step / max(1.0, config.exploration_fraction * steps))
        if rng.random() < 1 + progress * (config.exploration_final_eps - 1):
            action = int(rng.integers(actions.n))
        else:
            action = q[state].index(max(q[state]))
        next_state, reward, terminated, truncated, _ = env.step(action)
        if not (0 <= state < states.n and 0 <= next_state < states.n):
            raise ValueError(f"by step {step + 1} the environment gave a state that is not in {states}")
        target = float(reward) + config.gamma * (not terminated) * max(q[next_state])
        visits[state][action] += 1
        q[state][action] += visits[state][action] ** -config.learning_rate_power * (target - q[state][action])
        state = int(env.reset()[0] if terminated or truncated else next_state)
    return np.array(q)
