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
| `agentlib/Chain-v0` | cue, and whether off the rope, `(3,)` float32 | what a mistake costs an imitator |

Scripted experts for these, CartPole and MountainCar are in `agentlib.envs.experts`.
"""

from gymnasium.envs.registration import register, registry


def _register(env_id: str, entry_point: str, *, max_episode_steps: int | None, reward_threshold: float) -> None:
    # A second import (importlib.reload, a fork of the registry) must not make Gymnasium warn about an overridden id.
    if env_id not in registry:
        register(
            env_id,
            entry_point=entry_point,
            max_episode_steps=max_episode_steps,
            reward_threshold=reward_threshold,
        )


_register("agentlib/Identity-v0", "agentlib.envs.identity:Identity", max_episode_steps=10, reward_threshold=9.5)
_register(
    "agentlib/CartPoleNoVel-v0",
    "agentlib.envs.cartpole_no_velocity:CartPoleNoVelocity",
    max_episode_steps=500,
    reward_threshold=475.0,
)
_register(
    "agentlib/CartPoleVaried-v0",
    "agentlib.envs.cartpole_varied:CartPoleVaried",
    max_episode_steps=500,
    reward_threshold=475.0,
)
_register("agentlib/Corridor-v0", "agentlib.envs.corridor:Corridor", max_episode_steps=50, reward_threshold=1.0)
_register("agentlib/Dials-v0", "agentlib.envs.dials:Dials", max_episode_steps=20, reward_threshold=19.0)
_register("agentlib/Catch-v0", "agentlib.envs.catch:Catch", max_episode_steps=100, reward_threshold=9.0)
_register("agentlib/Detour-v0", "agentlib.envs.detour:Detour", max_episode_steps=30, reward_threshold=0.95)
# Its episodes end by themselves, after as many steps as its argument `horizon` says.
_register("agentlib/Chain-v0", "agentlib.envs.chain:Chain", max_episode_steps=None, reward_threshold=-1.0)
