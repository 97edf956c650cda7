"""Agents that are attacked, and alarms on what they see."""

import tempfile
from pathlib import Path
from typing import Any

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


def returns(agent: agentlib.Agent, seed: int, episodes: int = EPISODES, **how: Any) -> dict[str, float]:
    """Mean returns of an agent as it is, under noise and under attack, and the worst of the three."""
    noisy, attacked = (Attacked(agent, 1.0, scale=READINGS, noise=noise, seed=seed, **how) for noise in (True, False))
    sides: dict[str, Any] = {"": agent, "_noise": noisy, "_attack": attacked}
    found = {kind: agentlib.evaluate(one, ENV, episodes=episodes, seed=seed).mean for kind, one in sides.items()}
    return found | {"_worst": min(found.values())}


def compared(before: agentlib.Agent, after: agentlib.Agent, seed: int, **how: Any) -> dict[str, float]:
    """The returns of both, what the worst of the three gained, and what was lost without an attack."""
    sides = {"before": before, "after": after}
    found = {f"{name}{kind}": v for name, one in sides.items() for kind, v in returns(one, seed, **how).items()}
    found |= {f"gain{kind}": found[f"after{kind}"] - found[f"before{kind}"] for kind in ("_attack", "_worst")}
    return found | {"lost": found["before"] - found["after"]}


def attacked_dqn(seed: int) -> dict[str, float]:
    """Returns under PGD on the observations, before and after adversarial training of the policy.

    The policy learns to do as it did, from readings that are attacked at a share of the size: on what it sees in usual
    play, and, since an attack leads it elsewhere, on what it saw under attack.
    """
    agent, env, by = trained(seed), gymnasium.make(ENV), "cross_entropy"
    under_attack = Attacked(agent, 1.0, scale=READINGS, seed=seed, loss=by)
    seen = np.concatenate(
        [played(one, env, 5_000, random_share=0.2, seed=seed).observation for one in (agent, under_attack)]
    )
    data = Dataset(torch.from_numpy(seen), torch.from_numpy(agent.act(seen)).long(), ("left", "right"))
    robust = agentlib.train(
        "adversarial", data=data, agent=agent, steps=3_000, epsilon=float((SHARE * READINGS / seen.std(0)).mean()),
        bounds=None, attack_steps=5, attack_loss=by, batch_size=128, learning_rate=Cosine(1e-3), average=0.995,
        seed=seed, progress=False,
    ).agent  # fmt: skip
    assert robust is not None
    return compared(agent, robust, seed, loss=by)


SHARES, WALKS, WALK = (0.4, 0.4, 0.7, 0.7, 0.7), 20, 125
"""The size of the attack in each round of learning, as a share; environments and steps of what is seen in each."""
KEPT = 0.95
"""Share of the return without attack that an agent must keep to be chosen."""


def visited(agent: Any, seed: int) -> np.ndarray:
    """Observations `(WALKS * WALK, 4)` of an agent that acts at random in a fifth of the steps."""
    envs = gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make(ENV)] * WALKS)
    random, seen = np.random.default_rng(seed), []
    observation, _ = envs.reset(seed=seed)
    for _ in range(WALK):
        seen.append(observation.copy())
        action = agent.predict(observation, deterministic=True)[0]
        observation = envs.step(np.where(random.random(WALKS) < 0.2, random.integers(2, size=WALKS), action))[0]
    return np.concatenate(seen)


def robust_dqn(seed: int) -> dict[str, float]:
    """The worst of clean, noisy and attacked return, before and after rounds of adversarial training by the margin.

    In each round the policy sees what it meets, as it is and under attack, and learns to do there as the trained agent
    would, half of the loss on the readings as they are. Of the agent and what the rounds made of it that one is chosen
    whose worst return is best, on episodes of its own, among those that keep 95% of the return without attack.
    """
    seed += 300
    agent = student = trained(seed)
    seen, candidates = [], [agent]
    for number, share in enumerate(SHARES):
        sides = (student, Attacked(student, 1.0, scale=READINGS, seed=seed))
        seen += [visited(one, 1_000 * seed + number) for one in sides]
        x = np.concatenate(seen)
        student = agentlib.train(
            "adversarial", agent=student, steps=800, bounds=None, attack_steps=3, batch_size=64, clean_share=0.5,
            data=Dataset(torch.from_numpy(x), torch.from_numpy(agent.act(x)).long(), ("left", "right")),
            epsilon=float((share * READINGS / x.std(0)).mean()), learning_rate=Cosine(1e-3), average=0.99,
            seed=seed, progress=False,
        ).agent  # fmt: skip
        candidates.append(student)
    found = [returns(one, 10_000 + seed, 10) for one in candidates]
    kept = [number for number, one in enumerate(found) if one[""] >= KEPT * found[0][""]]
    chosen = max(kept, key=lambda number: found[number]["_worst"])
    return compared(agent, candidates[chosen], seed) | {"chosen": float(chosen)}


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


WORST = tuple(
    Claim(f"{name}{kind}", f"return {how}{when}", statistic="mean")
    for name, when in (("before", ""), ("after", ", after adversarial training"))
    for kind, how in (
        ("", "without attack"),
        ("_noise", "under noise of that size"),
        ("_attack", "under attack"),
        ("_worst", "in the worst of the three"),
    )
)

EXPERIMENTS = [
    Experiment(
        name="attacked_dqn",
        family="Robustness",
        data="CartPole-v1, DQN of 50,000 steps; PGD on readings, by up to 0.1 m, 0.2 m/s, 0.025 rad and 0.25 rad/s",
        measure=attacked_dqn,
        seeds=10,
        claims=(
            *WORST,
            Claim(
                "gain_worst",
                "gain by adversarial training in the worst of no attack, noise and attack",
                statistic="mean",
                at_least=0.0,
                of="interval",
            ),
        ),
        note="A second design, in which attacks followed the cross-entropy. It asked for a gain under attack alone and "
        "had it, 120 [40, 200], with 177 lost where there is no attack; the worst of the three is asked for "
        "since. In the first design the attack was 0.3 of each agent's own deviations and training saw usual play "
        "only: gains under attack of -37.5, 137.2, -123.3 and -246.1 on seeds 0 to 3, then given up. Size and "
        "units of the attack, the data and the share 0.4 were chosen on agents of seeds 100 to 107, among four "
        "shares and three other ways (also Q-learning under attack).",
    ),
    Experiment(
        name="robust_dqn",
        family="Robustness",
        data="CartPole-v1, DQN of 50,000 steps; PGD by the margin on readings, by as much as above",
        measure=robust_dqn,
        seeds=20,
        claims=(
            *WORST,
            Claim(
                "gain_worst",
                "gain by adversarial training in the worst of no attack, noise and attack",
                statistic="mean",
                at_least=0.0,
                of="interval",
            ),
            Claim("lost", "return lost without an attack", statistic="mean", at_most=25.0, of="interval"),
        ),
        note="A third design, committed before its seeds were run: they are 300 to 319, no agent of which was seen "
        "before. It was chosen on the agents of seeds 110 and 111, on five episodes each. On the first, whose "
        "worst return was 162, three rounds at a share of 0.4 had 243, 284 and 270 and lost nothing without "
        "attack; by the hinge of SA-DQN one round had 233; two rounds at 0.7 had 379 and 495. On the second two "
        "rounds at 0.7 had 95 and 176, so small shares come first and an agent is chosen only if it keeps its "
        "return.",
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
