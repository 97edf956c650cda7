"""What people try first: `agentlib train dqn --env ID`, as it is written."""

import gymnasium
import pytest

from agentlib import Agent, evaluate
from agentlib.envs.making import make_env
from agentlib.shell.main import main

NEWEST = {env_id.rpartition("-v")[0]: env_id for env_id in gymnasium.registry}
FEW = ["--steps", "120", "--learning-starts", "60", "--buffer-size", "200", "--progress", "none", "--out", "run"]


@pytest.mark.parametrize(
    ("env_id", "kwargs"),
    [
        ("Blackjack-v1", {}),
        ("FrozenLake-v1", {}),
        (NEWEST["Taxi"], {}),
        pytest.param(NEWEST["CliffWalking"], {"max_episode_steps": 20}, marks=pytest.mark.slow),
        pytest.param("Acrobot-v1", {}, marks=pytest.mark.slow),
        pytest.param("MountainCar-v0", {}, marks=pytest.mark.slow),
        ("LunarLander-v3", {"max_episode_steps": 20}),
        pytest.param("CarRacing-v3", {"continuous": False, "max_episode_steps": 20}, marks=pytest.mark.slow),
        ("MiniGrid-Empty-5x5-v0", {"max_steps": 20}),
        pytest.param("BabyAI-GoToObj-v0", {"max_steps": 20}, marks=pytest.mark.slow),
        pytest.param("ALE/Pong-v5", {"max_num_frames_per_episode": 400}, marks=pytest.mark.slow),
    ],
)
def test_it_runs_out_of_the_box(env_id, kwargs, tmp_path, monkeypatch, capsys):
    if env_id in {"LunarLander-v3", "CarRacing-v3"}:
        pytest.importorskip("Box2D")
    monkeypatch.chdir(tmp_path)
    pairs = [f"{name}={value!r}" for name, value in kwargs.items()]
    assert main(["train", "dqn", "--env", env_id, *FEW, *(["--env-kwargs", *pairs] if pairs else [])]) == 0
    agent = Agent.load("run")
    assert evaluate(agent, make_env(env_id, env_kwargs=kwargs, training=False), episodes=1).lengths[0] > 0
    assert "unknown" not in capsys.readouterr().err


def test_unknown_ones_of_other_packages():
    with pytest.raises(ValueError, match="unknown environment 'MiniGrid-Nowhere-v0'"):
        make_env("MiniGrid-Nowhere-v0")
