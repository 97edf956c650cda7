import inspect
import json
import math
from functools import partial
from importlib.metadata import version
from types import SimpleNamespace
from typing import Any, cast

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, DQN, PPO

import agentlib
from agentlib import compare
from agentlib.catalog import recipe_of
from agentlib.core import Cosine, Linear
from agentlib.core.host import global_generators_kept, torch_threads
from agentlib.core.recipe import Problem
from agentlib.experience import Evaluation, evaluate
from agentlib.learners import DQNConfig
from agentlib.policies import StateDependentNoisePolicy
from agentlib.runs.plan import job_of, settings_of
from agentlib.sb3 import Comparison
from agentlib.sb3.comparison import Run
from agentlib.sb3.comparison_report import _pace
from agentlib.sb3.recording import Check, Evaluated, Recorded, TrainingLog
from agentlib.sb3.training import WithMask, algorithm_of, lacks_space, sb3_arguments, unsupported_options
from tests.moody import Moody

VECTOR = spaces.Box(-1.0, 1.0, (4,))
SHARED = (
    "learning_rate", "buffer_size", "learning_starts", "batch_size", "tau", "gamma", "train_freq", "gradient_steps",
    "n_steps", "target_update_interval", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps",
    "max_grad_norm",
)  # fmt: skip
"""Hyperparameters of DQN with one name, unit and meaning on both sides."""
SMALL = {"buffer_size": 200, "learning_starts": 20, "net_arch": (8,), "train_freq": 4, "gradient_steps": 1}


class Still:
    """Always the same action."""

    def __init__(self, action=0):
        self.action, self.about = action, dict[str, Any]()

    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return np.array(self.action), state

    def save(self, path):
        path.write_bytes(b"ours")


@pytest.fixture
def calls(monkeypatch):
    """Our training replaced by a few random steps; the calls that it got."""
    made = []

    def train(recipe, *, env, n_envs, steps, seed, device, progress, backbone="auto", **hyperparameters):
        made.append(
            SimpleNamespace(config=recipe.config(**hyperparameters), seed=seed, threads=torch.get_num_threads())
        )
        world = env()
        world.action_space.seed(seed)
        world.reset(seed=seed)
        for _ in range(steps):
            if any(world.step(world.action_space.sample())[2:4]):
                world.reset()
        world.close()
        return Still()

    monkeypatch.setattr("agentlib.sb3.compare.train", train)
    return made


def run(out=None, **changes):
    settings: dict[str, Any] = {
        "env": "CartPole-v1",
        "steps": 120,
        "seeds": 2,
        "episodes": 3,
        "progress": False,
    } | SMALL
    return compare("dqn", out=out, **(settings | changes))


def test_the_whole_comparison(calls, tmp_path):
    found = run(tmp_path, seeds=[3, 5, 8])
    assert [call.seed for call in calls] == [3, 5, 8]
    assert calls[0].config.learning_rate == 2.3e-3  # from the preset for CartPole
    assert found.seeds == (3, 5, 8)
    assert [pair.went_first for pair in found.ours] == [True, False, True]
    assert [pair.went_first for pair in found.sb3] == [False, True, False]
    assert found.scores("ours").shape == (3,)
    assert found.difference.value == pytest.approx((found.scores("ours") - found.scores("sb3")).mean())
    for mine, theirs in zip(found.ours, found.sb3, strict=True):
        assert mine.evaluation.seed == theirs.evaluation.seed == mine.seed
        assert mine.log.steps == theirs.log.steps == 120
        assert 0 < theirs.log.startup_seconds < theirs.log.seconds
        assert theirs.training_seconds == pytest.approx(theirs.log.seconds - theirs.log.startup_seconds)
        assert theirs.log.warm_rate > 0
        assert theirs.log.episode_steps == list(np.cumsum(theirs.log.episode_returns))  # CartPole pays one per step
    assert found.speed.value > 1  # the stand-in learns nothing
    written = {path.name for path in tmp_path.iterdir()}
    assert written == {
        *(f"ours_seed{seed}.safetensors" for seed in (3, 5, 8)),
        *(f"sb3_seed{seed}.zip" for seed in (3, 5, 8)),
        "results.json",
        "learning_curves.png",
        "report.html",
    }
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["seeds"] == [3, 5, 8]
    assert results["hyperparameters"]["net_arch"] == [8]
    assert len(results["sb3"][0]["returns"]) == 3
    assert results["versions"]["torch"] == version("torch")
    assert "DQN on CartPole-v1" in str(found)


