"""DAgger of the `imitation` library, in an environment of its own: it asks for Gymnasium 0.29 and SB3 2.2.

    python imitation_dagger.py '{"env": "CartPole-v1", "seed": 0, "rounds": 10, ...}'

prints one JSON object with the returns of the evaluation episodes, the number of labels and the seconds of training.
It does not import agentlib.
"""

import json
import sys
import tempfile
import time
import warnings

import gymnasium
import numpy as np
import torch
from imitation.algorithms import bc
from imitation.algorithms.dagger import LinearBetaSchedule, SimpleDAggerTrainer
from imitation.data import rollout
from imitation.policies.base import NormalizeFeaturesExtractor
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.vec_env import DummyVecEnv

EXPERTS = {
    "CartPole-v1": lambda o: (3 * o[:, 2] + o[:, 3] > 0).astype(np.int64),
    "MountainCar-v0": lambda o: np.where(o[:, 1] >= 0, 2, 0),
}


class Scripted(BasePolicy):
    """A function of a batch of observations as a policy of theirs."""

    def __init__(self, venv, rule):
        super().__init__(venv.observation_space, venv.action_space)
        self.rule = rule

    def _predict(self, observation, deterministic=False):
        return torch.from_numpy(self.rule(observation.numpy()))


def main() -> None:
    settings = json.loads(sys.argv[1])
    env_id = settings["env"]
    rng = np.random.default_rng(settings["seed"])
    torch.manual_seed(settings["seed"])
    torch.set_num_threads(1)
    venv = DummyVecEnv([lambda: gymnasium.make(env_id)])
    venv.seed(settings["seed"])
    extractor = {"features_extractor_class": NormalizeFeaturesExtractor} if settings["normalize"] else {}
    learner = bc.BC(
        observation_space=venv.observation_space,
        action_space=venv.action_space,
        rng=rng,
        batch_size=settings["batch_size"],
        policy=ActorCriticPolicy(
            venv.observation_space, venv.action_space, lambda _: 1e-3, net_arch=settings["net_arch"], **extractor
        ),
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer = SimpleDAggerTrainer(
            venv=venv,
            scratch_dir=folder,
            expert_policy=Scripted(venv, EXPERTS[env_id]),
            rng=rng,
            bc_trainer=learner,
            beta_schedule=LinearBetaSchedule(settings["beta_rounds"]),
        )
        labels, started = 0, time.perf_counter()
        for _ in range(settings["rounds"]):
            # (its `train` counts steps and not rounds; this is the body of its loop.)
            collector = trainer.create_trajectory_collector()
            episodes = rollout.generate_trajectories(
                policy=trainer.expert_policy,
                venv=collector,
                sample_until=rollout.make_sample_until(
                    min_timesteps=settings["round_steps"], min_episodes=settings["round_episodes"]
                ),
                deterministic_policy=True,
                rng=collector.rng,
            )
            labels += sum(len(episode) for episode in episodes)
            trainer.extend_and_update({"n_epochs": settings["epochs"], "progress_bar": False, "log_interval": 10**9})
    seconds = time.perf_counter() - started
    returns = [play(trainer.policy, gymnasium.make(env_id), seed) for seed in settings["evaluation_seeds"]]
    print(json.dumps({"returns": returns, "labels": labels, "seconds": seconds}))


def play(policy, env, seed: int) -> float:
    """The return of one episode with the likeliest actions."""
    observation, _ = env.reset(seed=seed)
    total, ended = 0.0, False
    while not ended:
        action, _ = policy.predict(observation, deterministic=True)
        observation, reward, terminated, truncated, _ = env.step(action)
        total, ended = total + float(reward), terminated or truncated
    return total


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
