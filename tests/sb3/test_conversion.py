"""Models of Stable-Baselines3 taken along: equal actions, from memory and from files, and nothing unpickled."""

import base64
import io
import json
import os
import time
import tracemalloc
import zipfile
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3
from stable_baselines3.common.save_util import data_to_json
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP, Chain, NatureCNN, Nested, RunningNorm
from agentlib.core.spaces import space_from_json
from agentlib.policies import StateDependentNoisePolicy
from agentlib.sb3 import files as sb3_file
from agentlib.sb3.files import read_sb3_file
from tests.tiny import host_generators

VECTOR = spaces.Box(-1.0, 1.0, (5,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 36, 40), np.uint8)
PARTS = spaces.Dict({"x": VECTOR, "image": IMAGE, "n": spaces.Discrete(5), "m": spaces.MultiDiscrete([2, 3])})
FOUR, BOX = spaces.Discrete(4), spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
COUNT, COUNT_OF_IMAGES = 10_000, 200

SMALL: dict[str, Any] = {"buffer_size": 10}
# name: (class, policy, observation space, action space, arguments)
MODELS: dict[str, tuple[Any, str, spaces.Space, spaces.Space, dict[str, Any]]] = {
    "dqn": (DQN, "MlpPolicy", VECTOR, FOUR, SMALL),
    "dqn, categories": (DQN, "MlpPolicy", spaces.Discrete(50), FOUR, SMALL),
    "dqn, several categories": (DQN, "MlpPolicy", spaces.MultiDiscrete([9, 9, 9]), FOUR, SMALL),
    "dqn, switches": (DQN, "MlpPolicy", spaces.MultiBinary(12), FOUR, SMALL),
    "dqn, linear": (DQN, "MlpPolicy", VECTOR, FOUR, {**SMALL, "policy_kwargs": {"net_arch": []}}),
    "dqn, small images": (DQN, "MlpPolicy", spaces.Box(0, 255, (3, 4, 5), np.uint8), FOUR, SMALL),
    "dqn, images as numbers": (
        DQN, "MlpPolicy", spaces.Box(0, 255, (3, 4, 5), np.uint8), FOUR,
        {**SMALL, "policy_kwargs": {"normalize_images": False, "net_arch": []}},
    ),
    "dqn, images": (DQN, "CnnPolicy", IMAGE, FOUR, SMALL),
    "dqn, dict": (DQN, "MultiInputPolicy", PARTS, FOUR, SMALL),
    "ppo": (PPO, "MlpPolicy", VECTOR, FOUR, {}),
    "ppo, real": (PPO, "MlpPolicy", VECTOR, BOX, {}),
    "ppo, doubles": (PPO, "MlpPolicy", spaces.Box(-9.0, 9.0, (2, 3)), spaces.Box(-1.0, 1.0, (2, 2), np.float64), {}),
    "ppo, several": (PPO, "MlpPolicy", VECTOR, spaces.MultiDiscrete([2, 5, 3]), {}),
    "ppo, switches": (PPO, "MlpPolicy", VECTOR, spaces.MultiBinary(4), {}),
    "ppo, networks": (
        PPO, "MlpPolicy", VECTOR, FOUR,
        {"policy_kwargs": {"net_arch": {"pi": [32], "vf": []}, "activation_fn": nn.ELU}},
    ),
    "ppo, state-dependent exploration": (PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True}),
    "ppo, squashed": (PPO, "MlpPolicy", VECTOR, BOX, {"use_sde": True, "policy_kwargs": {"squash_output": True}}),
    "ppo, images": (
        PPO, "CnnPolicy", IMAGE, spaces.MultiDiscrete([2, 5]),
        {"policy_kwargs": {"share_features_extractor": False, "features_extractor_kwargs": {"features_dim": 32}}},
    ),
    "ppo, float images": (
        PPO, "CnnPolicy", spaces.Box(0.0, 1.0, (3, 36, 40)), FOUR, {"policy_kwargs": {"normalize_images": False}},
    ),
    "ppo, dict": (PPO, "MultiInputPolicy", PARTS, BOX, {}),
    "a2c": (A2C, "MlpPolicy", VECTOR, BOX, {"policy_kwargs": {"activation_fn": nn.ReLU}}),
    "a2c, images": (A2C, "CnnPolicy", IMAGE, FOUR, {}),
    "sac": (SAC, "MlpPolicy", VECTOR, BOX, SMALL),
    "sac, linear": (SAC, "MlpPolicy", VECTOR, BOX, {**SMALL, "policy_kwargs": {"net_arch": []}}),
    "sac, state-dependent exploration": (SAC, "MlpPolicy", VECTOR, BOX, {**SMALL, "use_sde": True}),
    "sac, unlimited": (
        SAC, "MlpPolicy", VECTOR, BOX, {**SMALL, "use_sde": True, "policy_kwargs": {"clip_mean": 0.0}},
    ),
    "sac, images": (SAC, "CnnPolicy", IMAGE, BOX, SMALL),
    "td3": (TD3, "MlpPolicy", VECTOR, BOX, SMALL),
    "td3, dict": (TD3, "MultiInputPolicy", PARTS, BOX, SMALL),
    "ddpg": (DDPG, "MlpPolicy", VECTOR, BOX, SMALL),
}  # fmt: skip


