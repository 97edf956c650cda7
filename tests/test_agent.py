import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors import safe_open
from stable_baselines3 import DQN
from stable_baselines3.common.evaluation import evaluate_policy
from torch import nn

from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.backbones.choice import backbone_for
from agentlib.core.randomness import fresh_weights
from agentlib.policies import QPolicy
from tests.tiny import host_generators, tiny_run

CARTPOLE = gymnasium.make("CartPole-v1").observation_space
SPACES = {
    "vector": CARTPOLE,
    "double": spaces.Box(-1.0, 1.0, (2, 3), np.float64),
    "discrete": spaces.Discrete(5, start=2),
    "several": spaces.MultiDiscrete([3, 4]),
    "binary": spaces.MultiBinary(4),
    "image": spaces.Box(0, 255, (36, 40, 3), np.uint8),
    "stack": spaces.Box(0, 255, (4, 40, 36), np.uint8),
    "dict": spaces.Dict({"position": spaces.Box(-1.0, 1.0, (2,)), "map": spaces.Box(0, 255, (40, 40), np.uint8)}),
    "tuple": spaces.Tuple([spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,)), spaces.Dict({"x": spaces.Discrete(2)})]),
}
FRESH_PROCESS = """
import sys, numpy, agentlib
agent = agentlib.Agent.load(sys.argv[1])
observations = numpy.load(sys.argv[2])
numpy.save(sys.argv[3], agent.act(observations))
assert [agent.act(o) for o in observations[:50]] == agent.act(observations)[:50].tolist()
"""
IMPORT_TIME = """
import time, torch
start = time.process_time()  # of this process alone, whatever else the machine does
import agentlib
print(time.process_time() - start)
"""


def agent_for(space, n_actions=4, start=0, seed=0, **options):
    with fresh_weights(seed):
        policy = QPolicy(backbone_for(space), n_actions)
    return Agent(policy, space, spaces.Discrete(n_actions, start=start), **options)


def stacked(space, observations):
    empty: Any = gymnasium.vector.utils.create_empty_array(space, len(observations))
    return gymnasium.vector.utils.concatenate(space, observations, empty)


@pytest.mark.parametrize("name", SPACES)
def test_it_acts_on_one_observation_and_on_a_batch_before_and_after_a_file(name, tmp_path):
    space = SPACES[name]
    space.seed(0)
    agent = agent_for(space)
    observations = [space.sample() for _ in range(16)]
    single = [agent.act(observation) for observation in observations]
    batch = agent.act(stacked(space, observations))
    assert batch.shape == (16,)
    np.testing.assert_array_equal(single, batch)
    assert agent.action_space.contains(single[0])
    again = Agent.load(agent.save(tmp_path / "agent"))
    assert again.observation_space == space
    assert again.action_space == agent.action_space
    np.testing.assert_array_equal(again.act(stacked(space, observations)), batch)


def test_one_action_is_a_number_that_environments_can_use():
    agent = agent_for(spaces.Discrete(16))
    action = agent.act(3)
    assert isinstance(action, np.int64)
    assert action in {0: "left", 1: "down", 2: "right", 3: "up"}


def test_actions_start_where_the_space_starts():
    agent = agent_for(CARTPOLE, n_actions=3, start=5, exploration_rate=0.5)
    observations = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32)
    assert set(agent.act(observations)) <= {5, 6, 7}
    assert set(agent.predict(observations)[0]) == {5, 6, 7}


def test_predict_gives_what_sb3s_predict_gives():
    env = gymnasium.make("CartPole-v1")
    model = DQN("MlpPolicy", env)
    agent = tiny_run(env="CartPole-v1", steps=50)
    for observation in (CARTPOLE.sample(), np.stack([CARTPOLE.sample() for _ in range(3)])):
        (theirs, their_state), (ours, our_state) = (
            who.predict(observation, deterministic=True) for who in (model, agent)
        )
        assert type(ours) is type(theirs)
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)
        assert our_state is their_state is None


def test_predict_explores_only_if_asked_and_by_its_own_generator():
    agent = agent_for(CARTPOLE, exploration_rate=0.5)
    observations = np.zeros((1000, 4), np.float32)
    greedy = agent.act(observations)
    np.testing.assert_array_equal(agent.predict(observations, deterministic=True)[0], greedy)
    agent.reset(seed=1)
    before = host_generators()
    first = agent.predict(observations)[0]
    np.testing.assert_equal(host_generators(), before)
    assert (first != greedy).mean() == pytest.approx(0.5 * 0.75, abs=0.06)
    agent.reset(seed=1)
    np.testing.assert_array_equal(agent.predict(observations)[0], first)


@pytest.mark.filterwarnings("ignore:Evaluation environment is not wrapped")
def test_sb3s_evaluate_policy_scores_it_unchanged():
    agent = tiny_run(env="CartPole-v1", steps=50)
    env = gymnasium.make("CartPole-v1")
    returns: Any
    returns, lengths = evaluate_policy(agent, env, 5, return_episode_rewards=True)
    assert returns == lengths
    assert len(returns) == 5


