"""Exported policies act as the agents do, through onnxruntime and torch.export."""

import importlib.util
import json
import subprocess
import sys
from typing import Any

import gymnasium
import numpy as np
import onnxruntime
import pytest
import torch
from gymnasium import spaces
from torch import nn

import agentlib
from agentlib import Agent
from agentlib.backbones import CNN, GRU, MLP, Chain, ResNet, ReturnConditioned, RunningNorm, Swin, Table
from agentlib.backbones.choice import backbone_for
from agentlib.core.randomness import fresh_weights
from agentlib.policies import DeterministicPolicy, DiffusionPolicy, EnsemblePolicy, Predictor, QPolicy, policy_for
from agentlib.policies.exported import names_of
from tests.test_acting import ACTIONS, OBSERVATIONS
from tests.test_agent import SPACES

IMAGE = spaces.Box(0, 255, (3, 16, 16), np.uint8)
VECTOR = spaces.Box(-np.inf, np.inf, (4,), np.float32)
BOX = spaces.Box(-0.1, np.array([0.3, 2.0], np.float32), (2,), np.float32)


def normalizing():
    norm = RunningNorm((4,))
    norm.observe(5.0 + 3.0 * torch.randn(50, 4))
    return Chain([norm, MLP(4, (16,), "tanh", norm="layer")])


def mlp():
    return MLP(3, (16,), "tanh")


BACKBONES: dict[str, tuple[spaces.Space[Any], Any]] = {
    "cnn": (IMAGE, lambda: CNN((3, 16, 16), (4, "max", 8), 16)),
    "normalizer": (VECTOR, normalizing),
    "resnet": (IMAGE, lambda: ResNet.named("resnet_small", (3, 16, 16), width=8)),
    "swin": (IMAGE, lambda: Swin((3, 16, 16), 2, dim=8, depths=(2, 2), heads=(1, 2), window=4)),
    "vit": (IMAGE, lambda: backbone_for(IMAGE, "vit")),
    "lstm": (VECTOR, lambda: backbone_for(VECTOR, "lstm", actions=spaces.Discrete(4))),
    "gru": (SPACES["dict"], lambda: backbone_for(SPACES["dict"], "gru", actions=spaces.Discrete(4))),
    "transformer": (VECTOR, lambda: backbone_for(VECTOR, "transformer", (8,), actions=spaces.Discrete(4))),
    "return_conditioned": (OBSERVATIONS, lambda: ReturnConditioned(mlp(), 4, 8, 1, 1, context=3, target_return=9.0)),
}
POLICIES: dict[str, tuple[spaces.Space[Any], Any]] = {
    "dueling": (spaces.Discrete(4), lambda: QPolicy(mlp(), 4, dueling=True, noisy=True, hidden=(8,))),
    "c51": (spaces.Discrete(4), lambda: QPolicy(mlp(), 4, distributional="c51", n_atoms=11)),
    "quantile": (spaces.Discrete(4), lambda: QPolicy(mlp(), 4, distributional="quantile", n_atoms=11)),
    "branches": (spaces.MultiDiscrete([2, 5], start=[1, -1]), lambda: QPolicy(mlp(), [2, 5])),
    "majority": (spaces.Discrete(4), lambda: EnsemblePolicy([QPolicy(mlp(), 4) for _ in range(3)], "majority")),
    "ensemble of real": (BOX, lambda: EnsemblePolicy([policy_for(BOX, mlp(), squashed=True) for _ in range(2)])),
    "ensemble with memory": (spaces.Discrete(3), lambda: EnsemblePolicy([QPolicy(GRU(3, 4), 3) for _ in range(2)])),
    "deterministic": (BOX, lambda: DeterministicPolicy(mlp(), BOX, squashed=True, limit=3.0)),
    "diffusion": (BOX, lambda: DiffusionPolicy(mlp(), BOX, (16,), 20, 4)),
    "predictor": (spaces.Box(-np.inf, np.inf, (2,)), lambda: Predictor(mlp(), 2)),
}


