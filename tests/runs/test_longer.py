"""A run that has ended, or was stopped, can be made longer: it equals one that had this length from the start."""

import json
from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib.core.trees import difference
from agentlib.runs.checkpoints import load_state, save_state
from agentlib.runs.folder import RunFolder
from tests.tiny import IDENTITY

pytestmark = pytest.mark.slow

STEADY: dict[str, Any] = {"exploration_initial_eps": 0.2, "exploration_final_eps": 0.2, "learning_rate": 1e-3}
"""Nothing that depends on the length of the run."""
CONTROL: dict[str, Any] = {"env": "CartPole-v1", "net_arch": (8,), "learning_starts": 60, "batch_size": 8, **STEADY}
CONTROL |= {"train_freq": 4, "gradient_steps": 1, "buffer_size": 10_000}
MEMORY: dict[str, Any] = {"backbone": "gru", "burn_in": 4, "sequence_length": 8, "sequence_period": 4}
CASES: dict[str, tuple[str, dict[str, Any], int]] = {
    "dqn": ("dqn", CONTROL, 200),
    "prioritized": ("dqn", CONTROL | {"prioritized": True, "importance_exponent": 0.5, "n_envs": 2}, 200),
    "images": ("dqn", CONTROL | {"env": "agentlib/Catch-v0", "backbone": "mlp"}, 100),
    "memory": ("recurrent_dqn", CONTROL | MEMORY, 200),
    "classifier": ("classifier", {"data": "digits", "net_arch": (8,), "learning_rate": 1e-3}, 30),
}


def weights(folder):
    run = RunFolder(folder)
    state = load_state(run.checkpoints()[-1], run.segments)
    return state["learner"], state["source"]["_extra_state"]


@pytest.mark.parametrize("name", CASES)
def test_a_longer_run_equals_one_of_that_length(name, tmp_path):
    what, settings, steps = CASES[name]
    common: dict[str, Any] = {"progress": False, "compile": "eager"}
    agentlib.train(what, steps=3 * steps, out=tmp_path / "whole", seed=3, **settings, **common)
    agentlib.train(what, steps=steps, out=tmp_path / "run", seed=3, **settings, **common)
    longer: Any = np.int64(3 * steps)
    agentlib.train(resume=tmp_path / "run", steps=longer, **common)
    assert difference(weights(tmp_path / "whole"), weights(tmp_path / "run")) is None
    assert json.loads((tmp_path / "run" / "config.json").read_text())["steps"] == 3 * steps
    about = [agentlib.Agent.load(tmp_path / name).about["steps"] for name in ("whole", "run")]
    assert about == [3 * steps] * 2


def test_schedules_stretch_over_the_new_length(tmp_path):
    seen: list[tuple[int, float]] = []

    def look(clock, metrics):
        seen.append((int(clock.steps), metrics["rollout/exploration_rate"]))

    settings: dict[str, Any] = {"exploration_initial_eps": 1.0, "exploration_final_eps": 0.0, "learning_starts": 20}
    settings |= {"exploration_fraction": 1.0, "net_arch": (8,), "batch_size": 8, "progress": False}
    agentlib.train("dqn", env=IDENTITY, steps=100, out=tmp_path / "run", callback=look, **settings)
    assert seen[-1][1] < 0.05
    seen.clear()
    agentlib.train(resume=tmp_path / "run", steps=400, callback=look, progress=False)
    assert seen[0][0] < 120
    for steps, rate in seen:
        assert rate == pytest.approx(1.0 - steps / 400, abs=1e-9)


