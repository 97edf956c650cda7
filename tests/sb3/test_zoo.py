import sys

import pytest

from agentlib.catalog import recipe_of
from agentlib.core import Cosine, Linear
from agentlib.core.schedules import schedule_from_text, schedule_to_text
from agentlib.learners import DQNConfig
from agentlib.runs.plan import settings_of
from agentlib.sb3.zoo import read_zoo
from agentlib.sb3.zoo_file import literal

DQN = recipe_of("dqn")
FILE = """
atari:
  env_wrapper:
    - stable_baselines3.common.atari_wrappers.AtariWrapper
  frame_stack: 4
  policy: 'CnnPolicy'
  n_timesteps: !!float 1e7
  buffer_size: 100000
  learning_rate: !!float 1e-4
  batch_size: 32
  learning_starts: 100000
  target_update_interval: 1000
  train_freq: 4
  gradient_steps: 1
  exploration_fraction: 0.1
  exploration_final_eps: 0.01
  optimize_memory_usage: True

CartPole-v1:
  n_timesteps: !!float 5e4
  policy: 'MlpPolicy'
  learning_rate: !!float 2.3e-3
  batch_size: 64
  buffer_size: 100000
  learning_starts: 1000
  gamma: 0.99
  target_update_interval: 10
  train_freq: 256
  gradient_steps: 128
  exploration_fraction: 0.16
  exploration_final_eps: 0.04
  policy_kwargs: "dict(net_arch=[256, 256])"
"""


def settings(section, tmp_path, env_id="CartPole-v1", name="CartPole-v1"):
    path = tmp_path / "dqn.yml"
    path.write_text(f"{name}:\n  {section}\n")
    return read_zoo(path, env_id, DQN)


@pytest.fixture
def zoo_file(tmp_path):
    path = tmp_path / "dqn.yml"
    path.write_text(FILE)
    return path


def test_the_zoos_cartpole_is_our_preset(zoo_file):
    read = read_zoo(zoo_file, "CartPole-v1", DQN)
    assert DQNConfig(**read.hyperparameters) == settings_of("dqn", "CartPole-v1", {}).config
    assert (read.section, read.steps, read.n_envs, read.backbone) == ("CartPole-v1", 50_000, 1, "mlp")
    assert type(read.steps) is int
    assert read.notes == ()


@pytest.mark.parametrize("env_id", ["ALE/Pong-v5", "BreakoutNoFrameskip-v4"])
def test_the_zoos_atari_is_our_preset(zoo_file, env_id):
    read = read_zoo(zoo_file, env_id, DQN)
    assert DQNConfig(**read.hyperparameters) == settings_of("dqn", env_id, {}).config
    assert (read.section, read.steps, read.backbone) == ("atari", 10_000_000, "nature_cnn")
    assert read.notes == ("optimize_memory_usage is left out: frames are always stored once",)


def test_a_default_section_serves_the_rest(tmp_path):
    assert settings("gamma: 0.9", tmp_path, name="default").hyperparameters == {"gamma": 0.9}


def test_an_environment_without_a_section(zoo_file):
    with pytest.raises(ValueError, match="no settings for 'CartPole-v0'; close matches: CartPole-v1"):
        read_zoo(zoo_file, "CartPole-v0", DQN)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ("learning_rate: lin_2.3e-3", {"learning_rate": Linear(2.3e-3, 0.0)}),
        ("learning_rate: 1e-3", {"learning_rate": 1e-3}),  # a string, says YAML
        ("learning_starts: 1e3", {"learning_starts": 1000}),
        ("buffer_size: !!float 5e4", {"buffer_size": 50_000}),
        ('train_freq: [4, "step"]', {"train_freq": 4}),
        ("policy_kwargs: {net_arch: [64]}", {"net_arch": (64,)}),
        ("policy_kwargs: \"{'net_arch': [64, 32]}\"", {"net_arch": (64, 32)}),
        ('policy_kwargs: "dict()"', {}),
        ("normalize: \"{'norm_obs': True, 'norm_reward': False}\"", {"normalize": True}),
        ("normalize: False", {}),
        ("frame_stack: null", {}),
        ('replay_buffer_kwargs: "dict(handle_timeout_termination=True)"', {}),
    ],
)
def test_values(section, expected, tmp_path):
    read = settings(section, tmp_path)
    assert read.hyperparameters == expected
    assert [type(value) for value in read.hyperparameters.values()] == [type(value) for value in expected.values()]


