"""Networks with memory by name, and the recipe of recurrent DQN."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import concatenate, create_empty_array

import agentlib
from agentlib.agent import Agent
from agentlib.backbones import LSTM, MLP, TransformerDecoder, WithMemory
from agentlib.backbones.choice import MEMORIES, backbone_for
from agentlib.core.recipe import Problem
from agentlib.core.spaces import to_tensors
from agentlib.core.trees import mapped
from agentlib.learners import RecurrentDQNConfig
from agentlib.runs.plan import plan

NO_VELOCITY = "agentlib/CartPoleNoVel-v0"
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (40, 40, 3), np.uint8)
DICT = spaces.Dict({"image": IMAGE, "speed": spaces.Box(-1, 1, (2,)), "gear": spaces.Discrete(3)})


def batch_of(space: spaces.Space, steps: int = 3):
    space.seed(0)
    rows: Any = create_empty_array(space, 2 * steps)
    batch = concatenate(space, [space.sample() for _ in range(2 * steps)], rows)
    return mapped(to_tensors(space, batch), lambda leaf: leaf.unflatten(0, (2, steps)))


@pytest.mark.parametrize(
    "space", [VECTOR, IMAGE, DICT, spaces.Discrete(4)], ids=["vector", "image", "dict", "discrete"]
)
@pytest.mark.parametrize("name", MEMORIES)
def test_any_observation_can_be_remembered(name, space):
    network = backbone_for(space, name)
    assert isinstance(network, WithMemory)
    features, _ = network(batch_of(space))
    assert features.shape == (2, 3, network.feature_dim)


def test_net_arch_ends_with_the_width_of_the_memory():
    network = backbone_for(VECTOR, "lstm", (16, 8), actions=spaces.Discrete(4))
    assert isinstance(network, WithMemory)
    assert isinstance(network.encoder, MLP)
    assert network.encoder.hidden == (16,)
    assert (network.memory.input_dim, network.memory.hidden_dim) == (20, 8)
    assert network.previous_action == 4
    assert backbone_for(VECTOR, "transformer", (6,)).feature_dim == 6
    real = backbone_for(VECTOR, "gru", (8,), actions=spaces.Box(-1, 1, (2,)))
    assert isinstance(real, WithMemory)
    assert real.previous_action == (2,)
    with pytest.raises(ValueError, match="net_arch of lstm ends with the width of the memory"):
        backbone_for(VECTOR, "lstm", ())


@pytest.mark.parametrize(
    ("shape", "tokens"), [((8, 8), 16), ((3, 32, 32), 64), ((36, 36), 81), ((4, 84, 84), 49), ((90, 60, 3), 54)]
)
def test_patches_of_a_vit_by_name(shape, tokens):
    network = backbone_for(spaces.Box(0, 255, shape, np.uint8), "vit")
    assert network.positions.shape[1] == tokens + 1  # type: ignore[index]


@pytest.mark.parametrize(
    ("shape", "window", "stages"), [((8, 8), 2, 2), ((3, 32, 32), 4, 2), ((36, 36), 3, 1), ((4, 84, 84), 7, 1)]
)
def test_windows_of_a_swin_by_name(shape, window, stages):
    network: Any = backbone_for(spaces.Box(0, 255, shape, np.uint8), "swin")
    assert (network.window, len(network.depths)) == (window, stages)
    features = network(torch.zeros(2, *shape, dtype=torch.uint8))
    assert features.shape == (2, network.feature_dim)


def test_an_image_without_patches_says_so():
    with pytest.raises(ValueError, match="no patches from 2x2 on tile an image of 31x37"):
        backbone_for(spaces.Box(0, 255, (31, 37, 3), np.uint8), "vit")


# The recipe -----------------------------------------------------------------------------------------------------------

SHORT: dict[str, Any] = {
    "steps": 400,
    "learning_starts": 100,
    "sequence_length": 8,
    "burn_in": 2,
    "progress": False,
    "compile": False,
}


def train(what: str, **options: Any) -> Agent:
    agent = agentlib.train(what, **options)
    assert isinstance(agent, Agent)
    return agent


@pytest.mark.parametrize("options", [{}, {"act_by_average": False, "previous_action": False, "stored_state": False}])
def test_a_run_gives_an_agent_that_acts_from_its_file(options, tmp_path):
    agent = train("recurrent_dqn", env=NO_VELOCITY, n_envs=2, out=tmp_path / "run", **SHORT, **options)
    assert agent.has_memory
    loaded = Agent.load(tmp_path / "run")
    first, second = (agentlib.evaluate(one, NO_VELOCITY, episodes=2).returns for one in (agent, loaded))
    np.testing.assert_array_equal(first, second)
    assert isinstance(loaded.backbone, WithMemory)
    assert loaded.backbone.previous_action == (2 if options.get("previous_action", True) else None)


@pytest.mark.slow
def test_the_same_seed_gives_the_same_agent_and_a_run_can_go_on():
    agents = [train("recurrent_dqn", env=NO_VELOCITY, seed=seed, **SHORT) for seed in (0, 0, 1)]
    weights = [torch.cat([p.detach().ravel() for p in agent.policy.parameters()]) for agent in agents]
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])
    further = train("recurrent_dqn", env=NO_VELOCITY, agent=agents[0], **SHORT)
    assert torch.equal(weights[0], torch.cat([p.detach().ravel() for p in agents[0].policy.parameters()]))
    assert not torch.equal(weights[0], torch.cat([p.detach().ravel() for p in further.policy.parameters()]))


def test_the_preset_is_what_worked():
    config = plan("recurrent_dqn", Problem(env=NO_VELOCITY), {}).config
    assert isinstance(config, RecurrentDQNConfig)
    assert (config.trace, config.reward_scale, config.net_arch, config.sequence_length) == (0.8, 0.01, (64,), 32)


@pytest.mark.parametrize(
    "backbone",
    [
        pytest.param("transformer", marks=pytest.mark.slow),
        WithMemory(MLP(2, ()), LSTM(2, 8)),
        pytest.param(TransformerDecoder(2, 8), marks=pytest.mark.slow),
    ],
)
def test_backbones_by_name_and_of_ones_own(backbone):
    agent = train("recurrent_dqn", env=NO_VELOCITY, backbone=backbone, **SHORT)
    assert agentlib.evaluate(agent, NO_VELOCITY, episodes=1).mean > 0


@pytest.mark.parametrize(
    ("what", "options", "message"),
    [
        (
            "recurrent_dqn",
            {"backbone": "mlp"},
            "recurrent_dqn needs a network with memory: rnn, lstm, gru, transformer",
        ),
        ("recurrent_dqn", {"steps": 90}, "nothing would be learned: steps=90 end before the first update"),
        ("recurrent_dqn", {"env": "Pendulum-v1"}, "recurrent_dqn needs a Discrete action space"),
    ],
)
def test_what_does_not_fit_is_refused(what, options, message):
    with pytest.raises(ValueError, match=message):
        train(what, **{"env": NO_VELOCITY, **SHORT, **options})


def test_dqn_says_who_can_use_memory():
    with pytest.raises(ValueError, match='train "recurrent_dqn"'):
        train("dqn", env=NO_VELOCITY, backbone="lstm", steps=200, progress=False)