def test_with_the_real_training(tmp_path):
    found = run(tmp_path, seeds=1)
    assert found.ours[0].log.steps == found.sb3[0].log.steps == 120
    assert found.ours[0].log.episode_steps == list(np.cumsum(found.ours[0].log.episode_returns))
    again = evaluate(agentlib.Agent.load(tmp_path / "ours_seed0.safetensors"), "CartPole-v1", episodes=3)
    np.testing.assert_array_equal(again.returns, found.ours[0].evaluation.returns)


def test_one_seed_is_no_interval(calls, tmp_path):
    found = run(tmp_path, seeds=1)
    assert not found.difference.interval.known
    assert "Fewer than 5 seeds do not tell" in str(found)
    assert json.loads((tmp_path / "results.json").read_text())["difference"]["interval"] == {"low": None, "high": None}


def test_sb3s_side_is_repeatable(calls):
    first, second = run(seeds=1), run(seeds=1)
    np.testing.assert_array_equal(first.sb3[0].log.episode_returns, second.sb3[0].log.episode_returns)
    np.testing.assert_array_equal(first.sb3[0].evaluation.returns, second.sb3[0].evaluation.returns)


@pytest.mark.slow
def test_globals_are_given_back_and_threads_are_equal(calls, globals_untouched):
    with globals_untouched():
        found = run(seeds=1, threads=2)
    assert calls[0].threads == found.threads == 2


def test_bars(calls, capsys):
    run(seeds=1, progress=True)
    assert "Stable-Baselines3, seed 0: 100%" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("env", "name"),
    [
        ("FrozenLake-v1", "FrozenLake-v1"),
        (lambda: gymnasium.make("Acrobot-v1", max_episode_steps=30), "Acrobot-v1"),
        ("Blackjack-v1", "Blackjack-v1 (observations flattened)"),
    ],
)
def test_other_environments(calls, env, name):
    found = run(env=env, seeds=1)
    assert found.environment == name
    assert math.isfinite(found.difference.value)


def test_bad_input_is_refused_before_anything_trains(calls):
    with pytest.raises(TypeError, match="discrete"):
        run(env="Pendulum-v1")
    with pytest.raises(TypeError, match="of its own"):
        run(env=gymnasium.make("CartPole-v1"))
    with pytest.raises(ValueError, match="seeds"):
        run(seeds=0)
    with pytest.raises(ValueError, match="a seed"):
        run(seeds=[2**30])
    with pytest.raises(ValueError, match="'trpo'"):
        compare("trpo", env="CartPole-v1", steps=10)
    with pytest.raises(ValueError, match="learning_rate"):
        run(lerning_rate=1e-3)
    with pytest.raises(ValueError, match="double=True"):
        run(double=True)
    with pytest.raises(ValueError, match="threads"):
        run(threads=0)
    assert calls == []