class Blank(gymnasium.Env):
    """Observations of its space, whatever is done."""

    def __init__(self, observation_space, action_space):
        self.observation_space, self.action_space = observation_space, action_space

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


def model_of(name):
    kind, policy, observation_space, action_space, arguments = MODELS[name]
    model = kind(policy, Blank(observation_space, action_space), seed=0, device="cpu", **arguments)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.policy.parameters():  # SB3's first weights are so small that all actions are much the same
        fan_in = parameter[0].numel() if parameter.dim() > 1 else 100
        parameter.data = 1.7 * fan_in**-0.5 * torch.randn(parameter.shape, generator=generator)
    return model


def observations_of(space, count):
    space.seed(1)
    if isinstance(space, spaces.Dict):
        return {key: observations_of(part, count) for key, part in space.spaces.items()}
    if isinstance(space, spaces.Box) and len(space.shape) == 3:
        noise = np.random.default_rng(0).integers(0, 256, (count, *space.shape))
        return (noise / (1.0 if space.dtype == np.uint8 else 255.0)).astype(space.dtype)
    return np.stack([space.sample() for _ in range(count)])


def has_images(space):
    return any(len(part.shape or ()) == 3 for part in (space.values() if isinstance(space, spaces.Dict) else [space]))


def assert_equal_actions(model, agent, count, observations=None):
    observations = observations_of(model.observation_space, count) if observations is None else observations
    theirs, _ = model.predict(observations, deterministic=True)
    ours = agent.act(observations)
    assert ours.shape == theirs.shape == (count, *model.action_space.shape)
    if isinstance(model.action_space, spaces.Box):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
        assert theirs.std() > 1e-2
    else:
        np.testing.assert_array_equal(ours, theirs)
        assert len(np.unique(theirs)) > 1


QUICK = ("dqn", "dqn, dict", "ppo, real")


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in MODELS]
)
def test_actions_are_those_of_the_model_from_memory_from_its_file_and_from_ours(name, tmp_path):
    model = model_of(name)
    count = COUNT_OF_IMAGES if has_images(model.observation_space) else COUNT
    agent = Agent.from_sb3(model)
    assert_equal_actions(model, agent, count)
    model.save(tmp_path / "model")
    from_file = Agent.from_sb3(tmp_path / "model")
    assert from_file.observation_space == model.observation_space
    assert from_file.action_space == model.action_space
    assert from_file.policy.spec == agent.policy.spec
    assert_equal_actions(model, from_file, count)
    again = Agent.load(from_file.save(tmp_path / "agent"))
    assert again.about == {"from": "stable-baselines3", "version": from_file.about["version"]}
    np.testing.assert_array_equal(
        again.act(observations_of(model.observation_space, 100)),
        from_file.act(observations_of(model.observation_space, 100)),
    )


