"""The environments of a run, and judging an agent by the episodes that it plays."""

from __future__ import annotations

from functools import partial

from agentlib.agent import Agent
from agentlib.core.recipe import Judge, Problem
from agentlib.envs.making import make_env, make_envs
from agentlib.envs.vector import Environments
from agentlib.experience.evaluation import evaluate

EPISODES = 10
"""Episodes of an evaluation during training."""
SEED = 2**20
"""Of their seeds, which no training uses."""


def environments_for(problem: Problem) -> Environments:
    """The problem's environments; `close` closes those that were made here, and leaves the caller's open."""
    made = make_envs(problem.env, problem.n_envs, problem.env_kwargs)
    is_owned = made is not problem.env
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
        self.evaluates = problem.env is not None

    def evaluate(self) -> dict[str, float]:
        problem = self.problem
        world = partial(make_env, problem.env, env_kwargs=problem.env_kwargs, training=False)
        played = evaluate(self.agent, world, episodes=EPISODES, seed=SEED)
        return {"eval/mean_reward": played.mean, "eval/mean_ep_length": float(played.lengths.mean())}