def agent_for(observation_space, action_space, build):
    with fresh_weights(0):
        policy = build()
        for parameter in policy.parameters():  # unlike first weights, whose choices may all be the same
            parameter.data += 0.3 * torch.randn_like(parameter)
    return Agent(policy, observation_space, action_space)


class Onnx:
    """Acts by an exported file as a user without torch would."""

    def __init__(self, path):
        self.session = onnxruntime.InferenceSession(path)
        nodes = *self.session.get_inputs(), *self.session.get_outputs()
        assert {axis for node in nodes for axis in node.shape if isinstance(axis, str)} == {"batch"}
        self.states: dict[str, Any] = {}

    def __call__(self, batch, **inputs):
        nodes = {node.name: node for node in self.session.get_inputs()}
        for name, node in nodes.items():
            if name.startswith("state") and name not in self.states:
                kind = np.int64 if node.type == "tensor(int64)" else np.float32
                self.states[name] = np.zeros((batch, *node.shape[1:]), kind)
        names = [node.name for node in self.session.get_outputs()]
        given = {**self.states, **inputs}
        outputs = dict(zip(names, self.session.run(names, {name: given[name] for name in nodes}), strict=True))
        self.states = {name.removeprefix("next_"): array for name, array in outputs.items() if name != "action"}
        return outputs["action"]


def leaves(space, value, name="observation"):
    if isinstance(space, spaces.Dict):
        return {k: v for key, part in space.items() for k, v in leaves(part, value[key], f"{name}.{key}").items()}
    if isinstance(space, spaces.Tuple):
        parts = enumerate(space.spaces)
        return {k: v for i, part in parts for k, v in leaves(part, value[i], f"{name}.{i}").items()}
    return {name: np.asarray(value)}


def drawn(space, count, seed=0):
    space.seed(seed)
    empty: Any = gymnasium.vector.utils.create_empty_array(space, count)
    return gymnasium.vector.utils.concatenate(space, [space.sample() for _ in range(count)], empty)


def check(agent, path, count=50):
    """Independently of the check inside `export`: other observations, step by step with memory."""
    act = Onnx(agent.export(path))
    state, starts = None, np.ones(count, bool)
    for step in range(4):
        observation = drawn(agent.observation_space, count, step)
        wanted, state = agent.predict(observation, state, starts, deterministic=True)
        inputs = leaves(agent.observation_space, observation)
        action = act(count, **inputs, **({"episode_start": starts} if agent.has_memory else {}))
        assert (action.shape, action.dtype) == (wanted.shape, wanted.dtype)
        if isinstance(agent.action_space, spaces.Box):
            np.testing.assert_allclose(action, wanted, rtol=1e-3, atol=1e-4)
        else:
            assert (action == wanted).mean() > 0.97  # but for two that are nearly equal
        starts = np.arange(count) % 4 == step
    return act


@pytest.mark.slow
@pytest.mark.parametrize("name", ["double", "discrete", "several", "binary", "image", "dict", "tuple"])
def test_every_kind_of_observation(name, tmp_path):
    space = SPACES[name]
    agent = agent_for(space, spaces.Discrete(4, start=2), lambda: QPolicy(backbone_for(space), 4))
    act = check(agent, tmp_path / "policy.onnx")
    about = json.loads(act.session.get_modelmeta().custom_metadata_map["agentlib"])
    assert about["inputs"] == [node.name for node in act.session.get_inputs()]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "squashed"), [*((name, False) for name in ACTIONS), ("box", True), ("number", True)])
def test_every_kind_of_action(name, squashed, tmp_path):
    agent = agent_for(OBSERVATIONS, ACTIONS[name], lambda: policy_for(ACTIONS[name], mlp(), squashed=squashed))
    check(agent, tmp_path / "policy.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", POLICIES)
def test_every_kind_of_policy(name, tmp_path):
    action_space, build = POLICIES[name]
    check(agent_for(OBSERVATIONS, action_space, build), tmp_path / "policy.onnx")


@pytest.mark.slow
def test_a_trained_agent_with_squashing_and_a_normalizer(tmp_path):
    settings: Any = {"learning_starts": 50, "net_arch": (16,), "batch_size": 16, "progress": False, "seed": 0}
    agent: Any = agentlib.train("sac", env="Pendulum-v1", steps=200, normalize=True, **settings)
    assert agent.policy.squashed
    assert [float(m.count) for m in agent.policy.modules() if isinstance(m, RunningNorm)] == [201.0]
    check(agent, tmp_path / "policy.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", BACKBONES)