def test_the_hosts_generators_and_dtype_are_left_alone():
    model = model_of("sac")
    before = host_generators()
    torch.set_default_dtype(torch.float64)
    try:
        agent = Agent.from_sb3(model)
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_equal(host_generators(), before)
    assert {parameter.dtype for parameter in agent.policy.parameters()} == {torch.float32}


def test_networks_become_our_backbones():
    backbones = {name: Agent.from_sb3(model_of(name)).backbone for name in ("ppo", "dqn, images", "td3, dict")}
    assert isinstance(backbones["ppo"], MLP)
    assert backbones["ppo"].activation == "tanh"
    assert isinstance(backbones["dqn, images"], NatureCNN)
    assert isinstance(backbones["td3, dict"], Chain)
    assert isinstance(backbones["td3, dict"].stages[0], Nested)


@pytest.mark.parametrize("name", ["ppo, real", "sac", "ppo"])
def test_draws_have_the_models_distribution(name):
    model = model_of(name)
    agent = Agent.from_sb3(model)
    same = np.repeat(observations_of(VECTOR, 1), 20_000, axis=0)
    theirs, ours = model.predict(same)[0], agent.predict(same)[0]
    np.testing.assert_allclose(ours.mean(0), theirs.mean(0), atol=0.06)
    np.testing.assert_allclose(ours.std(0), theirs.std(0), atol=0.06)


def test_dqn_explores_as_much_as_the_model(tmp_path):
    model = model_of("dqn")
    model.exploration_rate = 0.25
    model.save(tmp_path / "model.zip")
    assert Agent.from_sb3(model).exploration_rate == 0.25
    assert Agent.from_sb3(tmp_path / "model.zip").exploration_rate == 0.25


def test_an_expert_of_theirs_scores_the_same_and_learns_on_as_ours(tmp_path):
    model = DQN("MlpPolicy", "CartPole-v1", seed=0, device="cpu", learning_starts=10)
    model.learn(300)
    model.save(tmp_path / "model")
    agent = Agent.from_sb3(tmp_path / "model")
    theirs, ours = (agentlib.evaluate(who, "CartPole-v1", episodes=10) for who in (model, agent))
    np.testing.assert_array_equal(ours.returns, theirs.returns)
    settings: dict[str, Any] = {"learning_starts": 10, "buffer_size": 100, "progress": False}
    assert isinstance(agentlib.train("dqn", env="CartPole-v1", steps=60, agent=agent, **settings), Agent)


def test_images_that_sb3_turns_round_are_taken_as_the_environment_gives_them(tmp_path):
    upright = spaces.Box(0, 255, (36, 40, 3), np.uint8)
    model = DQN("CnnPolicy", Blank(upright, FOUR), seed=0, device="cpu", buffer_size=10)
    assert model.observation_space.shape == (3, 36, 40)
    observations = observations_of(upright, 50)
    agent = Agent.from_sb3(model)
    assert agent.observation_space == upright
    assert_equal_actions(model, agent, 50, observations)
    model.save(tmp_path / "model")
    for space, given in ((upright, observations), (None, observations.transpose(0, 3, 1, 2))):
        agent = Agent.from_sb3(tmp_path / "model", observation_space=space)
        np.testing.assert_array_equal(agent.act(given), model.predict(observations, deterministic=True)[0])