def test_what_is_about_the_run(tmp_path):
    read = settings('n_envs: 4\n  env_kwargs: "dict(is_slippery=False)"\n  seed: 3\n  verbose: 0', tmp_path)
    assert (read.n_envs, read.env_kwargs, read.steps) == (4, {"is_slippery": False}, None)
    assert read.notes == ("seed is left out: see seed",)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("batch_sise: 3", "dqn has no setting 'batch_sise'; close matches: batch_size"),
        ("env_wrapper: a.b.C", r"'a\.b\.C\(\)' would change the run.*function of your own"),
        ("vec_env_wrapper: a.b.C", "vec_env_wrapper: 'a.b.C' would change the run"),
        ("frame_stack: 4", "'frame_stack=4' would change the run"),
        ("noise_std: 0.1", "noise_std: 0.1 has no effect without noise_type"),
        ("noise_type: normal\n  noise_std: 0.1", "noise_type: 'normal' would change the run"),
        ("callback: a.b.C", "agentlib.train takes a function as callback="),
        ("policy: MyPolicy", "policy: 'MyPolicy' would change the run"),
        ('replay_buffer_kwargs: "dict(handle_timeout_termination=False)"', "would change the run"),
        ('train_freq: [1, "episode"]', "counts environment steps here"),
        ("normalize: True", "normalized rewards are not supported"),
        ("normalize: {norm_obs: True, norm_reward: False, clip_obs: 5}", "clip_obs is not supported"),
        ('policy_kwargs: "dict(net_arch=[64], n_quantiles=5)"', "n_quantiles is not supported, only net_arch"),
        ('policy_kwargs: "dict(net_arch=dict(pi=[64], qf=[64]))"', "must be a list of widths"),
        ('policy_kwargs: "dict(activation_fn=nn.ReLU)"', "activation_fn is not supported"),
        ("gamma: lin_1.0", "DQNConfig.gamma"),
        ("batch_size: 2.5", "must be a whole number"),
        ("batch_size: many", "must be a whole number, not 'many'"),
        ("double: 3", "DQNConfig.double is 3, but must be bool"),
    ],
)
def test_what_would_change_the_run_is_refused(section, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        settings(section, tmp_path)


WRAPPER = "stable_baselines3.common.atari_wrappers.AtariWrapper"


@pytest.mark.parametrize(
    "section",
    [
        f"env_wrapper: {WRAPPER}\n  frame_stack: null",
        f"env_wrapper: [{{{WRAPPER}: {{terminal_on_life_loss: True, screen_size: 84, clip_reward: True}}}}]",
        f"env_wrapper: [{{{WRAPPER}: {{noop_max: 30, action_repeat_probability: 0}}}}]\n  frame_stack: 4",
    ],
)
def test_what_atari_games_always_get_is_taken(section, tmp_path):
    read = settings(section, tmp_path, "ALE/Pong-v5", "atari")
    assert (read.section, read.hyperparameters, read.notes) == ("atari", {}, ())


@pytest.mark.parametrize(
    ("section", "message"),
    [
        (
            f"env_wrapper: [{{{WRAPPER}: {{terminal_on_life_loss: False, screen_size: 42}}}}]",
            r"AtariWrapper\(terminal_on_life_loss=False, screen_size=42\)' would change the run",
        ),
        (f"env_wrapper: [{{{WRAPPER}: {{other: [1]}}}}]", r"AtariWrapper\(other=\[1\]\)' would change the run"),
        (f"env_wrapper: [{WRAPPER}, a.b.C]", r"'a\.b\.C\(\)' would change the run"),
        ("frame_stack: 1", "'frame_stack=1' would change the run"),
        ("frame_stack: 2", "'frame_stack=2' would change the run"),
    ],
)
def test_other_wrappers_of_atari_games_are_refused(section, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        settings(section, tmp_path, "ALE/Pong-v5", "atari")


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch hacked')",
        "dict(net_arch=__import__('os').system('touch hacked'))",
        "dict(**__import__('os').environ)",
        "[open('hacked', 'w') for _ in (1,)]",
        "(lambda: 1)()",
        "list([1])",
        "dict([1])",
        "dict(a=b)",
        "1 +",
        "{[1]: 2}",
    ],
)
def test_nothing_is_evaluated(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r"is not a literal .* never evaluated"):
        literal(text)
    assert not (tmp_path / "hacked").exists()


