"""The decision transformer, put together."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones import ReturnConditioned, adamw
from agentlib.data import Demonstrations, ReturnBatches
from agentlib.learners.imitation.decision_transformer import DecisionTransformer, DecisionTransformerConfig
from agentlib.policies import StochasticPolicy, policy_for
from agentlib.recipes.backbones import MEMORIES, BackboneChoice, backbone_for
from agentlib.recipes.demonstrations import check_environment, demonstrations_of, observe_all
from agentlib.recipes.problem import Job, Problem, Recipe, choose_device, episodes_played, fresh_weights


def build_decision_transformer(
    config: DecisionTransformerConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A run on recorded episodes with their rewards. The environment is needed only to evaluate in.

    The backbone is the encoder of single observations, below the transformer.

    Raises:
        ValueError: no demonstrations, spaces that differ from the environment's, or an encoder that has memory.
    """
    demonstrations = demonstrations_of(problem.demos)
    check_environment(demonstrations, problem)
    policy = _policy(config, demonstrations, problem.agent, backbone, seed)
    policy.to(choose_device(device, policy))
    observe_all(policy, demonstrations)
    rule = adamw(config.learning_rate, weight_decay=config.weight_decay)
    updates = config.updates if problem.steps is None else problem.steps
    source = ReturnBatches(demonstrations, config.context_length, config.batch_size, seed=seed)
    agent = Agent(policy, demonstrations.observation_space, demonstrations.action_space, seed=seed)
    job = Job(
        learner=DecisionTransformer(policy, rule, config),
        source=source.to(next(policy.parameters()).device),
        updates=updates,
        steps=updates,
        product=lambda: agent,
        tables={"episodes": len(demonstrations), "best_return": float(demonstrations.returns.max())},
    )
    return job if problem.env is None else replace(job, evaluate=episodes_played(problem, lambda: agent))


def _policy(
    config: DecisionTransformerConfig,
    demonstrations: Demonstrations,
    agent: Agent | None,
    backbone: BackboneChoice,
    seed: int,
) -> StochasticPolicy:
    seen, done = demonstrations.observation_space, demonstrations.action_space
    if agent is not None:
        agent.check_spaces(seen, done)
        if not isinstance(agent.backbone, ReturnConditioned) or not isinstance(agent.policy, StochasticPolicy):
            raise ValueError("decision_transformer goes on from an agent of its own kind, which this one is not")
        return copy.deepcopy(agent.policy).requires_grad_(True)
    returns = demonstrations.returns
    scale = config.return_scale if config.return_scale is not None else float(np.abs(returns).max()) or 1.0
    with fresh_weights(seed):
        remembers = isinstance(backbone, str) and backbone in MEMORIES
        if remembers or getattr(backbone, "is_sequence", False):
            raise ValueError("a decision transformer remembers by itself: choose a backbone without memory")
        encoder = backbone_for(seen, backbone, config.net_arch or (), config.normalize)
        network = ReturnConditioned(
            encoder,
            int(done.n) if isinstance(done, spaces.Discrete) else tuple(done.shape or ()),
            dim=config.embed_dim,
            layers=config.n_layers,
            heads=config.n_heads,
            context=config.context_length,
            max_timestep=int(demonstrations.lengths.max()),
            dropout=config.dropout,
            target_return=config.target_return if config.target_return is not None else float(returns.max()),
            return_scale=scale,
            expected_reward=float(returns.sum() / demonstrations.steps),
        )
        return policy_for(done, network).float()  # whatever the host's default dtype


RECIPES = (
    Recipe(
        "decision_transformer",
        DecisionTransformerConfig,
        build_decision_transformer,
        "decision transformer (Chen et al. 2021), clones episodes of the return that is asked for; any actions",
        learns_from="recorded episodes with rewards, good and bad ones",
        needs=("demos",),
        takes=("env",),
    ),
)
