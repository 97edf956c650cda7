"""Agents that are attacked, and alarms on what they see."""

import tempfile
from pathlib import Path

import gymnasium
import numpy as np
import torch
from gymnasium.wrappers import TransformObservation

import agentlib
from agentlib.core import Cosine
from agentlib.data import Dataset
from agentlib.learners.robustness.alarm import DynamicsAlarm, played
from agentlib.learners.robustness.attacked import Attacked
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.detection import detection, max_softmax_score
from benchmarks.experiments import Claim, Experiment

ENV, EPISODES = "CartPole-v1", 20
READINGS = np.float32([0.1, 0.2, 0.025, 0.25])
"""How far an attack may change what is read: m, m/s, rad, rad/s."""
SHARE = 0.4
"""Of that, while the policy is trained."""


def trained(seed: int) -> agentlib.Agent:
    """The best agent of a run's evaluations: the last one of a DQN run may be a poor one, which no attack can harm."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        agentlib.train("dqn", env=ENV, steps=50_000, seed=seed, eval_every=2_500, out=out, progress=False)
        return agentlib.Agent.load(out / "best_agent.safetensors")


def attacked_dqn(seed: int) -> dict[str, float]:
    """Returns under PGD on the observations, before and after adversarial training of the policy.

    The policy learns to do as it did, from readings that are attacked at a share of the size: on what it sees in usual
    play, and, since an attack leads it elsewhere, on what it saw under attack.
    """
    agent, env = trained(seed), gymnasium.make(ENV)
    under_attack = Attacked(agent, 1.0, scale=READINGS, seed=seed)
    seen = np.concatenate(
        [played(one, env, 5_000, random_share=0.2, seed=seed).observation for one in (agent, under_attack)]
    )
    data = Dataset(torch.from_numpy(seen), torch.from_numpy(agent.act(seen)).long(), ("left", "right"))
    robust = agentlib.train(
        "adversarial", data=data, agent=agent, steps=3_000, epsilon=float((SHARE * READINGS / seen.std(0)).mean()),
        bounds=None, attack_steps=5, batch_size=128, learning_rate=Cosine(1e-3), average=0.995, seed=seed,
        progress=False,
    ).agent  # fmt: skip
    assert robust is not None
    found: dict[str, float] = {}
    for name, one in (("before", agent), ("after", robust)):
        found[name] = agentlib.evaluate(one, ENV, episodes=EPISODES, seed=seed).mean
        for kind in ("noise", "attack"):
            side = Attacked(one, 1.0, scale=READINGS, noise=kind == "noise", seed=seed)
            found[f"{name}_{kind}"] = agentlib.evaluate(side, ENV, episodes=EPISODES, seed=seed).mean
    found["gain"] = found["after_attack"] - found["before_attack"]
    return found


def stuck_angle(observation: np.ndarray) -> np.ndarray:
    return observation * np.float32([1, 1, 0, 1]) + np.float32([0, 0, 0.02, 0])


def dead_velocity(observation: np.ndarray) -> np.ndarray:
    return observation * np.float32([1, 1, 1, 0])


def longer_pole() -> gymnasium.Env:
    env = gymnasium.make(ENV)
    world = env.unwrapped
    world.length, world.polemass_length = 1.0, 0.1  # type: ignore[attr-defined]
    return env


def alarms(seed: int) -> dict[str, float]:
    """A model of the usual world, against the maximum softmax of the policy."""
    agent = trained(seed)
    alarm = DynamicsAlarm(played(agent, gymnasium.make(ENV), 6_000, seed=seed), n_actions=2, seed=seed)
    usual = played(agent, gymnasium.make(ENV), 2_000, seed=1000 + seed)
    found: dict[str, float] = {}
    for name, change in (("stuck", stuck_angle), ("dead", dead_velocity), ("longer", None)):
        env = gymnasium.make(ENV)
        world = longer_pole() if change is None else TransformObservation(env, change, env.observation_space)
        unusual = played(agent, world, 2_000, seed=2000 + seed)
        found[name] = detection(alarm(usual), alarm(unusual)).auroc
        unsure = [
            max_softmax_score(logits_of(agent.policy, torch.from_numpy(one.observation))) for one in (usual, unusual)
        ]
        found[f"softmax_{name}"] = detection(*unsure).auroc
    return found


EXPERIMENTS = [
    Experiment(
        name="attacked_dqn",
        family="Robustness",
        data="CartPole-v1, DQN of 50,000 steps; PGD on readings, by up to 0.1 m, 0.2 m/s, 0.025 rad and 0.25 rad/s",
        measure=attacked_dqn,
        seeds=10,
        claims=(
            Claim("before", "return, no attack", statistic="mean"),
            Claim("before_noise", "return under noise of that size", statistic="mean"),
            Claim("before_attack", "return under attack", statistic="mean"),
            Claim("after_attack", "return under attack, after adversarial training", statistic="mean"),
            Claim("gain", "gain under attack", statistic="mean", at_least=0.0, of="interval"),
            Claim("after", "return without attack, after adversarial training", statistic="mean"),
        ),
        note="A second design. In the first the attack was 0.3 of each agent's own deviations and training saw usual "
        "play only: gains of -37.5, 137.2, -123.3 and -246.1 on seeds 0 to 3, then given up. Size and units of the "
        "attack, the data and the share 0.4 were chosen on agents of seeds 100 to 107, among four shares and three "
        "other ways (also Q-learning under attack), most of which gained nothing reliably.",
    ),
    Experiment(
        name="alarms_cartpole",
        family="Detection",
        data="CartPole-v1, DQN of 50,000 steps; single transitions",
        measure=alarms,
        seeds=5,
        claims=(
            Claim("stuck", "AUROC of surprise, angle stuck", at_least=0.9),
            Claim("dead", "AUROC of surprise, velocity always 0", at_least=0.9),
            Claim("longer", "AUROC of surprise, pole twice as long"),
            Claim("softmax_stuck", "AUROC of the policy's maximum softmax, angle stuck"),
            Claim("softmax_longer", "AUROC of the policy's maximum softmax, pole twice as long"),
        ),
    ),
]
