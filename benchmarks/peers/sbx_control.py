"""PPO, SAC or TD3 of SBX (JAX): seconds of its loop from step `warm` on, once all is compiled.

python sbx_control.py '{"what": "ppo", "env": "CartPole-v1", "n_envs": 8, "steps": 100000, "warm": 2000, ...}'
"""

import inspect
import json
import sys
import time

import gymnasium
import numpy as np
import sbx
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv


class Start(BaseCallback):
    """Notes the time at a step."""

    def __init__(self, step):
        super().__init__()
        self.step, self.time = step, None

    def _on_step(self):
        if self.time is None and self.num_timesteps >= self.step:
            self.time = time.perf_counter()
        return True


def main() -> None:
    given = json.loads(sys.argv[1])
    algorithm = getattr(sbx, given["what"].upper())
    envs = DummyVecEnv([lambda: Monitor(gymnasium.make(given["env"]))] * given["n_envs"])
    known = inspect.signature(algorithm).parameters
    settings = {name: value for name, value in given["settings"].items() if name in known}
    for name, value in settings.items():
        if isinstance(value, str) and value.startswith("lin_"):
            settings[name] = lambda left, start=float(value.removeprefix("lin_")): left * start
    if noise := settings.pop("action_noise", None):
        zeros = np.zeros(envs.action_space.shape)
        settings["action_noise"] = NormalActionNoise(zeros, zeros + noise[1])
    model, start = algorithm(env=envs, seed=given["seed"], **settings), Start(given["warm"])
    model.learn(given["steps"], callback=start)
    seconds = time.perf_counter() - start.time
    returns = [episode["r"] for episode in model.ep_info_buffer]
    left_out = {name: value for name, value in given["settings"].items() if name not in known}
    print(json.dumps({"seconds": seconds, "return": sum(returns) / max(len(returns), 1), "left_out": left_out}))


if __name__ == "__main__":
    main()
