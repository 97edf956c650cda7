"""Backbones by name, from files and specs; and how one moves from learner to learner."""

import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

import agentlib
from agentlib import Agent
from agentlib.backbones import CNN, MLP, Chain, NatureCNN, ResNet, RunningNorm, UNet, adam, load_backbone, save_backbone
from agentlib.backbones.choice import NAMED_BACKBONES, backbone_for
from agentlib.core.recipe import Problem
from agentlib.learners import DQN, DQNConfig
from agentlib.policies import QPolicy
from agentlib.runs.folder import RunFolder
from agentlib.runs.plan import job_of, plan
from agentlib.shell.main import main
from tests.tiny import FLAGS, host_generators, tiny_run

VECTOR = spaces.Box(-1, 1, (4,))
PICTURE = spaces.Box(0, 255, (32, 40, 3), np.uint8)
FRAMES = spaces.Box(0, 255, (4, 84, 84), np.uint8)
DIGIT = spaces.Box(0, 1, (8, 8))
PARTS = spaces.Dict({"eye": spaces.Box(0, 255, (40, 40, 3), np.uint8), "place": VECTOR})


def features(network, space):
    batch = np.stack([space.sample() for _ in range(3)])
    return network(torch.from_numpy(batch))


@pytest.mark.parametrize(
    ("name", "space", "kind"),
    [
        ("auto", VECTOR, MLP),
        ("auto", FRAMES, NatureCNN),
        ("auto", PICTURE, MLP),  # too small for the Nature CNN
        ("auto", DIGIT, MLP),
        ("auto", PARTS, Chain),
        ("mlp", FRAMES, MLP),
        ("nature_cnn", FRAMES, NatureCNN),
        ("cnn", PICTURE, CNN),
        ("cnn", DIGIT, CNN),
        ("resnet", PICTURE, ResNet),
        ("resnet", DIGIT, ResNet),
    ],
)
def test_names(name, space, kind):
    network = backbone_for(space, name)
    assert type(network) is kind
    if not isinstance(space, spaces.Dict):
        assert features(network, space).shape == (3, network.feature_dim)


def test_layers_on_top_and_sizes_of_resnets():
    network = backbone_for(PICTURE, "resnet", net_arch=(16,))
    assert isinstance(network, Chain)
    assert features(network, PICTURE).shape == (3, 16)
    for space, width in ((PICTURE, 128), (spaces.Box(0, 255, (3, 96, 96), np.uint8), 512)):
        assert backbone_for(space, "resnet").feature_dim == width


