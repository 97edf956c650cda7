"""Learning from an expert's answers, in the environments where the learner acts."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch

from agentlib.agent import Agent
from agentlib.core.recipe import Job, Length, Measure, Problem, Recipe, family
from agentlib.core.trees import copied
from agentlib.envs.playing import Person, render_mode_for
from agentlib.envs.vector import Environments
from agentlib.experience import Aggregate, Demonstrations
from agentlib.experience.asking import TakeoverGate
from agentlib.families.building import device_of
from agentlib.families.control import EpisodesJudge, environments_for
from agentlib.families.demonstrations import PERSON, answered, built, demonstrations_of, expert_of, feeding, observe_all
from agentlib.policies import DisagreementGate, Student, UnsureGate


@family("an expert, in an environment", needs=("env", "expert"), takes=("demos",))
def on_expert(recipe: Recipe, problem: Problem) -> Job:
    """Rounds of playing, asking and learning; demonstrations are what a run starts from.

    Where the run has no steps, `config.rounds` decides its length.

    Raises:
        ValueError: spaces that differ, or a gate that the policy cannot serve.
    """
    config = problem.config
    envs = environments_for(replace(problem, env_kwargs=_kwargs_for(problem)))
    with ExitStack() as on_failure:
        on_failure.callback(envs.close)
        expert = expert_of(problem.expert, problem.key)
        demonstrations = Demonstrations(envs.observation_space, envs.action_space, env_id=problem.key)
        if problem.demos is not None:
            demonstrations = demonstrations_of(problem.demos)
            demonstrations.check_spaces(envs.observation_space, envs.action_space)
        learner, agent = built(recipe, problem, demonstrations)
        fed = feeding(config, agent.policy)
        source = Aggregate(
            envs,
            Student(agent.policy, envs.observation_space, deterministic=config.deterministic, seed=problem.seed),
            expert,
            demonstrations=demonstrations,
            beta=config.beta,
            gate=_gate(config, agent.policy, expert, envs),
            rounds=config.rounds,
            round_episodes=config.rollout_round_min_episodes,
            round_steps=config.rollout_round_min_timesteps,
            total_steps=problem.steps,
            epochs=config.epochs,
            before_training=_before_training(config, learner, agent, len(demonstrations)),
            owns_envs=True,  # those of the caller's stay open
            seed=problem.seed,
            **fed,
        ).to(device_of(learner))
        on_failure.pop_all()
    per_round = max(config.rollout_round_min_timesteps, config.rollout_round_min_episodes * _longest_episode(envs), 1)
    steps = problem.steps if problem.steps is not None else config.rounds * per_round
    per_update = config.batch_size * (fed["sequence_length"] or 1)
    updates = max(config.epochs * steps * (steps // per_round + 1) // (2 * per_update), 1)
    judge = AskingJudge(problem, agent, source)
    return Job(learner, source, Length(updates, steps, is_exact=False), agent, judge)


class AskingJudge(EpisodesJudge):
    """Episodes while training; in the end, how much the expert was asked."""

    def __init__(self, problem: Problem, agent: Agent, source: Aggregate) -> None:
        super().__init__(problem, agent)
        self.source = source

    def finish(self) -> list[Measure]:
        return [Measure("test/labels", float(self.source.labels)), Measure("test/rounds", float(self.source.round))]


def _kwargs_for(problem: Problem) -> dict[str, Any]:
    """The environment's arguments; a person must see it."""
    kwargs, is_person = dict(problem.env_kwargs), isinstance(problem.expert, Person) or problem.expert == PERSON
    if is_person and isinstance(problem.env, str) and "render_mode" not in kwargs:
        mode = render_mode_for(problem.env, kwargs)
        kwargs |= {} if mode is None else {"render_mode": mode}
    return kwargs


def _longest_episode(envs: Environments) -> int:
    """Steps of the longest episode, as far as the environment says; 0 where it does not."""
    first = envs.env.envs[0] if hasattr(envs.env, "envs") else envs.env
    return int(getattr(getattr(first, "spec", None), "max_episode_steps", None) or 0)


def _gate(config: Any, policy: Any, expert: Any, envs: Environments) -> Any:
    if config.gate is None:
        return None
    if config.gate == "takeover":
        return TakeoverGate(expert, envs)
    return (UnsureGate if config.gate == "unsure" else DisagreementGate)(policy, config.asking_threshold)


def _before_training(config: Any, learner: Any, agent: Agent, given: int) -> Callable[[Aggregate], None]:
    """Between a round's episodes and its updates: calibration, the first weights again, running statistics."""
    fresh = copied(learner) if config.from_scratch else None

    def prepare(source: Aggregate) -> None:
        if config.calibrated and source.updates:  # the first round asks everywhere: nothing was learned
            new = source.demonstrations.select(range(source.episodes_before, len(source.demonstrations)))
            answers = [
                (output[batch.weight > 0], batch.action[batch.weight > 0])
                for batch, output in answered(agent.policy, new)
            ]
            if answers:
                source.gate.calibrate(*(torch.cat(column) for column in zip(*answers, strict=True)))
        if fresh is not None:
            learner.load_state_dict(fresh)
        observe_all(agent.policy, source.demonstrations, given if fresh is not None else source.episodes_before)

    return prepare
