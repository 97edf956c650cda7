"""Deep Q-learning with memory, put together."""

from __future__ import annotations

import copy

import torch
from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones import Linear, adam
from agentlib.data import SequenceBuffer, SequenceReplay
from agentlib.data.memory import size_for
from agentlib.envs.making import make_envs
from agentlib.envs.vector import Environments
from agentlib.learners.q_learning.recurrent_dqn import RecurrentDQN, RecurrentDQNConfig
from agentlib.policies import EpsilonGreedy, MemoryActor, QPolicy
from agentlib.recipes.backbones import MEMORIES, BackboneChoice, backbone_for
from agentlib.recipes.problem import Job, Problem, Recipe, choose_device, episodes_played, fresh_weights
from agentlib.recipes.q_learning import replay_measures


def build_recurrent_dqn(
    config: RecurrentDQNConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A recurrent DQN run on one or several environments; the memory is an LSTM if nothing else is asked for.

    Raises:
        ValueError: no environment, no number of steps, an action space that is not Discrete, or a network without
            memory.
    """
    if problem.env is None:
        raise ValueError('recurrent_dqn learns in an environment: give one, such as env="agentlib/CartPoleNoVel-v0"')
    if not isinstance(problem.steps, int) or problem.steps < 1:
        raise ValueError(f"how long? give steps, the number of environment steps, a whole number, not {problem.steps}")
    made = make_envs(problem.env, problem.n_envs, problem.env_kwargs)
    envs = Environments(made)
    try:
        policy = _policy(config, envs, problem.agent, backbone, seed)
        policy.to(choose_device(device, policy))
        source = _source(config, envs, policy, problem.steps, seed)
        if not source.updates_for(problem.steps):
            raise ValueError(
                f"nothing would be learned: steps={problem.steps} end before the first update, which comes after "
                f"{source.learning_starts} steps (learning_starts, and at least a sequence of each environment)"
            )
    except BaseException:
        if made is not problem.env:
            envs.close()
        raise
    learner = RecurrentDQN(policy, adam(config.learning_rate), config)
    kept = learner.target.network if config.act_by_average else policy
    final_rate = config.exploration_final_eps
    agent = Agent(kept, envs.observation_space, envs.action_space, exploration_rate=final_rate, seed=seed)
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


def _policy(
    config: RecurrentDQNConfig, envs: Environments, agent: Agent | None, backbone: BackboneChoice, seed: int
) -> QPolicy:
    actions = envs.action_space
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(f"recurrent_dqn needs a Discrete action space, this environment has {actions}")
    if agent is not None:
        agent.check_spaces(envs.observation_space, actions)
        if not isinstance(agent.policy, QPolicy) or not agent.policy.is_sequence:
            raise ValueError("recurrent_dqn goes on from an agent with action values and memory, which this one is not")
        return copy.deepcopy(agent.policy).requires_grad_(True)
    chosen = "lstm" if backbone == "auto" else backbone
    read = actions if config.previous_action else None
    with fresh_weights(seed):
        network = backbone_for(envs.observation_space, chosen, config.net_arch, config.normalize, read)
        if not getattr(network, "is_sequence", False):
            raise ValueError(
                f"recurrent_dqn needs a network with memory: {', '.join(MEMORIES)}, or a module of your own such as "
                'WithMemory(encoder, LSTM(...)). Without memory "dqn" learns'
            )
        return QPolicy(network, int(actions.n)).float()  # whatever the host's default dtype


def _source(config: RecurrentDQNConfig, envs: Environments, policy: QPolicy, steps: int, seed: int) -> SequenceReplay:
    assert isinstance(envs.action_space, spaces.Discrete)
    device = next(policy.parameters()).device
    length = config.burn_in + config.sequence_length
    # A run gives no more than its own steps, and the final frames of its episodes.
    frames = max(size_for(config.buffer_size, most=2 * steps), envs.num_envs * (length + 2 * config.sequence_period))
    buffer = SequenceBuffer(
        envs.observation_space,
        envs.action_space,
        frames,
        sequence_length=length,
        period=config.sequence_period,
        num_envs=envs.num_envs,
        with_actions=getattr(policy.backbone, "previous_action", None) is not None,
        keep_states=config.stored_state,
        state=policy.initial_state(1),
        device=device,
    )
    epsilon = Linear(config.exploration_initial_eps, config.exploration_final_eps, config.exploration_fraction)
    return SequenceReplay(
        envs,
        actor=MemoryActor(policy, envs.observation_space),
        buffer=buffer,
        exploration=EpsilonGreedy(envs.action_space, envs.num_envs, epsilon, config.learning_starts, seed),
        batch_size=config.batch_size,
        learning_starts=config.learning_starts,
        train_freq=config.train_freq,
        gradient_steps=config.gradient_steps,
        total_steps=steps,
        observe=policy.observe if config.normalize else None,
        seed=seed,
    ).to(device)


RECIPES = (
    Recipe(
        "recurrent_dqn",
        RecurrentDQNConfig,
        build_recurrent_dqn,
        "deep Q-learning with memory (Kapturowski et al. 2019), discrete actions",
        learns_from="an environment",
        needs=("env",),
    ),
)
