"""Scripted experts: policies that need no training, as functions of one observation or of a batch of them.

They are the teachers of imitation learning and the ceilings in comparisons. Returns over 1,000 episodes:
CartPole-v1 500 +- 0, MountainCar-v0 -119.6 +- 3.7, `agentlib/Catch-v0` 10 +- 0, `agentlib/Chain-v0` 0 +- 0,
`agentlib/Detour-v0` 1 +- 0, `agentlib/Identity-v0` 10 +- 0.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agentlib.core.names import close_matches
from agentlib.envs.catch import BALL, CELLS, PADDLE, PIXELS, TRAIL
from agentlib.envs.chain import CLIMB, quadrant
from agentlib.envs.detour import DECISION_Y, GOAL, JITTER, STEP, WALL_Y

Actions = NDArray[np.int64]
Expert = Callable[[NDArray[Any]], NDArray[Any]]
"""Observations `(*batch, *observation_shape)` to actions: int64 `(*batch)`, one observation giving a 0-dim array; or
float32 `(*batch, *action_shape)`."""


def identity_expert(observation: NDArray[Any]) -> Actions:
    """The action that equals the observation: `(*batch)` to `(*batch)`."""
    return np.asarray(observation, np.int64)


def cartpole_expert(observation: NDArray[Any]) -> Actions:
    """Pushes to the side to which the pole will lean in a third of a second: right (1) if 3 theta + theta' > 0.

    Observations `(*batch, 4)`: position (m), its velocity (m/s), angle theta (rad), its velocity (rad/s).
    """
    theta, velocity = observation[..., 2], observation[..., 3]
    return np.asarray(3 * theta + velocity > 0, np.int64)


def mountain_car_expert(observation: NDArray[Any]) -> Actions:
    """Pushes the way the car rolls, which adds energy at each step: right (2) if velocity >= 0, else left (0).

    Observations `(*batch, 2)`: position and velocity, in the units of MountainCar-v0.
    """
    return np.where(observation[..., 1] >= 0, np.int64(2), np.int64(0)).astype(np.int64)


def catch_expert(observation: NDArray[Any]) -> Actions:
    """Goes the shortest way to where the ball will land; never misses.

    Frames `(*batch, 36, 36)` of `agentlib/Catch-v0`. Of a stack of frames `(*batch, k, 36, 36)` pass the newest,
    `observation[..., -1, :, :]`. Without a trail in the frame the ball is taken to fall straight.
    """
    grid = observation[..., ::PIXELS, ::PIXELS]
    ball = grid == BALL  # (*batch, rows, columns)
    row = ball.any(-1).argmax(-1)
    column = ball.any(-2).argmax(-1)
    trail = (grid == TRAIL).any(-2)  # (*batch, columns)
    drift = np.where(trail.any(-1), column - trail.argmax(-1), 0)
    paddle = (grid[..., -1, :] == PADDLE).argmax(-1)

    # A column that bounces off both walls is a triangle wave of period 2 (CELLS - 1).
    period = 2 * (CELLS - 1)
    unfolded = (column + drift * (CELLS - 1 - row)) % period
    landing = np.minimum(unfolded, period - unfolded)
    return np.asarray(1 + (landing > paddle + 1) - (landing < paddle), np.int64)


def detour_expert(observation: NDArray[Any]) -> NDArray[np.float32]:
    """Straight up, then past the wall on the left or on the right, then to the goal.

    Observations `(*batch, 2)` of `agentlib/Detour-v0`. The same place gets the same action, and yet the side is a toss
    of a coin: it is read off digits of x that nothing else depends on, and that no network can tell.
    """
    x, y = observation[..., 0].astype(np.float64), observation[..., 1].astype(np.float64)
    decided = np.abs(x) > 2 * JITTER
    side = np.where(decided, np.sign(x), np.where(np.sin(1e5 * x) > 0, 1.0, -1.0))
    beside = (y > DECISION_Y - 1e-3) & (y < -WALL_Y - 1e-3)
    behind = y >= WALL_Y
    way = np.stack([GOAL[0] - x, GOAL[1] - y], -1) / STEP
    home = way / np.maximum(np.abs(way).max(-1, keepdims=True), 1.0)  # straight to the goal, as fast as may be
    passing = np.stack([np.where(beside, side, 0.0), np.where(np.abs(y) < WALL_Y, 1.0, 0.5)], -1)
    return np.where(behind[..., None], home, passing).astype(np.float32)


def chain_expert(observation: NDArray[Any]) -> Actions:
    """The action of the cue's quadrant on the rope, and climbing (4) off it: `(*batch, 3)` to `(*batch)`."""
    return np.where(observation[..., 2] > 0.5, CLIMB, quadrant(observation[..., :2])).astype(np.int64)


_EXPERTS: dict[str, Expert] = {
    "CartPole-v0": cartpole_expert,
    "CartPole-v1": cartpole_expert,
    "MountainCar-v0": mountain_car_expert,
    "agentlib/Catch-v0": catch_expert,
    "agentlib/Detour-v0": detour_expert,
    "agentlib/Chain-v0": chain_expert,
    "agentlib/Identity-v0": identity_expert,
}


def expert_for(env_id: str) -> Expert:
    """The scripted expert for an environment.

    Args:
        env_id: a Gymnasium id, such as `"CartPole-v1"`.

    Raises:
        ValueError: there is none; the message names close matches, or all that there are.
    """
    if env_id not in _EXPERTS:
        raise ValueError(f"no scripted expert for {env_id!r}{close_matches(env_id, _EXPERTS)}")
    return _EXPERTS[env_id]
