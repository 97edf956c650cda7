import dataclasses

import gymnasium
import pytest

import agentlib
from agentlib.backbones import Linear
from agentlib.data import DATASETS, TASKS
from agentlib.learners import DQNConfig
from agentlib.recipes import RECIPES, configure
from agentlib.recipes.presets import PRESETS, is_atari, preset_for
from agentlib.training.config import config_from_json, config_to_json
from tests.tiny import tiny_run

NAMED = [(name, env_id) for name, presets in PRESETS.items() for env_id in presets]


@pytest.mark.parametrize(("name", "env_id"), NAMED)
def test_each_preset_is_a_config_of_its_algorithm(name, env_id):
    config = configure(name, env_id, {})
    assert config_from_json(type(config), config_to_json(config)) == config


@pytest.mark.parametrize(("name", "key"), [pair for pair in NAMED if pair[1] != "atari"])
def test_each_preset_is_for_something_that_there_is(name, key):
    recipe = RECIPES[name]
    in_environments = "env" in (*recipe.needs, *recipe.takes)
    assert key in (gymnasium.registry if in_environments else {**DATASETS, **TASKS})


def test_cartpole_has_the_settings_of_the_zoo():
    assert configure("dqn", "CartPole-v1", {}) == DQNConfig(
        learning_rate=2.3e-3,
        batch_size=64,
        buffer_size=100_000,
        learning_starts=1_000,
        gamma=0.99,
        target_update_interval=10,
        train_freq=256,
        gradient_steps=128,
        exploration_fraction=0.16,
        exploration_initial_eps=1.0,
        exploration_final_eps=0.04,
        net_arch=(256, 256),
    )


def test_atari_games_share_one_preset():
    for env_id in ("ALE/Pong-v5", "ALE/Breakout-v5", "PongNoFrameskip-v4"):
        assert is_atari(env_id)
        assert preset_for("dqn", env_id) == PRESETS["dqn"]["atari"]
    assert not is_atari("CartPole-v1")


@pytest.mark.parametrize("env_id", [None, "Blackjack-v1", "Nothing-v0"])
def test_elsewhere_the_defaults_hold(env_id):
    assert configure("dqn", env_id, {}) == DQNConfig()


def test_what_is_given_comes_before_the_preset():
    config = configure("dqn", "CartPole-v1", {"batch_size": 7, "net_arch": [3]})
    assert (config.batch_size, config.net_arch, config.train_freq) == (7, (3,), 256)


def test_a_config_is_taken_literally():
    config = DQNConfig(batch_size=7)
    assert configure(config, "CartPole-v1", {}) == config
    assert configure(config, "CartPole-v1", {"gamma": 0.5}) == dataclasses.replace(config, gamma=0.5)


def test_schedules_stay_what_they_are():
    assert configure("dqn", None, {"learning_rate": Linear(1.0, 0.0)}).learning_rate == Linear(1.0, 0.0)

    def mine(clock):
        return 1e-3

    assert configure("dqn", None, {"learning_rate": mine}).learning_rate is mine


def test_an_instance_selects_the_preset_by_its_id():
    # CartPole's network is 256 wide, and elsewhere 64.
    agent = tiny_run(env=gymnasium.make("CartPole-v1"), steps=10, net_arch=None)
    assert agent.backbone.hidden == (64, 64)

    agent = agentlib.train("dqn", env=gymnasium.make("CartPole-v1"), steps=10, progress=False, learning_starts=5)
    assert agent.backbone.hidden == (256, 256)