@pytest.mark.parametrize("name", NAMED_BACKBONES)
def test_each_name_is_described(name, capsys):
    entry = NAMED_BACKBONES[name]
    network = entry.build(entry.example, None, False)
    assert entry.parameters() == sum(parameter.numel() for parameter in network.parameters()) > 0
    assert main(["list", "backbones"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for text in (name, entry.takes, f"{entry.parameters():,} parameters", entry.reference):
        assert text in shown


@pytest.mark.parametrize(
    ("space", "backbone", "message"),
    [
        (VECTOR, "resnett", "unknown backbone 'resnett'; close matches: resnet"),
        (VECTOR, "resnet", r"resnet takes images, not Box"),
        (PARTS, "cnn", r"cnn takes images, not Dict.*use backbone='auto'"),
        (spaces.Discrete(3), "nature_cnn", "nature_cnn takes images, not Discrete"),
        (PICTURE, "nature_cnn", "too small: both sides must be at least 36"),
        (VECTOR, {"name": "mpl", "arguments": {}}, "unknown network 'mpl'; close matches: mlp"),
        (VECTOR, MLP(3, (8,)).spec, r"does not take observations of Box.*shapes cannot be multiplied"),
        (
            PICTURE,
            UNet((32, 40, 3), channels_last=True).spec,
            r"gives features \(B, feature_dim\), for two observations",
        ),
        (PICTURE, UNet((32, 40, 3), channels_last=True), r"gives features \(B, feature_dim\), for two observations"),
        (VECTOR, MLP(3, (8,)), r"does not take observations of Box.*shapes cannot be multiplied"),
        (spaces.Text(5), MLP(3, (8,)), "have no fixed shape"),
        (VECTOR, nn.Linear(4, 4), "needs an attribute `feature_dim`; Linear has none"),
    ],
)
def test_what_does_not_fit(space, backbone, message):
    with pytest.raises((ValueError, TypeError), match=message):
        backbone_for(space, backbone)


@pytest.mark.parametrize("space", [spaces.Discrete(3, start=5), spaces.Dict({"a": VECTOR, "b": spaces.MultiBinary(2)})])
def test_a_look_at_a_network_of_ones_own_draws_from_nobodys_generator(space):
    class Ones(nn.Module):
        feature_dim = 2

        def forward(self, observation):
            part = observation["a"] if isinstance(observation, dict) else observation - 5
            return nn.functional.one_hot(part.flatten().long().clamp(0, 2), 3)[:2, :2]

    before, own = host_generators(), space.np_random.bit_generator.state
    backbone_for(space, Ones())
    for mine, now in zip(before, host_generators(), strict=True):
        np.testing.assert_array_equal(mine, now)
    assert own == space.np_random.bit_generator.state


def test_no_such_file():
    with pytest.raises(FileNotFoundError, match="no backbone file at"):
        backbone_for(VECTOR, "nowhere.safetensors")


# Moving --------------------------------------------------------------------------------------------------------------


def state(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def equal(one, two):
    return list(one) == list(two) and all(torch.equal(value, two[name]) for name, value in one.items())


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """The backbone of a trained agent, with statistics of the observations, in a file."""
    agent = tiny_run(env="CartPole-v1", steps=100, normalize=True)
    return save_backbone(agent.backbone, tmp_path_factory.mktemp("pretrained") / "backbone")


def test_a_file_is_where_the_next_learner_starts(pretrained, tmp_path):
    start = load_backbone(pretrained)
    assert start.stages[0].stages[0].count > 0  # type: ignore[union-attr, index]
    still = tiny_run(env="CartPole-v1", steps=60, backbone=pretrained, net_arch=None, learning_rate=0.0)
    assert equal(state(still.backbone), state(start))
    moved = tiny_run(env="CartPole-v1", steps=60, backbone=str(pretrained), net_arch=None)
    assert not equal(state(moved.backbone), state(start))
    again = Agent.load(moved.save(tmp_path / "agent"))
    assert equal(state(again.policy), state(moved.policy))


def test_frozen_it_stays_and_the_head_learns(pretrained):
    backbone = load_backbone(pretrained).requires_grad_(False)
    before = state(backbone)
    agent = tiny_run(env="CartPole-v1", steps=100, backbone=backbone, net_arch=None)
    assert agent.backbone is backbone
    assert equal(state(backbone), before)
    fresh = tiny_run(env="CartPole-v1", steps=100, backbone=backbone, net_arch=None, learning_rate=0.0)
    assert not torch.equal(agent.policy.head.weight, fresh.policy.head.weight)


def test_with_a_learning_rate_of_its_own(pretrained):
    """In a learner that knows nothing of it. Adam's first step is as long as the rate."""
    moves = []
    for factor in (1.0, 0.1):
        backbone: Any = load_backbone(pretrained)
        backbone.learning_rate_factor = factor
        before = torch.cat([p.detach().ravel() for p in backbone.parameters()])
        once = {"net_arch": None, "learning_starts": 23, "train_freq": 24, "gradient_steps": 1}
        agent = tiny_run(env="CartPole-v1", steps=24, backbone=backbone, **once)
        moves.append((torch.cat([p.detach().ravel() for p in agent.backbone.parameters()]) - before).norm())
    assert float(moves[1] / moves[0]) == pytest.approx(0.1, rel=1e-3)


@pytest.mark.slow
def test_a_spec_builds_it_by_the_seed(tmp_path):
    spec = Chain([RunningNorm((4,)), MLP(4, (16, 16), norm="layer", residual=True)]).spec
    agents = [tiny_run(env="CartPole-v1", steps=60, backbone=spec, net_arch=None, seed=seed) for seed in (0, 0, 1)]
    assert agents[0].backbone.spec == spec
    assert equal(state(agents[0].policy), state(agents[1].policy))
    assert not equal(state(agents[0].policy), state(agents[2].policy))


@pytest.mark.parametrize("kind", ["file", "spec"])
def test_a_run_on_it_is_resumed(pretrained, tmp_path, kind):
    backbone = pretrained if kind == "file" else MLP(4, (8,)).spec
    agent = tiny_run(env="CartPole-v1", steps=60, backbone=backbone, net_arch=None, out=tmp_path / "run")
    record = RunFolder(tmp_path / "run").record()
    assert record["backbone"] == (str(pretrained) if kind == "file" else backbone)
    json.dumps(record)
    again: Any = agentlib.train(resume=tmp_path / "run", progress=False)
    assert equal(state(again.policy), state(agent.policy))  # it was over


def test_on_the_command_line(pretrained, tmp_path, capsys):
    out = tmp_path / "run"
    flags = [*FLAGS[2:], "--env", "CartPole-v1", "--steps", "60", "--out", str(out)]
    assert main(["train", "dqn", *flags, "--backbone", str(pretrained)]) == 0
    assert Agent.load(out).backbone.spec == load_backbone(pretrained).spec


def test_any_learners_backbone_goes_into_another():
    """The same module in two learners: what one learns, the other has."""
    shared = MLP(4, (16,))
    one, two = (DQN(QPolicy(shared, n), adam(1e-3), DQNConfig()) for n in (2, 3))
    assert one.policy.backbone is two.policy.backbone
    env = gymnasium.make("CartPole-v1")
    agent = Agent(two.policy, env.observation_space, spaces.Discrete(3))
    assert agent.backbone is shared


@pytest.mark.parametrize(
    ("what", "backbone", "settings", "message"),
    [
        ("dqn", MLP(4, (8,)), {"net_arch": (8, 8)}, r"net_arch=\(8, 8\) has no effect on a backbone that is ready"),
        ("ppo", MLP(4, (8,)).spec, {"activation": "relu"}, "activation='relu' has no effect on a backbone that is"),
        ("ppo", "lstm", {"activation": "relu"}, "activation='relu' has no effect on the backbone lstm: leave it out"),
        (
            "ppo",
            MLP(4, (8,)),
            {"normalize": True},
            r"normalize=True has no effect .*Chain\(\[RunningNorm\(shape\), net",
        ),
        (DQNConfig(normalize=True), MLP(4, (8,)), {}, "normalize=True has no effect on a backbone that is ready"),
        (DQNConfig(net_arch=(8,)), MLP(4, (8,)).spec, {}, "net_arch=.* has no effect on a backbone that is ready"),
    ],
)
def test_layers_beside_a_network_that_has_its_own_are_refused(what, backbone, settings, message):
    with pytest.raises(ValueError, match=message):
        agentlib.train(what, env="CartPole-v1", backbone=backbone, steps=64, progress=False, **settings)


def test_a_preset_may_stand_beside_a_ready_network_and_critics_have_layers_anyway():
    config = plan("dqn", Problem(env="CartPole-v1", backbone=MLP(4, (8,))), {}).config
    assert config.net_arch == (256, 256)
    assert plan("ppo", Problem(env="Acrobot-v1", backbone=MLP(6, (8,))), {}).config.normalize
    config = plan("sac", Problem(env="Pendulum-v1", backbone=MLP(3, (8,))), {"net_arch": (16,)}).config
    assert config.net_arch == (16,)  # of its critics
    agent: Any = agentlib.train(
        "sac", env="Pendulum-v1", backbone=MLP(3, (8,)), net_arch=(16,), learning_starts=20, steps=30, progress=False
    )
    assert agent.backbone.hidden == (8,)
    assert agent.training[2].critics.backbones[0].stages[1].hidden == (16,)
    agentlib.train(agent=agent, steps=30, progress=False)  # with the same config and network


def test_statistics_of_a_ready_network_are_learned_where_it_has_some():
    network = Chain([RunningNorm((4,)), MLP(4, (8,))])
    settings: Any = {"n_steps": 32, "batch_size": 32, "n_epochs": 1, "progress": False}
    agent: Any = agentlib.train(
        "ppo", env="CartPole-v1", backbone=network, normalize=True, n_envs=1, steps=96, **settings
    )
    assert float(agent.backbone.stages[0].count) == 64  # each rollout once it was learned from, and not the last


def test_a_ready_network_keeps_its_weights_where_the_rest_starts_orthogonal():
    network = MLP(4, (8,))
    before = state(network)
    problem = Problem(env="CartPole-v1", backbone=network, steps=64)
    learner: Any = job_of("ppo", problem, n_steps=32, batch_size=32).learner
    assert equal(state(learner.policy.backbone), before)
    weight = learner.networks.critic.layers[0].weight
    torch.testing.assert_close(weight.T @ weight, 2.0 * torch.eye(4))
