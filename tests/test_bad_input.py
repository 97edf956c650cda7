"""What goes wrong says so clearly, in Python and in the shell, and nothing that was learned is lost."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file, save_file

import agentlib
import agentlib.runs.training
from agentlib import Agent
from agentlib.backbones.files import read, write_tensors
from agentlib.catalog import recipe_of
from agentlib.core import Update
from agentlib.core.recipe import family
from agentlib.envs.experts import expert_for
from agentlib.envs.vector import EnvironmentFailure, Environments
from agentlib.experience import record_episodes
from agentlib.learners import DQN, BCConfig, DQNConfig, run
from agentlib.runs.folder import RunFolder
from agentlib.shell.main import main
from tests.tiny import FLAGS, IDENTITY, tiny_run


class Troubled(gymnasium.Env):
    """Fine for so many steps, then trouble."""

    observation_space = spaces.Box(-1.0, 1.0, (3,))
    action_space = spaces.Discrete(2)

    def __init__(self, trouble, at=150, render_mode=None):
        self.trouble, self.at, self.count, self.render_mode = trouble, at, 0, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        self.count += 1
        observation, reward = self.observation_space.sample(), 1.0
        if self.count >= self.at:
            if isinstance(self.trouble, BaseException):
                raise self.trouble
            if self.trouble == "shape":
                observation = np.zeros(4, np.float32)
            else:
                reward = float(self.trouble)
        return observation, reward, self.count % 10 == 0, False, {}


@pytest.fixture
def troubled():
    """The id of an environment that is registered for one test; its trouble is an argument."""
    gymnasium.register("Troubled-v0", lambda trouble="nan", at=150, **kwargs: Troubled(TROUBLES[trouble], at))
    yield "Troubled-v0"
    del gymnasium.registry["Troubled-v0"]


TROUBLES = {
    "nan": np.nan,
    "huge": 1e30,
    "raises": RuntimeError("the motor is on fire"),
    "ctrl-c": KeyboardInterrupt(),
    "shape": "shape",
}


def shell(capsys, *arguments, code=1):
    """Runs a command that must fail with one line; returns that line."""
    assert main(list(arguments)) == code
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    lines = [line for line in errors.splitlines() if line]
    assert len(lines) == 1
    assert lines[0].startswith("agentlib: ")
    return lines[0]


def check_that_the_agent_survived(folder, steps):
    """The folder has a finite agent that acts, and a checkpoint from which the run can go on."""
    agent = Agent.load(folder / "agent.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in agent.policy.state_dict().values())
    assert agent.action_space.contains(agent.act(agent.observation_space.sample()))
    reached = int(RunFolder(folder).checkpoints()[-1].stem.removeprefix("step_"))
    assert steps - 10 <= reached <= steps


# Unknown names


def test_an_unknown_environment(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    message = "unknown environment 'CartPol-v1'; close matches: CartPole-v1"
    with pytest.raises(ValueError, match=message):
        tiny_run(env="CartPol-v1")
    with pytest.raises(ValueError, match=message):
        agentlib.evaluate(tiny_run(), "CartPol-v1")
    assert message in shell(capsys, "train", "dqn", "--env", "CartPol-v1", "--steps", "10", *FLAGS)
    assert not any((tmp_path / "runs").iterdir())


def test_an_unknown_hyperparameter(capsys):
    with pytest.raises(ValueError, match="dqn has no hyperparameter 'learning_rat'; close matches: learning_rate"):
        tiny_run(learning_rat=1e-3)
    assert main(["train", "dqn", "--env", IDENTITY, "--steps", "10", "--learning-rat", "1e-3"]) == 2
    assert "--learning-rate" in capsys.readouterr().err


def test_a_hyperparameter_of_the_wrong_type(capsys):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"loss": "hubr"}, "loss is 'hubr', but must be 'huber' or 'mse'"),
        ({"batch_size": 2.5}, "batch_size is 2.5, but must be int"),
        ({"net_arch": 16}, "net_arch is 16"),
        ({"learning_rate": "abc"}, "learning_rate is 'abc', but must be a number or a schedule"),
    ]
    for changes, message in cases:
        with pytest.raises(ValueError, match=re.escape(message)):
            tiny_run(**changes)
    tiny_run(batch_size=np.int64(8), net_arch=[8], steps=30)
    assert main(["train", "dqn", "--env", IDENTITY, "--steps", "10", "--batch-size", "many"]) == 2
    assert "--batch-size" in capsys.readouterr().err


def test_an_unknown_learner(capsys):
    with pytest.raises(ValueError, match="unknown learner 'dqm'; close matches: dqn"):
        agentlib.train("dqm", env=IDENTITY, steps=10)
    assert "close matches: dqn" in shell(capsys, "train", "dqm", "--env", IDENTITY, code=2)


def test_an_unknown_backbone(capsys, tmp_path):
    with pytest.raises(ValueError, match="unknown backbone 'resnett'; close matches: resnet"):
        tiny_run(backbone="resnett")
    out = str(tmp_path / "run")
    arguments = ["train", "dqn", "--env", IDENTITY, "--steps", "10", "--out", out, "--backbone", "resnett"]
    assert "close matches: resnet" in shell(capsys, *arguments)


def test_no_environment(capsys):
    with pytest.raises(ValueError, match="give env=, such as env="):
        tiny_run(env=None)
    assert "--env ID" in shell(capsys, "train", "dqn", "--steps", "10", code=2)
    assert "--steps N" in shell(capsys, "compare", "dqn", "--env", IDENTITY, code=2)


BAD_OPTIONS: dict[str, list[Any]] = {
    "env": [""],
    "n_envs": [0, -1, 1.5, True, "2"],
    "env_kwargs": [["size"], "size=4"],
    "max_steps": [0, -1, 1.5, True, "2"],
    "data": [""],
    "demos": [""],
    "expert": [""],
    "agent": ["", 3, object()],
    "seed": [-1, 2**32, 0.5, True, "0", np.float64(1)],
    "backbone": ["", 64, (64, 64), object()],
    "device": ["gpu", "", 0, "cuda:one"],
    "eval_every": [0, -5, 2.5, True, "100"],
    "out": ["", 1, b"runs"],
    "resume": ["", 1],
    "callback": ["print", 3],
    "progress": ["bar", "none", 2, 0],
    "log": ["tensorflow", 3, object(), ["csv", 5]],
    "compile": ["yes", 1, "eagerly", object()],
    "precision": ["float16", 32],
    "threads": [0, -1, 1.5, True, "many"],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD_OPTIONS.items() for value in values])
def test_an_option_that_is_none(name, value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=rf"^{name} must be .*, not "):
        agentlib.train("dqn", **{"env": IDENTITY, "steps": 10, name: value})
    assert not any(tmp_path.iterdir())


def test_whole_numbers_of_numpy_are_as_good(tmp_path):
    tiny_run(steps=np.int64(30), seed=np.int64(3), n_envs=np.int32(2), eval_every=np.int64(10), out=tmp_path / "run")
    record = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (record["seed"], record["n_envs"], record["eval_every"]) == (3, 2, 10)


def test_an_empty_path_in_the_shell(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = shell(capsys, "train", "dqn", "--env", IDENTITY, "--steps", "10", "--out", "", *FLAGS)
    assert "out must be the path of a folder" in line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((8, 2), np.complex64), np.zeros(8, int), "x holds complex numbers"),
        (np.zeros((8, 2)), np.zeros(8, np.complex64), "y holds complex numbers"),
        (3.0, np.zeros(8, int), "x holds a single value"),
        (np.zeros((8, 2)), 1, "y holds a single value"),
    ],
)
def test_data_that_is_no_array_of_real_numbers(x, y, message):
    with pytest.raises(ValueError, match=message):
        agentlib.train("classifier", data=(x, y), steps=2)


# What does not fit


def test_continuous_actions(capsys, tmp_path):
    message = r"needs a Discrete action space, .*Box\(-2.0, 2.0.*sac"
    with pytest.raises(ValueError, match=message):
        tiny_run(env="Pendulum-v1")
    line = shell(capsys, "train", "dqn", "--env", "Pendulum-v1", "--steps", "10", "--out", str(tmp_path / "run"))
    assert re.search(message, line)


def test_the_pair_that_reset_returns():
    agent, env = tiny_run(env="CartPole-v1", steps=30), gymnasium.make("CartPole-v1")
    for method in (agent.act, agent.predict):
        with pytest.raises(TypeError, match=r"the pair \(observation, info\) that env.reset\(\) returns"):
            method(env.reset())


@pytest.mark.parametrize(
    ("observation", "error", "message"),
    [
        (np.zeros(3, np.float32), ValueError, r"shape \(3,\) does not fit .*give shape \(4,\), or \(n, 4\)"),
        (np.zeros((2, 2, 4), np.float32), ValueError, r"shape \(2, 2, 4\) does not fit"),
        (0.0, ValueError, r"shape \(\) does not fit"),
        (np.zeros(4, np.complex64), TypeError, "dtype complex64 does not fit"),
        (["a", "b", "c", "d"], TypeError, "does not fit"),
        (None, TypeError, "dtype object does not fit"),
        ({"x": 1}, TypeError, "dtype object does not fit"),
        (np.array([0, 0, np.nan, 0], np.float32), ValueError, "contains NaN"),
    ],
)
def test_observations_that_do_not_fit(observation, error, message):
    agent = tiny_run(env="CartPole-v1", steps=30)
    with pytest.raises(error, match=message):
        agent.act(observation)
    with pytest.raises(error, match=message):
        agent.predict(observation)


def test_nested_observations_that_do_not_fit():
    agent = tiny_run(env="Blackjack-v1", steps=30)
    with pytest.raises(TypeError, match="does not have the structure"):
        agent.act((1, 2))
    with pytest.raises((TypeError, ValueError), match="does not"):
        agent.act({"a": 1})


def test_an_agent_of_another_space(capsys, tmp_path):
    agent = tiny_run(env="FrozenLake-v1", steps=30)
    path = str(agent.save(tmp_path / "agent"))
    larger, message = {"map_name": "8x8"}, r"the agent's observation space is Discrete\(16\), .* Discrete\(64\)"
    with pytest.raises(ValueError, match=message):
        tiny_run(env="FrozenLake-v1", env_kwargs=larger, agent=agent)
    with pytest.raises(ValueError, match=message):
        agentlib.evaluate(agent, lambda: gymnasium.make("FrozenLake-v1", map_name="8x8"))
    assert re.search(message, shell(capsys, "evaluate", path, "--env", "FrozenLake-v1", "--env-kwargs", "map_name=8x8"))
    assert "space is" in shell(capsys, "evaluate", path, "--env", "CartPole-v1")


# Files


def damage(path, how):
    content = path.read_bytes()
    if how == "empty":
        path.write_bytes(b"")
    elif how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "random":
        path.write_bytes(os.urandom(1000))
    elif how == "foreign":
        save_file(load_file(path), path)
    elif how == "newer":
        header = 8 + int.from_bytes(content[:8], "little")
        path.write_bytes(content[:header].replace(rb"\"version\": 1", rb"\"version\": 9") + content[header:])
    elif how == "weights":
        description, _ = read(path, "agentlib agent", 1)
        write_tensors(path, {"x": torch.zeros(2)}, description)
    elif how == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("empty", "no agent file, or it is damaged"),
        ("truncated", "no agent file, or it is damaged"),
        ("random", "no agent file, or it is damaged"),
        ("foreign", "does not say that agentlib wrote it"),
        ("newer", "version 9, this agentlib reads up to 1: update agentlib"),
        ("weights", "the weights do not fit"),
        ("bit", "is damaged: its checksum is another one"),
    ],
)
def test_files_that_are_no_agents(how, message, capsys, tmp_path):
    path = tiny_run(steps=30).save(tmp_path / "agent")
    damage(path, how)
    with pytest.raises(ValueError, match=message):
        Agent.load(path)
    assert message in shell(capsys, "evaluate", str(path), "--env", IDENTITY)
    assert message in shell(capsys, "record", str(path), "--env", "CartPole-v1")


def test_files_and_folders_that_are_not_there(capsys, tmp_path):
    for path in (tmp_path / "agent", "", "."):
        with pytest.raises(FileNotFoundError, match="no agent file at"):
            Agent.load(path)
    assert "no agent file at" in shell(capsys, "evaluate", str(tmp_path / "agent"), "--env", IDENTITY)
    with pytest.raises(FileNotFoundError, match="no run in"):
        agentlib.train(resume=tmp_path)
    assert "no run in" in shell(capsys, "train", "--resume", str(tmp_path))
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="is damaged"):
        agentlib.train(resume=tmp_path)


# Trouble in the middle of a run


@pytest.mark.parametrize(
    ("trouble", "error", "message"),
    [
        ("nan", EnvironmentFailure, r"gave the reward \[nan\] at step 150"),
        ("raises", EnvironmentFailure, r"raised at step 150: RuntimeError\('the motor is on fire'\)"),
        ("shape", EnvironmentFailure, r"observation of shape \(4,\) and dtype float32 at step 150"),
        ("ctrl-c", KeyboardInterrupt, ""),
    ],
)
def test_an_environment_in_trouble_loses_nothing(trouble, error, message, capsys, tmp_path, troubled):
    folder = tmp_path / "python"
    with pytest.raises(error, match="(?s)" + message + ".*what was learned so far is in .*python"):
        tiny_run(env=Troubled(TROUBLES[trouble]), out=folder, steps=1000)
    check_that_the_agent_survived(folder, 150)
    folder = tmp_path / "shell"
    arguments = f"train dqn --env {troubled} --env-kwargs trouble={trouble} --steps 1000 --out {folder}".split()
    line = shell(capsys, *arguments, *FLAGS, code=130 if trouble == "ctrl-c" else 1)
    assert re.search(message + ".*what was learned so far is in .*shell", line)
    check_that_the_agent_survived(folder, 150)


def test_a_run_goes_on_after_trouble(tmp_path):
    with pytest.raises(EnvironmentFailure):
        tiny_run(env=Troubled(TROUBLES["raises"]), out=tmp_path / "run", steps=300)
    env = Troubled(TROUBLES["raises"], at=10**6)
    with pytest.warns(UserWarning, match="could not be brought back"):  # what it shows follows from no seed
        agentlib.train(resume=tmp_path / "run", env=env, progress=False, compile=False)
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] in range(300, 304)


@pytest.mark.filterwarnings("ignore:the reward 1e:UserWarning")
def test_a_loss_that_is_nan_keeps_the_last_good_checkpoint(capsys, tmp_path, troubled, monkeypatch):
    monkeypatch.setattr(agentlib.runs.training, "SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    message = r"loss became (inf|nan) by step 1[5-9]\d: .*the last good checkpoint is "
    with pytest.raises(FloatingPointError, match=message) as caught:
        tiny_run(env=Troubled(1e30), out=tmp_path / "python", steps=1000, loss="mse")
    assert str(RunFolder(tmp_path / "python").checkpoints()[-1]) in str(caught.value)
    arguments = f"train dqn --env {troubled} --env-kwargs trouble=huge --steps 1000 --out {tmp_path}/shell".split()
    assert re.search(message, shell(capsys, *arguments, *FLAGS, "--loss", "mse"))
    for folder in ("python", "shell"):
        agent = Agent.load(tmp_path / folder / "agent.safetensors")
        assert all(torch.isfinite(tensor).all() for tensor in agent.policy.state_dict().values())


@pytest.mark.parametrize("name", ["learning_rate", "importance_exponent"])
def test_a_schedule_of_another_library(name):
    def config(schedule: Any) -> DQNConfig:
        settings: Any = {name: schedule}
        return DQNConfig(**settings)

    with pytest.raises(ValueError, match=rf"DQNConfig.{name} is a number, a schedule such as Linear.*TypeError"):
        config(lambda remaining: 1e-3 * remaining)
    with pytest.raises(ValueError, match=rf"DQNConfig.{name} must be .*, not -1.0"):
        config(lambda clock: -1)
    config(lambda clock: 1e-3 * (1.0 - clock.fraction))


@pytest.mark.parametrize("returned", [torch.zeros(()), {"loss": torch.zeros(())}, None])
@pytest.mark.parametrize("compile", [True, False])
def test_an_update_that_returns_something_else(returned, compile):
    learner, source = DQN.tiny()
    learner.update = lambda batch: returned
    with pytest.raises(TypeError, match=r"DQN\.update returned a \w+, and not an Update of its metrics"):
        next(run(learner, source, 2, compile=compile))


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (Update(None), "an Update of a NoneType, and not of a dictionary"),  # type: ignore[arg-type]
        (Update({"loss": 1.0}), "the metric 'loss' as a float, and not as a 0-dim tensor"),  # type: ignore[dict-item]
        (Update({"loss": torch.zeros((), dtype=torch.complex64)}), "the metric 'loss' with complex numbers"),
        (Update({"loss": torch.zeros(3)}), r"the metric 'loss' with the shape \(3,\)"),
        (Update({}, torch.zeros(16, 1)), r"per_sample with the shape \(16, 1\)"),
        (Update({}, [0.0] * 16), "per_sample with a list"),  # type: ignore[arg-type]
        (Update({}, torch.zeros(5)), r"per_sample has the shape \(5,\), but the batch has \d+ samples"),
    ],
)
@pytest.mark.parametrize("compile", [False, "eager"])
def test_an_update_that_holds_something_else(returned, message, compile):
    learner, source = DQN.tiny()
    learner.update = lambda batch: returned
    with pytest.raises((TypeError, ValueError), match=message):
        next(run(learner, source, 2, compile=compile))


@dataclasses.dataclass(frozen=True)
class NoOptimizer(BCConfig):
    def optimizer(self):
        return None


def test_a_config_without_an_optimizer():
    recipe = dataclasses.replace(recipe_of("bc"), name="mine", config=NoOptimizer)
    demos = record_episodes(expert_for("CartPole-v1"), "CartPole-v1", episodes=1)
    with pytest.raises(TypeError, match=r"an optimizer is a rule .*adam.*, not NoneType"):
        agentlib.train(recipe, demos=demos, steps=2)


def test_a_family_that_returns_no_job():
    def nothing(recipe: Any, problem: Any) -> Any:
        return None

    recipe = dataclasses.replace(recipe_of("dqn"), family=family("an environment", needs=("env",))(nothing))
    with pytest.raises(TypeError, match=r"the family of dqn must return a Job.*, not a NoneType"):
        agentlib.train(recipe, env=IDENTITY, steps=2)


@pytest.mark.parametrize("learner", ["classifier", "adversarial"])
def test_labels_that_are_all_the_same(learner):
    data = np.zeros((40, 3)), np.full(40, "yes")
    with pytest.raises(ValueError, match="all examples have the label yes: there is nothing to tell apart"):
        agentlib.train(learner, data=data, steps=2)


@pytest.mark.parametrize("learner", ["bc", "decision_transformer"])
def test_no_demonstrations(learner):
    with pytest.raises(ValueError, match="give demos=, such as"):
        agentlib.train(learner, steps=2)
    with pytest.raises(ValueError, match=r"not tuple; of arrays, Demonstrations.from_arrays makes them"):
        agentlib.train(learner, demos=(np.zeros((3, 2)), np.zeros(3)), steps=2)


def test_a_reset_without_an_info():
    class Old(gymnasium.Env[Any, Any]):
        observation_space, action_space = spaces.Box(-1, 1, (3,)), spaces.Discrete(2)

    class Empty(Old):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return None

    class Long(Old):
        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return np.zeros(3, np.float32)

    for kind in (Empty, Long):
        with pytest.raises(EnvironmentFailure, match=r"reset gave no pair \(observation, info\)"):
            Environments(kind()).reset(seed=0)
    with pytest.raises(EnvironmentFailure, match=r"gave no pair \(observation, info\)"):
        tiny_run(env=Long)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")
def test_a_learning_rate_out_of_bounds():
    with pytest.raises(FloatingPointError, match=r"became (inf|nan) by step \d+: a smaller learning_rate"):
        tiny_run(env="CartPole-v1", learning_rate=1e30, steps=600)


def test_a_callback_that_fails_loses_nothing(tmp_path):
    def callback(clock, metrics):
        if clock.steps >= 100:
            raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine\nwhat was learned so far is in"):
        tiny_run(out=tmp_path / "run", callback=callback)
    check_that_the_agent_survived(tmp_path / "run", 110)


def test_a_callback_stopped_by_ctrl_c(tmp_path):
    def callback(clock, metrics):
        if clock.steps >= 100:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="what was learned so far is in"):
        tiny_run(out=tmp_path / "run", callback=callback)
    check_that_the_agent_survived(tmp_path / "run", 110)


@pytest.mark.slow
def test_ctrl_c_in_the_shell(tmp_path):
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "agentlib", "train", "dqn", "--env", IDENTITY, "--steps", "7_000_000"]
    with subprocess.Popen(
        [*command, "--out", str(folder), *FLAGS, "--train-freq", "1000", "--gradient-steps", "1"],
        stderr=subprocess.PIPE,
        text=True,
        # A test runner in the background may have been started with Ctrl-C ignored, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline and not list(folder.glob("events*")):
                time.sleep(0.05)
            time.sleep(1.0)
            process.send_signal(signal.SIGINT)
            errors = process.communicate(timeout=60)[1]
        finally:
            process.kill()
    assert process.returncode == 130
    assert errors.splitlines()[-1] == (
        f"agentlib: stopped; what was learned so far is in {folder}; to go on: agentlib train --resume {folder}"
    )
    assert "Traceback" not in errors
    Agent.load(folder / "agent.safetensors").act(1)


def test_debug_shows_the_traceback(capsys):
    assert main(["evaluate", "nothing", "--env", IDENTITY, "--debug"]) == 1
    errors = capsys.readouterr().err
    assert "Traceback" in errors
    assert errors.splitlines()[-1].startswith("agentlib: error: no agent file")


@pytest.mark.parametrize(
    ("name", "answer"), [("total_timesteps", "here it is steps"), ("n_env", "n_envs"), ("policy_kwargs", "net_arch")]
)
def test_names_that_other_libraries_have(name, answer):
    with pytest.raises(ValueError, match=answer):
        tiny_run(**{name: 1})


def test_a_checkpoint_is_no_agent(tmp_path):
    tiny_run(out=tmp_path / "run")
    checkpoint = max((tmp_path / "run" / "checkpoints").glob("*.safetensors"))
    with pytest.raises(
        ValueError, match=r"no agent file but a saved state, such as a checkpoint: .*agent\.safetensors"
    ):
        Agent.load(checkpoint)
