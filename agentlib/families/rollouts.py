"""Learning from the steps of the present policy: the environments, the networks, the rollouts, the agent."""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from typing import Any

from torch import nn

from agentlib.agent import Agent
from agentlib.backbones import initialize
from agentlib.core.recipe import Job, Length, Problem, Recipe, family
from agentlib.core.spaces import without_mask
from agentlib.experience.rollout import Rollout
from agentlib.experience.sequence_rollout import SequenceRollout
from agentlib.families.building import device_of, learner_for, network_for
from agentlib.families.control import ControlFacts, EpisodesJudge, environments_for

ORTHOGONAL = ("auto", "mlp", "nature_cnn", "cnn")
"""Networks that start orthogonal where the config has `ortho_init`."""


FIELDS = ("n_steps", "gamma", "gae_lambda", "n_epochs", "batch_size", "target_kl", "normalize_reward")


@family("an environment", needs=("env",), has_actors=True, fields=(*FIELDS, "normalize", "ortho_init"))
def on_rollouts(recipe: Recipe, problem: Problem) -> Job:
    """Learning from rollouts of the present policy. A learner has `networks`, an `ActorCritic`.

    Raises:
        ValueError: the agent has other spaces, a minibatch is larger than a rollout, or actors are asked to remember.
    """
    config, steps = problem.config, int(problem.steps or 1)
    with ExitStack() as on_failure:
        envs = environments_for(problem)
        on_failure.callback(envs.close)
        facts = ControlFacts(envs.observation_space, envs.action_space)
        if problem.agent is not None:
            problem.agent.check_spaces(*facts)

        def network() -> nn.Module:
            backbone = network_for(problem, without_mask(*facts), **recipe.learner.layers(config))
            if config.ortho_init and problem.agent is None and problem.backbone in ORTHOGONAL:
                initialize(backbone, "orthogonal", math.sqrt(2.0))
            return backbone

        learner = learner_for(recipe, problem, network, facts)
        arguments: dict[str, Any] = {name: getattr(config, name) for name in FIELDS}
        observe = learner.policy.observe if config.normalize else None
        others: dict[str, Any] = {"total_steps": steps, "observe": observe, "seed": problem.seed}
        others["sde_sample_freq"] = getattr(config, "sde_sample_freq", -1)
        kind: type[Rollout] = Rollout
        sequence_length = getattr(config, "sequence_length", None)
        if learner.policy.is_sequence:
            if problem.actors is not None:
                raise ValueError("a policy with memory steps its environments itself: leave out actors=")
            kind, others["sequence_length"] = SequenceRollout, sequence_length
        elif sequence_length is not None:
            raise ValueError('sequence_length is of networks with memory, such as backbone="lstm": this one has none')
        source = kind(envs, learner.networks, **arguments, **others).to(device_of(learner))
        on_failure.pop_all()
    if config.batch_size not in (None, source.batch_size):
        warnings.warn(
            f"a minibatch has {source.batch_size} steps, whole sequences, in place of {config.batch_size}", stacklevel=2
        )
    if rest := source.epoch_size % source.batch_size:
        warnings.warn(
            f"the last minibatch of each epoch has {rest} samples in place of batch_size={source.batch_size}, which "
            f"does not divide the {source.epoch_size} steps of a rollout",
            stacklevel=2,
        )
    agent = Agent(learner.policy, *facts, seed=problem.seed)
    length = Length(source.updates_for(steps), steps, is_exact=False)
    return Job(learner, source, length, agent, EpisodesJudge(problem, agent))