def test_a_missing_sb3_names_the_extra(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(ImportError, match=r"agentlib-rl\[sb3\]"):
        run()


def test_options_that_sb3_lacks_can_be_noted_instead(calls, tmp_path):
    found = run(tmp_path, seeds=1, strict=False, double=True)
    assert found.differences == {"double": True}
    assert calls[0].config.double
    assert "Not the same on both sides: double" in (tmp_path / "report.html").read_text()


def test_our_defaults_are_sb3s():
    theirs = inspect.signature(DQN).parameters
    arguments = sb3_arguments(DQNConfig(), DQN, VECTOR)
    assert arguments.pop("policy") == "MlpPolicy"
    assert set(arguments) == set(SHARED)
    assert arguments == {name: theirs[name].default for name in SHARED}
    assert unsupported_options(DQNConfig(), DQN) == {}


@pytest.mark.parametrize("name", ["dqn", "rainbow"])
def test_the_recipe_names_its_counterpart(name):
    assert algorithm_of(recipe_of(name)) is DQN
    with pytest.raises(TypeError, match="no counterpart of bc"):
        algorithm_of(recipe_of("bc"))


def test_mapping_of_what_is_written_in_another_way():
    config = DQNConfig(net_arch=(256, 256), max_grad_norm=None, n_steps=3, learning_rate=Linear(1e-3, 0.0))
    arguments = sb3_arguments(config, DQN, VECTOR)
    assert arguments["policy_kwargs"] == {"net_arch": [256, 256]}
    assert arguments["max_grad_norm"] == math.inf
    assert arguments["n_steps"] == 3
    assert [arguments["learning_rate"](left) for left in (1.0, 0.5, 0.0)] == pytest.approx([1e-3, 5e-4, 0.0])
    assert sb3_arguments(DQNConfig(learning_rate=Cosine(1e-3)), DQN, VECTOR)["learning_rate"](0.5) == pytest.approx(
        5e-4
    )
    with pytest.raises(ValueError, match="fraction"):
        sb3_arguments(DQNConfig(learning_rate=lambda clock: 1e-3 / (1 + clock.updates)), DQN, VECTOR)


@pytest.mark.parametrize(
    ("ours", "sb3", "verdict"),
    [
        ([9.0, 9.5, 9.0, 9.5, 9.2], [1.0, 2.0, 1.0, 2.0, 1.5], "Our final agents do better"),
        ([1.0, 2.0, 1.0, 2.0, 1.5], [9.0, 9.5, 9.0, 9.5, 9.2], "Stable-Baselines3's final agents do better"),
        ([1.0, 9.0, 1.0, 9.0, 5.0], [9.0, 1.0, 9.0, 1.0, 5.0], "cannot be told apart"),
        ([9.0, 9.5], [1.0, 2.0], "do not tell which side"),
    ],
)
def test_the_summary_says_no_more_than_the_interval(ours, sb3, verdict):
    def runs(returns):
        log = SimpleNamespace(seconds=2.0, startup_seconds=0.5, warm_rate=10.0)
        played = [Evaluation(np.array([value]), np.array([1]), 0) for value in returns]
        return tuple(Run(seed, True, cast(TrainingLog, log), one) for seed, one in enumerate(played))

    found = Comparison("X-v0", 100, 1, 1, "cpu", {}, {}, {}, runs(ours), runs(sb3))
    assert verdict in " ".join(str(found).split())


def test_all_that_sb3_lacks_is_named():
    config = DQNConfig(double=True, prioritized=True)
    with pytest.raises(ValueError, match=r"double=True, prioritized=True.*strict=False"):
        sb3_arguments(config, DQN, VECTOR)
    assert "double" not in sb3_arguments(config, DQN, VECTOR, strict=False)


@pytest.mark.parametrize(
    ("space", "policy"),
    [
        (VECTOR, "MlpPolicy"),
        (spaces.Discrete(16), "MlpPolicy"),
        (spaces.Box(0, 255, (84, 84, 3), np.uint8), "CnnPolicy"),
        (spaces.Box(0, 255, (4, 36, 36), np.uint8), "CnnPolicy"),
        (spaces.Box(0, 255, (16, 16, 3), np.uint8), "MlpPolicy"),  # too small for SB3's CNN
        (spaces.Box(0, 1, (84, 84, 3), np.float32), "MlpPolicy"),
        (spaces.Dict(a=VECTOR), "MultiInputPolicy"),
    ],
)
def test_the_policy_fits_the_space(space, policy):
    assert sb3_arguments(DQNConfig(), DQN, space)["policy"] == policy


def test_what_sb3_cannot_observe():
    assert lacks_space(spaces.Tuple([VECTOR]))
    assert lacks_space(spaces.Dict(a=spaces.Dict(b=VECTOR)))
    assert not lacks_space(spaces.Dict(a=VECTOR))


def test_recording_changes_nothing_and_counts_everything():
    log = TrainingLog(50)
    plain, recorded = gymnasium.make("CartPole-v1"), Recorded(gymnasium.make("CartPole-v1"), log)
    np.testing.assert_array_equal(plain.reset(seed=1)[0], recorded.reset(seed=1)[0])
    ends, total = [], 0.0
    for step in range(1, 61):
        left, right = plain.step(step % 2), recorded.step(step % 2)
        np.testing.assert_array_equal(left[0], right[0])
        assert left[1:4] == right[1:4]
        total += float(left[1])
        if left[2] or left[3]:
            ends.append((step, total))
            total = 0.0
            plain.reset(seed=step)
            recorded.reset(seed=step)
    log.finish()
    assert log.steps == 60
    assert list(zip(log.episode_steps, log.episode_returns, strict=True)) == ends != []
    assert 0 < log.startup_seconds < log.seconds


def test_a_training_that_hardly_steps_is_an_error():
    log = TrainingLog(100)
    log.stepping()
    with pytest.raises(RuntimeError, match="after 1 environment steps"):
        log.finish()


def test_threads_and_generators_are_restored_after_an_error(globals_untouched):
    threads = torch.get_num_threads()

    def fails():
        with torch_threads(threads + 1), global_generators_kept():
            assert torch.get_num_threads() == threads + 1
            torch.rand(3)
            raise KeyError

    with globals_untouched(), pytest.raises(KeyError):
        fails()


# Runs that end at a return --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_end_at_their_first_evaluation_with_the_return(tmp_path):
    """By one rule on both sides; the report has the curve of evaluations and the video."""
    found = run(tmp_path, seeds=2, steps=3_000, until=20.0, eval_every=500, video=True)
    for runs in (found.ours, found.sb3):
        for one in runs:
            checks = one.log.checks
            assert checks
            assert all(check.mean < 20.0 for check in checks[:-1])
            assert [*np.diff([check.steps for check in checks])] == pytest.approx([500] * (len(checks) - 1), abs=60)
            reached = one.reached(20.0)
            if checks[-1].mean >= 20.0:
                assert reached == checks[-1].seconds <= one.log.seconds
                assert one.log.steps == pytest.approx(checks[-1].steps, abs=60)
            else:
                assert reached is None
                assert one.log.steps == 3_000
            assert one.reached(1e9) is None
    text = str(found)
    assert "agentlib took" in text or "agentlib did not reach it" in text
    assert "times as fast" in text or "% slower" in text
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["until"] == 20.0
    assert len(results["ours"][0]["evaluations"]) == len(found.ours[0].log.checks)
    page = (tmp_path / "report.html").read_text()
    assert (tmp_path / "video.gif").read_bytes()[:6] == b"GIF89a"
    assert "data:image/gif;base64," in page
    assert "Evaluations during training" in page


def test_the_clock_stands_still_during_evaluations(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("agentlib.sb3.recording.perf_counter", lambda: now[0])
    log = TrainingLog(10)
    world = Recorded(gymnasium.make("CartPole-v1"), log)
    world.reset(seed=0)
    for step in range(10):
        now[0] += 1.0
        if any(world.step(step % 2)[2:4]):
            world.reset()
        if step == 7:
            evaluation = Evaluated(gymnasium.make("CartPole-v1"), log, now[0])
            now[0] += 50.0
            evaluation.close()
            log.checked(3.0)
    log.finish()
    assert log.checks == [(8, 8.0, 3.0)]
    assert log.seconds == 10.0
    assert log.steps == 10  # those of the evaluation are not among them
    assert log.warm_rate == pytest.approx(6 / 5)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        (([3.0], [9.0]), "agentlib took 3.00 s and Stable-Baselines3 took 9.00 s: agentlib was first in 1 of 1 seed"),
        (([3.0, None], [9.0, 4.0]), "agentlib took 3.00 s in 1 of 2 seeds and Stable-Baselines3 took 9.00 s and 4.00"),
        (([None], [9.0]), "agentlib did not reach it in 120 steps"),
        (([1.0, 2.0, 4.0], [9.0, 8.0, 9.0]), "agentlib took 2.00 s in the median"),
    ],
)
def test_the_verdict_is_one_plain_sentence(times, said, calls):
    def at(seconds):
        log = SimpleNamespace(checks=[Check(100, seconds, 50.0)] if seconds else [], seconds=10.0, steps=100)
        return Run(0, True, cast(Any, log), cast(Any, SimpleNamespace(mean=50.0)))

    ours, theirs = ([at(seconds) for seconds in side] for side in times)
    found = Comparison("CartPole-v1", 120, 3, 1, "cpu", {}, {}, {}, tuple(ours), tuple(theirs), 50.0, 60)
    assert said in " ".join(str(found).split())