@pytest.mark.parametrize("name", ["ppo, real", "td3, dict"])
def test_vec_normalize_becomes_part_of_the_agent(name, tmp_path):
    kind, policy, observation_space, action_space, arguments = MODELS[name]
    keys = ["x"] if isinstance(observation_space, spaces.Dict) else None
    env = VecNormalize(
        DummyVecEnv([lambda: Blank(observation_space, action_space)]), norm_obs_keys=keys, clip_obs=2.0, epsilon=1e-3
    )
    env.reset()
    for _ in range(30):
        env.step(np.zeros((1, 2), np.float32))
    model = kind(policy, env, seed=0, device="cpu", **arguments)
    for parameter in model.policy.parameters():
        nn.init.normal_(parameter.data, std=0.1)
    agent = Agent.from_sb3(model)
    assert any(isinstance(module, RunningNorm) for module in agent.policy.modules())
    count = COUNT_OF_IMAGES if has_images(observation_space) else COUNT
    observations = observations_of(observation_space, count)
    theirs, _ = model.predict(env.normalize_obs(observations), deterministic=True)
    np.testing.assert_allclose(agent.act(observations), theirs, rtol=0, atol=1e-5)
    model.save(tmp_path / "model")
    loaded = kind.load(tmp_path / "model", device="cpu")
    loaded.set_env(env)
    np.testing.assert_array_equal(Agent.from_sb3(loaded).act(observations), agent.act(observations))


# Spaces as text ------------------------------------------------------------------------------------------------------

