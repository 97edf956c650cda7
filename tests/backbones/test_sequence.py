"""An encoder before a memory, and actions beside what it sees."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from agentlib.agent import Agent
from agentlib.backbones import GRU, LSTM, MLP, AfterAction, Nested, OneHot, TransformerDecoder, WithMemory
from agentlib.policies import CategoricalPolicy, EnsemblePolicy, GaussianPolicy, MemoryActor, QPolicy

B, T, ACTIONS = 3, 6, 4
SPACE = spaces.Box(-1, 1, (3,), np.float32)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def network(memory: Any = None, previous_action: Any = ACTIONS) -> WithMemory:
    return WithMemory(MLP(3, (5,)), memory or LSTM(5 + ACTIONS, 8), previous_action)


def test_is_the_memory_on_features_and_actions():
    ours = network()
    x, action = torch.randn(B, T, 3), torch.randint(ACTIONS, (B, T))
    action[:, 0] = -1
    indicator = torch.zeros(B, T, ACTIONS)
    for b in range(B):
        for t in range(1, T):
            indicator[b, t, action[b, t]] = 1.0
    features = torch.stack([ours.encoder(x[:, t]) for t in range(T)], 1)
    expected, _ = ours.memory(torch.cat([features, indicator], -1))
    torch.testing.assert_close(ours(AfterAction(x, action))[0], expected)


def test_nested_observations():
    encoder = Nested({"place": MLP(2, (4,)), "goal": OneHot([3])})
    ours = WithMemory(encoder, GRU(7, 5))
    observation = {"place": torch.randn(B, T, 2), "goal": torch.randint(3, (B, T))}
    features, _ = ours(observation)
    alone, _ = ours({key: part[1:2, :4] for key, part in observation.items()})
    torch.testing.assert_close(features[1:2, :4], alone)


MEMORIES: dict[str, Any] = {
    "lstm": lambda width: LSTM(width, 8),
    "transformer": lambda width: TransformerDecoder(width, 8, 1, 2, window=4),
}


@pytest.mark.parametrize("memory", MEMORIES)
def test_step_by_step_equals_the_whole_with_the_actions_noted(memory):
    ours = network(MEMORIES[memory](5 + ACTIONS))
    x, action = torch.randn(B, T, 3), torch.randint(ACTIONS, (B, T))
    start = torch.zeros(B, T, dtype=torch.bool)
    start[1, 3] = start[2, 0] = True
    previous = torch.cat([torch.full((B, 1), -1), action[:, :-1]], 1).masked_fill(start, -1)
    whole, _ = ours(AfterAction(x, previous), None, start)
    state, outputs = ours.initial_state(B), []
    for t in range(T):
        output, state = ours(x[:, t : t + 1], state, start[:, t : t + 1])
        state = ours.acted(state, action[:, t])
        outputs.append(output)
    torch.testing.assert_close(torch.cat(outputs, 1), whole)


def test_real_valued_actions_are_read_as_they_are():
    ours = network(LSTM(5 + 4, 8), previous_action=(2, 2))
    assert ours.no_action(B).shape == (B, 2, 2)
    action = torch.randn(B, T, 2, 2)
    x = torch.randn(B, T, 3)
    features = ours.encoder(x.flatten(0, 1)).unflatten(0, (B, T))
    expected, _ = ours.memory(torch.cat([features, action.flatten(2)], -1))
    torch.testing.assert_close(ours(AfterAction(x, action))[0], expected)


def test_errors_say_what_fits():
    with pytest.raises(ValueError, match="have 9 features, the memory reads 5: build it with input_dim=9"):
        network(LSTM(5, 8))
    with pytest.raises(ValueError, match="sees the future"):
        WithMemory(MLP(3, (5,)), LSTM(5, 8, bidirectional=True))
    with pytest.raises(ValueError, match=r"give it AfterAction\(observation, previous_action\)"):
        network()(torch.zeros(B, T, 3))


# Acting ---------------------------------------------------------------------------------------------------------------


def policies() -> dict[str, Any]:
    real = spaces.Box(-1, 1, (2,))
    return {
        "q": QPolicy(network(), ACTIONS),
        "categorical": CategoricalPolicy(network(MEMORIES["transformer"](9)), ACTIONS),
        "gaussian": GaussianPolicy(network(LSTM(7, 8), (2,)), real),
        "ensemble": EnsemblePolicy([CategoricalPolicy(network(), ACTIONS) for _ in range(2)]),
        "without actions": CategoricalPolicy(network(LSTM(5, 8), None), ACTIONS),
    }


def action_space_of(name: str) -> spaces.Space:
    return spaces.Box(-1, 1, (2,)) if name == "gaussian" else spaces.Discrete(ACTIONS, start=7)


@pytest.mark.parametrize("name", policies())
def test_an_agent_acts_from_its_file_as_before(name, tmp_path):
    """Alone, in a batch, by `act` and by `predict`: the same actions; and its last action makes a difference."""
    agent = Agent(policies()[name].eval(), SPACE, action_space_of(name))
    observations = np.random.default_rng(0).uniform(-1, 1, (8, 3)).astype(np.float32)
    acts = [agent.act(one) for one in observations]
    loaded = Agent.load(agent.save(tmp_path / "agent"))
    state, start = None, np.ones(1, bool)
    for one, action in zip(observations, acts, strict=True):
        np.testing.assert_array_equal(loaded.act(one), action)
        predicted, state = loaded.predict(one, state, start, deterministic=True)
        np.testing.assert_array_equal(predicted, action)
        start = np.zeros(1, bool)
    loaded.reset()
    np.testing.assert_array_equal(loaded.act(observations[0]), acts[0])


def test_predict_notes_the_random_action_that_it_gave():
    policy = QPolicy(network(), ACTIONS)
    agent = Agent(policy, SPACE, spaces.Discrete(ACTIONS), exploration_rate=1.0)
    state = None
    for _ in range(10):
        action, state = agent.predict(np.zeros(3, np.float32), state)
        assert state is not None
        assert state[-1].tolist() == [action]


def test_the_actor_of_a_run_gives_the_agents_actions():
    policy = QPolicy(network(), ACTIONS).eval()
    agent, actor = Agent(policy, SPACE, spaces.Discrete(ACTIONS)), MemoryActor(policy, SPACE)
    generator = np.random.default_rng(0)
    actor.begin(2)
    for t in range(12):
        observation = generator.uniform(-1, 1, (2, 3)).astype(np.float32)
        action = actor(observation)
        np.testing.assert_array_equal(agent.act(observation), action)
        actor.acted(action)
        if t % 4 == 3:
            ended = np.array([True, t == 7])
            actor.begin(2, ended)
            agent.reset(where=ended)


def test_evaluation_keeps_episodes_apart():
    import agentlib

    policy = QPolicy(WithMemory(MLP(2, ()), LSTM(4, 8), previous_action=2), 2)
    gymnasium.make("agentlib/CartPoleNoVel-v0").close()
    agent = Agent(policy, gymnasium.spec("agentlib/CartPoleNoVel-v0").make().observation_space, spaces.Discrete(2))
    both = agentlib.evaluate(agent, "agentlib/CartPoleNoVel-v0", episodes=6, seed=3).returns
    again = agentlib.evaluate(agent, "agentlib/CartPoleNoVel-v0", episodes=6, seed=3).returns
    np.testing.assert_array_equal(both, again)
