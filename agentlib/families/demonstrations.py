"""Learning from demonstrations: from what a user gives to batches, held-out episodes, and an agent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from agentlib.agent import Agent
from agentlib.backbones import AfterAction, RunningNorm
from agentlib.backbones.choice import MEMORIES
from agentlib.core.modes import in_eval_mode
from agentlib.core.recipe import Job, Judge, Problem, Recipe, family
from agentlib.core.spaces import action_from_space, to_tensors
from agentlib.core.trees import mapped
from agentlib.envs.experts import expert_for
from agentlib.envs.playing import Person
from agentlib.experience import (
    Demonstration,
    DemonstrationBatches,
    Demonstrations,
    Episode,
    Labelled,
    RecordedTransitions,
    ReturnBatches,
)
from agentlib.experience.asking import rows_of
from agentlib.families.building import device_of, job_for, learner_for, network_for
from agentlib.families.control import EpisodesJudge, environments_for

EVALUATED = 2_000
"""Held-out steps that an evaluation looks at, at most, in whole episodes."""
SEQUENCE_LENGTH = 100
"""Steps per chunk for policies with memory, where the config does not say."""
PERSON = "me"
"""The name of the expert at the keyboard."""


def no_other_backbone() -> nn.Module:
    """Raises ValueError: the backbone was given as a built module, and there is only one."""
    raise ValueError("an ensemble needs a backbone for each of its policies: name it, and they are built")


class DemonstrationFacts(NamedTuple):
    """The problem of a learner from demonstrations."""

    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    demonstrations: Demonstrations
    """Those to learn from, without held-out ones; of DAgger, those that there are before the first round."""
    another_backbone: Callable[[], nn.Module] = no_other_backbone
    """Makes one more backbone, for ensembles."""


@family("demonstrations", needs=("demos",), takes=("env",))
def on_demonstrations(recipe: Recipe, problem: Problem) -> Job:
    """Copying of labelled steps. The environment is needed only to evaluate in; held-out episodes come before it.

    Where the run has no steps, `config.epochs` decides its length.
    """
    config, recorded, held_out = problem.config, _recorded(problem), None
    if share := getattr(config, "validation", 0.0):
        recorded, held_out = recorded.split(share, problem.seed)
    learner, agent = built(recipe, problem, recorded)
    source = DemonstrationBatches(recorded, seed=problem.seed, **feeding(config, agent.policy))
    if problem.steps is None:
        problem = replace(problem, steps=source.updates_for(config.epochs))
    judge: Judge = EpisodesJudge(problem, agent)
    if held_out is not None:
        judge = HeldOutJudge(agent.policy, held_out, source.feed.epoch_updates, getattr(config, "patience", None))
    judge.facts |= {"episodes": len(recorded), "labels": recorded.labels}
    return job_for(problem, learner, source, agent, judge)


@family("recorded episodes with rewards, good and bad ones", needs=("demos",), takes=("env",))
def on_returns(recipe: Recipe, problem: Problem) -> Job:
    """Learning from stretches of episodes and the returns that were to come; the learner remembers by itself.

    Raises:
        ValueError: a backbone with memory.
    """
    config, recorded = problem.config, _recorded(problem)
    if isinstance(problem.backbone, str) and problem.backbone in MEMORIES:
        raise ValueError(f"{recipe.name} remembers by itself: choose a backbone without memory")
    learner, agent = built(recipe, problem, recorded)
    source = ReturnBatches(recorded, config.context_length, config.batch_size, seed=problem.seed)
    judge = EpisodesJudge(problem, agent)
    judge.facts |= {"episodes": len(recorded), "best_return": float(recorded.returns.max())}
    return job_for(problem, learner, source, agent, judge)


@family("recorded episodes with rewards, good and bad ones", needs=("demos",), takes=("env",))
def on_transitions(recipe: Recipe, problem: Problem) -> Job:
    """Learning from recorded transitions and their rewards."""
    config, recorded = problem.config, _recorded(problem)
    learner, agent = built(recipe, problem, recorded, observes=True)
    n_steps = getattr(config, "n_steps", 1)
    source = RecordedTransitions(recorded, config.batch_size, n_steps=n_steps, gamma=config.gamma, seed=problem.seed)
    judge = EpisodesJudge(problem, agent)
    judge.facts |= {"episodes": len(recorded), "mean_return": float(recorded.returns.mean())}
    return job_for(problem, learner, source, agent, judge)


class HeldOutJudge(Judge):
    """How well a policy predicts the steps of episodes that nothing was learned from."""

    objective, lower_is_better, evaluates = "eval/loss", True, True

    def __init__(self, policy: nn.Module, held_out: Demonstrations, eval_every: int, patience: int | None) -> None:
        super().__init__()
        self.policy, self.eval_every, self.patience = policy, eval_every, patience
        self.held_out = held_out.select(range(int((held_out.lengths.cumsum() <= EVALUATED).sum()) or 1))

    def evaluate(self) -> dict[str, float]:
        return held_out_scores(self.policy, self.held_out)


def _recorded(problem: Problem) -> Demonstrations:
    """The problem's demonstrations.

    Raises:
        ValueError: the problem names an environment, and it has other spaces.
    """
    demonstrations = demonstrations_of(problem.demos)
    if problem.env is not None:
        with closing(environments_for(replace(problem, n_envs=1))) as envs:
            demonstrations.check_spaces(envs.observation_space, envs.action_space)
    return demonstrations


def built(
    recipe: Recipe, problem: Problem, demonstrations: Demonstrations, observes: bool = False
) -> tuple[Any, Agent]:
    """The learner, and the agent that acts by its policy (by its `model`, if it has one beside the policy).

    With `observes`, running statistics are those of the demonstrations before the learner is built.
    """
    seen, done = demonstrations.observation_space, demonstrations.action_space
    if problem.agent is not None:
        problem.agent.check_spaces(seen, done)
    network = partial(network_for, problem, seen, done if getattr(problem.config, "previous_action", False) else None)

    def observed() -> nn.Module:
        backbone = network()
        observe_all(backbone, demonstrations)
        return backbone

    another = no_other_backbone if isinstance(problem.backbone, nn.Module) else network
    facts = DemonstrationFacts(seen, done, demonstrations, another)
    learner = learner_for(recipe, problem, observed if observes else network, facts)
    about = {"trained_on": demonstrations.env_id}  # where the run has an environment of its own, it is that one
    return learner, Agent(getattr(learner, "model", learner.policy), seen, done, about=about, seed=problem.seed)


def feeding(config: Any, policy: nn.Module) -> dict[str, Any]:
    """How a policy is fed with demonstrations: arguments of `DemonstrationBatches` and `Aggregate`.

    Raises:
        ValueError: chunks for a policy without memory.
    """
    memory, length = getattr(policy, "is_sequence", False), getattr(config, "sequence_length", None)
    if length is not None and not memory:
        raise ValueError("sequence_length is for policies with a memory; this one sees single steps: leave it out")
    return {
        "batch_size": config.batch_size,
        "sequence_length": (length or SEQUENCE_LENGTH) if memory else None,
        "from_start": getattr(config, "from_start", 0.5),
        "with_actions": reads_actions(policy),
    }


def demonstrations_of(demos: Any) -> Demonstrations:
    """Demonstrations, also "minari:ID", a Minari dataset, or the path of a file that `Demonstrations.save` wrote.

    Raises:
        FileNotFoundError: no such file or dataset.
        ValueError: none of these, or no episodes.
    """
    if isinstance(demos, str) and demos.startswith("minari:"):
        demos = Demonstrations.from_minari(demos.removeprefix("minari:"))
    elif isinstance(demos, str | Path):
        demos = Demonstrations.load(demos)
    elif hasattr(demos, "iterate_episodes"):
        demos = Demonstrations.from_minari(demos)
    if not isinstance(demos, Demonstrations):
        hint = "; of arrays, Demonstrations.from_arrays makes them"
        if isinstance(demos, list | tuple) and demos and isinstance(demos[0], Episode | Demonstration):
            hint = ": make them by Demonstrations.from_episodes(episodes, observation_space, action_space)"
        raise ValueError(
            f'demos are Demonstrations, "minari:ID", a path of a .safetensors file, or a Minari dataset, '
            f"not {type(demos).__name__}{hint}"
        )
    if not len(demos):
        raise ValueError("the demonstrations are empty: they have no episodes")
    return demos


def expert_of(expert: Any, env_id: str | None) -> Any:
    """An expert: anything that `agentlib.experience.Expert` takes, the path of an agent, or a name.

    Names are "scripted" (the environment's, from `agentlib.envs.experts`), "me" (a person, at the terminal), and
    "sb3:FILE.zip".

    Raises:
        FileNotFoundError: no agent at such a path.
        ValueError: no scripted expert for this environment.
    """
    if not isinstance(expert, str | Path):
        return expert
    name = str(expert)
    if name == PERSON:
        return Person()
    if name == "scripted":
        return expert_for(env_id or "an environment without an id")
    return Agent.from_sb3(name.removeprefix("sb3:")) if name.startswith("sb3:") else Agent.load(name)


def held_out_scores(policy: Any, demonstrations: Demonstrations) -> dict[str, float]:
    """How well a policy predicts these steps: mean loss, and the share of equal actions.

    The loss is -log pi(a | o), or the squared error of a policy without a distribution. A memory is carried through
    whole episodes.
    """
    losses = agreements = count = 0.0
    for batch, output in answered(policy, demonstrations):
        axes = batch.weight.dim()
        with in_eval_mode(policy):
            choice = policy.choose(output)
            if hasattr(policy, "log_prob"):
                loss = -policy.log_prob(output, batch.action)
            else:
                loss = (choice - batch.action).square().flatten(axes).mean(-1)
        equal = torch.isclose(choice.float(), batch.action.float(), atol=1e-3)
        equal = equal.flatten(axes).all(-1) if equal.dim() > axes else equal
        losses += float((loss * batch.weight).sum())
        agreements += float((equal * batch.weight).sum())
        count += float(batch.weight.sum())
    return {"eval/loss": losses / max(count, 1.0), "eval/agreement": agreements / max(count, 1.0)}


def answered(policy: nn.Module, demonstrations: Demonstrations) -> Iterator[tuple[Labelled, Tensor]]:
    """Each episode without its final observation, `(T,)`, or `(1, T)` for a policy with memory; and the outputs."""
    device, memory = device_of(policy), getattr(policy, "is_sequence", False)
    space, actions = demonstrations.observation_space, demonstrations.action_space
    for episode in demonstrations:
        length = len(episode.rewards)
        observation: Any = to_tensors(space, rows_of(space, episode.observations, slice(length)), device)
        if memory and reads_actions(policy):
            done = action_from_space(actions, episode.actions)
            none = np.full_like(done[:1], 0 if isinstance(actions, spaces.Box) else -1)
            observation = AfterAction(observation, torch.from_numpy(np.concatenate([none, done[:-1]])).to(device))
        label, known = action_from_space(actions, episode.labels), episode.labelled.astype(np.float32)
        arrays = (label, known, np.arange(length) == 0)  # the last: where the episode starts
        action, weight, start = (torch.from_numpy(array).to(device) for array in arrays)
        batch = Labelled(observation, action, weight, start)
        batch = mapped(batch, lambda tensor: tensor[None]) if memory else batch
        with in_eval_mode(policy):
            output, _ = policy(batch.observation, None, batch.episode_start if memory else None)
        yield batch, output


def reads_actions(policy: nn.Module) -> bool:
    """Whether a policy's memory reads the last action."""
    return any(getattr(module, "previous_action", None) is not None for module in policy.modules())


def observe_all(policy: Any, demonstrations: Demonstrations, first: int = 0) -> None:
    """Brings the demonstrations' observations, from this episode on, into a network's running statistics, if any."""
    if hasattr(policy, "observe") and any(isinstance(module, RunningNorm) for module in policy.modules()):
        for index in range(first, len(demonstrations)):
            observations = demonstrations[index].observations
            policy.observe(to_tensors(demonstrations.observation_space, observations, device_of(policy)))
