"""Stretches of episodes against the episodes themselves."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib.backbones import Prompt
from agentlib.experience import Demonstration, Demonstrations, ReturnBatches
from agentlib.experience.return_batches import returns_to_go

LENGTHS = [3, 1, 6, 2]


def recorded(action_space: spaces.Space) -> Demonstrations:
    """Observations that say which episode and step they are of."""
    data = Demonstrations(spaces.Box(-9, 9, (2,), np.float64), action_space)
    generator = np.random.default_rng(0)
    for episode, length in enumerate(LENGTHS):
        seen = np.stack([np.full(length + 1, episode), np.arange(length + 1)], 1).astype(float)
        action_space.seed(episode)
        done = np.stack([action_space.sample() for _ in range(length)])
        data.append(Demonstration(seen, done, generator.normal(size=length)))
    return data


def test_returns_to_go_are_sums_of_what_comes():
    assert returns_to_go(np.array([1.0, -2.0, 4.0])).tolist() == [3.0, 2.0, 4.0]


@pytest.mark.parametrize("context", [1, 2, 4, 8])
@pytest.mark.parametrize("action_space", [spaces.Discrete(3, start=5), spaces.Box(-1, 1, (2,))], ids=str)
def test_each_stretch_is_the_end_of_an_episode_up_to_some_step(action_space, context):
    data = recorded(action_space)
    data = data.select([2, 0, 1])  # another order, and one left out
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        batch = ReturnBatches(data, context, 500).sample()
    prompt = batch.observation
    assert isinstance(prompt, Prompt)
    ends = []
    for i in range(500):
        inside = batch.weight[i].bool().tolist()
        assert inside == sorted(inside)  # padding is on the left
        number, end = (int(x) for x in prompt.observation[i, -1])
        episode = next(one for one in data if one.observations[0, 0] == number)
        first = max(0, end + 1 - context)
        assert sum(inside) == end + 1 - first
        assert batch.episode_start[i].tolist() == [t == inside.index(True) for t in range(context)]
        here = slice(inside.index(True), None)
        np.testing.assert_allclose(prompt.observation[i, here], episode.observations[first : end + 1])
        shift = getattr(action_space, "start", 0)
        np.testing.assert_allclose(prompt.action[i, here], episode.actions[first : end + 1] - shift, rtol=1e-6)
        np.testing.assert_allclose(prompt.return_to_go[i, here], returns_to_go(episode.rewards)[first : end + 1], 1e-5)
        assert prompt.timestep[i, here].tolist() == list(range(first, end + 1))
        assert torch.equal(batch.action[i], prompt.action[i])
        ends.append((number, end))
    counts = np.unique(ends, axis=0, return_counts=True)[1]
    assert len(counts) == data.steps  # every step ends a stretch
    assert (abs(counts - 500 / data.steps) < 6 * np.sqrt(500 / data.steps)).all()


def test_nothing_to_learn_from_is_refused():
    with pytest.raises(ValueError, match="no steps to learn from"):
        ReturnBatches(Demonstrations(spaces.Box(-1, 1, (2,)), spaces.Discrete(2)), 3)
