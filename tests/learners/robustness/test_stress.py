"""Accuracy and returns under corruptions: what must not change does not, what breaks is seen."""

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib import data
from agentlib.core.spaces import ACTION_MASK
from agentlib.data.corruptions import CORRUPTIONS
from agentlib.envs.experts import cartpole_expert
from agentlib.experience.asking import best_action
from agentlib.experience.evaluation import own_environment
from agentlib.learners.robustness import stress
from agentlib.learners.robustness.stress import FAULTS, Faulty, stress_agent, stress_classifier
from agentlib.shell.main import main


class Brightness(torch.nn.Module):
    """Says 1 where the mean of a picture is above a half."""

    def forward(self, x):
        mean = x.mean((1, 2, 3))
        return torch.stack([0.5 - mean, mean - 0.5], 1), None


def test_accuracies_of_a_known_classifier():
    """Contrast leaves means alone; brightness by 0.1 to 0.5 lifts pictures of mean 0.3 over a half in three of five."""
    x = torch.cat([torch.full((30, 1, 16, 16), 0.27), torch.full((30, 1, 16, 16), 0.9)])
    y = torch.arange(60) // 30
    found = stress_classifier(Brightness(), x, y)
    assert list(found) == ["clean", *CORRUPTIONS, "mean"]
    assert found["clean"].value == found["contrast"].value == found["defocus_blur"].value == 1.0
    assert found["brightness"].value == pytest.approx(0.5 * (2 / 5) + 0.5)
    assert found["brightness"].interval.low < found["brightness"].value < found["brightness"].interval.high
    kinds = [found[kind].value for kind in CORRUPTIONS]
    assert found["mean"].value == pytest.approx(np.mean(kinds))


def agent_of(shape=(3,), low=-10.0, high=10.0, dtype=np.float32):
    seen = []

    def predict(observation, state=None, episode_start=None, deterministic=False):
        seen.append(observation)
        return 0, state

    space = spaces.Box(low, high, shape, dtype)
    return SimpleNamespace(predict=predict, observation_space=space, action_space=spaces.Discrete(2)), seen


def test_faults_of_sensors():
    agent, _ = agent_of()
    mean, deviation = np.array([1.0, 0.0, -1.0]), np.array([1.0, 2.0, 0.0])
    x = np.array([2.0, 1.0, -1.0], np.float32)

    def spoiled(kind, severity=5):
        faulty = Faulty(agent, kind, severity, mean=mean, deviation=deviation)
        return np.array([faulty.spoiled(x) for _ in range(2_000)])

    noise = spoiled("noise")
    assert np.allclose(noise.std(0), [1.0, 2.0, 0.0], rtol=0.05)
    assert np.allclose(noise.mean(0), x, atol=0.15)
    assert np.allclose(np.abs(spoiled("offset", 2)[0] - x), 0.4 * deviation)
    assert np.allclose(np.abs(spoiled("gain", 4)[0] - x), 0.6 * np.abs(x - mean))
    dropped = spoiled("dropout", 3)
    assert np.mean(dropped[:, 0] == 1.0) == pytest.approx(0.3, abs=0.04)
    assert set(dropped[:, 1]) == {0.0, 1.0}


def test_a_delay_begins_again_with_each_episode():
    agent, seen = agent_of((1,))
    faulty = Faulty(agent, "delay", 2)
    for step, start in enumerate([True, False, False, False, True, False]):
        faulty.predict(np.array([step], np.float32), None, np.array([start]))
    assert [float(one[0]) for one in seen] == [0, 0, 0, 1, 4, 4]


def test_images_keep_their_form():
    for shape, dtype in (((40, 48, 3), np.uint8), ((1, 8, 8), np.float32), ((4, 40, 40), np.uint8)):
        agent, _ = agent_of(shape, 0, 255 if dtype == np.uint8 else 1.0, dtype)
        faulty = Faulty(agent, "fog", 4)
        assert faulty.kinds == tuple(CORRUPTIONS)
        x = faulty.observation_space.sample()
        found = faulty.spoiled(x)
        assert found.shape == shape
        assert found.dtype == dtype
        assert not np.array_equal(found, x)


@pytest.mark.slow
def test_a_scripted_expert_under_faults():
    env = gymnasium.make("CartPole-v1")
    space = SimpleNamespace(
        predict=lambda observation, state=None, *_, **__: (cartpole_expert(np.asarray(observation)), state),
        observation_space=env.observation_space,
        action_space=env.action_space,
    )
    found = stress_agent(space, env, episodes=3, severities=(2, 5))
    assert list(found) == ["clean", *FAULTS, "mean"]
    assert found["clean"].value == 500.0
    assert found["noise"].value < 500.0


def test_severities_may_come_one_after_the_other(monkeypatch):
    played = list[tuple[str | None, int]]()

    def evaluate(agent, env, **_):
        played.append((agent.kind, agent.severity))
        return SimpleNamespace(returns=np.array([1.0, 2.0]))

    monkeypatch.setattr(stress, "evaluate", evaluate)
    found = stress_agent(agent_of()[0], severities=iter((1, 4)))
    assert played[1:] == [(kind, severity) for kind in FAULTS for severity in (1, 4)]
    assert all(one.value == 1.5 for one in found.values())


def test_a_faulty_agent_has_the_masks_and_the_environment_of_the_agent():
    (agent, _), masks = agent_of(), list[Any]()

    def predict(*_, **more):
        masks.append(more[ACTION_MASK])
        return 0, None

    agent.predict, agent.takes_masks, agent.about = predict, True, {"trained_on": "CartPole-v1"}
    faulty = Faulty(agent, "noise", 1)
    best_action(faulty, np.zeros(3), [True, False], None, [True])
    assert masks == [[True, False]]
    assert own_environment(faulty.about) == ("CartPole-v1", {})


def test_bad_input():
    agent, _ = agent_of()
    with pytest.raises(ValueError, match="unknown fault 'fog'"):
        Faulty(agent, "fog")
    with pytest.raises(ValueError, match="severity is a whole number from 1 to 5, not 6"):
        Faulty(agent, "noise", 6)
    agent.observation_space = spaces.Discrete(3)
    with pytest.raises(TypeError, match="faults are of arrays of numbers, not of observations in Discrete"):
        Faulty(agent, "noise")


@pytest.mark.slow
def test_the_command(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    agentlib.train("classifier", data="digits", steps=40, seed=3, out="run", progress=False)
    whole, seeds = data.parts, list[int]()

    def parts(name, seed, **more):
        seeds.append(seed)
        return whole(name, seed, **more)

    monkeypatch.setattr(data, "parts", parts)
    assert main(["stress", "run", "--data", "digits", "--examples", "60", "--severities", "1", "3"]) == 0
    assert seeds == [3]  # the test part is the one that was not trained on
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["clean", *CORRUPTIONS, "mean"]
    assert lines[-1] == "run/stress.png"
    assert (tmp_path / "run" / "stress.png").stat().st_size > 5_000
    np.savez("other.npz", x=np.zeros((30, 8, 8), np.uint8), y=np.arange(30) % 3)
    assert main(["stress", "run", "--data", "other.npz"]) == 2
    assert "apart, and the data has ['0', '1', '2']" in capsys.readouterr().err
    assert main(["stress", "run", "--data", "digits", "--env", "CartPole-v1"]) == 2
    assert "--data is for classifiers, --env for agents" in capsys.readouterr().err
