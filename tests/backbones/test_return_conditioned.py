"""The decision transformer's network: what it may read, and that acting equals reading the whole."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agentlib.agent import Agent
from agentlib.backbones import MLP, Prompt, ReturnConditioned, from_spec
from agentlib.policies import CategoricalPolicy

B, T, ACTIONS = 2, 7, 3


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def network(context: int = T, **options: Any) -> ReturnConditioned:
    settings: dict[str, Any] = {"dim": 16, "layers": 2, "heads": 2, "dropout": 0.0, "return_scale": 10.0}
    return ReturnConditioned(MLP(4, (8,)), ACTIONS, context=context, **settings, **options).double()


def prompt(steps: int = T) -> Prompt:
    when = torch.arange(steps).expand(B, steps)
    action = torch.randint(ACTIONS, (B, steps))
    return Prompt(torch.randn(B, steps, 4, dtype=torch.float64), action, torch.randn(B, steps).double(), when)


def assert_close(ours: Any, theirs: Any) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


def test_a_step_reads_returns_and_observations_up_to_its_own_and_actions_before_it():
    net, given = network(), prompt()
    base, _ = net(given)
    for s in range(T):
        changed = {
            "observation": given.observation.index_add(1, torch.tensor([s]), torch.ones(B, 1, 4).double()),
            "return_to_go": given.return_to_go.index_add(1, torch.tensor([s]), torch.ones(B, 1).double()),
            "action": given.action.index_add(1, torch.tensor([s]), torch.ones(B, 1, dtype=torch.int64)) % ACTIONS,
        }
        for name, value in changed.items():
            output, _ = net(given._replace(**{name: value}))
            moved = (output != base).any(-1).all(0)  # (T,)
            first = s + 1 if name == "action" else s
            assert moved.tolist() == [t >= first for t in range(T)], name


def test_padding_on_the_left_is_not_read():
    net, given = network(), prompt()
    start = torch.zeros(B, T, dtype=torch.bool)
    start[:, 3] = True
    output, _ = net(given, None, start)
    alone, _ = net(Prompt(*(part[:, 3:] for part in given)))
    assert_close(output[:, 3:], alone)


def acted_out(net: ReturnConditioned, given: Prompt, rewards: Tensor) -> Tensor:
    """The features that acting gives, the actions and rewards being those of an episode."""
    state, outputs = net.initial_state(B), []
    for t in range(given.timestep.shape[1]):
        output, following = net(given.observation[:, t : t + 1], state)
        assert following is not None
        state = net.rewarded(net.acted(following, given.action[:, t]), rewards[:, t])
        outputs.append(output)
    return torch.cat(outputs, 1)


@pytest.mark.parametrize("told", [True, False], ids=["rewards told", "rewards as expected"])
@pytest.mark.parametrize("context", [1, 3, T])
def test_acting_equals_reading_the_last_steps(context, told):
    net = network(context, target_return=5.0, expected_reward=0.0 if told else 1.0)
    rewards = torch.randn(B, T).double() if told else torch.ones(B, T).double()
    given = prompt()
    left = 5.0 - torch.cat([torch.zeros(B, 1).double(), rewards.cumsum(1)[:, :-1]], 1)
    given = given._replace(return_to_go=left)
    expected = []
    for t in range(T):
        first = max(0, t + 1 - context)
        output, _ = net(Prompt(*(part[:, first : t + 1] for part in given)))
        expected.append(output[:, -1:])
    assert_close(acted_out(net, given, rewards), torch.cat(expected, 1))


def test_a_new_episode_wants_the_whole_return_again():
    net = network(3, target_return=5.0, expected_reward=1.0)
    given = prompt()
    state = net.initial_state(B)
    for t in range(4):
        _, state = net(given.observation[:, t : t + 1], state)
    start = torch.tensor([[True], [False]])
    output, after = net(given.observation[:, 4:5], state, start)
    fresh, _ = net(given.observation[:, 4:5])
    assert_close(output[0], fresh[0])
    assert not torch.allclose(output[1], fresh[1])
    assert after.wanted.tolist() == [4.0, 0.0]
    assert after.timestep.tolist() == [1, 5]


def test_steps_beyond_the_last_number_share_its_embedding():
    net = network(1, max_timestep=3)
    given = prompt(1)
    late, later = (net(given._replace(timestep=torch.full((B, 1), t)))[0] for t in (2, 50))
    assert_close(late, later)


def test_spec_rebuilds():
    net = network(2, target_return=3.0, expected_reward=0.5)
    again = from_spec(net.spec).double()
    again.load_state_dict(net.state_dict())
    assert again.spec == net.spec
    given = prompt()
    assert_close(again(given)[0], net(given)[0])


def test_errors_say_what_fits():
    with pytest.raises(ValueError, match="one observation at a time; to learn, give a Prompt"):
        network()(torch.zeros(B, T, 4).double())
    with pytest.raises(ValueError, match="context is between 1 and 4096"):
        network(0)


@pytest.mark.parametrize("context", [1, 4])
def test_an_agent_pursues_its_return_from_its_file(context, tmp_path):
    space = spaces.Box(-1, 1, (4,))
    policy = CategoricalPolicy(network(context, target_return=3.0, expected_reward=0.25).float(), ACTIONS)
    agent = Agent(policy.eval(), space, spaces.Discrete(ACTIONS))
    loaded = Agent.load(agent.save(tmp_path / "agent"))
    generator = np.random.default_rng(0)
    state = None
    for t in range(6):
        observation = generator.uniform(-1, 1, 4).astype(np.float32)
        action = agent.act(observation)
        assert loaded.act(observation) == action
        predicted, state = loaded.predict(observation, state, deterministic=True)
        assert predicted == action
        assert agent._memory is not None
        assert agent._memory[0].wanted.item() == pytest.approx(3.0 - 0.25 * (t + 1))
    agent.rewarded(1.25)
    assert agent._memory is not None
    assert agent._memory[0].wanted.item() == pytest.approx(3.0 - 0.25 * 5 - 1.25)
    agent.reset()
    backbone: Any = agent.backbone
    backbone.target_return = 8.0
    agent.act(observation)
    assert agent._memory[0].wanted.item() == pytest.approx(7.75)
