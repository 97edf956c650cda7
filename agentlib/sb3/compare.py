"""Ours beside Stable-Baselines3's: same hyperparameters, seeds, threads and environment, measured in the same way.

For each seed both sides train in one process, taking turns to go first. An equal, thin wrapper around the environment
notes the learning curve and the times; the final agents then play the same episodes, on seeds that no training saw.
Imports are not timed. What a side compiles before its first environment step counts as start-up; what it compiles
later falls out of the warm rate only, which is taken over the second half of the steps.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation

from agentlib.agent import Agent
from agentlib.core.host import global_generators_kept, torch_threads
from agentlib.core.numbers import whole
from agentlib.core.recipe import Problem, Recipe
from agentlib.envs.checks import Checks
from agentlib.envs.making import make_env
from agentlib.experience.evaluation import FIRST_EPISODE_SEED, evaluate
from agentlib.experience.video import record
from agentlib.families.control import SEED as CHECK_SEED
from agentlib.runs.folder import RunFolder
from agentlib.runs.plan import Plan, plan
from agentlib.runs.train import train
from agentlib.sb3.comparison import Comparison, Run, Side
from agentlib.sb3.recording import CHECK_EPISODES, VIDEO, Evaluated, Recorded, TrainingLog
from agentlib.sb3.training import (
    WithMask,
    acting,
    algorithm_of,
    import_sb3,
    lacks_space,
    mask_in,
    sb3_arguments,
    train_sb3,
    unsupported_options,
    vector_of,
)

EnvSource = str | Callable[[], gymnasium.Env[Any, Any]]


def compare(
    what: Any = "dqn",
    *,
    env: EnvSource,
    steps: int,
    n_envs: int | None = None,
    backbone: Literal["auto", "lstm"] = "auto",
    seeds: int | Sequence[int] = 5,
    out: str | Path | None = None,
    env_kwargs: dict[str, Any] | None = None,
    episodes: int = 100,
    threads: int | None = None,
    device: str = "auto",
    strict: bool = True,
    until: float | None = None,
    eval_every: int | None = None,
    video: bool = False,
    progress: bool | Literal["lines"] = True,
    **hyperparameters: Any,
) -> Comparison:
    """Train our learner and Stable-Baselines3's with the same settings, and compare returns and times.

    Args:
        what: a name such as "dqn", which selects the preset for a known environment, or a config, taken literally.
        env: an id, or a function that makes an environment; observations that SB3 cannot take are flattened.
        steps, n_envs: environment steps per run; environments side by side, by default as the preset says, or one.
        backbone: "lstm" compares PPO with memory to RecurrentPPO; where there are masks, it is compared to MaskablePPO.
        seeds: the training seeds, or how many (then 0, 1, ...).
        out: a folder for both sides' agents, results.json, learning_curves.png and report.html; None writes nothing.
        env_kwargs, episodes: for `gymnasium.make`; evaluation episodes per final agent.
        threads, device: of both sides; None leaves torch's threads as they are, "auto" takes a GPU for images.
        strict: refuse options that SB3 lacks; otherwise note them as a difference.
        until: end each run at its first evaluation with this mean return, of 20 episodes; `steps` is the most then.
        eval_every: environment steps between these evaluations; a fiftieth of `steps` by default.
        video: also record an episode of our best final agent, for the report; needs `out`.
        progress, hyperparameters: True shows a bar per run, "lines" prints a line after each; fields of the config.

    Raises:
        ImportError: if Stable-Baselines3 is absent, naming the extra.
        TypeError: if the environment is an instance, SB3 takes no such actions, or it has no counterpart of `what`.
        ValueError: if SB3 lacks an option that the config uses (and `strict`), a name is unknown, there are no seeds
            below 2**30, `out` holds something or is missing for a video, or `eval_every` is above `steps`.
    """
    _check_arguments(env, video, out)
    steps, episodes = whole("steps", steps, 1), whole("episodes", episodes, 1)
    chosen, folder, every = _chosen(seeds), _empty(out), _spacing(eval_every, steps)
    planned = plan(what, Problem(env=env, steps=steps, n_envs=n_envs, backbone=backbone), hyperparameters)
    name, space, masks = _look_at(planned.recipe, env, env_kwargs)
    algorithm = algorithm_of(planned.recipe, planned.config, backbone=backbone, masks=masks)
    arguments = sb3_arguments(planned.config, algorithm, space, strict, planned.recipe.built_in, planned.n_envs)
    device, make = _same_device(device, arguments["policy"]), partial(_make, env, env_kwargs)
    common = (planned, algorithm, arguments, make, env, env_kwargs, steps, episodes, device, progress, folder)
    with torch_threads(threads) as used, global_generators_kept():
        pairs = _Pairs(*common, until, every, backbone)
        comparison = pairs.comparison(name, used, [pairs.run(s, ours_first=i % 2 == 0) for i, s in enumerate(chosen)])
    if folder is not None:
        if video:
            _video(comparison, folder, partial(make, training=False, render_mode="rgb_array"))
        comparison.save(folder)
    return comparison


@dataclass(frozen=True)
class _Pairs:
    """All that the two runs of a seed have in common."""

    plan: Plan
    algorithm: Any
    """The class of Stable-Baselines3."""
    arguments: dict[str, Any]
    """The same hyperparameters for that."""
    make: Callable[..., gymnasium.Env[Any, Any]]
    env: EnvSource
    """The id of the environment that `make` makes, or the function that it calls."""
    env_kwargs: dict[str, Any] | None
    steps: int
    episodes: int
    device: str
    progress: bool | Literal["lines"]
    folder: Path | None
    until: float | None
    every: int
    """Steps between the evaluations of runs that end at a return."""
    backbone: str
    """Of our side; the algorithm has the like of it."""

    def run(self, seed: int, *, ours_first: bool) -> dict[Side, Run]:
        """Train and evaluate both sides on one seed."""
        order: tuple[Side, Side] = ("ours", "sb3") if ours_first else ("sb3", "ours")
        return {side: self._run_one(side, seed, first=side == order[0]) for side in order}

    def comparison(self, environment: str, threads: int, runs: Sequence[dict[Side, Run]]) -> Comparison:
        """What the pairs found."""
        others = {"n_envs": self.plan.n_envs} | self._backbone()
        return Comparison(
            environment=environment,
            steps=self.steps,
            episodes=self.episodes,
            threads=threads,
            device=self.device,
            algorithm=self.algorithm.__name__,
            hyperparameters=dataclasses.asdict(self.plan.config) | others,
            sb3_hyperparameters={
                name: "as ours" if callable(value) else value for name, value in self.arguments.items()
            }
            | others,
            differences=unsupported_options(self.plan.config, self.algorithm, self.plan.recipe.built_in),
            until=self.until,
            eval_every=self.every,
            ours=tuple(pair["ours"] for pair in runs),
            sb3=tuple(pair["sb3"] for pair in runs),
        )

    def _run_one(self, side: Side, seed: int, *, first: bool) -> Run:
        log = TrainingLog(self.steps if self.until is None else self.every)
        agent = self._train(side, log, seed)
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            agent.save(self.folder / f"{side}_seed{seed}{'.safetensors' if side == 'ours' else '.zip'}")
        world = partial(self.make, training=False)
        run = Run(seed, first, log, evaluate(acting(agent), world, episodes=self.episodes, seed=seed))
        if self.progress == "lines":
            name = "ours" if side == "ours" else "SB3"
            print(f"{name}, seed {seed}: {log.seconds:.0f} s of training, {run.evaluation}", flush=True)  # noqa: T201 - what was asked for
        return run

    def _train(self, side: Side, log: TrainingLog, seed: int) -> Any:
        shared: Any = {"steps": self.steps, "seed": seed, "device": self.device, "progress": self.progress is True}
        goes_on = partial(self._goes_on, log)
        if side == "ours":
            shared |= vars(self.plan.config) | {"n_envs": self.plan.n_envs} | self._backbone()
            if self.until is not None:
                shared |= {"eval_every": self.every, "n_eval_episodes": CHECK_EPISODES}
                shared["callback"] = lambda clock, metrics: goes_on(metrics.get("eval/mean_reward"))
            worlds = count()
            agent: Any = train(self.plan.recipe, env=lambda: self._world(log, next(worlds)), **shared)
            log.finish()
            if isinstance(self.env, str):
                agent.about |= {"trained_on": self.env, "env_kwargs": self.env_kwargs or {}}
            return agent
        if self.until is not None:

            def check(model: Any) -> bool:
                world = partial(self._world, log, self.plan.n_envs)
                return goes_on(evaluate(acting(model), world, episodes=CHECK_EPISODES, seed=CHECK_SEED).mean)

            shared |= {"check_every": self.every, "check": check}
        worlds = count()

        def world() -> gymnasium.Env[Any, Any]:
            made = self._world(log, next(worlds))
            return WithMask(made) if self.algorithm.__name__ == "MaskablePPO" else made

        with closing(vector_of(world, self.plan.n_envs, self.plan.config)) as envs:
            model = train_sb3(self.algorithm, self.arguments, envs, **shared)
            log.finish()
        return model

    def _world(self, log: TrainingLog, number: int) -> gymnasium.Env[Any, Any]:
        """An environment of training, from number 0 on, or after those one for an evaluation in mid-run."""
        began = perf_counter()
        if number < self.plan.n_envs:
            return Recorded(self.make(), log)
        return Evaluated(self.make(training=False), log, began)

    def _backbone(self) -> dict[str, Any]:
        return {} if self.backbone == "auto" else {"backbone": self.backbone}

    def _goes_on(self, log: TrainingLog, mean: float | None) -> bool:
        """Whether a run goes on after an evaluation, if there was one."""
        if mean is None:
            return True
        log.checked(mean)
        return self.until is None or mean < self.until


def _chosen(seeds: int | Sequence[int]) -> tuple[int, ...]:
    if not isinstance(seeds, Sequence | np.ndarray) or np.ndim(seeds) == 0:
        return tuple(range(whole("seeds", seeds, 1)))
    if not len(seeds):
        raise ValueError("a comparison needs seeds, at least one")
    return tuple(whole("a seed", seed, 0, FIRST_EPISODE_SEED) for seed in seeds)


def _empty(out: str | Path | None) -> Path | None:
    if out is None:
        return None
    folder = RunFolder(out)
    if folder.results_file.exists():
        raise ValueError(f"{folder.given} holds results already: choose another folder with out=...")
    folder.check(is_new=True)
    return folder.path


def _check_arguments(env: EnvSource, video: bool, out: str | Path | None) -> None:
    if not isinstance(env, str) and not callable(env):
        raise TypeError("each run needs an environment of its own: pass an id or a function that makes one")
    if video and out is None:
        raise ValueError("a video is written into the folder of the comparison: give out=...")
    import_sb3()


def _spacing(eval_every: int | None, steps: int) -> int:
    every = max(1, steps // 50) if eval_every is None else eval_every
    if not 1 <= every <= max(steps, 1):
        raise ValueError(f"eval_every must be between 1 and steps, {steps}, not {every}")
    return every


def _video(comparison: Comparison, folder: Path, world: Callable[..., gymnasium.Env[Any, Any]]) -> None:
    """Records the best of our final agents, if the packages for it are there."""
    best = max(comparison.ours, key=lambda run: run.evaluation.mean)
    try:
        record(Agent.load(folder / f"ours_seed{best.seed}.safetensors"), world, folder / VIDEO)
    except ImportError as error:  # the runs shall not be lost for want of a package
        warnings.warn(f"there is no video: {error}", stacklevel=3)


def _same_device(device: str, policy: str) -> str:
    """One device for both sides; their own choices for "auto" differ."""
    if device != "auto":
        return device
    return "cuda" if policy == "CnnPolicy" and torch.cuda.is_available() else "cpu"


def _make(
    env: EnvSource, env_kwargs: dict[str, Any] | None, training: bool = True, render_mode: str | None = None
) -> gymnasium.Env[Any, Any]:
    """A fresh environment, its observations flattened for both sides where SB3 could not take them."""
    world = make_env(env, env_kwargs=env_kwargs, training=training, render_mode=render_mode)
    return FlattenObservation(world) if lacks_space(world.observation_space) else world


def _look_at(recipe: Recipe, env: EnvSource, env_kwargs: dict[str, Any] | None) -> tuple[str, spaces.Space[Any], bool]:
    """The environment's name, observation space, and whether it has masks of legal actions.

    Raises:
        TypeError: SB3's algorithm has no output for such actions.
    """
    with closing(_make(env, env_kwargs)) as world:
        algorithm = recipe.sb3.algorithm if recipe.sb3 is not None else ""
        kind, named = (spaces.Discrete, "discrete") if algorithm == "DQN" else (spaces.Box, "real-valued")
        if algorithm in ("DQN", "SAC", "TQC", "CrossQ", "TD3", "DDPG") and not isinstance(world.action_space, kind):
            raise TypeError(f"{algorithm} takes {named} actions, but the environment takes {world.action_space}")
        name = world.spec.id if world.spec is not None else type(world.unwrapped).__name__
        flat = isinstance(world, FlattenObservation)
        masks = mask_in(Checks(world.observation_space, world.action_space), *world.reset(seed=CHECK_SEED)) is not None
        return f"{name} (observations flattened)" if flat else name, world.observation_space, masks