def test_literals():
    assert literal(" dict(a=[1, -2.5], b=dict(c=(True, None)), d={'e': 'f'}) ") == {
        "a": [1, -2.5],
        "b": {"c": (True, None)},
        "d": {"e": "f"},
    }
    assert literal({"a": 1}) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "schedule"),
    [
        ("0.001", 0.001),
        ("lin_2.3e-3", Linear(2.3e-3, 0.0)),
        ("lin_0.4_1.0", Linear(0.4, 1.0)),
        ("lin_1.0_0.0_0.3", Linear(1.0, 0.0, 0.3)),
        ("cos_0.001", Cosine(0.001, 0.0)),
    ],
)
def test_schedules_as_text(text, schedule):
    assert schedule_from_text(text) == schedule
    assert schedule_from_text(schedule_to_text(schedule)) == schedule


@pytest.mark.parametrize("text", ["", "lin_", "lin", "lin_1_2_3_4", "exp_1", "lin_x"])
def test_texts_that_are_no_schedules(text):
    with pytest.raises(ValueError, match="is neither a number nor a schedule such as lin_"):
        schedule_from_text(text)


@pytest.mark.parametrize("content", ["a: [", "- 1", "a: 1", "", "a: !!python/object/apply:os.getcwd []", "\x00"])
def test_files_that_are_no_settings(content, tmp_path):
    (tmp_path / "x.yml").write_text(content)
    with pytest.raises(ValueError, match=r"x\.yml is no"):
        read_zoo(tmp_path / "x.yml", "CartPole-v1", DQN)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no settings file at"):
        read_zoo(tmp_path / "x.yml", "CartPole-v1", DQN)


def test_without_pyyaml_the_extra_is_named(zoo_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(ImportError, match=r"pip install 'agentlib-rl\[zoo\]'"):
        read_zoo(zoo_file, "CartPole-v1", DQN)


PPO_FILE = """
CartPole-v1:
  n_envs: 8
  n_timesteps: !!float 1e5
  policy: 'MlpPolicy'
  n_steps: 32
  batch_size: 256
  gae_lambda: 0.8
  gamma: 0.98
  n_epochs: 20
  ent_coef: 0.0
  learning_rate: lin_0.001
  clip_range: lin_0.2
Acrobot-v1:
  normalize: true
  n_envs: 16
  n_timesteps: !!float 1e6
  policy: 'MlpPolicy'
  n_steps: 256
  gae_lambda: 0.94
  gamma: 0.99
  n_epochs: 4
  ent_coef: 0.0
HalfCheetah-v4:
  policy: 'MlpPolicy'
  policy_kwargs: "dict(log_std_init=-2, ortho_init=False, activation_fn=nn.ReLU, net_arch=dict(pi=[256, 64], vf=[32]))"
Pendulum-v1:
  use_sde: True
  sde_sample_freq: 4
"""


def test_the_zoos_settings_of_ppo(tmp_path):
    path, ppo = tmp_path / "ppo.yml", recipe_of("ppo")
    path.write_text(PPO_FILE)
    for env_id, n_envs in (("CartPole-v1", 8), ("Acrobot-v1", 16)):
        read, usual = read_zoo(path, env_id, ppo), settings_of("ppo", env_id, {})
        assert ppo.config(**read.hyperparameters) == usual.config
        assert (read.steps, read.n_envs) == (usual.steps, usual.n_envs) == (usual.steps, n_envs)
    assert read_zoo(path, "HalfCheetah-v4", ppo).hyperparameters == {
        "log_std_init": -2.0,
        "ortho_init": False,
        "activation": "relu",
        "net_arch": (256, 64),
        "vf_arch": (32,),
    }
    assert read_zoo(path, "Pendulum-v1", ppo).hyperparameters == {"use_sde": True, "sde_sample_freq": 4}
    with pytest.raises(ValueError, match="use_sde: True would change the run"):
        read_zoo(path, "Pendulum-v1", recipe_of("td3"))
