"""Q-learning with a table against the loop of the book, a mean by hand, and the best returns of small worlds."""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.backbones import Table, sgd
from agentlib.backbones.choice import table_for
from agentlib.core.randomness import fresh_weights
from agentlib.core.spaces import to_tensors
from agentlib.envs.making import make_env
from agentlib.experience import Transition
from agentlib.learners import QTable, QTableConfig
from agentlib.policies import GreedyActor, QPolicy
from agentlib.policies.acting import decide

quiet: Any = partial(agentlib.train, "q_table", progress=False, compile=False)


class Logged(gymnasium.Wrapper):
    """Remembers its transitions."""

    def __init__(self, env: Any, made: list[Any]) -> None:
        super().__init__(env)
        self.made, self.state = made, 0

    def reset(self, **more: Any) -> Any:
        self.state, info = self.env.reset(**more)
        return self.state, info

    def step(self, action: Any) -> Any:
        after, reward, terminated, truncated, info = self.env.step(action)
        self.made.append((self.state, int(action), float(reward), after, terminated))
        self.state = after
        return after, reward, terminated, truncated, info


def table_of(agent: Agent) -> np.ndarray:
    """Q `(S, A)`."""
    policy: Any = agent.policy
    weight: np.ndarray = policy.head.weight.detach().numpy()
    return weight.T


def test_one_transition_at_a_time_it_is_the_algorithm_of_watkins():
    made: list[Any] = []
    online: Any = {"batch_size": 1, "buffer_size": 1, "train_freq": 1, "learning_starts": 0, "learning_rate": 0.3}
    agent = quiet(env=lambda: Logged(gymnasium.make("CliffWalking-v1"), made), steps=400, gamma=0.9, **online)
    q = np.zeros((48, 4))
    for state, action, reward, after, terminated in made:
        q[state, action] += 0.3 * (reward + 0.9 * (not terminated) * q[after].max() - q[state, action])
    assert len(made) == 400
    assert np.abs(q).max() > 1
    np.testing.assert_allclose(table_of(agent), q, rtol=1e-4, atol=1e-5)


def test_a_pair_that_comes_twice_moves_by_the_mean_of_its_errors():
    learner: Any = QTable(QPolicy(Table([3]), 2), sgd(0.5))
    torch.nn.init.zeros_(learner.policy.head.weight)
    torch.nn.init.zeros_(learner.policy.head.bias)
    states = torch.tensor([0, 0, 2])
    batch = Transition(
        observation=states,
        action=torch.tensor([1, 1, 0]),
        reward=torch.tensor([1.0, 3.0, -4.0]),
        next_observation=torch.ones_like(states),
        terminated=torch.tensor([1.0, 0.0, 1.0]),
        discount=torch.full((3,), 0.9),
        weight=torch.ones(3),
        index=torch.arange(3),
    )
    update = learner.update(batch)
    # 0.5 of the mean of 1 and 3, and 0.5 of -4; all else stays.
    assert learner.policy.head.weight.tolist() == [[0, 0, -2], [1, 0, 0]]
    assert learner.policy.head.bias.tolist() == [0, 0]
    assert update.per_sample is not None
    assert update.per_sample.tolist() == [-1, -3, 4]


@pytest.mark.parametrize(
    ("env", "env_kwargs", "steps", "best"),
    [
        ("FrozenLake-v1", {"is_slippery": False}, 4_000, 1.0),
        pytest.param("CliffWalking-v1", {"max_episode_steps": 200}, 8_000, -13.0, marks=pytest.mark.slow),
        pytest.param("Taxi-v4", {}, None, 7.5, marks=pytest.mark.slow),
        pytest.param("FrozenLake-v1", {}, None, 0.68, marks=pytest.mark.slow),
    ],
)
def test_it_finds_the_best_return_of_small_worlds(env, env_kwargs, steps, best):
    agent = quiet(env=env, env_kwargs=env_kwargs, steps=steps)
    assert agentlib.evaluate(agent, partial(make_env, env, env_kwargs=env_kwargs), episodes=100).mean >= best


def test_an_agent_is_saved_and_goes_on(tmp_path):
    agent = quiet(env="Taxi-v4", steps=600)
    again = Agent.load(agent.save(tmp_path / "table"))
    further = quiet(env="Taxi-v4", steps=600, seed=1, agent=again)
    assert np.array_equal(table_of(again), table_of(agent))
    assert not np.array_equal(table_of(further), table_of(agent))
    assert not further.policy.head.bias.any()


SPACES = [
    spaces.Discrete(5, start=-2),
    spaces.Tuple((spaces.Discrete(3), spaces.Discrete(2, start=1))),
    spaces.Dict({"a": spaces.MultiDiscrete([2, 3], start=[1, 0]), "b": spaces.MultiBinary(2)}),
]


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_each_observation_has_an_entry_of_its_own(space):
    table = table_for(space)
    space.seed(0)
    entries: dict[int, set[str]] = {}
    for _ in range(500):
        observation = space.sample()
        vector: Any = gymnasium.vector.utils.create_empty_array(space, 1)
        vector = gymnasium.vector.utils.concatenate(space, [observation], vector)
        (row,) = table(to_tensors(space, vector))
        assert row.sum() == row.max() == 1
        entries.setdefault(int(row.argmax()), set()).add(str(observation))
    assert sorted(entries) == list(range(table.feature_dim))
    assert all(len(seen) == 1 for seen in entries.values())


@pytest.mark.parametrize("space", SPACES, ids=str)
def test_numpy_acts_as_torch_does(space):
    with fresh_weights(0):
        policy: Any = QPolicy(table_for(space), 3)
        torch.nn.init.normal_(policy.head.weight)
    actor = GreedyActor(policy, space)
    batched = gymnasium.vector.utils.batch_space(space, 20)
    batched.seed(0)
    observation = batched.sample()
    expected, _ = decide(policy, space, observation)
    assert actor.shortcut is not None
    assert actor.shortcut.takes(observation) is not isinstance(space, spaces.Dict)
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(actor(observation), expected)


def test_what_does_not_fit_a_table_is_refused():
    for env, message in (
        ("CartPole-v1", "a table needs observations of categories .*: train dqn"),
        ("agentlib/Dials-v0", "q_table needs a Discrete action space"),
    ):
        with pytest.raises(ValueError, match=message):
            quiet(env=env, steps=500)
    with pytest.raises(ValueError, match="q_table keeps a table, and takes no backbone"):
        quiet(env="Taxi-v4", steps=500, backbone="mlp")
    with pytest.raises(ValueError, match="a table has room for 1,048,576 observations, and there are 2,097,152"):
        table_for(spaces.Discrete(2**21))
    other: Any = agentlib.train("dqn", env="FrozenLake-v1", steps=1_200, progress=False, compile=False)
    with pytest.raises(ValueError, match="goes on from no other agent"):
        quiet(env="FrozenLake-v1", steps=500, agent=other)
    with pytest.raises(ValueError, match=r"learning_rate must be between 0 and 1, not 1\.5"):
        QTableConfig(learning_rate=1.5)
