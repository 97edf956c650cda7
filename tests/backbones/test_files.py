"""Backbones on disk: saved, loaded, refused; networks of one's own, with a spec and without."""

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from agentlib import Agent
from agentlib.backbones import (
    GRU,
    MLP,
    Chain,
    Nested,
    RunningNorm,
    WithMemory,
    from_spec,
    load_backbone,
    save_backbone,
    spec_of,
)
from agentlib.backbones.files import write_tensors
from agentlib.policies import QPolicy
from agentlib.runs.checkpoints import save_state


class Squares(nn.Module):
    """A network of somebody's own; each argument of the constructor is an attribute."""

    def __init__(self, inputs: int, feature_dim: int, power: float = 2.0, names: tuple[str, ...] = ("a",)) -> None:
        super().__init__()
        self.inputs, self.feature_dim, self.power, self.names = inputs, feature_dim, power, names
        self.layer = nn.Linear(inputs, feature_dim)
        self.register_buffer("scale", torch.rand(feature_dim))

    def forward(self, observation):
        return (self.layer(observation) * self.scale) ** self.power


class Around(nn.Module):
    """One with a network inside."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.feature_dim = inner.feature_dim

    def forward(self, observation):
        return -self.inner(observation)


def same(one, two, x):
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name])
    return torch.equal(one.eval()(x), two.eval()(x))


def test_parameters_and_buffers_move(tmp_path):
    network = Chain([RunningNorm((4,)), MLP(4, (8,), norm="batch")])
    network.observe(5.0 + torch.randn(50, 4))
    network(torch.randn(50, 4))  # so that batch normalization has statistics too
    path = save_backbone(network, tmp_path / "deep" / "encoder")
    assert path == tmp_path / "deep" / "encoder.safetensors"
    assert [file.name for file in path.parent.iterdir()] == ["encoder.safetensors"]
    assert same(network, load_backbone(path), torch.randn(6, 4))
    with safe_open(path, "pt") as file:
        described = json.loads(file.metadata()["agentlib"])
        assert set(file.keys()) == set(network.state_dict())
    assert len(described.pop("checksum")) == 64
    assert described == {"file": "agentlib backbone", "version": 1, "backbone": network.spec}


def test_a_network_of_ones_own_without_a_spec(tmp_path):
    network = Squares(4, 6, power=3.0)
    assert spec_of(network) == {
        "name": "Squares",
        "arguments": {"inputs": 4, "feature_dim": 6, "power": 3.0, "names": ["a"]},
    }
    path = save_backbone(network, tmp_path / "own")
    with pytest.raises(ValueError, match=r"unknown network 'Squares'.*classes=\{'Squares': YourClass\}"):
        load_backbone(path)
    again = load_backbone(path, classes={"Squares": Squares})
    assert again.power == 3.0
    assert same(network, again, torch.randn(5, 4))


@pytest.mark.parametrize(
    "build",
    [
        lambda: Around(Squares(4, 6)),
        lambda: Around(MLP(4, (6,))),
        lambda: Chain([Squares(4, 6), MLP(6, (3,))]),
        lambda: Around(Nested({"a": Squares(4, 6), "b": MLP(4, (2,))})),
        lambda: WithMemory(Squares(4, 6), GRU(6, 3)),
    ],
)
def test_networks_inside_networks(tmp_path, build):
    network = build()
    x = torch.randn(5, 4)
    inputs: Any = {"a": x, "b": x} if isinstance(getattr(network, "inner", None), Nested) else x
    if isinstance(network, WithMemory):
        inputs = x[:, None]  # (B, 1, d)
    again = load_backbone(save_backbone(network, tmp_path / "own"), classes={"Squares": Squares, "Around": Around})
    found, expected = (one[0] if isinstance(one, tuple) else one for one in (again(inputs), network.eval()(inputs)))
    assert torch.equal(found, expected)


def test_chains_of_ones_own_networks_observe_where_they_can():
    network = Chain([Nested({"a": Squares(4, 6), "b": RunningNorm((2,))}), MLP(8, (3,))])
    network.observe({"a": torch.ones(5, 4), "b": torch.ones(5, 2)})
    assert network.stages[0].encoders[1].count == 5  # type: ignore[union-attr, index]
    Chain([Squares(4, 6)]).observe(torch.ones(5, 4))


class Hidden(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer, self.feature_dim = nn.Linear(4, width), width


class Doubled(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = self.feature_dim = 2 * width
        self.layer = nn.Linear(4, self.width)


class Many(nn.Sequential):
    feature_dim = 3


def test_a_sequential_network_is_built_by_a_function_that_is_given_at_load(tmp_path):
    def build():
        network = nn.Sequential(nn.Linear(4, 6), nn.Tanh())
        network.feature_dim = 6  # type: ignore[assignment]
        return network

    for network, classes in (
        (build(), {"Sequential": build}),
        (Many(nn.Linear(4, 3)), {"Many": lambda: Many(nn.Linear(4, 3))}),
    ):
        for whole in (network, Chain([MLP(4, (4,)), network])):
            path = save_backbone(whole, tmp_path / "own")
            assert same(whole, load_backbone(path, classes=classes), torch.randn(5, 4))
            with pytest.raises(
                ValueError, match=r"unknown network .*classes=.* or a function that builds it, as an nn.Seq"
            ):
                load_backbone(path)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Hidden(3), "Hidden has no `spec`, and no attribute 'width' that JSON can hold"),
        (Squares(2, 2, names={1, 2}), "no attribute 'names' that JSON can hold"),  # type: ignore[arg-type]
        (Doubled(3), r"built from its attributes \{'width': 6\} it has other weights"),
    ],
)
def test_what_cannot_be_rebuilt_is_not_saved(tmp_path, network, message):
    with pytest.raises(ValueError, match=message):
        save_backbone(network, tmp_path / "own")
    assert list(tmp_path.iterdir()) == []


def test_the_hosts_random_numbers_stay_its_own(tmp_path):
    before = torch.get_rng_state()
    network = Squares(4, 6)
    drawn = torch.get_rng_state()
    path = save_backbone(network, tmp_path / "own")
    load_backbone(path, classes={"Squares": Squares})
    assert torch.equal(torch.get_rng_state(), drawn)
    assert not torch.equal(before, drawn)


def test_weights_in_one_memory(tmp_path):
    network: Any = MLP(4, (4, 4))
    network.layers[2].weight = network.layers[0].weight
    again = load_backbone(save_backbone(network, tmp_path / "tied"))
    assert same(network, again, torch.randn(3, 4))


def test_an_error_while_writing_leaves_the_old_file(tmp_path, monkeypatch):
    path = save_backbone(MLP(4, (8,)), tmp_path / "net")
    before = path.read_bytes()
    monkeypatch.setattr(
        "agentlib.backbones.files.save_file", lambda *rest, **more: (_ for _ in ()).throw(OSError("full"))
    )
    with pytest.raises(OSError, match="full"):
        save_backbone(MLP(4, (9,)), path)
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["net.safetensors"]


def described(path, **changes):
    """A file with another description."""
    values = {"file": "agentlib backbone", "version": 1, "backbone": MLP(4, (8,)).spec} | changes
    write_tensors(path, MLP(4, (8,)).state_dict(), values)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: path.write_bytes(b"no"), "no backbone file, or it is damaged"),
        (lambda path: save_file({}, path), "does not say that agentlib wrote it"),
        (lambda path: save_state(path, {"a": 1}), "no backbone file but a saved state"),
        (lambda path: described(path, version=2), "has version 2, this agentlib reads up to 1: update agentlib"),
        (lambda path: described(path, backbone=MLP(4, (9,)).spec), "the weights do not fit"),
        (lambda path: described(path, backbone="mlp"), "a spec is"),
        (lambda path: described(path, backbone={"name": "mpl", "arguments": {}}), "'mpl'; close matches: mlp"),
        (lambda path: described(path, backbone={"name": "mlp", "arguments": {"widths": [8]}}), "update agentlib"),
        (lambda path: described(path, file="agentlib model"), "is no backbone file but 'agentlib model'"),
    ],
)
def test_bad_files(tmp_path, write, message):
    path = tmp_path / "bad.safetensors"
    write(path)
    with pytest.raises(ValueError, match=message):
        load_backbone(path)


def test_a_file_that_is_not_there_and_an_agents(tmp_path):
    with pytest.raises(FileNotFoundError, match="no backbone file at"):
        load_backbone(tmp_path / "nothing.safetensors")
    from gymnasium import spaces

    agent = Agent(QPolicy(MLP(4, (8,)), 2), spaces.Box(-1, 1, (4,)), spaces.Discrete(2))
    path = agent.save(tmp_path / "agent")
    with pytest.raises(ValueError, match=r"no backbone file but 'agentlib agent': Agent.load\(path\).backbone"):
        load_backbone(path)
    moved = load_backbone(save_backbone(Agent.load(path).backbone, tmp_path / "backbone"))
    assert same(agent.backbone, moved, torch.randn(3, 4))


@pytest.mark.parametrize("spec", [3, {}, {"name": "mlp"}, {"name": "mlp", "arguments": [4]}])
def test_no_spec(spec):
    with pytest.raises(ValueError, match="a spec is"):
        from_spec(spec)
