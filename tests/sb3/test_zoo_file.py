"""Files of the zoo for every algorithm, read as plain values, and what SB3 trains with them."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from torch import nn

import agentlib
from agentlib.backbones import RunningNorm
from agentlib.core import Linear
from agentlib.policies import StateDependentNoisePolicy
from agentlib.sb3.experts import sb3_arguments_of, train_sb3_expert
from agentlib.sb3.zoo_file import Named, literal, read_zoo_section
from tests.tiny import host_generators

FILE = """
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: 'CnnPolicy'
  n_envs: 8
  n_steps: 128
  n_timesteps: !!float 1e7
  learning_rate: lin_2.5e-4
  clip_range: lin_0.1
  policy_kwargs: "dict(optimizer_class=RMSpropTFLike, optimizer_kwargs=dict(eps=1e-5))"

Pendulum-v1: &defaults
  normalize: true
  n_envs: 4
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  n_steps: 16
  batch_size: !!float 16
  learning_rate: 1e-3
  gamma: 0.9
  use_sde: True
  policy_kwargs: "dict(log_std_init=-2,
                       ortho_init=False,
                       activation_fn=nn.ReLU,
                       net_arch=[dict(pi=[32, 16], vf=[8])]
                       )"

Other-v0:
  <<: *defaults
  gamma: 0.5
  normalize: "{'norm_obs': True, 'norm_reward': False}"

MountainCarContinuous-v0:
  n_timesteps: 300
  policy: 'MlpPolicy'
  noise_type: 'ornstein-uhlenbeck'
  noise_std: 0.5
  ent_coef: 'auto'
  train_freq: [1, "episode"]
  gradient_steps: -1
  buffer_size: !!float 1e3
  policy_kwargs: {net_arch: {pi: [16], qf: [16]}}

CartPole-v1:
  n_envs: 2
  n_timesteps: 64
  policy: 'MlpPolicy'
  n_steps: 16
  batch_size: 32
  learning_rate: lin_0.001
  clip_range: lin_0.2

CarRacing-v3:
  env_wrapper:
    - rl_zoo3.wrappers.FrameSkip:
        skip: 2
    - a.B
  frame_stack: 2
  callback: rl_zoo3.callbacks.ParallelTrainCallback
  replay_buffer_class: HerReplayBuffer
  replay_buffer_kwargs: "dict(goal_selection_strategy='future', n_sampled_goal=4)"
