"""DQN of SBX (JAX): `python sbx_dqn.py '{"steps": ..., "seed": ..., "settings": {...}}'`."""

import json
import sys

import gymnasium
from sbx import DQN


def main() -> None:
    given = json.loads(sys.argv[1])
    net_arch = given["settings"].pop("net_arch")
    env = gymnasium.make("CartPole-v1")
    model = DQN("MlpPolicy", env, policy_kwargs={"net_arch": net_arch}, seed=given["seed"], **given["settings"])
    model.learn(given["steps"])
    returns = [episode["r"] for episode in model.ep_info_buffer]
    print(json.dumps({"return": sum(returns) / max(len(returns), 1)}))


if __name__ == "__main__":
    main()
