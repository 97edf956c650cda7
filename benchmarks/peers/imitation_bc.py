"""Behavioural cloning of the `imitation` library: seconds per batch, once warm.

python imitation_bc.py '{"observations": "obs.npy", "actions": "actions.npy", "batches": 1000, ...}'
"""

import json
import sys
import time

import numpy as np
import torch
from gymnasium import spaces
from imitation.algorithms import bc
from imitation.data.types import Transitions
from stable_baselines3.common.policies import ActorCriticPolicy


def main() -> None:
    given = json.loads(sys.argv[1])
    torch.set_num_threads(1)
    observations, actions = np.load(given["observations"]), np.load(given["actions"])
    n = len(actions)
    space = spaces.Box(-np.inf, np.inf, observations.shape[1:], np.float32), spaces.Discrete(int(actions.max()) + 1)
    done, infos = np.zeros(n, bool), np.array([{}] * n)
    learner = bc.BC(
        observation_space=space[0],
        action_space=space[1],
        rng=np.random.default_rng(0),
        batch_size=given["batch_size"],
        policy=ActorCriticPolicy(*space, lambda _: 1e-3, net_arch=given["net_arch"]),
        demonstrations=Transitions(observations, actions, infos, observations, done),
    )
    learner.train(n_batches=200, progress_bar=False, log_interval=10**9)
    started = time.perf_counter()
    learner.train(n_batches=given["batches"], progress_bar=False, log_interval=10**9)
    print(json.dumps({"seconds": (time.perf_counter() - started) / given["batches"]}))


if __name__ == "__main__":
    main()
