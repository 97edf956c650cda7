"""The public names have types for those who use them: a program of a user's, under mypy's strict mode."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import agentlib

PROGRAM = '''
"""A small program with every public name of the first page."""

from pathlib import Path

import gymnasium
import numpy as np

import agentlib
from agentlib import Agent, Recipe
from agentlib.backbones import MLP, adam
from agentlib.experience import Demonstrations, record_episodes
from agentlib.experience.video import record, record_grid
from agentlib.learners import BC, DQN, BCConfig, DQNConfig, Learner, run
from agentlib.runs.callbacks import stop_on_reward
from agentlib.testing import check_learner


def trained(env_id: str, folder: Path) -> Agent:
    found = agentlib.train("dqn", env=env_id, steps=1_000, out=folder, video_every=500, callback=stop_on_reward(475))
    assert isinstance(found, Agent)
    return found


def played(agent: Agent, env_id: str) -> float:
    env = gymnasium.make(env_id)
    observation, _ = env.reset(seed=0)
    total, ended = 0.0, False
    while not ended:
        observation, reward, terminated, truncated, _ = env.step(agent.act(observation))
        total, ended = total + float(reward), terminated or truncated
    action, state = agent.predict(observation, deterministic=True)
    return total


def judged(agent: Agent, env_id: str) -> tuple[float, float]:
    score = agentlib.evaluate(agent, env_id, episodes=10, seed=1)
    low, high = score.interval
    record(agent, env_id, "film.gif")
    record_grid([agent], [env_id], "grid.gif")
    returns: np.ndarray[tuple[int, ...], np.dtype[np.float64]] = score.returns
    return score.mean, float(returns.std()) + high - low


def kept(agent: Agent, path: Path) -> Agent:
    written: Path = agent.save(path)
    agent.export("policy.py")
    return Agent.load(written)


def shown(agent: Agent) -> Demonstrations:
    found: Demonstrations = record_episodes(agent, "CartPole-v1", 2)
    return found


def configs() -> tuple[DQNConfig, BCConfig]:
    return DQNConfig(double=True, learning_rate=1e-3), BCConfig(epochs=3)


def network() -> MLP:
    optimizer = adam(learning_rate=1e-3)
    return MLP(4, hidden=(64, 64))


def kinds() -> tuple[type[Learner], ...]:
    return DQN, BC
'''


@pytest.mark.slow
def test_a_users_program_has_types(tmp_path: Path) -> None:
    """From outside the repository, without its settings: what an editor shows to a user."""
    pytest.importorskip("mypy.api")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM, encoding="utf-8")
    command: list[str | Path] = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent"]
    command += ["--cache-dir", tmp_path / "cache"]
    done = subprocess.run(
        [*command, program],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(agentlib.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stdout
