"""What callbacks are given, what stops a run, and the curves that it keeps."""

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib import Agent
from agentlib.core import Clock
from agentlib.core.trees import copied, difference
from agentlib.runs.callbacks import MOMENTS, save_agents, stop_after, stop_on_reward, stop_without_improvement
from agentlib.runs.folder import RunFolder
from tests.tiny import tiny_run


@pytest.mark.parametrize("answer", [False, np.False_, np.bool_(False), 0, np.array(False)])
def test_any_false_value_stops(answer):
    seen: list[int] = []

    def stop(clock, metrics):
        seen.append(int(clock.steps))
        return answer

    tiny_run(callback=stop)
    assert len(seen) == 1


@pytest.mark.parametrize("answer", [None, True, np.True_, 1])
def test_none_and_true_values_do_not(answer):
    seen: list[int] = []

    def go_on(clock, metrics):
        seen.append(int(clock.steps))
        return answer

    tiny_run(callback=go_on)
    assert seen[-1] >= 195


def test_a_callback_with_an_agent_gets_it():
    seen: list[Any] = []

    def look(clock, metrics, agent):
        seen.append((agent, agent.act(1)))

    agent = tiny_run(callback=look)
    assert {id(one) for one, _ in seen} == {id(agent)}
    assert all(action in range(4) for _, action in seen)
    models: list[Any] = []
    result: Any = agentlib.train(
        "vae", data="digits", steps=3, progress=False, callback=lambda clock, metrics, agent: models.append(agent)
    )
    assert {id(one) for one in models} == {id(result.model)}


def test_a_run_with_evaluations_leaves_their_curve(tmp_path):
    def stop(clock, metrics):
        return clock.steps < 100

    tiny_run(out=tmp_path / "run", eval_every=50, steps=300, callback=stop)
    agentlib.train(resume=tmp_path / "run", progress=False, compile=False)
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    run = RunFolder(tmp_path / "run")
    from agentlib.runs.checkpoints import load_state

    steps, values = load_state(run.checkpoints()[-1], run.segments)["extra"]["progress"]["curves"]["eval/mean_reward"]
    assert steps == sorted(set(steps))
    assert [round(step / 50) for step in steps] == [1, 2, 3, 4, 5, 6]  # those before the stop, too
    assert "learning_curve.png" in json.loads((tmp_path / "run" / "results.json").read_text())["pictures"]
    assert len(values) == 6
    assert isinstance(Agent.load(tmp_path / "run"), Agent)


@pytest.mark.slow
def test_the_curve_of_a_resumed_classifier_is_whole(tmp_path):
    settings: dict[str, Any] = {"data": "digits", "net_arch": (8,), "progress": False}
    agentlib.train("classifier", steps=60, eval_every=10, out=tmp_path / "run", **settings)
    agentlib.train(resume=tmp_path / "run", steps=120, progress=False)
    from agentlib.runs.checkpoints import load_state

    run = RunFolder(tmp_path / "run")
    curves = load_state(run.checkpoints()[-1], run.segments)["extra"]["progress"]["curves"]
    assert curves["training"][0] == curves["validation"][0] == list(range(10, 121, 10))


def test_functions_of_each_moment(tmp_path):
    told: dict[str, list[int]] = {moment: [] for moment in MOMENTS}

    def note(moment):
        return lambda clock, metrics: told[moment].append(int(clock.steps))

    several = {moment: [note(moment), note(moment)] for moment in MOMENTS}
    tiny_run(out=tmp_path / "run", eval_every=50, callback=several)
    assert told["start"] == [0, 0]
    assert told["end"] == [told["log"][-1]] * 2
    assert [round(step / 50) for step in told["evaluation"]] == [1, 1, 2, 2, 3, 3, 4, 4]
    assert 0 < len(told["best"]) <= len(told["evaluation"])
    assert len(told["checkpoint"]) >= 10
    assert set(told["evaluation"]) < set(told["log"])


@pytest.mark.parametrize("moment", ["start", "evaluation", "best", "log", "checkpoint"])
def test_each_moment_can_end_a_run(moment, tmp_path):
    ends: list[int] = []
    callback = {moment: lambda clock, metrics: False, "end": lambda clock, metrics: ends.append(int(clock.steps))}
    tiny_run(out=tmp_path / "run", eval_every=60, callback=callback)
    assert len(ends) == 1
    assert ends[0] < 100
    assert moment != "start" or ends == [0]