"""
BOX = spaces.Box(-1.0, 1.0, (2,))


@pytest.fixture
def zoo(tmp_path):
    path = tmp_path / "ppo.yml"
    path.write_text(FILE)
    return path


def test_values_are_plain_and_typed(zoo):
    read = read_zoo_section(zoo, "Pendulum-v1")
    assert (read.section, read.policy, read.steps, read.n_envs) == ("Pendulum-v1", "MlpPolicy", 100_000, 4)
    assert read.hyperparameters == {
        "n_steps": 16, "batch_size": 16, "learning_rate": 1e-3, "gamma": 0.9, "use_sde": True,
    }  # fmt: skip
    assert [type(read.steps), type(read.hyperparameters["batch_size"])] == [int, int]
    assert read.policy_kwargs == {
        "log_std_init": -2,
        "ortho_init": False,
        "activation_fn": Named("nn.ReLU"),
        "net_arch": [{"pi": [32, 16], "vf": [8]}],
    }
    assert read.normalize == {}
    merged = read_zoo_section(zoo, "Other-v0")
    assert (merged.hyperparameters["gamma"], merged.n_envs) == (0.5, 4)
    assert merged.normalize == {"norm_obs": True, "norm_reward": False}


def test_schedules_noise_and_what_is_around_the_environment(zoo):
    atari = read_zoo_section(zoo, "ALE/Pong-v5")
    assert atari.hyperparameters["learning_rate"] == Linear(2.5e-4, 0.0)
    assert atari.policy_kwargs == {"optimizer_class": Named("RMSpropTFLike"), "optimizer_kwargs": {"eps": 1e-5}}
    assert (atari.frame_stack, atari.wrappers) == (4, (("stable_baselines3.common.atari_wrappers.AtariWrapper", {}),))
    car = read_zoo_section(zoo, "MountainCarContinuous-v0")
    assert (car.noise_type, car.noise_std, car.normalize) == ("ornstein-uhlenbeck", 0.5, None)
    assert car.hyperparameters["train_freq"] == (1, "episode")
    assert car.hyperparameters["ent_coef"] == "auto"
    racing = read_zoo_section(zoo, "CarRacing-v3")
    assert racing.wrappers == (("rl_zoo3.wrappers.FrameSkip", {"skip": 2}), ("a.B", {}))
    assert racing.others == {"callback": "rl_zoo3.callbacks.ParallelTrainCallback"}
    assert racing.hyperparameters["replay_buffer_class"] == Named("HerReplayBuffer")
    assert racing.hyperparameters["replay_buffer_kwargs"]["n_sampled_goal"] == 4


@pytest.mark.parametrize(
    "text",
    ["dict(a=__import__('os'))", "dict(a=f(1))", "[x for x in y]", "dict(a=b[0])", "{**nn}", "dict(a=(lambda: 1).b)"],
)
def test_names_are_read_and_nothing_else_is(text):
    assert literal("dict(a=th.nn.ReLU, b=[c])", names=True) == {"a": Named("th.nn.ReLU"), "b": [Named("c")]}
    with pytest.raises(ValueError, match="never evaluated"):
        literal(text, names=True)
    with pytest.raises(ValueError, match="never evaluated"):
        literal("dict(a=nn.ReLU)")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("batch_size: 2.5", "section CartPole-v1: batch_size must be a whole number"),
        ("learning_rate: lin_x", "neither a number nor a schedule"),
        ("env_kwargs: 3", "env_kwargs must be a mapping"),
        ("normalize: 7", "normalize must be a mapping"),
        ("noise_std: 0.1", "noise_std: 0.1 has no effect without noise_type; give both or neither"),
        ("env_wrapper: [3]", "env_wrapper: 3 is neither"),
        ('policy_kwargs: "dict(a=f())"', "never evaluated"),
    ],
)
def test_what_is_no_setting_is_refused(line, message, tmp_path):
    path = tmp_path / "sac.yml"
    path.write_text(f"CartPole-v1:\n  {line}\n")
    with pytest.raises(ValueError, match=message):
        read_zoo_section(path, "CartPole-v1")


def test_sb3_takes_the_arguments(zoo):
    env = gymnasium.make("Pendulum-v1")
    model = PPO(env=env, **sb3_arguments_of(read_zoo_section(zoo, "Pendulum-v1"), env.action_space))
    policy: Any = model.policy
    assert (model.batch_size, model.learning_rate, model.use_sde) == (16, 1e-3, True)
    assert policy.net_arch == {"pi": [32, 16], "vf": [8]}
    assert policy.activation_fn is nn.ReLU
    arguments = sb3_arguments_of(read_zoo_section(zoo, "MountainCarContinuous-v0"), BOX)
    assert isinstance(arguments["action_noise"], OrnsteinUhlenbeckActionNoise)
    SAC(env=env, **arguments)
    atari = sb3_arguments_of(read_zoo_section(zoo, "ALE/Pong-v5"), spaces.Discrete(4))
    assert atari["policy_kwargs"]["optimizer_class"] is RMSpropTFLike
    assert [atari["learning_rate"](left) for left in (1.0, 0.5, 0.0)] == pytest.approx([2.5e-4, 1.25e-4, 0.0])
    assert [atari["clip_range"](left) for left in (1.0, 0.5, 0.0)] == pytest.approx([0.1, 0.05, 0.0])
    with pytest.raises(ValueError, match="replay_buffer_class: the class HerReplayBuffer is not known"):
        sb3_arguments_of(read_zoo_section(zoo, "CarRacing-v3"), BOX)


def test_an_expert_is_trained_and_the_host_is_left_alone(zoo):
    before = host_generators()
    agent = train_sb3_expert("ppo", "CartPole-v1", zoo, seed=3)
    np.testing.assert_equal(host_generators(), before)
    same, other = (train_sb3_expert("ppo", "CartPole-v1", zoo, seed=seed) for seed in (3, 4))
    assert agent.about["from"] == "stable-baselines3"
    for name, weight in agent.policy.state_dict().items():
        assert torch.equal(weight, same.policy.state_dict()[name])
    assert any(not torch.equal(w, other.policy.state_dict()[name]) for name, w in agent.policy.state_dict().items())
    assert agentlib.evaluate(agent, "CartPole-v1", episodes=2).returns.size == 2


@pytest.mark.slow
def test_experts_of_every_algorithm_come_with_their_normalization(zoo, tmp_path):
    ppo = train_sb3_expert("ppo", "Pendulum-v1", zoo, steps=128)
    assert isinstance(ppo.policy, StateDependentNoisePolicy)  # use_sde
    norms = [module for module in ppo.policy.modules() if isinstance(module, RunningNorm)]
    assert float(norms[0].count) >= 128
    section = read_zoo_section(zoo, "MountainCarContinuous-v0")
    for algorithm in ("sac", "td3", "ddpg"):
        changed = {**section.hyperparameters, "train_freq": 1, "learning_starts": 50}
        if algorithm != "sac":
            changed.pop("ent_coef")
        plain = type(section)(**{**vars(section), "hyperparameters": changed, "noise_type": "normal"})
        assert isinstance(sb3_arguments_of(plain, BOX)["action_noise"], NormalActionNoise)
        agent = train_sb3_expert(algorithm, "MountainCarContinuous-v0", plain, steps=60)
        assert agent.action_space.contains(agent.act(agent.observation_space.sample()))
    a2c = train_sb3_expert(
        "a2c", lambda: gymnasium.make("CartPole-v1"), type(section)(section="x", hyperparameters={}), steps=20
    )
    assert a2c.action_space == spaces.Discrete(2)


def test_what_cannot_be_followed_is_refused_before_training(zoo):
    for algorithm, env, settings, message in (
        ("pppo", "CartPole-v1", zoo, "unknown algorithm 'pppo'; close matches: ppo"),
        (
            "sac",
            "CarRacing-v3",
            zoo,
            r"asks for rl_zoo3.wrappers.FrameSkip\(skip=2\), a.B\(\), frame_stack=2, callback",
        ),
        ("ppo", lambda: gymnasium.make("CartPole-v1"), zoo, "searched by the environment's id"),
    ):
        with pytest.raises(ValueError, match=message):
            train_sb3_expert(algorithm, env, settings)
    section = read_zoo_section(zoo, "CartPole-v1")
    with pytest.raises(ValueError, match="says no n_timesteps"):
        train_sb3_expert("ppo", "CartPole-v1", type(section)(section="x", hyperparameters={}))