@pytest.mark.slow
def test_a_new_process_acts_the_same(tmp_path):
    agent = tiny_run(env="CartPole-v1", steps=100, normalize=True)
    path = agent.save(tmp_path / "agent.safetensors")
    observations = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    np.save(tmp_path / "observations.npy", observations)
    files = [str(path), str(tmp_path / "observations.npy"), str(tmp_path / "actions.npy")]
    subprocess.run([sys.executable, "-c", FRESH_PROCESS, *files], check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "actions.npy"), agent.act(observations))


def test_a_file_is_json_and_tensors_and_nothing_else(tmp_path):
    path = agent_for(CARTPOLE, about={"by": "me"}).save(tmp_path / "agent")
    assert path.name == "agent.safetensors"
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    described = json.loads(header.pop("__metadata__")["agentlib"])
    assert described["about"] == {"by": "me"}
    assert described["policy"]["name"] == "q"
    size = sum(4 * np.prod(tensor["shape"], dtype=int) for tensor in header.values())
    assert len(content) == 8 + int.from_bytes(content[:8], "little") + size
    with safe_open(path, "pt") as file:
        assert all(torch.isfinite(file.get_tensor(name)).all() for name in file.keys())  # noqa: SIM118
    assert [entry.name for entry in tmp_path.iterdir()] == ["agent.safetensors"]


class Squares(nn.Module):
    """A backbone of a user's own."""

    def __init__(self, width: int):
        super().__init__()
        self.layer, self.feature_dim = nn.Linear(4, width), width
        self.spec = {"name": "Squares", "arguments": {"width": width}}

    def forward(self, observation):
        return self.layer(observation) ** 2


def test_a_backbone_of_ones_own_is_named_at_load(tmp_path):
    agent = tiny_run(env="CartPole-v1", backbone=Squares(8), steps=60, net_arch=None)
    path = agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"unknown network 'Squares'.*classes="):
        Agent.load(path)
    again = Agent.load(path, classes={"Squares": Squares})
    assert type(again.backbone) is Squares
    observations = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.testing.assert_array_equal(again.act(observations), agent.act(observations))


def test_a_backbone_without_a_spec_trains_and_acts_but_says_why_it_cannot_be_saved(tmp_path):
    backbone = Squares(8)
    del backbone.spec
    agent = tiny_run(env="CartPole-v1", backbone=backbone, steps=60, net_arch=None)
    assert agent.action_space.contains(agent.act(np.zeros(4, np.float32)))
    with pytest.raises(ValueError, match="Squares has no `spec`"):
        agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match="Squares has no `spec`"):  # and with a folder it is refused before training
        tiny_run(env="CartPole-v1", backbone=backbone, steps=10**9, net_arch=None, out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_an_agent_on_a_sequential_backbone_is_saved(tmp_path):
    def build():
        network = nn.Sequential(nn.Linear(4, 8), nn.ReLU())
        network.feature_dim = 8  # type: ignore[assignment]
        return network

    agent = tiny_run(env="CartPole-v1", backbone=build(), steps=60, net_arch=None, out=tmp_path / "run")
    again = Agent.load(tmp_path / "run", classes={"Sequential": build})
    observations = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    np.testing.assert_array_equal(again.act(observations), agent.act(observations))


def test_training_goes_on_from_an_agent_and_leaves_it_as_it_was():
    first = tiny_run(env="CartPole-v1", steps=100)
    before = {name: tensor.clone() for name, tensor in first.policy.state_dict().items()}
    second = tiny_run(env="CartPole-v1", steps=100, agent=first)
    for name, tensor in first.policy.state_dict().items():
        assert torch.equal(tensor, before[name])
    unchanged = tiny_run(env="CartPole-v1", steps=100, agent=first, learning_rate=0.0)
    for name, tensor in unchanged.policy.state_dict().items():
        assert torch.equal(tensor, before[name])
    assert not torch.equal(second.policy.head.weight, first.policy.head.weight)


def test_acting_leaves_mode_and_gradients_alone():
    policy = QPolicy(MLP(4, (8,), activation="tanh"), 2).train()
    agent = Agent(policy, CARTPOLE, spaces.Discrete(2))
    agent.act(np.zeros((3, 4), np.float32))
    assert policy.training
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in policy.parameters())


@pytest.mark.slow
def test_importing_agentlib_costs_little_beyond_torch():
    def once():
        return float(subprocess.run([sys.executable, "-c", IMPORT_TIME], check=True, capture_output=True).stdout)

    assert min(once() for _ in range(5)) < 0.2


def test_importing_agentlib_does_not_import_torch():
    code = "import sys, agentlib; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[1]).returncode == 0