TEXTS: dict[str, spaces.Space] = {
    "cart": gymnasium.make("CartPole-v1").observation_space,
    "car": gymnasium.make("MountainCar-v0").observation_space,
    "half open": spaces.Box(np.array([-np.inf, -0.25], np.float32), np.array([1e-3, np.inf], np.float32)),
    "image": spaces.Box(0, 255, (4, 84, 84), np.uint8),
    "double": spaces.Box(-1e10, 3.5, (2, 3), np.float64),
    "whole": spaces.Box(-5, 7, (3,), np.int32),
    "switches": spaces.MultiBinary([2, 3]),
    "several": spaces.MultiDiscrete([10, 3], start=[0, 1]),
    "shifted": spaces.Discrete(5, start=-2),
    "dict": spaces.Dict(
        {
            "it's [1 2]": spaces.Box(np.array([-np.inf, 0.1], np.float32), np.array([2.0, np.inf], np.float32)),
            "map": spaces.Box(0, 255, (84, 84, 1), np.uint8),
            "a": spaces.Discrete(3, start=1),
            "b": spaces.MultiDiscrete([3, 4]),
            "c": spaces.MultiBinary(3),
            "d": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        }
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_spaces_are_read_from_the_text_beside_the_pickle(name):
    described = json.loads(data_to_json({"space": TEXTS[name]}))["space"]
    described.pop(":serialized:")
    assert space_from_json(sb3_file._described(described)) == TEXTS[name]


def test_older_ways_to_write_a_space_are_read_too():
    older = {":type:": "<class 'gym.spaces.box.Box'>", "dtype": "float32", "shape": [2]}
    older |= {"low": "[-1. -1.]", "high": "[1. 1.]"}
    assert space_from_json(sb3_file._described(older)) == spaces.Box(-1.0, 1.0, (2,))
    many = {":type:": "<class 'gym.spaces.multi_discrete.MultiDiscrete'>", "nvec": "[2 3]"}
    assert space_from_json(sb3_file._described(many)) == spaces.MultiDiscrete([2, 3])
    ordered = {":type:": "<class 'gym.spaces.dict.Dict'>", "spaces": "OrderedDict([('a', Discrete(2))])"}
    assert space_from_json(sb3_file._described(ordered)) == spaces.Dict({"a": spaces.Discrete(2)})


# Files that are not what they should be ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("sb3") / "model.zip"
    model_of("ppo, real").save(path)
    return path


def changed(source, target, *, data=None, weights=None, others=None, leave_out=(), compression=zipfile.ZIP_STORED):
    """A copy of a model's file with some entries changed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", compression) as new:
        for info in old.infolist():
            content = old.read(info)
            if info.filename == "data" and data is not None:
                content = json.dumps(data(json.loads(content))).encode()
            if info.filename == "policy.pth" and weights is not None:
                made = weights(torch.load(io.BytesIO(content), weights_only=True))
                if not isinstance(made, bytes):
                    buffer = io.BytesIO()
                    torch.save(made, buffer)
                    made = buffer.getvalue()
                content = made
            if info.filename not in leave_out:
                new.writestr(info.filename, content)
        for name, content in (others or {}).items():
            new.writestr(name, content)
    return target


class Touch:
    """Unpickled, it would make a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_pickles_beside_the_text_are_never_looked_at(saved, tmp_path):
    import pickle

    trap = base64.b64encode(pickle.dumps(Touch(tmp_path / "trap"))).decode()

    def trapped(data):
        return {
            key: {**value, ":serialized:": trap} if isinstance(value, dict) and ":serialized:" in value else value
            for key, value in data.items()
        }

    path = changed(saved, tmp_path / "a.zip", data=trapped, others={"../../outside": b"x", "/tmp/outside": b"x"})
    agent, plain = Agent.from_sb3(path), Agent.from_sb3(saved)
    np.testing.assert_array_equal(agent.act(observations_of(VECTOR, 10)), plain.act(observations_of(VECTOR, 10)))
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["a.zip"]


def test_weights_that_are_more_than_tensors_are_refused(saved, tmp_path):
    path = changed(saved, tmp_path / "a.zip", weights=lambda old: {**old, "x": Touch(tmp_path / "trap")})
    with pytest.raises(ValueError, match="cannot be read safely"):
        Agent.from_sb3(path)
    assert not (tmp_path / "trap").exists()
    for wrong in (
        [1],
        {"log_std": 3},
        {"log_std": torch.ones(1).expand(10**12)},
        {"log_std": torch.eye(2).to_sparse()},
    ):
        with pytest.raises(ValueError, match=r"no plain tensor of numbers|no dictionary|cannot be read safely"):
            Agent.from_sb3(changed(saved, tmp_path / "b.zip", weights=lambda _, wrong=wrong: wrong))


def test_compressed_and_oversized_entries_are_refused_before_they_are_read(saved, tmp_path, monkeypatch):
    def compressed(old):
        buffer, plain = io.BytesIO(), io.BytesIO()
        torch.save({"zeros": torch.zeros(1 << 20)}, plain)
        with zipfile.ZipFile(plain) as source, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as target:
            for info in source.infolist():
                target.writestr(info.filename, source.read(info))
        return buffer.getvalue()

    with pytest.raises(ValueError, match="weights are compressed"):
        Agent.from_sb3(changed(saved, tmp_path / "a.zip", weights=compressed))
    bomb = changed(
        saved, tmp_path / "b.zip", data=lambda old: {**old, "x": "0" * 10_000_000}, compression=zipfile.ZIP_DEFLATED
    )
    assert bomb.stat().st_size < 1_000_000
    monkeypatch.setitem(sb3_file.LARGEST, "data", 1_000_000)
    with pytest.raises(ValueError, match=r"'data' would unpack to 10,0\d\d,\d\d\d bytes, over 1,000,000"):
        Agent.from_sb3(bomb)


def test_files_that_are_no_models_say_so(saved, tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file at"):
        Agent.from_sb3(tmp_path / "missing")
    (tmp_path / "text.zip").write_text("hello")
    (tmp_path / "cut.zip").write_bytes(saved.read_bytes()[:5000])
    content = bytearray(saved.read_bytes())
    content[20_000] ^= 255  # within the weights
    (tmp_path / "flipped.zip").write_bytes(content)
    for name in ("text", "cut", "flipped"):
        with pytest.raises(ValueError, match="no model file of Stable-Baselines3"):
            Agent.from_sb3(tmp_path / name)
    with pytest.raises(ValueError, match=r"no entry 'policy.pth'"):
        Agent.from_sb3(changed(saved, tmp_path / "a.zip", leave_out=["policy.pth"]))
    with pytest.raises(ValueError, match="no JSON object"):
        Agent.from_sb3(changed(saved, tmp_path / "b.zip", data=lambda old: [1]))
    deep = changed(saved, tmp_path / "c.zip", leave_out=["data"], others={"data": "[" * 200_000})
    with pytest.raises(ValueError, match="no model file"):
        Agent.from_sb3(deep)
    with pytest.raises(TypeError, match="a path or a model"):
        Agent.from_sb3(3)


def test_a_space_that_cannot_be_read_is_asked_for(saved, tmp_path):
    def without(data):
        return {**data, "action_space": {**data["action_space"], "low": "[-2. ... 0.]"}}

    path = changed(saved, tmp_path / "a.zip", data=without)
    with pytest.raises(ValueError, match=r"pass action_space=..., such as env.action_space"):
        Agent.from_sb3(path)
    agent = Agent.from_sb3(path, action_space=BOX)
    np.testing.assert_array_equal(
        agent.act(observations_of(VECTOR, 10)), Agent.from_sb3(saved).act(observations_of(VECTOR, 10))
    )
    huge = changed(saved, tmp_path / "b.zip", data=lambda old: huge_space(old))
    with pytest.raises(ValueError, match=r"observation_space=.*a space of 1,000,000,000,000 numbers"):
        Agent.from_sb3(huge)


def huge_space(data):
    return {**data, "observation_space": {**data["observation_space"], "_shape": [10**6, 10**6], "low": "[0. ... 0.]"}}


def test_models_and_networks_of_other_kinds_are_refused_by_name(saved, tmp_path):
    def renamed(prefix):
        return lambda old: {prefix + name: value for name, value in old.items()}

    with pytest.raises(ValueError, match=r"this model is not supported; DQN, PPO.*quantile_net\.log_std"):
        Agent.from_sb3(changed(saved, tmp_path / "a.zip", weights=renamed("quantile_net.")))
    lstm = {"lstm_actor.weight_ih_l0": torch.zeros(3, 3)}
    with pytest.raises(ValueError, match="parts that SB3's own have not: lstm_actor"):
        Agent.from_sb3(changed(saved, tmp_path / "b.zip", weights=lambda old: {**old, **lstm}))
    norm = {"mlp_extractor.policy_net.1.weight": torch.zeros(64)}
    with pytest.raises(ValueError, match="not linear ones with activations in between"):
        Agent.from_sb3(changed(saved, tmp_path / "c.zip", weights=lambda old: {**old, **norm}))

    class Own(nn.Module):
        pass

    model = model_of("ppo")
    for kwargs, message in (
        ({"activation_fn": Own}, "activation Own is not known; known: relu"),
        ({"features_extractor_class": Own}, "features extractor Own is not one of SB3's own"),
    ):
        model.policy_kwargs = kwargs
        with pytest.raises(ValueError, match=message):
            Agent.from_sb3(model)
    shifted = model_of("ppo")
    shifted.action_space = spaces.Discrete(4, start=2)
    with pytest.raises(ValueError, match=r"SB3 counts from 0.*pass action_space="):
        Agent.from_sb3(shifted)
    assert Agent.from_sb3(shifted, action_space=FOUR).action_space == FOUR


def test_spaces_that_do_not_fit_the_weights_are_refused_before_anything_is_built(saved):
    given: Any
    for given in ({"observation_space": spaces.Discrete(10**15)}, {"action_space": spaces.Discrete(10**15)}):
        with pytest.raises(ValueError, match="the weights do not fit the spaces"):
            Agent.from_sb3(saved, **given)
    large = spaces.Box(0, 255, (3, 2000, 2000), np.uint8)
    with pytest.raises(ValueError, match="the weights do not fit the spaces"):
        Agent.from_sb3(model_of("dqn, images"), observation_space=large)
    read = read_sb3_file(saved)
    assert read.observation_space == VECTOR


def deflated(source, target, name, content):
    """A copy of a model's file in which one entry is another, and packed."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            if info.filename != name:
                new.writestr(info.filename, old.read(info))
        new.writestr(name, 64 * content, compress_type=zipfile.ZIP_DEFLATED)
    return target


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("_stable_baselines3_version", bytes(1 << 20)),
        ("policy.pth", bytes(1 << 20)),
        ("data", b"[" + b"[]," * (1 << 18) + b"[]],"),
        ("data", b" " * (1 << 20)),
    ],
)
def test_little_files_take_little_memory(name, content, saved, tmp_path):
    path = deflated(saved, tmp_path / "a.zip", name, content)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=rf"a\.zip is no model file.*'{name}' would unpack to"):
            Agent.from_sb3(path)
        assert tracemalloc.get_traced_memory()[1] < 1 << 24
    finally:
        tracemalloc.stop()


def test_data_of_very_many_lists_are_refused(saved, tmp_path):
    path = changed(saved, tmp_path / "a.zip", leave_out=["data"], others={"data": "[" + "[]," * (1 << 20) + "[]]"})
    with pytest.raises(ValueError, match="its data hold more than 1,048,576 values"):
        Agent.from_sb3(path)


@pytest.mark.parametrize("text", ["[" * 200_000, "'\\" * 100_000, "\"'" * 100_000 + "'", "[1 " * 60_000, "-" * 200_000])
def test_texts_of_spaces_take_time_in_proportion(text, saved, tmp_path):
    def with_text(data):
        return {**data, "observation_space": {**data["observation_space"], "low": text}}

    path = changed(saved, tmp_path / "a.zip", data=with_text)
    began = time.process_time()
    with pytest.raises(ValueError, match=r"a\.zip does not give its observation space in a form that can be read"):
        Agent.from_sb3(path)
    assert time.process_time() - began < 2.0


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(wrong, saved, tmp_path):
    path = changed(saved, tmp_path / "a.zip", weights=lambda old: {**old, "log_std": torch.full((1,), wrong)})
    with pytest.raises(ValueError, match="'log_std' hold NaN or infinities"):
        Agent.from_sb3(path)


def test_names_in_a_file_are_shown_without_control_characters(saved, tmp_path):
    path = changed(saved, tmp_path / "a.zip", weights=lambda old: {**old, "\x1b[2J": torch.zeros(1)})
    with pytest.raises(ValueError, match="parts that SB3's own have not") as caught:
        Agent.from_sb3(path)
    assert str(caught.value).isprintable()
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize("name", ["ppo, state-dependent exploration", "sac, state-dependent exploration"])
def test_state_dependent_noise_comes_along(name):
    """The distribution is the model's, and ours goes on from it."""
    model = model_of(name)
    agent = agentlib.Agent.from_sb3(model)
    policy = agent.policy
    assert isinstance(policy, StateDependentNoisePolicy)
    observation = torch.from_numpy(observations_of(VECTOR, 20)).float()
    if name.startswith("ppo"):
        distribution = model.policy.get_distribution(observation).distribution
    else:
        mean, log_std, features = model.actor.get_action_dist_params(observation)
        distribution = model.actor.action_dist.proba_distribution(mean, log_std, **features).distribution
    mean, log_std = policy.mean_and_log_std(policy(observation)[0])
    torch.testing.assert_close(mean, distribution.mean)
    torch.testing.assert_close(log_std.exp(), distribution.stddev)
    settings: Any = {"n_steps": 16} if name.startswith("ppo") else {"learning_starts": 20}
    more: Any = agentlib.train(
        name[:3], env=lambda: Blank(VECTOR, BOX), agent=agent, steps=40, batch_size=8, max_steps=10, progress=False,
        **settings,
    )  # fmt: skip
    assert isinstance(more.policy, StateDependentNoisePolicy)
