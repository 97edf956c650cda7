"""`agentlib.train`: the ready-made caller of `run`, with progress, logs, evaluation, checkpoints and early stop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import torch
from torch import nn

from agentlib.agent import Agent
from agentlib.backbones.schedules import Clock
from agentlib.envs.making import make_env
from agentlib.evaluation import evaluate
from agentlib.recipes import Job, Problem, configure, recipe_of
from agentlib.recipes.folder import RunFolder
from agentlib.training.config import config_from_json, config_to_json
from agentlib.training.learner import Update
from agentlib.training.logs import Log, Progress
from agentlib.training.loop import Compile, run

Callback = Callable[[Clock, dict[str, float]], bool | None]

LOGS_PER_RUN = 100
SECONDS_BETWEEN_CHECKPOINTS = 60.0
EVALUATION_EPISODES = 10


@dataclass(frozen=True)
class Result:
    """What a run that makes no agent leaves behind."""

    metrics: dict[str, float]
    """The last numbers."""


def train(
    what: Any = None,
    *,
    env: Any = None,
    n_envs: int = 1,
    env_kwargs: dict[str, Any] | None = None,
    data: Any = None,
    demos: Any = None,
    expert: Any = None,
    steps: int | None = None,
    seed: int = 0,
    backbone: str | nn.Module = "auto",
    device: str | torch.device = "auto",
    agent: Agent | None = None,
    resume: str | Path | None = None,
    callback: Callback | None = None,
    eval_every: int | None = None,
    out: str | Path | None = None,
    progress: Progress = True,
    compile: Compile = "auto",
    **hyperparameters: Any,
) -> Agent:
    """Trains, and returns the agent.

    Args:
        what: a name such as "dqn", which selects the preset for a known environment, or a config such as
            `DQNConfig(...)`, which is taken literally.
        env: an environment's id, an instance, a factory, or a vector environment.
        n_envs: environments stepped side by side (with an id or a factory).
        env_kwargs: given to the environment's constructor.
        data: for learners from data (none yet).
        demos: for learners from demonstrations (none yet).
        expert: for learners that ask one (none yet).
        steps: environment steps of the whole run.
        seed: of weights, environments, exploration and sampling. The same seed gives the same run.
        backbone: "auto", a name, or a built module with a `feature_dim`.
        device: "auto", "cpu", "cuda" ...
        agent: go on from this agent's weights; it stays as it is.
        resume: the folder of a run to go on with; other arguments are read from there.
        callback: called with the clock and the latest numbers about a hundred times per run; returning False stops it.
        eval_every: evaluate after so many steps (on seeds of their own) and keep the best agent.
        out: folder for the agent, checkpoints, TensorBoard events and results; nothing is written without it.
        progress: True shows a bar, "table" prints a table now and then.
        compile: see `agentlib.training.run`.
        hyperparameters: fields of the config, checked by name.

    Raises:
        ValueError: something does not fit; the message says what, and what would.
        FloatingPointError: the loss is NaN or infinite; the last good checkpoint stays.
        EnvironmentFailure: the environment raised or gave NaN; with `out`, what was learned is kept there.
    """
    if resume is not None:
        given = {"steps": steps, "out": out, "agent": agent, "eval_every": eval_every, "env_kwargs": env_kwargs}
        changed = [name for name, value in given.items() if value is not None]
        return _resume(resume, env, callback, progress, compile, changed + list(hyperparameters))
    if agent is not None and not isinstance(agent, Agent):
        raise ValueError(f"agent= takes an Agent, such as Agent.load(path), not {type(agent).__name__}")
    if not isinstance(seed, int):
        raise ValueError(f"a seed is a whole number, not {seed!r}")
    for name, value in (("data", data), ("demos", demos), ("expert", expert)):
        if value is not None:
            raise ValueError(f"{recipe_of(what).name} learns from an environment, not from {name}=")
    config = configure(
        what, env if isinstance(env, str) else getattr(getattr(env, "spec", None), "id", None), hyperparameters
    )
    problem = Problem(env=env, n_envs=n_envs, env_kwargs=env_kwargs or {}, steps=steps, agent=agent)
    job = recipe_of(config).build(config, problem, backbone, device, seed)
    try:
        folder = None
        if out is not None:
            folder = RunFolder(out)
            folder.create(_record(config, problem, backbone, device, seed, eval_every))
        name = f"{recipe_of(config).name}, seed {seed}"
        return _Training(job, problem, folder, callback, eval_every, progress, compile, name).go()
    finally:
        job.close()


def _record(
    config: Any, problem: Problem, backbone: Any, device: Any, seed: int, eval_every: int | None
) -> dict[str, Any]:
    """What `resume` needs to know, as JSON."""
    return {
        "what": recipe_of(config).name,
        "config": config_to_json(config),
        "env": problem.env if isinstance(problem.env, str) else None,
        "n_envs": problem.n_envs,
        "env_kwargs": problem.env_kwargs,
        "steps": problem.steps,
        "seed": seed,
        "backbone": backbone if isinstance(backbone, str) else None,
        "device": str(device),
        "eval_every": eval_every,
    }


def _resume(
    path: str | Path, env: Any, callback: Callback | None, progress: Progress, compile: Compile, rest: list[str]
) -> Agent:
    if rest:
        raise ValueError(f"a run is resumed with its own settings: {', '.join(rest)} cannot be changed")
    folder = RunFolder(path)
    record = folder.record()
    if env is None:
        env = record["env"]
    if env is None:
        raise ValueError(f"{path} does not name its environment (it was given as an object): give env=... again")
    if record["backbone"] is None:
        raise ValueError(f"{path} was trained on a backbone of your own: resuming such a run is not supported yet")
    recipe = recipe_of(record["what"])
    config = config_from_json(recipe.config, record["config"])
    problem = Problem(
        env=env, n_envs=record["n_envs"], env_kwargs=record["env_kwargs"] or {}, steps=record["steps"], agent=None
    )
    job = recipe.build(config, problem, record["backbone"], record["device"], record["seed"])
    try:
        folder.load(job.learner, job.source)
        return _Training(job, problem, folder, callback, record["eval_every"], progress, compile, recipe.name).go()
    finally:
        job.close()


class _Training:
    """One run of a job: reads metrics rarely, and does what is due then."""

    def __init__(
        self,
        job: Job,
        problem: Problem,
        folder: RunFolder | None,
        callback: Callback | None,
        eval_every: int | None,
        progress: Progress,
        compile: Compile,
        name: str,
    ) -> None:
        self.job, self.problem, self.folder, self.callback = job, problem, folder, callback
        self.eval_every, self.compile = eval_every, compile
        self.log = Log(folder.path if folder else None, progress, job.steps, name)
        self.log_every = max(job.steps // LOGS_PER_RUN, 1)
        self.saved_at = time.monotonic()
        self.best = -math.inf
        self.metrics: dict[str, float] = {}

    def go(self) -> Agent:
        source, learner = self.job.source, self.job.learner
        next_log = int(source.clock.steps) + self.log_every
        next_eval = int(source.clock.steps) + (self.eval_every or 0)
        self.log.begin(int(source.clock.steps))
        try:
            for clock, update in run(learner, source, self.job.updates - source.updates, compile=self.compile):
                steps = int(clock.steps)
                if steps >= next_log:
                    next_log = steps + self.log_every
                    evaluate_now = self.eval_every is not None and steps >= next_eval
                    if evaluate_now:
                        next_eval = steps + (self.eval_every or 0)
                    if self._report(clock, update, evaluate_now) is False:
                        break
            return self._finish()
        except (KeyboardInterrupt, Exception) as stop:
            # After a loss that is NaN the weights are worth nothing; after anything else they are.
            if self.folder is not None and not isinstance(stop, FloatingPointError):
                self.folder.save(learner, source, self.job.product())
                stop.args = (
                    f"{stop}; what was learned so far is in {self.folder.path}".removeprefix("; "),
                    *stop.args[1:],
                )
            raise
        finally:
            self.log.close()

    def _report(self, clock: Clock, update: Update, evaluate_now: bool) -> bool | None:
        metrics = {f"train/{name}": float(value) for name, value in update.metrics.items()}
        for name, value in metrics.items():
            if not math.isfinite(value):
                raise FloatingPointError(self._diverged(name, value, clock))
        metrics |= self.job.measures()
        if evaluate_now:
            metrics |= self._evaluate()
        self.metrics |= metrics
        self.log.write(clock, metrics)
        if self.folder is not None and time.monotonic() - self.saved_at > SECONDS_BETWEEN_CHECKPOINTS:
            self.folder.save(self.job.learner, self.job.source, self.job.product())
            self.saved_at = time.monotonic()
        return self.callback(clock, dict(metrics)) if self.callback is not None else None

    def _diverged(self, name: str, value: float, clock: Clock) -> str:
        message = f"{name} became {value} by step {int(clock.steps)}: a smaller learning_rate or max_grad_norm may help"
        if self.folder is None:
            return message
        good = self.folder.checkpoints()
        return message + (
            f"; the last good checkpoint is {good[-1]}" if good else "; no checkpoint was due before that"
        )

    def _evaluate(self) -> dict[str, float]:
        env: Any = self.problem.env
        if isinstance(env, gymnasium.Env | gymnasium.vector.VectorEnv) or hasattr(env, "step_wait"):
            raise ValueError("eval_every needs env= as an id or a factory: it evaluates in an environment of its own")
        agent = self.job.product()
        world = partial(make_env, env, env_kwargs=self.problem.env_kwargs, training=False)
        result = evaluate(agent, world, episodes=EVALUATION_EPISODES, seed=2**20)
        if result.mean > self.best and self.folder is not None:
            agent.save(self.folder.path / "best_agent.safetensors")
        self.best = max(self.best, result.mean)
        return {"eval/mean_reward": result.mean, "eval/mean_ep_length": float(result.lengths.mean())}

    def _finish(self) -> Agent:
        agent = self.job.product()
        if self.folder is not None:
            self.folder.save(self.job.learner, self.job.source, agent)
            self.folder.write_results(
                {"steps": int(self.job.source.clock.steps), "metrics": self.metrics, **self.job.tables}
            )
        agent.policy.eval()
        return agent