@pytest.mark.parametrize("settings", [{"eval_every": 0}, {"eval_every": 121}, {"video": True}])
def test_bad_evaluations_are_refused_before_anything_trains(calls, settings):
    with pytest.raises(ValueError, match=r"eval_every must be between 1 and steps|give out="):
        run(until=20.0, **settings)
    assert calls == []


def test_a_pace_reads_as_people_say_it():
    assert _pace(0.939) == "6% slower"
    assert _pace(0.5, "SB3") == "50% slower than SB3"
    assert _pace(2.5) == "2.50 times as fast"
    assert _pace(1.0, "SB3") == "1.00 times as fast as SB3"


@pytest.mark.parametrize(("name", "algorithm"), [("ppo", PPO), ("a2c", A2C)])
def test_the_defaults_of_ppo_and_a2c_are_sb3s(name, algorithm):
    recipe, theirs = recipe_of(name), inspect.signature(algorithm).parameters
    assert algorithm_of(recipe) is algorithm
    arguments = sb3_arguments(recipe.config(), algorithm, VECTOR)
    assert arguments.pop("policy") == "MlpPolicy"
    assert {"n_steps", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "learning_rate"} <= set(arguments)
    assert arguments == {field: theirs[field].default for field in arguments}
    assert unsupported_options(recipe.config(), algorithm) == {}
    config = recipe.config(net_arch=(8,), vf_arch=(4, 4), activation="relu", ortho_init=False, log_std_init=-1.0)
    assert sb3_arguments(config, algorithm, VECTOR)["policy_kwargs"] == {
        "net_arch": {"pi": [8], "vf": [4, 4]},
        "activation_fn": torch.nn.ReLU,
        "ortho_init": False,
        "log_std_init": -1.0,
    }


