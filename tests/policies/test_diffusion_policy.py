"""A diffusion policy keeps two ways to act apart, and acts from a file."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.envs.experts import expert_for
from agentlib.experience import Demonstration, Demonstrations
from agentlib.experience.recording import record_episodes
from agentlib.policies import DiffusionPolicy

SEEN = spaces.Box(-1, 1, (2,), np.float32)
DONE = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 1.0], np.float32))


def fresh_policy(**arguments) -> DiffusionPolicy:
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        return DiffusionPolicy(MLP(2, (16,)), DONE, hidden=(16,), noise_steps=10, sample_steps=4, **arguments)


def two_ways(n: int = 400) -> Demonstrations:
    """Sometimes -1.5, sometimes 1.5, whatever is seen; the second number is |x|."""
    generator = np.random.default_rng(0)
    demonstrations = Demonstrations(SEEN, DONE)
    for _ in range(n // 20):
        seen = generator.uniform(-1, 1, (21, 2)).astype(np.float32)
        side = 1.5 * generator.choice([-1.0, 1.0], 20)
        done = np.stack([side, np.abs(seen[:20, 0])], 1).astype(np.float32)
        demonstrations.append(Demonstration(seen, done, np.zeros(20)))
    return demonstrations


def test_choices_repeat_and_samples_do_not():
    policy = fresh_policy()
    output, _ = policy(torch.zeros(5, 2))
    assert torch.equal(policy.choose(output), policy.choose(output))
    samples = [policy.sample(output, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    assert torch.equal(samples[0], samples[1])
    assert not torch.equal(samples[0], samples[2])
    # Each row for itself, and any leading axes.
    torch.testing.assert_close(policy.choose(output), policy.choose(output[:1]).expand(5, 2))
    assert policy.choose(output.view(5, 1, 16)).shape == (5, 1, 2)
    assert policy.sample(output.view(1, 5, 16)).shape == (1, 5, 2)


def test_actions_stay_in_the_box_and_have_its_shape():
    policy = DiffusionPolicy(MLP(2, (16,)), spaces.Box(-1, 1, (2, 3), np.float32), hidden=(16,), noise_steps=10)
    output, _ = policy(10 * torch.randn(20, 2))
    for actions in (policy.choose(output), policy.sample(output)):
        assert actions.shape == (20, 2, 3)
        assert float(actions.abs().max()) <= 1.0


def test_from_a_file_it_acts_the_same(tmp_path):
    policy = fresh_policy()
    policy.model.standardize(torch.rand(50, 2))
    agent = Agent(policy, SEEN, DONE, seed=3)
    again = Agent.load(agent.save(tmp_path / "agent"))
    observations = np.random.default_rng(0).uniform(-1, 1, (6, 2)).astype(np.float32)
    np.testing.assert_array_equal(agent.act(observations), again.act(observations))
    agent.reset(seed=1)
    again.reset(seed=1)
    host = torch.get_rng_state()
    samples, again_samples = (one.predict(observations, deterministic=False)[0] for one in (agent, again))
    np.testing.assert_array_equal(samples, again_samples)
    assert torch.equal(host, torch.get_rng_state())
    assert DONE.contains(agent.act(observations[0]))


def test_a_run_that_cannot_be():
    discrete = Demonstrations(SEEN, spaces.Discrete(3))
    discrete.append(Demonstration(np.zeros((3, 2), np.float32), np.zeros(2, np.int64), np.zeros(2)))
    with pytest.raises(ValueError, match=r"real-valued actions \(Box\), not Discrete\(3\): for others there is bc"):
        agentlib.train("diffusion_bc", demos=discrete, steps=2, progress=False)
    with pytest.raises(ValueError, match="choose a backbone without memory"):
        agentlib.train("diffusion_bc", demos=two_ways(20), backbone="lstm", steps=2, progress=False)
    with pytest.raises(ValueError, match=r"DiffusionBCConfig\.sample_steps must be between 1 and 50, not 60"):
        agentlib.train("diffusion_bc", demos=two_ways(20), sample_steps=60, steps=2, progress=False)


@pytest.mark.slow
def test_it_goes_both_ways_where_squared_errors_go_between():
    demonstrations = two_ways()
    agent: Any = agentlib.train("diffusion_bc", demos=demonstrations, steps=1_500, denoiser=(64, 64), progress=False)
    observations = np.random.default_rng(1).uniform(-1, 1, (300, 2)).astype(np.float32)
    samples, _ = agent.predict(observations, deterministic=False)
    sides, others = samples[:, 0], samples[:, 1]
    assert np.mean(np.abs(np.abs(sides) - 1.5) < 0.2) > 0.9
    assert 0.3 < np.mean(sides > 0) < 0.7
    assert np.abs(others - np.abs(observations[:, 0])).mean() < 0.1
    chosen = agent.act(observations)
    assert np.mean(np.abs(np.abs(chosen[:, 0]) - 1.5) < 0.2) > 0.97  # a mode, never the mean
    mean: Any = agentlib.train("bc", demos=demonstrations, loss="mse", steps=1_500, progress=False)
    assert np.abs(mean.act(observations)[:, 0]).mean() < 0.6


@pytest.mark.slow
def test_an_agent_goes_on_learning():
    demos = record_episodes(expert_for("agentlib/Detour-v0"), "agentlib/Detour-v0", 5)
    env = gymnasium.make("agentlib/Detour-v0")
    first: Any = agentlib.train("diffusion_bc", demos=demos, env="agentlib/Detour-v0", steps=20, progress=False)
    second: Any = agentlib.train("diffusion_bc", demos=demos, agent=first, steps=5, progress=False)
    assert env.action_space.contains(second.act(env.reset(seed=0)[0]))
    other: Any = agentlib.train("bc", demos=demos, loss="mse", steps=2, progress=False)
    with pytest.raises(ValueError, match="goes on from a DiffusionPolicy, not from a DeterministicPolicy"):
        agentlib.train("diffusion_bc", demos=demos, agent=other, steps=5, progress=False)
