r"""Tabular values and policies of small Markov decision processes.

    policy evaluation   V(s) = sum_a pi(a|s) [r(s, a) + gamma sum_s' P(s'|s, a) V(s')]
    value iteration     V(s) <- max_a [r(s, a) + gamma sum_s' P(s'|s, a) V(s')]
    policy iteration    evaluate pi, make it greedy for its own values, until it no longer changes
    Q-learning          Q(s, a) <- Q(s, a) + alpha [r + gamma (1 - terminated) max_a' Q(s', a') - Q(s, a)]

P counts only the moves after which the episode goes on, so that nothing is bootstrapped past its end. Sutton and
Barto, Reinforcement Learning (2nd edition, 2018), chapters 4 and 6.5; Watkins, Learning from Delayed Rewards (1989).

Where the lecture notes write r + max Q, here stand a discount and the terminal mask, without which values leak from one
episode into the next; where they assign the target, Q-learning moves a step alpha towards it, as sampled targets need.
A time limit is not terminal. Everything is float64; among equally good actions the lowest is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import ArrayLike, NDArray

from agentlib.core.config import Config, NonNegative, Unit
from agentlib.envs.wrappers import Checked

Array = NDArray[np.float64]
Policy = NDArray[np.int64]

TIE = 1e-9
"""Actions whose values differ by less count as equally good: rounding must not choose between them."""


@dataclass(frozen=True)
class TabularMDP:
    """A Markov decision process with S states and A actions, all known."""

    transition: Array
    """`(S, A, S)`: probability of going from s by a to s' *without terminating*; the rest terminates."""
    reward: Array
    """`(S, A)`: expected reward of a in s."""
    start: Array
    """`(S,)`: probability of starting in s."""

    @classmethod
    def from_env(cls, env: gymnasium.Env[Any, Any]) -> "TabularMDP":
        """Reads the table `P[s][a] = [(probability, s', reward, terminated), ...]` of Gymnasium's toy_text.

        Raises:
            TypeError: the environment has no such table.
        """
        table = getattr(env.unwrapped, "P", None)
        start = getattr(env.unwrapped, "initial_state_distrib", None)
        if table is None or start is None:
            raise TypeError(f"{env} has no transition table `P` and `initial_state_distrib`, as toy_text's have")
        transition = np.zeros((len(table), len(table[0]), len(table)))
        reward = np.zeros(transition.shape[:2])
        for s, a in np.ndindex(reward.shape):
            for probability, next_state, r, terminated in table[s][a]:
                reward[s, a] += probability * r
                transition[s, a, next_state] += probability * (not terminated)
        return cls(transition, reward, np.asarray(start, np.float64))

    def q_values(self, value: Array, gamma: float) -> Array:
        """One-step look-ahead: `(S,)` to `(S, A)`."""
        return self.reward + gamma * (self.transition @ value)


class Solution(NamedTuple):
    """Values `(S,)`, a policy `(S,)` that is greedy for them, and how many sweeps, or evaluations, it took."""

    value: Array
    policy: Policy
    iterations: int


def greedy(q: Array) -> Policy:
    """The best action of each state, the lowest of those within `TIE`: `(S, A)` to `(S,)`."""
    return np.asarray(np.argmax(q >= q.max(axis=-1, keepdims=True) - TIE, axis=-1), np.int64)


def policy_evaluation(
    mdp: TabularMDP, policy: ArrayLike, *, gamma: float, tolerance: float | None = None, max_sweeps: int = 10**6
) -> Array:
    """The value of each state `(S,)` under a policy: exact, by a linear solve, or by sweeps if a tolerance is given.

    Args:
        policy: an action per state `(S,)`, integers, or probabilities `(S, A)`.
        gamma: discount, in [0, 1].
        tolerance: sweep until no value changes by more than this. `None` solves (I - gamma P_pi) V = r_pi.
        max_sweeps: stop here at the latest; n sweeps give the expected return of n steps.

    Raises:
        ValueError: gamma is 1 and the policy never terminates from some state: its value is undefined.
    """
    pi = np.asarray(policy)
    if pi.ndim == 1:
        pi = np.eye(mdp.reward.shape[1])[pi]  # (S, A)
    transition = np.einsum("sa,sat->st", pi, mdp.transition)
    reward = (pi * mdp.reward).sum(axis=1)
    if tolerance is None:
        if gamma == 1 and not _always_ends(transition):
            raise ValueError("with gamma=1 this policy never terminates from some states, so they have no value")
        return np.linalg.solve(np.eye(len(reward)) - gamma * transition, reward)
    return _iterate(lambda v: reward + gamma * (transition @ v), len(reward), tolerance, max_sweeps)[0]


