"""Behavioural cloning and DAgger, put together."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from agentlib.agent import Agent
from agentlib.backbones import adam
from agentlib.data import Aggregate, DemonstrationBatches, Demonstrations
from agentlib.data.asking import TakeoverGate
from agentlib.data.collection import WINDOW
from agentlib.envs.experts import expert_for
from agentlib.envs.making import make_envs
from agentlib.envs.playing import Person, render_mode_for
from agentlib.envs.vector import Environments
from agentlib.learners.imitation.bc import BC, BCConfig, CloningConfig
from agentlib.learners.imitation.dagger import THRESHOLDS, DAggerConfig
from agentlib.policies import DeterministicPolicy, DisagreementGate, EnsemblePolicy, Student, UnsureGate, policy_for
from agentlib.recipes.backbones import backbone_for
from agentlib.recipes.demonstrations import (
    answered,
    balanced_weights,
    check_environment,
    demonstrations_of,
    held_out_scores,
    observe_all,
    reads_actions,
)
from agentlib.recipes.problem import Job, Problem, Recipe, choose_device, episodes_played, fresh_weights
from agentlib.training.trees import copied

SEQUENCE_LENGTH = 100
"""Steps per chunk for policies with a memory, where the config does not say."""
PERSON = "me"
"""The expert's name for whoever sits at the keyboard."""


def build_bc(
    config: BCConfig, problem: Problem, backbone: str | nn.Module, device: str | torch.device, seed: int
) -> Job:
    """A run of behavioural cloning. The environment is needed only to evaluate in.

    Raises:
        ValueError: no demonstrations, or spaces that differ from the environment's.
    """
    demonstrations = demonstrations_of(problem.demos)
    check_environment(demonstrations, problem)
    held_out = None
    if config.validation:
        demonstrations, held_out = demonstrations.split(config.validation, seed)
    policy = _policy(config, demonstrations, problem.agent, backbone, seed)
    policy.to(choose_device(device, policy))
    config = _completed(config, demonstrations, policy)
    observe_all(policy, demonstrations)
    source = DemonstrationBatches(
        demonstrations,
        config.batch_size,
        sequence_length=config.sequence_length,
        from_start=config.from_start,
        with_actions=reads_actions(policy),
        seed=seed,
    ).to(next(policy.parameters()).device)
    updates = source.updates_for(config.epochs) if problem.steps is None else problem.steps
    agent = Agent(policy, demonstrations.observation_space, demonstrations.action_space, seed=seed)
    job = Job(
        learner=BC(policy, adam(config.learning_rate), config),
        source=source,
        updates=updates,
        steps=updates,
        product=lambda: agent,
        tables={"episodes": len(demonstrations), "labels": demonstrations.labels},
    )
    play = None if problem.env is None else episodes_played(problem, lambda: agent)
    if held_out is None:
        return replace(job, evaluate=play)
    return replace(
        job,
        evaluate=lambda: held_out_scores(policy, held_out),
        objective="eval/loss",
        lower_is_better=True,
        eval_every=source.feed.epoch_updates,
        patience=config.patience,
    )