@pytest.mark.slow
@pytest.mark.parametrize("settings", [{}, {"normalize": True, "normalize_reward": True}], ids=["plain", "normalized"])
def test_ppo_beside_sb3s_in_several_environments(settings, tmp_path):
    small = {"n_steps": 20, "batch_size": 20, "n_epochs": 2, **settings}
    found = compare(
        "ppo", env="CartPole-v1", n_envs=3, steps=180, seeds=1, episodes=3, progress=False, out=tmp_path, **small
    )
    assert found.ours[0].log.steps == found.sb3[0].log.steps == 180
    for pair in (found.ours[0], found.sb3[0]):
        assert len(pair.log.episode_returns) >= 3
        assert pair.evaluation.mean > 5


def test_state_dependent_noise_is_asked_of_both_sides():
    """By the presets of the RL Zoo; SB3 takes the arguments."""
    import stable_baselines3

    cases: Any = (
        ("ppo", "Pendulum-v1", {"use_sde": True, "sde_sample_freq": 4}),
        ("a2c", "MountainCarContinuous-v0", {"use_sde": True, "sde_sample_freq": 16}),
        (
            "sac",
            "MountainCarContinuous-v0",
            {"use_sde": True, "policy_kwargs": {"net_arch": [64, 64], "log_std_init": -3.67}},
        ),
    )
    for what, env, kwargs in cases:
        world = gymnasium.make(env)
        algorithm = getattr(stable_baselines3, what.upper())
        arguments = sb3_arguments(settings_of(what, env, {}).config, algorithm, world.observation_space)
        for name, value in kwargs.items():
            found = arguments[name]
            assert found.items() >= value.items() if isinstance(value, dict) else found == value
        with global_generators_kept():
            model = algorithm(env=world, device="cpu", **arguments | {"learning_rate": 1e-3})
        assert model.use_sde
        assert isinstance(agentlib.Agent.from_sb3(model).policy, StateDependentNoisePolicy)


# Those of sb3-contrib -------------------------------------------------------------------------------------------------

