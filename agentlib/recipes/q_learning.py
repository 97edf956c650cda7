"""Deep Q-learning, put together."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from agentlib.agent import Agent
from agentlib.backbones import Linear, adam
from agentlib.data import Replay, ReplayBuffer
from agentlib.data.memory import size_for
from agentlib.envs.making import frame_stack, make_envs
from agentlib.envs.spaces import choices, without_mask
from agentlib.envs.vector import Environments
from agentlib.learners.q_learning.dqn import DQN, DQNConfig
from agentlib.policies import EpsilonGreedy, GreedyActor, QPolicy
from agentlib.recipes.backbones import BackboneChoice, backbone_for
from agentlib.recipes.problem import Job, Problem, Recipe, choose_device, episodes_played, fresh_weights


def build_dqn(
    config: DQNConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A DQN run on one or several environments.

    Raises:
        ValueError: no environment, no number of steps, or an action space that is neither Discrete nor MultiDiscrete.
    """
    if problem.env is None:
        raise ValueError('dqn learns in an environment: give one, such as env="CartPole-v1"')
    if not isinstance(problem.steps, int) or problem.steps < 1:
        raise ValueError(f"how long? give steps, the number of environment steps, a whole number, not {problem.steps}")
    made = make_envs(problem.env, problem.n_envs, problem.env_kwargs)
    envs = Environments(made)
    try:
        policy = _policy(config, envs, problem.agent, backbone, seed)
        if policy.is_sequence:
            raise ValueError('dqn learns from single steps: with a network that has memory, train "recurrent_dqn"')
        policy.to(choose_device(device, policy))
        source = _source(config, envs, policy, frame_stack(made), problem.steps, seed)
        if not source.updates_for(problem.steps):
            raise ValueError(
                f"nothing would be learned: steps={problem.steps} end before the first update, which comes after "
                f"learning_starts={config.learning_starts} steps and a multiple of train_freq={config.train_freq}"
            )
    except BaseException:
        if made is not problem.env:
            envs.close()
        raise
    learner = DQN(policy, adam(config.learning_rate), config)
    final_rate = config.exploration_final_eps
    agent = Agent(policy, envs.observation_space, envs.action_space, exploration_rate=final_rate, seed=seed)
    return Job(
        learner=learner,
        source=source,
        updates=source.updates_for(problem.steps),
        finished=lambda: source.finished,
        steps=problem.steps,
        product=lambda: agent,
        measures=lambda: replay_measures(source),
        evaluate=episodes_played(problem, lambda: agent),
        close=lambda: None if made is problem.env else envs.close(),
        tables={"replay_bytes": source.buffer.nbytes},
    )


def _policy(config: DQNConfig, envs: Environments, agent: Agent | None, backbone: BackboneChoice, seed: int) -> QPolicy:
    actions = envs.action_space
    if not isinstance(actions, spaces.Discrete | spaces.MultiDiscrete) or len(actions.shape or ()) > 1:
        raise ValueError(
            f"dqn needs a Discrete action space, or a MultiDiscrete one of one row; this environment has {actions}. "
            "Learners that fit: " + ("SB3's SAC, TD3 and PPO" if isinstance(actions, spaces.Box) else "SB3's PPO, A2C")
        )
    if agent is not None:
        agent.check_spaces(envs.observation_space, envs.action_space)
        if not isinstance(agent.policy, QPolicy):
            raise ValueError(f"dqn goes on from an agent with action values, not {type(agent.policy).__name__}")
        return copy.deepcopy(agent.policy).requires_grad_(True)
    with fresh_weights(seed):
        seen = without_mask(envs.observation_space, actions)
        return q_policy(config, backbone_for(seen, backbone, config.net_arch, config.normalize), actions)


def q_policy(config: DQNConfig, network: nn.Module, actions: spaces.Discrete | spaces.MultiDiscrete) -> QPolicy:
    """The head that a config asks for, over a network."""
    branched = isinstance(actions, spaces.MultiDiscrete)
    hidden = config.head_arch
    if hidden is None:
        streams = config.dueling or config.noisy or branched
        hidden = (int(network.feature_dim),) if streams else ()  # type: ignore[arg-type]
    policy = QPolicy(
        network,
        list(choices(actions)) if branched else choices(actions)[0],
        dueling=config.dueling,
        distributional=config.distributional,
        n_atoms=config.n_atoms if config.distributional == "c51" else config.n_quantiles,
        v_min=config.v_min,
        v_max=config.v_max,
        noisy=config.noisy,
        hidden=hidden,
    )
    return policy.float()  # whatever the host's default dtype


def _source(config: DQNConfig, envs: Environments, policy: QPolicy, stacked: int, steps: int, seed: int) -> Replay:
    device = next(policy.parameters()).device
    buffer = ReplayBuffer(
        envs.observation_space,
        envs.action_space,
        size_for(config.buffer_size, most=steps + config.train_freq + envs.num_envs),
        num_envs=envs.num_envs,
        frame_stack=stacked,
        prioritized=config.prioritized,
        device=device,
    )
    epsilon = Linear(config.exploration_initial_eps, config.exploration_final_eps, config.exploration_fraction)
    return Replay(
        envs,
        actor=GreedyActor(policy, envs.observation_space, noise_seed=seed),
        buffer=buffer,
        exploration=EpsilonGreedy(envs.action_space, envs.num_envs, epsilon, config.learning_starts, seed),
        batch_size=config.batch_size,
        learning_starts=config.learning_starts,
        train_freq=config.train_freq,
        gradient_steps=config.gradient_steps,
        n_steps=config.n_steps,
        gamma=config.gamma,
        priority_exponent=config.priority_exponent,
        importance_exponent=config.importance_exponent,
        total_steps=steps,
        observe=policy.observe if config.normalize else None,
        seed=seed,
    ).to(device)


def replay_measures(source: Replay) -> dict[str, float]:
    """What there is to log of a run in environments."""
    collector = source.collector
    measures: dict[str, Any] = {"time/episodes": collector.episodes}
    if collector.returns:
        measures["rollout/ep_rew_mean"] = np.mean(collector.returns)
        measures["rollout/ep_len_mean"] = np.mean(collector.lengths)
    if isinstance(collector.exploration, EpsilonGreedy):
        measures["rollout/exploration_rate"] = collector.exploration.rate(source.clock)
    return {name: float(value) for name, value in measures.items()}


RECIPES = (
    Recipe(
        "dqn",
        DQNConfig,
        build_dqn,
        "deep Q-learning (Mnih et al. 2015), discrete actions",
        learns_from="an environment",
        needs=("env",),
    ),
    Recipe(
        "rainbow",
        DQNConfig,
        build_dqn,
        "dqn with all its options on (Hessel et al. 2018)",
        learns_from="an environment",
        needs=("env",),
    ),
)
