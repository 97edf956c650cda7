"""CartPole with a pole and a motor of one's own: tasks that differ in their dynamics, for learners that adapt.

With the defaults it is CartPole-v1. A negative force is a motor that was wired the other way round: action 1 then
pushes to the left, and an agent that has learned with one kind of motor alone fails with the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from gymnasium.envs.classic_control.cartpole import CartPoleEnv
from numpy.typing import NDArray


class CartPoleVaried(CartPoleEnv):
    """CartPole-v1 with other dynamics; observation, reward and limits are the same.

    Args:
        length: half the length of the pole (m); 0.5 in CartPole-v1.
        force: of the motor (N), pushing to the right at action 1; 10 in CartPole-v1.
        sutton_barto_reward: as in CartPole-v1.
        render_mode: `None`, `"human"` or `"rgb_array"`.

    Raises:
        ValueError: a pole without length, or a motor without force.
    """

    def __init__(
        self,
        length: float = 0.5,
        force: float = 10.0,
        sutton_barto_reward: bool = False,
        render_mode: str | None = None,
    ) -> None:
        if not length > 0.0 or force == 0.0:
            raise ValueError(f"the pole needs a length above 0 and the motor a force, not {length} m and {force} N")
        super().__init__(sutton_barto_reward=sutton_barto_reward, render_mode=render_mode)
        self.length, self.force_mag = float(length), float(force)
        self.polemass_length = self.masspole * self.length


class Dynamics(NamedTuple):
    """The differences between the tasks: the arguments of `CartPoleVaried`."""

    length: float
    force: float


LENGTHS, FORCES = (0.25, 1.25), (6.0, 15.0)
"""The ranges of `draw_dynamics`; half of its motors push the other way."""


def draw_dynamics(generator: np.random.Generator) -> Dynamics:
    """The dynamics of a task, drawn uniformly from `LENGTHS` and `FORCES`."""
    sign = 1.0 if generator.random() < 0.5 else -1.0
    return Dynamics(float(generator.uniform(*LENGTHS)), sign * float(generator.uniform(*FORCES)))


def balancing_expert(length: float = 0.5, force: float = 10.0) -> Callable[[NDArray[Any]], NDArray[np.int64]]:
    """An expert for these dynamics: the side to which the linear-quadratic regulator would push (Kalman 1960).

    u = -k s with k from the Riccati equation of the linearized, discrete dynamics; the motor knows one strength only,
    so that its side is what counts. Observations `(*batch, 4)` to actions `(*batch)`, int64.
    """
    env = CartPoleVaried(length, force)
    mass, share = env.total_mass, env.masspole / env.total_mass
    inertia = length * (4.0 / 3.0 - share)
    # d/dt of (x, x', theta, theta') near the upright pole: a s + b u.
    a, b = np.zeros((4, 4)), np.zeros((4, 1))
    a[0, 1] = a[2, 3] = 1.0
    a[3, 2], b[3, 0] = env.gravity / inertia, -1.0 / (mass * inertia)
    a[1, 2], b[1, 0] = -share * length * a[3, 2], 1.0 / mass - share * length * b[3, 0]
    a, b = np.eye(4) + env.tau * a, env.tau * b
    cost, value = np.diag([1.0, 0.1, 10.0, 1.0]), np.eye(4)
    for _ in range(2_000):
        gain = np.linalg.solve(b.T @ value @ b + 1e-3, b.T @ value @ a)  # (1, 4)
        value = cost + a.T @ value @ (a - b @ gain)

    def expert(observation: NDArray[Any]) -> NDArray[np.int64]:
        push = -(np.asarray(observation, np.float64) @ gain[0])
        return np.asarray(push * force > 0.0, np.int64)

    return expert