SHORT = partial(gymnasium.make, "Pendulum-v1", max_episode_steps=20)
REPLAYED: Any = {"learning_starts": 20, "buffer_size": 200, "batch_size": 16, "net_arch": (8,)}
ROLLED: Any = {"n_steps": 20, "batch_size": 20, "n_epochs": 2}
CONTRIB: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "TQC": ("tqc", SHORT, REPLAYED),
    "CrossQ": ("crossq", SHORT, {**REPLAYED, "qf_arch": (16,)}),
    "QRDQN": ("dqn", "CartPole-v1", {**SMALL, "distributional": "quantile", "n_quantiles": 8}),
    "RecurrentPPO": ("ppo", "CartPole-v1", {**ROLLED, "backbone": "lstm", "net_arch": (8,), "vf_arch": (4,)}),
    "MaskablePPO": ("ppo", partial(Moody, (3, 4)), {**ROLLED, "normalize": True, "normalize_reward": True}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTRIB)
def test_each_of_sb3_contrib_is_compared(name, tmp_path):
    """Moody refuses what is illegal, in training and afterwards."""
    pytest.importorskip("sb3_contrib")
    what, env, settings = CONTRIB[name]
    found = compare(
        what, env=env, n_envs=2, steps=120, seeds=1, episodes=2, out=tmp_path / "out", progress=False, **settings
    )
    assert found.algorithm == name
    assert found.differences == {}
    assert found.ours[0].log.steps == found.sb3[0].log.steps == 120
    for run in (found.ours[0], found.sb3[0]):
        assert np.isfinite(run.evaluation.mean)
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["hyperparameters"].get("backbone", "auto") == settings.get("backbone", "auto")


@pytest.mark.parametrize("name", CONTRIB)
def test_networks_are_as_large_on_both_sides(name):
    contrib = pytest.importorskip("sb3_contrib")
    what, env, settings = CONTRIB[name]
    world: Any = env() if callable(env) else gymnasium.make(env)
    backbone = settings.get("backbone", "auto")
    given = {key: value for key, value in settings.items() if key not in ("backbone", "normalize")}
    job = job_of(what, Problem(env=env, n_envs=1, steps=120, backbone=backbone), **given)
    config, recipe = job.learner.config, recipe_of(what)
    algorithm = algorithm_of(recipe, config, backbone=backbone, masks=name == "MaskablePPO")
    assert algorithm is getattr(contrib, name)
    arguments = sb3_arguments(config, algorithm, world.observation_space, True, recipe.built_in, 1)
    with global_generators_kept():
        model = algorithm(env=WithMask(world) if name == "MaskablePPO" else world, device="cpu", **arguments)
    part = ".critic" if name == "CrossQ" else ""  # the policy of theirs has batch renormalization, and ours has not
    theirs = {key: p.numel() for key, p in model.policy.named_parameters() if "target" not in key}
    ours = {key: p.numel() for key, p in job.learner.named_parameters() if "target" not in key and "log_ent" not in key}
    sizes = [sum(size for key, size in side.items() if part in f".{key}") for side in (theirs, ours)]
    assert sizes[0] == sizes[1] > 0


def test_what_sb3_contrib_has_not():
    pytest.importorskip("sb3_contrib")
    with pytest.raises(TypeError, match="has RecurrentPPO and MaskablePPO, and none that is both"):
        algorithm_of(recipe_of("ppo"), backbone="lstm", masks=True)
    with pytest.raises(TypeError, match="no counterpart of ppo on the backbone 'gru'"):
        algorithm_of(recipe_of("ppo"), backbone="gru")
    with pytest.raises(TypeError, match="no counterpart of sac on the backbone 'lstm'"):
        algorithm_of(recipe_of("sac"), backbone="lstm")
    with pytest.raises(ValueError, match=r"no layers before its memory: give net_arch one number, not \(64, 64\)"):
        compare("ppo", env="CartPole-v1", backbone="lstm", steps=100, progress=False)
    with pytest.raises(ValueError, match="distributional='c51'"):
        sb3_arguments(DQNConfig(distributional="c51"), algorithm_of(recipe_of("dqn")), VECTOR)
