import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import agentlib
import agentlib.families.control
from agentlib import Agent
from agentlib.core import Linear
from agentlib.learners import DQNConfig
from agentlib.runs.folder import RunFolder
from tests.tiny import IDENTITY, SETTINGS, host_generators, tiny_run

TAXI = max(env_id for env_id in gymnasium.registry if env_id.startswith("Taxi-v"))


def weights(agent):
    return torch.cat([parameter.flatten() for parameter in agent.policy.state_dict().values()])


def same(first, second):
    return torch.equal(weights(first), weights(second))


class Stop:
    """Stops a run once it has seen so many steps."""

    def __init__(self, steps):
        self.steps, self.seen = steps, []

    def __call__(self, clock, metrics):
        self.seen.append(int(clock.steps))
        return clock.steps < self.steps


def test_it_returns_an_agent_that_acts_in_the_environment():
    agent = tiny_run()
    assert isinstance(agent, Agent)
    assert agent.action_space.contains(agent.act(agent.observation_space.sample()))
    assert not agent.policy.training
    assert agent.exploration_rate == 0.05


def test_one_seed_gives_one_run_and_another_seed_another():
    first = tiny_run(env="CartPole-v1", seed=1)
    torch.manual_seed(5)  # whatever the host does
    np.random.seed(5)  # noqa: NPY002
    assert same(first, tiny_run(env="CartPole-v1", seed=1))
    assert not same(first, tiny_run(env="CartPole-v1", seed=2))


def test_the_hosts_generators_stay_as_they_were():
    before = host_generators()
    tiny_run(steps=100)
    np.testing.assert_equal(host_generators(), before)


def test_the_environment_is_an_id_an_instance_or_a_factory():
    config = DQNConfig(**SETTINGS)  # a name would select a preset by the id, which a factory does not have
    by_id = tiny_run(config, env="CartPole-v1")
    instance = gymnasium.make("CartPole-v1")
    assert same(by_id, tiny_run(config, env=instance))
    assert same(by_id, tiny_run(config, env=lambda: gymnasium.make("CartPole-v1")))
    instance.reset()  # it is still open
    instance.step(0)


def test_a_callback_sees_the_numbers_and_stops_the_run():
    seen = {}
    stop = Stop(100)

    def callback(clock, metrics):
        seen.update(metrics)
        return stop(clock, metrics)

    tiny_run(steps=1000, callback=callback)
    assert 100 <= stop.seen[-1] < 150
    assert {"train/loss", "rollout/ep_rew_mean", "rollout/ep_len_mean", "rollout/exploration_rate"} <= set(seen)
    assert all(type(value) is float for value in seen.values())


def test_a_runs_folder(tmp_path):
    agent = tiny_run(out=tmp_path / "run", seed=7)
    names = sorted(path.name.split(".out.")[0] for path in (tmp_path / "run").iterdir())
    assert names == [
        ".lock",
        "agent.safetensors",
        "checkpoints",
        "config.json",
        "events",
        "learning_curve.png",
        "report.html",
        "results.json",
    ]
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["what"], record["env"], record["seed"], record["steps"]) == ("dqn", IDENTITY, 7, 200)
    assert record["config"]["batch_size"] == 16
    assert {"versions", "command", "machine"} <= set(record)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 200
    assert "rollout/ep_rew_mean" in results["metrics"]
    assert same(Agent.load(tmp_path / "run" / "agent.safetensors"), agent)
    events = EventAccumulator(str(tmp_path / "run")).Reload()
    assert {"rollout/ep_rew_mean", "train/loss", "time/fps"} <= set(events.Tags()["scalars"])
    assert events.Scalars("train/loss")[-1].step <= 200
    with pytest.raises(ValueError, match="holds a run already"):
        tiny_run(out=tmp_path / "run")


