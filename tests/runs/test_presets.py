"""Presets: each fits its learner, is for something that there is, and is listed.

`python tests/runs/test_presets.py` writes the lengths that `agentlib list presets` shows, after a change of presets.
"""

import dataclasses
import json
import sys
from pathlib import Path
from statistics import median
from typing import Any

import gymnasium
import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))

import agentlib
from agentlib.catalog import LEARNERS, is_atari, recipe_of
from agentlib.core import Linear
from agentlib.core.config import config_from_json, config_to_json
from agentlib.core.names import readable
from agentlib.core.recipe import Problem
from agentlib.data import DATASETS, TASKS
from agentlib.learners import DQNConfig, PPOConfig, TD3Config
from agentlib.runs.plan import plan, preset_of, settings_of
from agentlib.shell.listing import LENGTHS
from agentlib.shell.main import main
from tests.tiny import tiny_run

NAMED = [(name, key) for name in LEARNERS for key in recipe_of(name).presets if key]


@pytest.mark.parametrize(("name", "env_id"), NAMED)
def test_each_preset_is_a_config_of_its_algorithm(name, env_id):
    config = settings_of(name, env_id, {}).config
    assert config_from_json(type(config), config_to_json(config)) == config


@pytest.mark.parametrize(("name", "key"), [pair for pair in NAMED if pair[1] not in ("atari", "minigrid")])
def test_each_preset_is_for_something_that_there_is(name, key):
    family = recipe_of(name).family
    in_environments = "env" in (*family.needs, *family.takes)
    assert key in (gymnasium.registry if in_environments else {**DATASETS, **TASKS})


