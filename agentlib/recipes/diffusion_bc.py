"""Cloning by diffusion, put together."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import torch
from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones import adam
from agentlib.data import DemonstrationBatches, Demonstrations
from agentlib.learners.imitation.diffusion_bc import DiffusionBC, DiffusionBCConfig
from agentlib.policies import DiffusionPolicy
from agentlib.recipes.backbones import BackboneChoice, backbone_for
from agentlib.recipes.demonstrations import check_environment, demonstrations_of, observe_all
from agentlib.recipes.problem import Job, Problem, Recipe, choose_device, episodes_played, fresh_weights


def build_diffusion_bc(
    config: DiffusionBCConfig, problem: Problem, backbone: BackboneChoice, device: str | torch.device, seed: int
) -> Job:
    """A run of cloning by diffusion. The environment is needed only to evaluate in.

    Raises:
        ValueError: no demonstrations, actions that are no real numbers, a backbone with memory, or spaces that differ
            from the environment's.
    """
    demonstrations = demonstrations_of(problem.demos)
    check_environment(demonstrations, problem)
    policy = _policy(config, demonstrations, problem.agent, backbone, seed)
    policy.to(choose_device(device, policy))
    observe_all(policy, demonstrations)
    learner = DiffusionBC(policy, adam(config.learning_rate), config)
    acting = learner.average.network
    agent = Agent(acting, demonstrations.observation_space, demonstrations.action_space, seed=seed)
    assert isinstance(problem.steps, int)  # the recipe has a default
    job = Job(
        learner=learner,
        source=DemonstrationBatches(demonstrations, config.batch_size, seed=seed).to(agent.device),
        updates=problem.steps,
        steps=problem.steps,
        product=lambda: agent,
        tables={"episodes": len(demonstrations), "labels": demonstrations.labels},
    )
    return job if problem.env is None else replace(job, evaluate=episodes_played(problem, lambda: agent))


def _policy(
    config: DiffusionBCConfig,
    demonstrations: Demonstrations,
    agent: Agent | None,
    backbone: BackboneChoice,
    seed: int,
) -> DiffusionPolicy:
    seen, done = demonstrations.observation_space, demonstrations.action_space
    if agent is not None:
        agent.check_spaces(seen, done)
        if not isinstance(agent.policy, DiffusionPolicy):
            raise ValueError(f"diffusion_bc goes on from a DiffusionPolicy, not from a {type(agent.policy).__name__}")
        return copy.deepcopy(agent.policy).requires_grad_(True)
    if not isinstance(done, spaces.Box):
        raise ValueError(f"diffusion_bc makes real-valued actions (Box), not {done}: for others there is bc")
    with fresh_weights(seed):
        network = backbone_for(seen, backbone, config.net_arch, config.normalize)
        if getattr(network, "is_sequence", False):
            raise ValueError("diffusion_bc acts by single observations: choose a backbone without memory")
        policy = DiffusionPolicy(network, done, config.denoiser, config.noise_steps, config.sample_steps).float()
    labels = np.concatenate([episode.labels[episode.labelled] for episode in demonstrations])
    policy.model.standardize(torch.from_numpy(labels.reshape(len(labels), -1).astype(np.float32)))
    return policy


RECIPES = (
    Recipe(
        "diffusion_bc",
        DiffusionBCConfig,
        build_diffusion_bc,
        "cloning by diffusion (Chi et al. 2023): keeps several ways to act apart; real-valued actions",
        learns_from="demonstrations",
        needs=("demos",),
        takes=("env",),
        steps=5_000,
    ),
)
