"""Memory: CartPole without velocities by Q-learning and by imitation, and the decision transformer.

What a position-only network reaches is the floor, what a stack of four frames reaches stands beside. An agent is
scored by 100 episodes that start elsewhere than those by which its best checkpoint was chosen.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.wrappers import FrameStackObservation

import agentlib
from agentlib.agent import Agent
from agentlib.core import Cosine
from agentlib.core.recipe import Problem
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import Demonstration, Demonstrations
from agentlib.experience.asking import Onlooker
from agentlib.learners import BCConfig, DAggerConfig, DecisionTransformerConfig, run
from agentlib.runs.plan import job_of, settings_of
from benchmarks.experiments import Claim, Experiment

NO_VELOCITY = "agentlib/CartPoleNoVel-v0"
STEPS = 250_000
WATCHED = 25
"""Evaluations in a run, of 20 episodes each, by which the best checkpoint is chosen."""


def scores(agent: Agent, make: Any, episodes: int, seed: int) -> float:
    """The mean return of an agent, playing all episodes side by side; it gets its rewards."""
    envs = gymnasium.vector.SyncVectorEnv([make] * episodes)
    observation, _ = envs.reset(seed=seed)
    agent.reset()
    returns, going = np.zeros(episodes), np.ones(episodes, bool)
    while going.any():
        observation, reward, terminated, truncated, _ = envs.step(agent.act(observation))
        agent.rewarded(reward)
        returns += reward * going
        going &= ~(terminated | truncated)
    agent.reset()
    envs.close()
    return float(returns.mean())


def no_velocity() -> gymnasium.Env[Any, Any]:
    return gymnasium.make(NO_VELOCITY)


def stacked() -> gymnasium.Env[Any, Any]:
    return FrameStackObservation(no_velocity(), 4, padding_type="zero")


def watched(
    seed: int, what: str, backbone: str, make: Any, steps: int, n_envs: int, **settings: Any
) -> dict[str, float]:
    """Trains, and scores the last agent and the best of those that were looked at on the way."""
    config = settings_of(what, NO_VELOCITY, settings).config
    problem = Problem(env=make, n_envs=n_envs, steps=steps, seed=seed, backbone=backbone, device="cpu")
    job = job_of(config, problem)
    agent = job.product
    best, kept, next_look = -1.0, agent.policy.state_dict(), 0
    for clock, _ in run(job.learner, job.source, job.length.updates):
        if clock.steps >= next_look:
            next_look += steps // WATCHED
            found = scores(agent, make, 20, seed=1)
            if found >= best:
                best, kept = found, {name: value.clone() for name, value in agent.policy.state_dict().items()}
        if clock.steps >= steps:  # updates are planned for environments that never end
            break
    fresh = 2**20 + 1000 * seed
    last = scores(agent, make, 100, fresh)
    agent.policy.load_state_dict(kept)
    job.source.close()
    return {"last": last, "best": scores(agent, make, 100, fresh)}


def recurrent_dqn(seed: int, backbone: str = "lstm") -> dict[str, float]:
    return watched(seed, "recurrent_dqn", backbone, no_velocity, STEPS, 16)


PLAIN: dict[str, Any] = {
    "learning_rate": 2.3e-3,
    "batch_size": 64,
    "buffer_size": 100_000,
    "learning_starts": 1_000,
    "target_update_interval": 10,
    "train_freq": 256,
    "gradient_steps": 128,
    "exploration_fraction": 0.16,
    "exploration_final_eps": 0.04,
    "net_arch": (256, 256),
}
"""The RL Zoo's settings for CartPole-v1."""


def plain_dqn(seed: int) -> dict[str, float]:
    """Without memory: on positions alone, and on a stack of four frames."""
    alone = watched(seed, "dqn", "mlp", no_velocity, 100_000, 1, **PLAIN)
    frames = watched(seed, "dqn", "mlp", stacked, 100_000, 1, **PLAIN)
    return {
        "position_best": alone["best"],
        "position_last": alone["last"],
        "stack_best": frames["best"],
        "stack_last": frames["last"],
    }


# Imitation -----------------------------------------------------------------------------------------------------------


def sees_all(env: gymnasium.Env[Any, Any], observation: Any) -> Any:
    """The expert knows the velocities that the student does not see."""
    unwrapped: Any = env.unwrapped
    return cartpole_expert(np.array(unwrapped.state))


def students(seed: int) -> dict[str, float]:
    """Six rounds of DAgger, ten episodes each."""
    config = DAggerConfig(
        rounds=6,
        rollout_round_min_episodes=10,
        rollout_round_min_timesteps=0,
        epochs=25,
        batch_size=16,
        sequence_length=100,
        previous_action=True,
        net_arch=(64, 64),
        ent_weight=0.0,
    )
    found = {}
    for name in ("lstm", "transformer"):
        agent: Any = agentlib.train(
            config, env=NO_VELOCITY, expert=Onlooker(sees_all), backbone=name, seed=seed, progress=False
        )
        found[name] = scores(agent, no_velocity, 100, 2**20 + seed)
    without = DAggerConfig(
        rounds=6, rollout_round_min_episodes=10, rollout_round_min_timesteps=0, batch_size=64, ent_weight=0.0
    )
    agent = agentlib.train(without, env=NO_VELOCITY, expert=Onlooker(sees_all), seed=seed, progress=False)
    return {**found, "mlp": scores(agent, no_velocity, 100, 2**20 + seed)}


