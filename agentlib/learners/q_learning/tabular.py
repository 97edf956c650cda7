r"""Tabular values and policies of small Markov decision processes.

    policy evaluation   V(s) = sum_a pi(a|s) [r(s, a) + gamma sum_s' P(s'|s, a) V(s')]
    value iteration     V(s) <- max_a [r(s, a) + gamma sum_s' P(s'|s, a) V(s')]
    policy iteration    evaluate pi, make it greedy for its own values, until it no longer changes

P counts only the moves after which the episode goes on, so that nothing is bootstrapped past its end. Sutton and
Barto, Reinforcement Learning (2nd edition, 2018), chapter 4. A time limit is not terminal. Everything is float64; among
equally good actions the lowest is taken.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import ArrayLike, NDArray

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
        table, start = (getattr(env.unwrapped, name, None) for name in ("P", "initial_state_distrib"))
        if table is None or start is None:
            raise TypeError(f"{env} has no transition table `P` and `initial_state_distrib`, as toy_text's have")
        reward = np.zeros((len(table), len(table[0])))
        transition = np.zeros((*reward.shape, len(table)))
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
    n_states, n_actions = mdp.reward.shape
    value = policy_evaluation(mdp, np.full_like(mdp.reward, 1 / n_actions), gamma=gamma)
    policy, evaluations, is_better = greedy(mdp.q_values(value, gamma)), 1, np.ones(n_states, np.bool_)
    while is_better.any():
        value, evaluations = policy_evaluation(mdp, policy, gamma=gamma), evaluations + 1
        q = mdp.q_values(value, gamma)
        is_better = q.max(axis=1) > q[np.arange(n_states), policy] + TIE
        policy = np.where(is_better, greedy(q), policy)
    return Solution(value, policy, evaluations)


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
