"""Learning by acting in environments: the environments, the replay of what happened there, the agent, evaluation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones.choice import table_for
from agentlib.core import Linear
from agentlib.core.recipe import Job, Judge, Length, Problem, Recipe, family
from agentlib.core.spaces import without_mask
from agentlib.envs.making import frame_stack, is_made, make_env, make_envs
from agentlib.envs.vector import Environments
from agentlib.experience import HindsightReplay, Replay, ReplayBuffer, SequenceBuffer, SequenceReplay
from agentlib.experience.actors import Actors
from agentlib.experience.evaluation import evaluate
from agentlib.experience.memory import size_for
from agentlib.experience.ray_fleet import RayFleet
from agentlib.experience.video import record, usual_suffix
from agentlib.families.building import device_of, learner_for, network_for
from agentlib.plots import pictures
from agentlib.plots.curves import return_curves
from agentlib.policies import ActionNoise, EpsilonGreedy, GreedyActor, MemoryActor, exploring_actor

SEED = 2**20
"""Of evaluations during training; no training uses it."""
CURVES = {"eval/mean_reward": "evaluation", "rollout/ep_rew_mean": "training, exploring"}
"""Returns whose course is drawn, and their names in the legend."""


class ControlFacts(NamedTuple):
    """The problem of a learner that acts, for its `build`."""

    observation_space: spaces.Space[Any]
    """Of one environment."""
    action_space: spaces.Space[Any]
    """Of one environment."""


@family("an environment", needs=("env",), has_actors=True)
def on_replay(recipe: Recipe, problem: Problem) -> Job:
    """Learning from transitions that are replayed."""
    return _assembled(recipe, problem, _transitions)


@family("an environment of categories", needs=("env",))
def on_table(recipe: Recipe, problem: Problem) -> Job:
    """Learning a table from transitions that are replayed."""
    if problem.backbone != "auto":
        raise ValueError(f"{recipe.name} keeps a table, and takes no backbone")
    return _assembled(recipe, problem, _transitions, table=True)


@family("an environment", needs=("env",))
def on_sequences(recipe: Recipe, problem: Problem) -> Job:
    """Learning with memory, from sequences that are replayed."""
    return _assembled(recipe, problem, _sequences, memory=True)


def _assembled(
    recipe: Recipe,
    problem: Problem,
    source_of: Callable[[Problem, Environments, Any, dict[str, Any]], Replay],
    memory: bool = False,
    table: bool = False,
) -> Job:
    """A job on replay.

    Raises:
        ValueError: the agent has other spaces, or the run ends before its first update.
    """
    config, steps = problem.config, int(problem.steps or 1)
    with ExitStack() as on_failure:
        envs = environments_for(problem)
        on_failure.callback(envs.close)
        facts = ControlFacts(envs.observation_space, envs.action_space)
        if problem.agent is not None:
            problem.agent.check_spaces(*facts)
        actions, seen = facts.action_space if getattr(config, "previous_action", False) else None, without_mask(*facts)
        asked = replace(problem, backbone=table_for(seen)) if table else problem
        network = partial(network_for, asked, seen, actions, memory)
        learner: Any = learner_for(recipe, problem, network, facts)
        names = ("batch_size", "learning_starts", "train_freq", "gradient_steps")
        arguments = {name: getattr(config, name) for name in names} | {
            "exploration": exploration_for(config, envs, problem.seed),
            "total_steps": steps,
            "observe": learner.policy.observe if getattr(config, "normalize", False) else None,
            "seed": problem.seed,
        }
        source = source_of(problem, envs, learner.policy, arguments).to(device_of(learner))
        if not source.updates_for(steps):
            raise ValueError(
                f"nothing would be learned: steps={steps} end before the first update, which comes after "
                f"learning_starts={source.learning_starts} steps and a multiple of train_freq={source.train_freq}"
            )
        on_failure.pop_all()
    model, rate = getattr(learner, "model", learner.policy), getattr(config, "exploration_final_eps", 0.0)
    agent = Agent(model, *facts, exploration_rate=rate, seed=problem.seed)
    judge = EpisodesJudge(problem, agent)
    judge.facts["replay_bytes"] = source.buffer.nbytes
    return Job(learner, source, Length(source.updates_for(steps), steps, is_exact=False), agent, judge)


def exploration_for(config: Any, envs: Environments, seed: int) -> Any:
    """Noise on real-valued actions, epsilon-greedy choices among discrete ones where the config has an epsilon."""
    if isinstance(envs.action_space, spaces.Box):
        kind: Any = getattr(config, "action_noise_kind", "normal")
        return ActionNoise(envs.action_space, envs.num_envs, config.action_noise, config.learning_starts, seed, kind)
    names = ("exploration_initial_eps", "exploration_final_eps", "exploration_fraction")
    epsilon = Linear(*[getattr(config, name) for name in names]) if hasattr(config, names[0]) else 0.0
    return EpsilonGreedy(envs.action_space, envs.num_envs, epsilon, config.learning_starts, seed)


def _transitions(problem: Problem, envs: Environments, policy: Any, arguments: dict[str, Any]) -> Replay:
    """Single steps, acted by a policy without memory."""
    config, steps = problem.config, int(problem.steps or 1)
    buffer = ReplayBuffer(
        envs.observation_space,
        envs.action_space,
        size_for(config.buffer_size, most=steps + config.train_freq + envs.num_envs),
        num_envs=envs.num_envs,
        frame_stack=frame_stack(envs.env),
        prioritized=getattr(config, "prioritized", False),
        device=device_of(policy),
    )
    actor: Any = GreedyActor(policy, envs.observation_space, noise_seed=problem.seed)
    if policy.is_stochastic:
        every, freq = -(-config.train_freq // envs.num_envs), getattr(config, "sde_sample_freq", -1)
        actor = exploring_actor(policy, envs.observation_space, envs.num_envs, every, freq, problem.seed)
    names = ("n_steps", "gamma", "priority_exponent", "importance_exponent")
    returns = {name: getattr(config, name) for name in names if hasattr(config, name)}
    if isinstance(envs, Actors):
        arguments["exploration"] = envs.acting(actor, arguments["exploration"], steps)
    if goals := getattr(config, "n_sampled_goal", 0):
        strategy = config.goal_selection_strategy
        hindsight = {"n_sampled_goal": goals, "goal_selection_strategy": strategy}
        return HindsightReplay(envs, actor, buffer, **arguments, **returns, **hindsight)
    return Replay(envs, actor, buffer, **arguments, **returns)


def _sequences(problem: Problem, envs: Environments, policy: Any, arguments: dict[str, Any]) -> SequenceReplay:
    """Sequences of steps, acted by a policy with memory."""
    config, steps = problem.config, int(problem.steps or 1)
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
        device=device_of(policy),
    )
    actor = MemoryActor(policy, envs.observation_space)
    return SequenceReplay(envs, actor, buffer, **arguments)


def environments_for(problem: Problem) -> Environments:
    """The problem's environments; `close` closes those that were made here, and leaves the caller's open."""
    if problem.actors is not None:
        num_envs, others = problem.n_envs or problem.actors, (problem.env_kwargs, problem.max_steps)
        return Actors(RayFleet, problem.env, num_envs, problem.actors, *others)
    made = make_envs(problem.env, problem.n_envs or 1, problem.env_kwargs, problem.max_steps)
    is_owned = not is_made(problem.env)
    try:
        return Environments(made, is_owned=is_owned)
    except BaseException:
        if is_owned:
            made.close()
        raise


class EpisodesJudge(Judge):
    """Mean return and length of the same episodes at each evaluation, in an environment of their own, if any."""

    def __init__(self, problem: Problem, agent: Agent) -> None:
        super().__init__()
        self.problem, self.agent = problem, agent
        self.evaluates = self.films = problem.env is not None

    def draw(self, folder: Path) -> list[Path]:
        found = {name: self.curves[key] for key, name in CURVES.items() if key in self.curves}
        return [pictures.save(return_curves(found), folder / "learning_curve.png")] if found else []

    def film(self, stem: Path, most: int) -> None:
        problem, file = self.problem, stem.with_name(stem.name + usual_suffix())
        most = min(problem.max_steps or most, most)
        record(self.agent, problem.env, file, env_kwargs=problem.env_kwargs, seed=SEED, max_steps=most)

    def evaluate(self) -> dict[str, float]:
        problem = self.problem
        world = partial(make_env, problem.env, env_kwargs=problem.env_kwargs, training=False)
        settings: Any = {"episodes": problem.n_eval_episodes, "seed": SEED, "max_steps": problem.max_steps}
        played = evaluate(self.agent, world, **settings)
        return {"eval/mean_reward": played.mean, "eval/mean_ep_length": float(played.lengths.mean())}