def test_cartpole_has_the_settings_of_the_zoo():
    assert settings_of("dqn", "CartPole-v1", {}).config == DQNConfig(
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


def test_robots_have_the_settings_of_the_zoo():
    wide: Any = {"net_arch": (256, 256), "vf_arch": (256, 256), "activation": "relu", "log_std_init": -2.0}
    wide |= {"ortho_init": False, "normalize": True, "normalize_reward": True, "n_steps": 512}
    losses: Any = {"ent_coef": 4.01762e-4, "clip_range": 0.1, "max_grad_norm": 0.8, "vf_coef": 0.58096}
    cheetah = PPOConfig(
        batch_size=64, gamma=0.98, learning_rate=2.0633e-5, n_epochs=20, gae_lambda=0.92, **losses, **wide
    )
    assert settings_of("ppo", "HalfCheetah-v5", {})[1:4] == (cheetah, 1_000_000, "the preset for HalfCheetah-v5")
    losses = {"ent_coef": 0.00229519, "clip_range": 0.2, "max_grad_norm": 0.7, "vf_coef": 0.835671}
    hopper = PPOConfig(
        batch_size=32, gamma=0.999, learning_rate=9.80828e-5, n_epochs=5, gae_lambda=0.99, **losses, **wide
    )
    assert settings_of("ppo", "Hopper-v5", {}).config == hopper
    assert settings_of("ppo", "Humanoid-v5", {}).steps == 10_000_000
    assert [settings_of(name, "Swimmer-v5", {}).config.gamma for name in ("ppo", "a2c", "sac", "tqc", "td3")] == [
        *(0.9999, 0.9999, 0.999, 0.999, 0.9999)
    ]
    assert settings_of("tqc", "Hopper-v5", {}).config.top_quantiles_to_drop_per_net == 5
    assert settings_of("td3", "BipedalWalker-v3", {}).config == TD3Config(
        gamma=0.98, buffer_size=200_000, learning_starts=10_000
    )


@pytest.mark.parametrize("name", ["ppo", "a2c"])
def test_a_minibatch_fits_into_the_rollout_of_each_preset(name):
    for key in recipe_of(name).presets:
        planned = settings_of(name, key, {})
        assert (planned.config.batch_size or 1) <= planned.config.n_steps * planned.n_envs, key


def test_atari_games_share_one_preset():
    for env_id in ("ALE/Pong-v5", "ALE/Breakout-v5", "PongNoFrameskip-v4"):
        assert is_atari(env_id)
        assert preset_of(recipe_of("dqn"), env_id) == recipe_of("dqn").presets["atari"]
    assert not is_atari("CartPole-v1")


def test_worlds_of_minigrid_share_one_preset():
    for env_id in ("MiniGrid-Empty-5x5-v0", "MiniGrid-DoorKey-8x8-v0"):
        assert preset_of(recipe_of("dqn"), env_id) == recipe_of("dqn").presets["minigrid"]


@pytest.mark.parametrize("env_id", [None, "CarRacing-v3", "Nothing-v0"])
def test_elsewhere_the_defaults_hold(env_id):
    assert settings_of("dqn", env_id, {}).config == DQNConfig()


def test_what_is_given_comes_before_the_preset():
    config = settings_of("dqn", "CartPole-v1", {"batch_size": 7, "net_arch": [3]}).config
    assert (config.batch_size, config.net_arch, config.train_freq) == (7, (3,), 256)


def test_a_config_is_taken_literally():
    config = DQNConfig(batch_size=7)
    assert settings_of(config, "CartPole-v1", {}).config == config
    assert settings_of(config, "CartPole-v1", {"gamma": 0.5}).config == dataclasses.replace(config, gamma=0.5)


def test_schedules_stay_what_they_are():
    assert settings_of("dqn", None, {"learning_rate": Linear(1.0, 0.0)}).config.learning_rate == Linear(1.0, 0.0)

    def mine(clock):
        return 1e-3

    assert settings_of("dqn", None, {"learning_rate": mine}).config.learning_rate is mine


def test_an_instance_selects_the_preset_by_its_id():
    # CartPole's network is 256 wide, and elsewhere 64.
    agent = tiny_run(env=gymnasium.make("CartPole-v1"), steps=10, net_arch=None)
    assert agent.backbone.hidden == (64, 64)

    agent = agentlib.train("dqn", env=gymnasium.make("CartPole-v1"), steps=10, progress=False, learning_starts=5)
    assert agent.backbone.hidden == (256, 256)


@pytest.mark.parametrize("name", LEARNERS)
def test_every_name_trains_without_further_numbers(name):
    """Each has a default length, or a config that says how long."""
    family = recipe_of(name).family
    given: dict[str, Any] = {"env": "CartPole-v1", "data": "digits", "demos": "demos.safetensors", "expert": "scripted"}
    planned = plan(name, Problem(**{origin: given[origin] for origin in family.needs}), {})
    assert planned.steps is not None or hasattr(planned.config, "epochs")


def test_a_plan_says_where_its_numbers_are_from():
    origins = {
        ("dqn", "CartPole-v1"): "the preset for CartPole-v1",
        ("dqn", "Nothing-v0"): "the defaults",
        (DQNConfig(), "CartPole-v1"): "the config",
    }
    for (what, env), origin in origins.items():
        assert plan(what, Problem(env=env, steps=10), {}).origin == origin


@pytest.mark.parametrize("steps", [0, -1, 2.5, True, "10"])
def test_a_length_is_a_whole_number(steps):
    with pytest.raises(ValueError, match="steps must be a whole number from 1"):
        plan("dqn", Problem(env="CartPole-v1", steps=steps), {})


@pytest.mark.parametrize(
    ("learner", "env_kwargs"),
    [("q_table", "is_slippery=False"), ("dqn", "is_slippery=False")],
)
@pytest.mark.slow
def test_frozen_lake_is_solved_without_further_flags(learner, env_kwargs, tmp_path):
    arguments = ["train", learner, "--env", "FrozenLake-v1", "--env-kwargs", env_kwargs]
    assert main([*arguments, "--out", str(tmp_path / "run"), "--progress", "none"]) == 0
    world = gymnasium.make("FrozenLake-v1", is_slippery=False)
    assert agentlib.evaluate(agentlib.Agent.load(tmp_path / "run"), world, episodes=10).mean == 1.0


def lengths():
    found = {name: recipe_of(name) for name in LEARNERS}
    steps = {name: {key: one.get("steps", found[name].steps) for key, one in found[name].presets.items() if key}
             for name in found}  # fmt: skip
    return {name: of_keys for name, of_keys in steps.items() if of_keys}


def test_the_lengths_that_are_listed_are_those_of_the_presets():
    assert json.loads(LENGTHS.read_text()) == lengths(), "presets have changed: run python tests/runs/test_presets.py"


def test_the_list_shows_each_preset_and_what_was_measured(capsys):
    assert main(["list", "presets"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    for name, key in NAMED:
        assert f"{name} {key} " in shown or f"{name} MiniGrid-Empty-8x8-v0 " in shown
    files = sorted((Path(__file__).parents[2] / "docs" / "results").glob("preset_*.json"))
    for found in (json.loads(file.read_text()) for file in files):
        about, seeds = found["about"], found["seeds"].values()
        assert settings_of(about["learner"], about["env"], {}).steps == about["steps"]
        place = " ".join([about["env"], *(f"{name}={value}" for name, value in about["env_kwargs"].items())])
        reached = readable(median(seed["best"] for seed in seeds))
        assert f"{about['learner']} {place} {about['steps']:,} steps, mean return {reached} in " in shown


if __name__ == "__main__":
    LENGTHS.write_text(json.dumps(lengths(), indent=1) + "\n")