def test_every_family_of_backbones(name, tmp_path):
    space, build = BACKBONES[name]
    check(agent_for(space, spaces.Discrete(4), lambda: QPolicy(build(), 4)), tmp_path / "policy.onnx")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["gru", "normalizer", "return_conditioned", "vit"])
def test_archives_of_torch_export(name, tmp_path):
    space, build = BACKBONES[name]
    agent = agent_for(space, spaces.Discrete(4, start=1), lambda: QPolicy(build(), 4))
    path, files = agent.export(tmp_path / "policy.pt2"), {"agentlib.json": ""}
    program = torch.export.load(path, extra_files=files)
    assert json.loads(files["agentlib.json"])["action_space"]["start"] == 1
    observation = drawn(space, 20)
    inputs = {name: torch.from_numpy(array) for name, array in leaves(space, observation).items()}
    if agent.has_memory:
        state: Any = agent.policy.initial_state(20)
        inputs |= {"episode_start": torch.ones(20, dtype=torch.bool)}
        inputs |= {name: torch.zeros_like(part) for name, part in zip(names_of(state, "state"), state, strict=True)}
    outputs = program.module()(inputs)
    np.testing.assert_array_equal(outputs["action"].numpy(), agent.predict(observation, deterministic=True)[0])


@pytest.mark.slow
def test_masks_as_an_input_and_within_the_observation(tmp_path):
    agent = agent_for(OBSERVATIONS, spaces.MultiDiscrete([2, 5]), lambda: QPolicy(mlp(), [2, 5]))
    act = Onnx(agent.export(tmp_path / "policy.onnx", action_mask=True))
    observation, mask = drawn(OBSERVATIONS, 40), np.random.default_rng(0).random((40, 7)) < 0.5
    mask[:, [0, 2]] = True
    wanted = agent.act(observation, action_mask=mask)
    assert (wanted != agent.act(observation)).any()
    np.testing.assert_array_equal(act(40, observation=observation, action_mask=mask), wanted)

    space = spaces.Dict(action_mask=spaces.MultiBinary(5), place=OBSERVATIONS)
    seen = spaces.Dict(place=OBSERVATIONS)
    agent = agent_for(space, spaces.Discrete(5), lambda: QPolicy(backbone_for(seen), 5))
    inside = {"action_mask": mask[:, 2:].astype(np.int8), "place": observation}
    act = Onnx(agent.export(tmp_path / "inside.onnx"))
    action = act(40, **leaves(space, inside))
    np.testing.assert_array_equal(action, agent.act(inside))
    assert mask[np.arange(40), 2 + action].all()


class Pretender(nn.Module):
    """Does something else while it is exported."""

    feature_dim = 3

    def forward(self, observation):
        return -observation if torch.compiler.is_exporting() else observation


class Peeking(nn.Module):
    """Decides by a value, which no graph can."""

    feature_dim = 3

    def forward(self, observation):
        return observation if observation.sum() > 0 else -observation


def test_a_difference_is_an_error_and_leaves_no_file(tmp_path):
    agent = Agent(QPolicy(Pretender(), 4), OBSERVATIONS, spaces.Discrete(4))
    (tmp_path / "policy.pt2").write_text("the one before")
    with pytest.raises(RuntimeError, match="nothing was written: the exported policy acts otherwise than the agent"):
        agent.export(tmp_path / "policy.pt2")
    assert (tmp_path / "policy.pt2").read_text() == "the one before"
    assert len(list(tmp_path.iterdir())) == 1


class Rounding(nn.Module):
    """Rounds up a little more while it is exported."""

    feature_dim = 3

    def forward(self, observation):
        error = torch.full_like(observation[:, :1], 1e-7 if torch.compiler.is_exporting() else 0.0)
        return torch.cat([observation[:, :2], error], 1)