def build_dagger(
    config: DAggerConfig, problem: Problem, backbone: str | nn.Module, device: str | torch.device, seed: int
) -> Job:
    """A DAgger run, on one or several environments; demonstrations are what it starts from.

    Raises:
        ValueError: no environment or expert, spaces that differ, or a gate that the policy cannot serve.
    """
    if problem.env is None:
        raise ValueError('dagger plays in an environment: give one, such as env="CartPole-v1"')
    person = isinstance(problem.expert, Person) or problem.expert == PERSON
    made = make_envs(problem.env, problem.n_envs, _kwargs_for(problem, person))
    envs = Environments(made)
    try:
        expert = expert_of(problem.expert, problem.key)
        demonstrations = Demonstrations(envs.observation_space, envs.action_space, env_id=problem.key)
        if problem.demos is not None:
            demonstrations = demonstrations_of(problem.demos)
            demonstrations.check_spaces(envs.observation_space, envs.action_space)
        policy = _policy(config, demonstrations, problem.agent, backbone, seed)
        policy.to(choose_device(device, policy))
        if config.class_weights == "balanced":
            raise ValueError("dagger's labels come as it goes: give class_weights as numbers, or leave them out")
        config = _completed(config, demonstrations, policy)
        gate = _gate(config, policy, expert, envs)
        learner = BC(policy, adam(config.learning_rate), config)
        source = Aggregate(
            envs,
            Student(policy, envs.observation_space, deterministic=config.deterministic, seed=seed),
            expert,
            demonstrations=demonstrations,
            beta=config.beta,
            gate=gate,
            rounds=config.rounds,
            round_episodes=config.rollout_round_min_episodes,
            round_steps=config.rollout_round_min_timesteps,
            total_steps=problem.steps,
            epochs=config.epochs,
            batch_size=config.batch_size,
            sequence_length=config.sequence_length,
            from_start=config.from_start,
            with_actions=reads_actions(policy),
            seed=seed,
        ).to(next(policy.parameters()).device)
    except BaseException:
        if made is not problem.env:
            envs.close()
        raise
    source.before_training = _before_training(config, learner, source)
    agent = Agent(policy, envs.observation_space, envs.action_space, seed=seed)
    per_round = max(config.rollout_round_min_timesteps, config.rollout_round_min_episodes * _longest_episode(envs), 1)
    steps = problem.steps if problem.steps is not None else config.rounds * per_round
    return Job(
        learner=learner,
        source=source,
        updates=max(config.epochs * steps * (steps // per_round + 1) // (2 * config.batch_size), 1),
        finished=lambda: source.finished,
        steps=steps,
        product=lambda: agent,
        measures=lambda: _measures(source),
        evaluate=episodes_played(problem, lambda: agent),
        finish=lambda: {"test/labels": float(source.labels), "test/rounds": float(source.round)},
        close=lambda: None if made is problem.env else envs.close(),
    )


def expert_of(expert: Any, env_id: str | None) -> Any:
    """An expert from what a user gives: a name, or itself.

    Args:
        expert: "scripted" (the environment's, from `agentlib.envs.experts`), "me" (a person, at the terminal),
            "sb3:FILE.zip", the path of an agent, or anything that `agentlib.data.Expert` takes.
        env_id: of the environment.

    Raises:
        FileNotFoundError: no agent at such a path.
        ValueError: no expert, or no scripted one for this environment.
    """
    if expert is None:
        raise ValueError('whom to ask? give an expert, such as expert="scripted", a function, an agent, or "me"')
    if not isinstance(expert, str | Path):
        return expert
    name = str(expert)
    if name == PERSON:
        return Person()
    if name == "scripted":
        return expert_for(env_id or "an environment without an id")
    if name.startswith("sb3:"):
        return Agent.from_sb3(name.removeprefix("sb3:"))
    return Agent.load(name)


def _policy(
    config: CloningConfig, demonstrations: Demonstrations, agent: Agent | None, backbone: str | nn.Module, seed: int
) -> nn.Module:
    seen, done = demonstrations.observation_space, demonstrations.action_space
    if agent is not None:
        agent.check_spaces(seen, done)
        return copy.deepcopy(agent.policy).requires_grad_(True)
    if config.ensemble > 1 and isinstance(backbone, nn.Module):
        raise ValueError("an ensemble needs a backbone for each of its policies: name it, and they are built")

    def build() -> nn.Module:
        read = done if config.previous_action else None
        network = backbone_for(seen, backbone, config.net_arch, config.normalize, read)
        if config.loss == "mse" and isinstance(done, spaces.Box):
            return DeterministicPolicy(network, done, config.squashed)
        return policy_for(done, network, squashed=config.squashed)

    with fresh_weights(seed):
        policies = [build().float() for _ in range(config.ensemble)]  # whatever the host's default dtype
        return EnsemblePolicy(policies) if len(policies) > 1 else policies[0]


def _completed(config: Any, demonstrations: Demonstrations, policy: nn.Module) -> Any:
    """The config with what depends on the policy and the labels."""
    memory = bool(getattr(policy, "is_sequence", False))
    if config.sequence_length is not None and not memory:
        raise ValueError("sequence_length is for policies with a memory; this one sees single steps: leave it out")
    if memory and config.sequence_length is None:
        config = replace(config, sequence_length=SEQUENCE_LENGTH)
    if config.class_weights == "balanced":
        config = replace(config, class_weights=balanced_weights(demonstrations))
    return config


def _kwargs_for(problem: Problem, person: bool) -> dict[str, Any]:
    """The environment's arguments; a person must see it."""
    kwargs = dict(problem.env_kwargs)
    if person and isinstance(problem.env, str) and "render_mode" not in kwargs:
        mode = render_mode_for(problem.env, kwargs)
        kwargs |= {} if mode is None else {"render_mode": mode}
    return kwargs


def _longest_episode(envs: Environments) -> int:
    """As far as the environment says; 0 where it does not."""
    first = envs.env.envs[0] if hasattr(envs.env, "envs") else envs.env
    return int(getattr(getattr(first, "spec", None), "max_episode_steps", None) or 0)


def _gate(config: DAggerConfig, policy: nn.Module, expert: Any, envs: Environments) -> Any:
    if config.gate is None:
        return None
    if config.gate == "takeover":
        return TakeoverGate(expert, envs)
    threshold = THRESHOLDS[config.gate] if config.threshold is None else config.threshold
    return UnsureGate(policy, threshold) if config.gate == "unsure" else DisagreementGate(policy, threshold)


def _before_training(config: DAggerConfig, learner: BC, source: Aggregate) -> Callable[[], None]:
    given = len(source.demonstrations)
    observe_all(learner.policy, source.demonstrations)
    fresh = copied(learner) if config.from_scratch else None

    def prepare() -> None:
        gate = source.gate
        if config.calibrated and source.updates:  # the first round asks everywhere: nothing was learned
            new = source.demonstrations.select(range(source.episodes_before, len(source.demonstrations)))
            answers = [
                (output[batch.weight > 0], batch.action[batch.weight > 0])
                for batch, output in answered(learner.policy, new)
            ]
            if answers:
                gate.calibrate(*(torch.cat(column) for column in zip(*answers, strict=True)))
        if fresh is not None:
            learner.load_state_dict(fresh)
        observe_all(learner.policy, source.demonstrations, given if fresh is not None else source.episodes_before)

    return prepare


def _measures(source: Aggregate) -> dict[str, float]:
    count = len(source.demonstrations)
    last = source.demonstrations.select(range(max(count - WINDOW, 0), count))
    measures: dict[str, Any] = {"rollout/labels": source.labels, "time/episodes": count, "rollout/round": source.round}
    if len(last):
        measures |= {"rollout/ep_rew_mean": np.mean(last.returns), "rollout/ep_len_mean": np.mean(last.lengths)}
        share = [episode.interventions.mean() for episode in last]
        measures["rollout/intervention_rate"] = np.average(share, weights=last.lengths)
    if isinstance(source.gate, UnsureGate):
        measures["rollout/temperature"] = source.gate.temperature
    return {name: float(value) for name, value in measures.items()}


RECIPES = (
    Recipe(
        "bc",
        BCConfig,
        build_bc,
        "behavioural cloning (Pomerleau 1991), copies demonstrations; any actions",
        learns_from="demonstrations",
        needs=("demos",),
        takes=("env",),
    ),
    Recipe(
        "dagger",
        DAggerConfig,
        build_dagger,
        "DAgger (Ross et al. 2011), asks an expert about its own states; any actions",
        learns_from="an expert, in an environment",
        needs=("env", "expert"),
        takes=("demos", "steps"),
    ),
)