def value_iteration(mdp: TabularMDP, *, gamma: float, tolerance: float = 1e-10, max_sweeps: int = 10**6) -> Solution:
    """The optimal values, by sweeps from zero until none changes by more than the tolerance.

    The error is then at most `tolerance * gamma / (1 - gamma)`. Exactly n sweeps (`max_sweeps=n, tolerance=0`) give the
    best expected return of n steps. With gamma 1 the greedy policy may linger for ever among equally good states.
    """
    value, sweeps = _iterate(lambda v: mdp.q_values(v, gamma).max(axis=1), len(mdp.reward), tolerance, max_sweeps)
    return Solution(value, greedy(mdp.q_values(value, gamma)), sweeps)


def policy_iteration(mdp: TabularMDP, *, gamma: float) -> Solution:
    """The optimal values and policy, exact, starting from the uniformly random policy.

    An action is kept unless another is better by more than `TIE`, so that ties cannot cycle.

    Raises:
        ValueError: gamma is 1 and a policy on the way never terminates from some state.
    """
    states = np.arange(len(mdp.reward))
    value = policy_evaluation(mdp, np.full_like(mdp.reward, 1 / mdp.reward.shape[1]), gamma=gamma)
    policy, evaluations = greedy(mdp.q_values(value, gamma)), 1
    while True:
        value = policy_evaluation(mdp, policy, gamma=gamma)
        evaluations += 1
        q = mdp.q_values(value, gamma)
        improved = np.where(q.max(axis=1) > q[states, policy] + TIE, greedy(q), policy)
        if np.array_equal(improved, policy):
            return Solution(value, policy, evaluations)
        policy = improved


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


def q_learning(env: gymnasium.Env[Any, Any], config: TabularQConfig, *, steps: int, seed: int) -> Array:
    """Watkins' Q-learning, by stepping the environment with an epsilon-greedy policy; gives Q `(S, A)`.

    Args:
        env: with Discrete observations and actions, both from 0.
        steps: environment steps.
        seed: of the environment's first reset and of the exploration.

    Raises:
        TypeError: a space is not Discrete.
    """
    states, actions = env.observation_space, env.action_space
    if not isinstance(states, spaces.Discrete) or not isinstance(actions, spaces.Discrete):
        raise TypeError(f"tabular Q-learning needs Discrete observations and actions, got {states} and {actions}")
    rng = np.random.default_rng([seed, 1])  # default_rng(seed) is the stream that the environment draws from
    q = [[0.0] * int(actions.n) for _ in range(int(states.n))]  # lists: numpy is ten times slower on single numbers
    visits = [[0] * int(actions.n) for _ in range(int(states.n))]
    env, state = Checked(env), int(env.reset(seed=seed)[0])  # a number of ours, not an array of the environment
    for step in range(steps):
        progress = min(1.0, step / max(1.0, config.exploration_fraction * steps))
        if rng.random() < 1 + progress * (config.exploration_final_eps - 1):
            action = int(rng.integers(actions.n))
        else:
            action = q[state].index(max(q[state]))
        next_state, reward, terminated, truncated, _ = env.step(action)
        target = float(reward) + config.gamma * (not terminated) * max(q[next_state])
        visits[state][action] += 1
        q[state][action] += visits[state][action] ** -config.learning_rate_power * (target - q[state][action])
        state = int(env.reset()[0] if terminated or truncated else next_state)
    return np.array(q)


def _always_ends(transition: Array) -> bool:
    """Whether termination can be reached from each state under `(S, S)` transitions without those that terminate."""
    ends = transition.sum(axis=1) < 1 - TIE
    for _ in ends:
        ends = ends | (transition @ ends > 0)
    return bool(ends.all())


def _iterate(sweep: Callable[[Array], Array], n_states: int, tolerance: float, max_sweeps: int) -> tuple[Array, int]:
    """Applies the sweep to zeros until no value changes by more than the tolerance; the values and the sweeps made."""
    value, sweeps, change = np.zeros(n_states), 0, np.inf
    while change > tolerance and sweeps < max_sweeps:
        before, value = value, sweep(value)
        change, sweeps = np.abs(value - before).max(), sweeps + 1
    return value, sweeps