def test_usual_callbacks(monkeypatch, tmp_path):
    clock = Clock(1, 10, 0.1)

    def answers(callback, rewards):
        return [callback(clock, {} if reward is None else {"eval/mean_reward": reward}) for reward in rewards]

    assert answers(stop_on_reward(5.0), [None, 4.9, 5.0]) == [True, True, False]
    rewards = [1.0, None, 1.0, 2.0, 1.0, 2.0, 1.0]  # as SB3: more than two in a row without a new best one
    assert answers(stop_without_improvement(2), rewards) == [True] * 6 + [False]
    assert answers(stop_without_improvement(0, min_evaluations=3), [1.0, 0.0, 0.0, 0.0]) == [True] * 3 + [False]
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    callback = stop_after(5.0)
    assert callback(clock, {})
    now[0] = 105.0
    assert not callback(clock, {})
    monkeypatch.undo()
    tiny_run(callback=[save_agents(tmp_path), stop_on_reward(-1.0, "time/episodes")])
    (path,) = tmp_path.glob("agent_*.safetensors")
    assert Agent.load(path).act(1) in range(4)


def test_callbacks_that_are_none():
    with pytest.raises(ValueError, match="callback must be a function of the clock and the metrics, several of"):
        tiny_run(callback={"begin": print})


CONTINUED: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 16, "n_envs": 2, "batch_size": 16, "n_epochs": 2},
    "sac": {"learning_starts": 20, "batch_size": 16},
    "td3": {"learning_starts": 20, "batch_size": 16},
}


@pytest.mark.parametrize("what", CONTINUED)
def test_a_trained_agent_goes_on_with_its_critic_and_its_optimizer(what):
    """Values are the learner's; the second run starts from all of the first one's state, and its own options."""
    settings: dict[str, Any] = {"env": "Pendulum-v1", "net_arch": (8,), "progress": False, "compile": False}
    agent: Any = agentlib.train(what, steps=64, **settings | CONTINUED[what])
    observation = np.array([[0.6, 0.8, 1.0], [1.0, 0.0, 0.0]], np.float32)
    values = agent.critic(observation)
    assert values.shape == (2,)
    assert agent.critic(observation[0]) == pytest.approx(values[0])
    if what == "ppo":
        assert values == pytest.approx(agent.training[2].networks(torch.tensor(observation))[1].tolist())
    else:
        critics, relative = agent.training[2].critics, torch.tensor(agent.act(observation)) / 2.0
        assert values == pytest.approx(critics(torch.tensor(observation), relative).amin(0).tolist(), abs=1e-5)
    state, first = copied(dict(agent.training[2].state_dict())), []

    def keep(clock, metrics, agent):
        first.append((agent.training[1].seed, copied(dict(agent.training[2].state_dict()))))

    again: Any = agentlib.train(agent=agent, steps=32, learning_rate=1e-3, callback={"start": keep})
    assert difference(first[0][1], state) is None
    assert first[0][0] == 1
    assert difference(copied(dict(agent.training[2].state_dict())), state) is None  # which is another agent
    assert difference(copied(dict(again.training[2].state_dict())), state) is not None
    assert again.training[1].config.learning_rate == 1e-3
    assert again.training[1].n_envs == CONTINUED[what].get("n_envs", 1)
    assert again.about["steps"] == 32
    seeded: Any = agentlib.train(agent=agent, steps=32, seed=0, progress=False)
    assert seeded.training[1].seed == 0
    with pytest.raises(ValueError, match="learnig_rate"):
        agentlib.train(agent=agent, steps=32, learnig_rate=1e-3)


def test_critics_are_in_memory_alone(tmp_path):
    agent: Any = agentlib.train("ppo", env="CartPole-v1", steps=64, n_steps=8, batch_size=16, progress=False)
    for other in (Agent.load(agent.save(tmp_path / "agent")), copy.deepcopy(agent), tiny_run()):
        with pytest.raises(TypeError, match="there is no critic here: an agent has one where ppo, sac or their kin"):
            other.critic(other.observation_space.sample())
    with pytest.raises(ValueError, match="what"):
        agentlib.train(agent=tmp_path / "agent.safetensors", env="CartPole-v1", steps=64)
