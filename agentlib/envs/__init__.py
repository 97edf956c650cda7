"""Environments of ours. Importing this package registers them with Gymnasium; each is imported only when it is made.

    import agentlib.envs
    env = gymnasium.make("agentlib/Catch-v0")

| id | observation | what it is for |
|---|---|---|
| `agentlib/Identity-v0` | `Discrete(4)` | the least that a control algorithm must solve, in seconds |
| `agentlib/CartPoleNoVel-v0` | position and angle, `(2,)` float32 | needs memory |
| `agentlib/CartPoleVaried-v0` | as CartPole-v1 | dynamics of one's own: learners that adapt |
| `agentlib/Catch-v0` | grey frame, `(36, 36)` uint8 | learning from pixels on one core |
| `agentlib/Corridor-v0` | `Discrete(11)` | a reward that is rare and far away |
| `agentlib/Dials-v0` | `MultiDiscrete([7] * 6)` | six choices at once |
| `agentlib/Detour-v0` | position, `(2,)` float32 | two right ways, whose mean is wrong; real-valued actions |
| `agentlib/Reach-v0` | Dict with goals, each `(2,)` float32 | a reward only at the goal; hindsight replay |
| `agentlib/Chain-v0` | cue, and whether off the rope, `(3,)` float32 | what a mistake costs an imitator |

Scripted experts for these, CartPole and MountainCar are in `agentlib.envs.experts`.
"""

from gymnasium.envs.registration import register, registry

_ENVIRONMENTS = {
    "Identity-v0": ("identity:Identity", 10, 9.5),
    "CartPoleNoVel-v0": ("cartpole_no_velocity:CartPoleNoVelocity", 500, 475.0),
    "CartPoleVaried-v0": ("cartpole_varied:CartPoleVaried", 500, 475.0),
    "Corridor-v0": ("corridor:Corridor", 50, 1.0),
    "Dials-v0": ("dials:Dials", 20, 19.0),
    "Catch-v0": ("catch:Catch", 100, 9.0),
    "Detour-v0": ("detour:Detour", 30, 0.95),
    "Reach-v0": ("reach:Reach", 50, -15.0),
    "Chain-v0": ("chain:Chain", None, -1.0),  # ends by itself, after as many steps as its argument `horizon` says
}
"""By name: where it is, steps after which an episode is cut off, and the return from which it counts as solved."""

for _name, (_place, _steps, _threshold) in _ENVIRONMENTS.items():
    # A second import (importlib.reload, a fork of the registry) must not make Gymnasium warn about an overridden id.
    if f"agentlib/{_name}" not in registry:
        register(
            f"agentlib/{_name}",
            entry_point=f"agentlib.envs.{_place}",
            max_episode_steps=_steps,
            reward_threshold=_threshold,
        )