def test_a_choice_among_equals_is_no_difference(tmp_path):
    """Two actions of one value: which of them is chosen hangs on rounding, and is another one where it is exported."""
    policy: Any = QPolicy(Rounding(), 2)
    policy.head.weight.data = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 1e3]])
    nn.init.zeros_(policy.head.bias)
    agent = Agent(policy, OBSERVATIONS, spaces.Discrete(2))
    program = torch.export.load(agent.export(tmp_path / "policy.pt2"))
    observation = 0.01 * drawn(OBSERVATIONS, 20)
    assert not agent.act(observation).any()
    assert program.module()({"observation": torch.from_numpy(observation)})["action"].all()


def test_what_cannot_be_exported_says_why(tmp_path, monkeypatch):
    agent = agent_for(OBSERVATIONS, BOX, lambda: policy_for(BOX, mlp()))
    with pytest.raises(ValueError, match=r"policy\.pt ends neither in \.onnx nor in \.pt2"):
        agent.export(tmp_path / "policy.pt")
    with pytest.raises(TypeError, match="GaussianPolicy knows no masks"):
        agent.export(tmp_path / "policy.onnx", action_mask=True)
    both = spaces.Dict({"a.b": BOX, "a": spaces.Dict(b=BOX)})
    with pytest.raises(RuntimeError, match="torch cannot export this policy for any batch"):
        Agent(QPolicy(Peeking(), 4), OBSERVATIONS, spaces.Discrete(4)).export(tmp_path / "policy.onnx")
    with pytest.raises(ValueError, match="would have the same name"):
        agent_for(both, BOX, lambda: policy_for(BOX, backbone_for(both))).export(tmp_path / "policy.onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ImportError, match=r"ONNX needs onnxruntime: pip install 'agentlib-rl\[export\]'"):
        agent.export(tmp_path / "policy.onnx")
    assert not any(tmp_path.iterdir())


def test_exporting_leaves_the_policy_as_it_is(tmp_path):
    agent = agent_for(OBSERVATIONS, spaces.Discrete(3), lambda: QPolicy(mlp(), 3, noisy=True))
    agent.policy.train()
    before = {name: tensor.clone() for name, tensor in agent.policy.state_dict().items()}
    agent.export(tmp_path / "policy.pt2")
    assert agent.policy.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in agent.policy.state_dict().items())


def plain(backbone):
    return lambda: QPolicy(backbone(), 4)


def normalized():
    norm = RunningNorm((3,), clip=2.0)
    norm.observe(0.1 + 0.4 * torch.randn(50, 3))
    return Chain([norm, MLP(3, (16, 8), "relu")])


ROOMS = spaces.Discrete(6, start=2)
PROGRAMS: dict[str, tuple[Any, Any, Any]] = {
    "relu": (OBSERVATIONS, spaces.Discrete(4), plain(lambda: MLP(3, (16, 8), "relu"))),
    "tanh": (OBSERVATIONS, spaces.Discrete(4, start=-1), plain(mlp)),
    "no layer": (OBSERVATIONS, spaces.Discrete(4), plain(lambda: MLP(3, ()))),
    "float64": (spaces.Box(-1, 1, (3,), np.float64), spaces.Discrete(4), plain(mlp)),
    "matrix": (spaces.Box(-1, 1, (3, 2)), spaces.Discrete(4), plain(lambda: MLP(6, (8,)))),
    "normalized": (OBSERVATIONS, spaces.Discrete(4), plain(normalized)),
    "categories": (ROOMS, spaces.Discrete(4), plain(lambda: backbone_for(ROOMS))),
    "table": (ROOMS, spaces.Discrete(4), plain(lambda: Table([6], [2]))),
    "dueling": (OBSERVATIONS, spaces.Discrete(4), lambda: QPolicy(MLP(3, (8,)), 4, dueling=True, hidden=(8,))),
    "quantiles": (
        *(OBSERVATIONS, spaces.Discrete(4)),
        lambda: QPolicy(mlp(), 4, distributional="quantile", n_atoms=11),
    ),
    "choice": (OBSERVATIONS, spaces.Discrete(4), lambda: policy_for(spaces.Discrete(4), mlp())),
    "real": (OBSERVATIONS, BOX, lambda: policy_for(BOX, mlp())),
    "squashed": (OBSERVATIONS, BOX, lambda: policy_for(BOX, mlp(), squashed=True)),
    "limited": (OBSERVATIONS, BOX, lambda: DeterministicPolicy(mlp(), BOX, squashed=True, limit=3.0)),
}