def test_a_killed_longer_run_goes_on_to_its_new_length(tmp_path):
    def stop(clock, metrics):
        return np.bool_(clock.steps < 150)

    settings: dict[str, Any] = {"net_arch": (8,), "batch_size": 8, "learning_starts": 20, "progress": False}
    agentlib.train("dqn", env=IDENTITY, steps=100, out=tmp_path / "run", **settings)
    agentlib.train(resume=tmp_path / "run", steps=300, callback=stop, progress=False)
    assert 150 <= json.loads((tmp_path / "run" / "results.json").read_text())["steps"] < 160
    agentlib.train(resume=tmp_path / "run", progress=False)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 300
    with pytest.raises(ValueError, match="has a length of 300 steps: a run can be made longer, not shorter"):
        agentlib.train(resume=tmp_path / "run", steps=200, progress=False)
    with pytest.raises(ValueError, match="steps must be a whole number from 1, not True"):
        agentlib.train(resume=tmp_path / "run", steps=True, progress=False)


def test_a_run_that_stopped_by_itself_goes_on_when_it_is_made_longer(tmp_path):
    settings: dict[str, Any] = {"data": "digits", "net_arch": (16,), "learning_rate": 1.0, "patience": 2}
    agentlib.train("classifier", steps=400, eval_every=20, out=tmp_path / "run", progress=False, **settings)
    before = json.loads((tmp_path / "run" / "results.json").read_text())["steps"]
    assert before < 400
    agentlib.train(resume=tmp_path / "run", steps=500, progress=False)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] > before


def test_an_agent_to_start_from_is_given_by_its_file(tmp_path):
    settings: dict[str, Any] = {"net_arch": (8,), "batch_size": 8, "learning_starts": 20, "progress": False}
    first: Any = agentlib.train("dqn", env=IDENTITY, steps=60, out=tmp_path / "run", **settings)
    both = [
        agentlib.train("dqn", env=IDENTITY, steps=60, agent=agent, **settings)
        for agent in (first, tmp_path / "run", str(tmp_path / "run" / "agent.safetensors"))
    ]
    states: list[Any] = [agent.policy.state_dict() for agent in both]
    for state in states[1:]:
        assert all(torch.equal(tensor, states[0][name]) for name, tensor in state.items())
    with pytest.raises(FileNotFoundError, match="no agent file at nowhere"):
        agentlib.train("dqn", env=IDENTITY, steps=60, agent="nowhere", **settings)


@pytest.mark.parametrize("settings", [{}, {"prioritized": True}])
def test_replay_memory_is_saved_and_loaded(settings, tmp_path):
    """By the functions that checkpoints are written with, also into a larger buffer."""
    import gymnasium

    from agentlib.experience import ReplayBuffer

    env = gymnasium.make("CartPole-v1")
    spaces = env.observation_space, env.action_space
    buffer = ReplayBuffer(*spaces, 50, **settings)
    observation = env.reset(seed=0)[0]
    buffer.begin(observation[None])
    for number in range(70):
        action, ends = np.array([number % 2]), np.array([number % 9 == 8])
        following = observation + np.float32(number)
        buffer.add(action, np.array([float(number)]), ends, ~ends & False, following[None])
        if ends[0]:
            buffer.begin(observation[None])
    buffer.flush()
    save_state(tmp_path / "replay.safetensors", buffer.state_dict())
    state = load_state(tmp_path / "replay.safetensors")
    for size in (50, 200):
        other = ReplayBuffer(*spaces, size, **settings)
        other.load_state_dict(state)
        assert len(other) == len(buffer) == 50
        for number in range(20, 70):
            mine, theirs = (one.gather(torch.tensor([number % one.capacity])) for one in (buffer, other))
            assert float(theirs.reward) == number
            assert torch.equal(mine.observation, theirs.observation)
            assert torch.equal(mine.next_observation, theirs.next_observation)
        if settings:
            numbers = torch.arange(20, 70)
            both: Any = buffer.priorities, other.priorities
            first, second = (one.get(numbers % size) for one, size in zip(both, (50, other.capacity), strict=True))
            assert torch.equal(first, second)
            assert set(other.draw(1000)[0].tolist()) <= {number % other.capacity for number in range(20, 70)}
    with pytest.raises(ValueError, match="the state is of a ReplayBuffer of"):
        ReplayBuffer(*spaces, 20, **settings).load_state_dict(state)