def test_what_cannot_be_leaves_no_folder(tmp_path):
    with pytest.raises(ValueError, match="id or a factory"):
        tiny_run(env=gymnasium.make(IDENTITY), eval_every=10, out=tmp_path / "run")
    with pytest.raises(ValueError, match="torch finds no GPU"):
        tiny_run(device="cuda:7" if torch.cuda.is_available() else "cuda", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_threads_are_the_runs_own(tmp_path):
    before, seen = torch.get_num_threads(), []

    def look(clock, metrics):
        seen.append(torch.get_num_threads())

    tiny_run(threads=before + 2, callback=look, steps=40)
    tiny_run(threads="auto", callback=look, steps=40, out=tmp_path / "run")
    tiny_run(callback=look, steps=40)
    assert list(dict.fromkeys(seen)) == list(dict.fromkeys([before + 2, 1, before]))
    assert torch.get_num_threads() == before
    last = RunFolder(tmp_path / "run")
    assert last.record()["threads"] == "auto"
    with pytest.raises(ValueError, match="threads must be a whole number from 1"):
        tiny_run(threads=0)


def test_a_pair_of_arrays_is_data():
    x = np.random.default_rng(0).normal(size=(200, 3)).astype(np.float32)
    result: Any = agentlib.train("classifier", data=(x, np.where(x[:, 0] > 0, "yes", "no")), steps=300, progress=False)
    assert result.measures["test/accuracy"] > 0.9


def test_nothing_is_written_without_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tiny_run()
    assert not any(tmp_path.iterdir())


def test_a_stopped_run_is_resumed_and_its_steps_are_counted_on(tmp_path):
    stop = Stop(100)
    tiny_run(out=tmp_path / "run", callback=stop, steps=300)
    assert len(RunFolder(tmp_path / "run").checkpoints()) == 2  # the last ones are kept
    rest = Stop(10_000)
    agent = agentlib.train(resume=tmp_path / "run", callback=rest, progress=False, compile=False)
    assert stop.seen[-1] < rest.seen[0] < 120
    assert 290 <= rest.seen[-1] <= 300
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 300
    assert same(Agent.load(tmp_path / "run" / "agent.safetensors"), agent)
    with pytest.raises(ValueError, match="its own settings: gamma"):
        agentlib.train(resume=tmp_path / "run", gamma=0.5, progress=False)


def test_a_run_on_an_object_is_resumed_with_that_object(tmp_path):
    env = gymnasium.make(IDENTITY)
    tiny_run(env=env, out=tmp_path / "run", callback=Stop(50))
    with pytest.raises(ValueError, match="give env="):
        agentlib.train(resume=tmp_path / "run", progress=False)
    agentlib.train(resume=tmp_path / "run", env=env, progress=False, compile=False)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 200


def test_evaluation_keeps_the_best_agent_and_does_not_change_the_run(tmp_path):
    scores = []

    def callback(clock, metrics):
        if "eval/mean_reward" in metrics:
            scores.append(metrics["eval/mean_reward"])

    agent = tiny_run(out=tmp_path / "run", eval_every=50, callback=callback, learning_rate=1e-2, steps=300)
    assert len(scores) >= 3
    best = agentlib.evaluate(Agent.load(tmp_path / "run" / "best_agent.safetensors"), IDENTITY, episodes=10, seed=2**20)
    assert best.mean == max(scores)
    assert same(agent, tiny_run(learning_rate=1e-2, steps=300))
    with pytest.raises(ValueError, match="an id or a factory"):
        tiny_run(env=gymnasium.make(IDENTITY), eval_every=50)


@pytest.mark.parametrize(("steps", "every"), [(300, 2), (300, 7), (300, 50), (300, 300)])
def test_as_many_evaluations_as_asked_for(steps, every, monkeypatch):
    """From the first update on, after step 20: logs are written a hundred times in a run, evaluations when due."""
    seen = []
    monkeypatch.setattr(agentlib.families.control, "evaluate", Scores())

    def callback(clock, metrics):
        seen.extend([int(clock.steps)] if "eval/mean_reward" in metrics else [])

    tiny_run(steps=steps, eval_every=every, train_freq=1, callback=callback)
    assert seen == sorted({max(step, 21) for step in range(every, steps + 1, every)})


class Scores:
    """In place of playing episodes."""

    mean, lengths = 0.0, np.zeros(1)

    def __call__(self, *arguments, **more):
        return self


def test_an_evaluation_beyond_the_end_of_the_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="eval_every must be between 1 and the run's 200 steps, not 201"):
        tiny_run(steps=200, eval_every=201, out=tmp_path / "run")
    with pytest.raises(ValueError, match="eval_every must be between 1 and the run's 30 steps, not 50"):
        agentlib.train("classifier", data="digits", steps=30, eval_every=50, progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("mode", AutoresetMode)
def test_vector_environments_of_each_autoreset_mode(mode):
    envs = SyncVectorEnv([lambda: gymnasium.make("CartPole-v1")] * 2, autoreset_mode=mode)
    agent = tiny_run(env=envs, steps=300)
    assert agent.observation_space == envs.single_observation_space
    assert agent.act(np.zeros((5, 4), np.float32)).shape == (5,)


def test_several_environments_from_an_id():
    stop = Stop(10_000)
    agent = tiny_run(n_envs=2, steps=300, callback=stop)
    assert agent.observation_space == gymnasium.make(IDENTITY).observation_space
    assert 290 <= stop.seen[-1] <= 300
    with pytest.raises(ValueError, match="n_envs needs an id or a factory"):
        tiny_run(env=gymnasium.make("CartPole-v1"), n_envs=2)


def test_environment_arguments():
    agent = tiny_run(env=IDENTITY, env_kwargs={"n": 7})
    assert agent.action_space.n == 7


@pytest.mark.parametrize(
    "options",
    [
        {"gradient_steps": -1, "train_freq": 8},
        {"prioritized": True, "n_steps": 3, "double": True, "normalize": True, "tau": 0.1},
        {"max_grad_norm": 0.1},
        *(
            pytest.param(options, marks=pytest.mark.slow)
            for options in (
                {"prioritized": True},
                {"n_steps": 3},
                {"double": True},
                {"normalize": True},
                {"loss": "mse"},
                {"learning_rate": Linear(1e-3, 0.0)},
                {"net_arch": (8, 8)},
            )
        ),
    ],
    ids=lambda options: "-".join(options),
)
def test_options_change_the_run(options):
    assert not same_shape_and_values(tiny_run(env="CartPole-v1"), tiny_run(env="CartPole-v1", **options))


def same_shape_and_values(first, second):
    return weights(first).shape == weights(second).shape and same(first, second)


def test_normalization_travels_with_the_agent(tmp_path):
    agent = tiny_run(env="CartPole-v1", normalize=True)
    assert any("norm" in type(module).__name__.lower() for module in agent.policy.modules())
    again = Agent.load(agent.save(tmp_path / "agent"))
    assert same(agent, again)


def test_a_config_is_taken_literally():
    config = DQNConfig(**SETTINGS, learning_rate=1e-3)
    assert same(tiny_run(config, seed=1), tiny_run(learning_rate=1e-3, seed=1))
    assert same(tiny_run(config, seed=1, gamma=0.5), tiny_run(learning_rate=1e-3, seed=1, gamma=0.5))


def test_identity_is_solved_in_seconds():
    agent = tiny_run(
        steps=1500, learning_rate=1e-2, net_arch=(32,), target_update_interval=50, gamma=0.5, learning_starts=100
    )
    assert agentlib.evaluate(agent, IDENTITY, episodes=20).mean == 10.0


@pytest.mark.parametrize("env", ["FrozenLake-v1", TAXI, "Blackjack-v1", "agentlib/Catch-v0"])
def test_other_kinds_of_observations(env):
    agent = tiny_run(env=env, steps=60)
    assert agentlib.evaluate(agent, env, episodes=1).returns.shape == (1,)


@pytest.mark.parametrize("progress", [True, "table"])
def test_progress_is_shown(progress, capsys):
    agentlib.train("dqn", env=IDENTITY, steps=100, progress=progress, compile=False, **SETTINGS)
    shown = capsys.readouterr()
    if progress is True:
        assert "dqn, seed 0: 100%" in shown.err
        assert shown.out == ""
    else:
        assert "rollout/" in shown.out
        assert "ep_rew_mean" in shown.out


@pytest.mark.parametrize("name", ["data", "demos", "expert"])
def test_what_a_learner_cannot_use_is_refused(name):
    with pytest.raises(ValueError, match=f"not from {name}="):
        tiny_run(**{name: object()})