def program_at(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_of_numpy_acts_as_the_agent(name, tmp_path):
    observation_space, action_space, build = PROGRAMS[name]
    agent = agent_for(observation_space, action_space, build)
    program = program_at(agent.export(tmp_path / "policy.py"))
    observation_space.seed(0)
    batch = np.stack([observation_space.sample() for _ in range(200)])
    wanted, found = agent.act(batch), program.act(batch)
    assert found.dtype == np.asarray(wanted).dtype
    if isinstance(action_space, spaces.Box):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)
    else:
        assert (found == wanted).all()
        assert len(np.unique(found)) > 1
    one = program.act(batch[0])
    assert np.shape(one) == np.shape(agent.act(batch[0]))
    np.testing.assert_allclose(one, found[0], rtol=1e-5)
    with pytest.raises(ValueError, match="an observation has the shape"):
        program.act(np.zeros((2, *(observation_space.shape or ()), 7)))


def test_a_program_of_numpy_needs_nothing_else(tmp_path):
    agent = agent_for(OBSERVATIONS, spaces.Discrete(4), lambda: QPolicy(normalized(), 4))
    agent.export(tmp_path / "policy.py")
    assert [path.name for path in tmp_path.iterdir()] == ["policy.py"]
    line = (
        "import sys; sys.path.insert(0, sys.argv[1]); from policy import act; import numpy as np; "
        "print(act(np.ones(3)), 'torch' in sys.modules, 'agentlib' in sys.modules)"
    )
    command = [sys.executable, "-I", "-c", line, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(agent.act(np.ones(3, np.float32))), "False", "False"]


@pytest.mark.parametrize("name", ["cnn", "lstm", "layer norm", "masks", "branches", "ensemble"])
def test_what_no_program_of_numpy_holds(name, tmp_path):
    discrete, mask = spaces.Discrete(4), name == "masks"
    made: dict[str, tuple[Any, Any, Any]] = {
        "cnn": (IMAGE, discrete, plain(BACKBONES["cnn"][1])),
        "lstm": (VECTOR, discrete, plain(BACKBONES["lstm"][1])),
        "layer norm": (VECTOR, discrete, plain(normalizing)),
        "masks": (OBSERVATIONS, discrete, plain(mlp)),
        "branches": (OBSERVATIONS, *POLICIES["branches"]),
        "ensemble": (OBSERVATIONS, discrete, POLICIES["majority"][1]),
    }
    with pytest.raises(RuntimeError, match=r"nothing was written.*write \.onnx"):
        agent_for(*made[name]).export(tmp_path / "policy.py", action_mask=mask)
    assert not any(tmp_path.iterdir())


def test_a_name_that_is_none_of_a_module(tmp_path):
    with pytest.raises(ValueError, match="no name that Python can import"):
        agent_for(OBSERVATIONS, spaces.Discrete(4), plain(mlp)).export(tmp_path / "my-policy.py")
    with pytest.raises(ValueError, match="no name that Python can import"):
        agent_for(OBSERVATIONS, spaces.Discrete(4), plain(mlp)).export(tmp_path / "class.py")


@pytest.mark.parametrize("kind", ["Dict", "Tuple"])
def test_the_name_of_a_part_is_no_line_of_a_program(kind, tmp_path):
    """A file of a stranger may call a part of the observation as it likes, and the program is run to be compared."""
    key = f'""";open("{tmp_path.as_posix()}/run","w");"""'
    rooms = spaces.Dict({key: spaces.Discrete(6)}) if kind == "Dict" else spaces.Tuple([spaces.Discrete(6)])
    agent = agent_for(rooms, spaces.Discrete(4), plain(lambda: Table([6])))
    with pytest.raises(RuntimeError, match="nested observations"):
        agent.export(tmp_path / "policy.py")
    assert not any(tmp_path.iterdir())
