"""Spaces of hyperparameters: those that ship fit every learner, and others are refused with their fault."""

import json

import pytest

from agentlib.catalog import LEARNERS, recipe_of
from agentlib.learners import DQNConfig
from agentlib.runs.searching import config_with, distributions, settings_from, space_for
from agentlib.runs.spaces import OF_FAMILIES, OF_ZOO


def space(what="dqn", asked=None, pinned=(), backbone="auto"):
    recipe = recipe_of(what)
    return space_for(recipe, asked, recipe.config(), dict.fromkeys(pinned), backbone)


def test_each_learner_has_a_space():
    assert {name for name in LEARNERS if len(space(name)) < 2} == set()
    families = {recipe_of(name).family.assemble.__name__ for name in LEARNERS}
    assert set(OF_FAMILIES) <= families


def test_the_zoos_spaces_are_searched_whole():
    for name in ("dqn", "sac", "tqc", "td3", "ddpg", "ppo", "a2c"):
        assert space(name, "zoo").keys() == OF_ZOO[getattr(recipe_of(name).sb3, "algorithm", "")].keys(), name
    with pytest.raises(ValueError, match="the zoo has no space for classifier; it has those of DQN"):
        space("classifier", "zoo")


def test_widths_are_left_out_where_they_have_no_effect():
    assert "net_arch" in space("dqn")
    assert "net_arch" not in space("dqn", backbone="nature_cnn")


def test_a_file_and_pinned_settings(tmp_path):
    file = tmp_path / "space.json"
    file.write_text(json.dumps({"gamma": [0.9, 0.99], "batch_size": {"low": 8, "high": 64, "log": True}}))
    assert space(asked=file, pinned=["gamma"]) == {"batch_size": {"low": 8, "high": 64, "log": True}}
    with pytest.raises(ValueError, match="names no hyperparameter to search but those that were given a value"):
        space(asked=file, pinned=["gamma", "batch_size"])


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "the space names no hyperparameter to search; dqn has learning_rate"),
        ({"learning_rat": [1e-3]}, "dqn has no hyperparameter 'learning_rat'; close matches: learning_rate"),
        ({"gamma": 0.9}, "gamma must be a list of choices, or a range"),
        ({"gamma": {"low": 0.9}}, "gamma must be a list of choices, or a range"),
        ({"gamma": {"low": 0.9, "high": 0.5}}, "from a lower to a higher number"),
        ({"gamma": {"low": 0.0, "high": 0.5, "log": True}}, "above zero"),
        ({"gamma": {"low": 0.1, "high": 0.5, "lgo": True}}, "gamma must be of choices, low, high, log"),
        ({"gamma": []}, "gamma must be a list of choices, one at least"),
        ({"gamma": {"low": 0.5, "high": 1.5}}, r"the space: DQNConfig.gamma must be between 0 and 1, not 1.5"),
        ({"batch_size": [32, 0]}, "the space: DQNConfig.batch_size must be at least 1, not 0"),
        ({"batch_size": [32, "many"]}, "the space: DQNConfig.batch_size is 'many'"),
        ({"train_freq": {"choices": [1], "at_most": "n_setps"}}, "tied to another hyperparameter"),
        ("nowhere.json", "there is no file 'nowhere.json'"),
        (3, "a space is a dictionary, the path of a JSON file"),
    ],
)
def test_faulty_spaces(asked, message):
    with pytest.raises(ValueError, match=message):
        space(asked=asked)


def test_drawn_numbers_become_settings():
    searched = space(
        asked={
            "gamma": {"low": 0.001, "high": 0.1, "log": True, "one_minus": True},
            "net_arch": [[64], [64, 64]],
            "gradient_steps": {"choices": [1, 8], "divisor_of": "train_freq"},
            "batch_size": {"choices": [32, 512], "at_most": "buffer_size"},
            "buffer_size": {"low": 100, "high": 1_000},
        }
    )
    drawn = {"gamma": 0.01, "net_arch": "[64, 64]", "gradient_steps": 8, "batch_size": 512, "buffer_size": 300}
    settings = settings_from(searched, drawn, DQNConfig(train_freq=4))
    expected = {"gamma": 0.99, "net_arch": [64, 64], "gradient_steps": 1, "batch_size": 300, "buffer_size": 300}
    assert settings == expected
    config = config_with(DQNConfig(double=True), settings)
    assert (config.net_arch, config.gamma, config.double) == ((64, 64), 0.99, True)


def test_ends_that_are_whole_make_whole_numbers():
    kinds = pytest.importorskip("optuna").distributions
    found = distributions(
        space(asked={"batch_size": {"low": 8, "high": 64, "step": 8}, "gamma": {"low": 0, "high": 1.0}})
    )
    assert found == {
        "batch_size": kinds.IntDistribution(8, 64, step=8),
        "gamma": kinds.FloatDistribution(0.0, 1.0),
    }