# Decision transformer ------------------------------------------------------------------------------------------------


def mixed_episodes(seed: int) -> Demonstrations:
    """CartPole: 150 random episodes, 300 of a policy that drifts off, with 10% random actions, 50 of the expert."""
    env = gymnasium.make("CartPole-v1")
    generator = np.random.default_rng([seed, 7])
    data = Demonstrations(env.observation_space, env.action_space)

    def chance(observation: Any) -> int:
        return int(generator.integers(2))

    def drifts(observation: Any) -> int:
        return chance(observation) if generator.random() < 0.1 else int(3 * observation[2] + observation[3] > 0.2)

    for policy, episodes in ((chance, 150), (drifts, 300), (cartpole_expert, 50)):
        for _ in range(episodes):
            observation, _ = env.reset(seed=int(generator.integers(2**30)))
            seen, done, rewards, terminated, truncated = [observation], [], [], False, False
            while not (terminated or truncated):
                done.append(int(policy(observation)))
                observation, reward, terminated, truncated, _ = env.step(done[-1])
                seen.append(observation)
                rewards.append(float(reward))
            data.append(Demonstration(np.array(seen), np.array(done), np.array(rewards), terminated))
    env.close()
    return data


CONDITIONED = DecisionTransformerConfig(
    learning_rate=Cosine(1e-3),
    context_length=1,
    embed_dim=64,
    n_layers=2,
    n_heads=2,
    dropout=0.0,
    return_scale=100.0,
    max_grad_norm=1.0,
)
UPDATES = 4_000
"""Of the decision transformer, and of the copies beside it."""


def decision_transformer(seed: int) -> dict[str, float]:
    """Asked for much and for little; beside it cloning of all episodes, and of the best tenth."""
    data = mixed_episodes(seed)
    make = partial(gymnasium.make, "CartPole-v1")
    agent: Any = agentlib.train(CONDITIONED, demos=data, steps=UPDATES, seed=seed, progress=False)
    found = {}
    for wanted in (500.0, 50.0):
        agent.backbone.target_return = wanted
        found[f"asked_{wanted:.0f}"] = scores(agent, make, 100, 2**20 + seed)
    best = data.select(np.argsort(data.returns)[-len(data) // 10 :])
    for name, demos in (("bc_all", data), ("bc_best", best)):
        clone: Any = agentlib.train(BCConfig(batch_size=64), demos=demos, steps=UPDATES, seed=seed, progress=False)
        found[name] = scores(clone, make, 100, 2**20 + seed)
    much = found["asked_500"]
    found |= {"over_50": much - found["asked_50"], "over_all": much - found["bc_all"]}
    return {**found, "of_best": much / found["bc_best"]}


FAMILY = "Memory"
RUNS = f"{NO_VELOCITY}, {STEPS:,} steps"

EXPERIMENTS = [
    Experiment(
        name="recurrent_dqn_lstm",
        family=FAMILY,
        data=RUNS,
        measure=recurrent_dqn,
        claims=(
            Claim("best", "recurrent DQN with an LSTM, best checkpoint on fresh episodes", at_least=450),
            Claim("last", "the same, last agent", at_least=400),
        ),
    ),
    Experiment(
        name="recurrent_dqn_transformer",
        family=FAMILY,
        data=RUNS,
        measure=partial(recurrent_dqn, backbone="transformer"),
        claims=(
            Claim("best", "recurrent DQN with a transformer, best checkpoint on fresh episodes"),
            Claim("last", "the same, last agent"),
        ),
    ),
    Experiment(
        name="dqn_without_memory",
        family=FAMILY,
        data=f"{NO_VELOCITY}, 100,000 steps, the RL Zoo's settings for CartPole-v1",
        measure=plain_dqn,
        claims=(
            Claim("position_best", "DQN on positions alone, best checkpoint on fresh episodes", at_most=100),
            Claim("position_last", "the same, last agent", at_most=100),
            Claim("stack_best", "DQN on a stack of four frames, best checkpoint on fresh episodes"),
            Claim("stack_last", "the same, last agent"),
        ),
        note="The settings are those of the RL Zoo for CartPole-v1, for the stack, too. They are not the best for it: "
        "with others a stack of four frames reached 500 and 496 at 120,000 steps on two seeds.",
    ),
    Experiment(
        name="dagger_with_memory",
        family=FAMILY,
        data=f"{NO_VELOCITY}, 6 rounds of 10 episodes; the expert sees the velocities",
        measure=students,
        claims=(
            Claim("lstm", "DAgger's student with an LSTM", at_least=490),
            Claim("transformer", "DAgger's student with a transformer", at_least=490),
            Claim("mlp", "DAgger's student without memory", at_most=100),
        ),
    ),
    Experiment(
        name="decision_transformer",
        family=FAMILY,
        data="CartPole-v1: 150 random episodes, 300 of a drifting policy, 50 of an expert",
        measure=decision_transformer,
        claims=(
            Claim("asked_500", "decision transformer, asked for 500", at_least=430),
            Claim("asked_50", "the same agent, asked for 50"),
            Claim("over_50", "the difference between the two", at_least=250),
            Claim("over_all", "asked for 500, above cloning of all episodes", at_least=100),
            Claim("of_best", "asked for 500, as a share of cloning the best tenth", at_least=0.85),
        ),
        note="The context is one step long: the observation tells the whole state here, so that the transformer sees "
        "the return that is asked for and the observation, and has no memory of its own.",
    ),
]
