"""The command line as a newcomer uses it: what a run leaves is evaluated, sampled, asked and drawn by its folder."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import agentlib
from agentlib import Agent
from agentlib.backbones import load_backbone
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.data import Dataset, load
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import Demonstrations, record_episodes
from agentlib.runs import options
from agentlib.runs.models import load_model
from agentlib.runs.options import RunOptions
from agentlib.shell import compare, mistakes
from agentlib.shell.main import main
from tests.tiny import FLAGS, IDENTITY, tiny_run

pytestmark = pytest.mark.slow
TAXI = max(env_id for env_id in gymnasium.registry if env_id.startswith("Taxi-v"))
SHORT = ["--env", IDENTITY, "--steps", "60", *FLAGS]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def output(capsys, *arguments, code=0):
    assert main(list(arguments)) == code
    printed = capsys.readouterr()
    return printed.out if code == 0 else printed.err


# Evaluating where an agent was trained


def test_evaluate_knows_the_environment_and_its_arguments(capsys):
    """An agent of three actions cannot act in the environment with its usual four."""
    output(capsys, "train", "dqn", *SHORT, "--env-kwargs", "n=3", "--out", "run")
    agent = Agent.load("run")
    score = agentlib.evaluate(agent, lambda: gymnasium.make(IDENTITY, n=3), episodes=5)
    assert output(capsys, "evaluate", "run", "--episodes", "5") == f"{IDENTITY}, n=3: {score}\n"
    assert output(capsys, "evaluate", "run/agent.safetensors", "--episodes", "5") == f"{IDENTITY}, n=3: {score}\n"
    assert output(capsys, "evaluate", "run", "--env", IDENTITY, "--episodes", "5") == f"{score}\n"
    assert str(agentlib.evaluate(agent, episodes=5)) == str(score)
    warned = pytest.warns(UserWarning, match=r"trained in agentlib/Identity-v0 with {'n': 3}")
    with warned, pytest.raises(ValueError, match="the agent's observation space is"):
        agentlib.evaluate(agent, IDENTITY, episodes=1)


def test_a_lake_that_is_not_slippery_stays_so(capsys):
    flags = ["--env-kwargs", "is_slippery=False", "--steps", "60", "--out", "run", *FLAGS]
    output(capsys, "train", "dqn", "--env", "FrozenLake-v1", *flags)
    assert output(capsys, "evaluate", "run", "--episodes", "2").startswith("FrozenLake-v1, is_slippery=False: mean")
    slippery = ["evaluate", "run", "--env-kwargs", "is_slippery=True", "--episodes", "2"]
    assert output(capsys, *slippery).startswith("FrozenLake-v1, is_slippery=True: mean")


def test_an_instance_tells_its_arguments_too(tmp_path):
    agent = tiny_run(env=gymnasium.make("FrozenLake-v1", is_slippery=False, render_mode="rgb_array"), steps=30)
    assert agent.about["trained_on"] == "FrozenLake-v1"
    assert agent.about["env_kwargs"] == {"map_name": "4x4", "is_slippery": False}
    unknown = tiny_run(env=lambda: gymnasium.make(IDENTITY), steps=30)
    with pytest.raises(ValueError, match=r"does not know the environment that it was trained in: give env=\.\.\."):
        agentlib.evaluate(unknown, episodes=1)


def test_cloned_demonstrations_name_their_environment(capsys):
    record_episodes(cartpole_expert, "CartPole-v1", 2).save("demos")
    flags = ["--steps", "5", "--progress", "none", "--out", "run"]
    text = output(capsys, "train", "bc", "--demos", "demos.safetensors", *flags)
    assert text.endswith("agentlib evaluate run\n")
    assert output(capsys, "evaluate", "run", "--episodes", "1").startswith("CartPole-v1: mean return")


def test_no_module_is_imported_because_a_file_names_it(capsys, tmp_path):
    Path("evil.py").write_text("raise SystemExit('run')")
    agent = tiny_run(steps=30)
    for name, message in (("evil:Nice-v0", "whose code is in another module"), ("digits", "no environment here")):
        agent.about["trained_on"] = name
        agent.save("agent")
        assert f"{name}', {message}" in output(capsys, "evaluate", "agent.safetensors", code=1).replace("which is ", "")
    assert "evil" not in sys.modules


def test_the_best_agent_of_a_run(capsys):
    output(capsys, "train", "dqn", *SHORT, "--eval-every", "20", "--out", "run")
    best = agentlib.evaluate(Agent.load("run/best_agent.safetensors"), episodes=5)
    assert output(capsys, "evaluate", "run", "--best", "--episodes", "5") == f"{IDENTITY}: {best}\n"
    output(capsys, "train", "dqn", *SHORT, "--out", "other")
    assert "`agentlib train ... --eval-every N` keeps one" in output(capsys, "evaluate", "other", "--best", code=2)


def test_random_actions_and_scripted_experts_are_baselines(capsys):
    text = output(capsys, "evaluate", "random", "--env", "CartPole-v1", "--episodes", "50")
    assert 15 < float(text.split()[2]) < 30  # about 22
    text = output(capsys, "evaluate", "scripted", "--env", "CartPole-v1", "--episodes", "2")
    assert text.startswith("mean return 500")
    assert "say where: random --env ID" in output(capsys, "evaluate", "random", code=2)
    output(capsys, "record", "random", "--env", TAXI, "--episodes", "2", "--seed", "1", "--out", "a.safetensors")
    output(capsys, "record", "random", "--env", TAXI, "--episodes", "2", "--seed", "1", "--out", "b.safetensors")
    first, second = Demonstrations.load("a.safetensors"), Demonstrations.load("b.safetensors")
    assert all(np.array_equal(x.actions, y.actions) for x, y in zip(first, second, strict=True))
    legal: Any = gymnasium.make(TAXI).unwrapped
    steps = [
        (int(state), int(action))
        for one in first
        for state, action in zip(one.observations[:-1], one.actions, strict=True)
    ]
    assert all(legal.action_mask(state)[action] for state, action in steps)
    assert {action for _, action in steps} >= {0, 1, 2, 3}  # rarely can a passenger be let in or out


def test_an_episode_is_cut_off_after_max_steps(capsys):
    """Which its environment would end after 500."""
    who = ["scripted", "--env", "CartPole-v1", "--episodes", "2", "--max-steps", "7"]
    assert "mean return 7.00 +/- 0.000" in output(capsys, "evaluate", *who)
    assert "mean return 7\n" in output(capsys, "record", *who, "--out", "short.safetensors")
    assert Demonstrations.load("short.safetensors").lengths.tolist() == [7, 7]
    assert "max_steps must be a whole number from 1, not 0" in output(capsys, "evaluate", *who[:-1], "0", code=1)


def test_a_video_without_a_screen_prints_no_error(capsys):
    pytest.importorskip("pygame")
    pytest.importorskip("PIL")
    environment = {name: value for name, value in os.environ.items() if "DISPLAY" not in name}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    command = [sys.executable, "-m", "agentlib", "record", "random", "--env", "CartPole-v1", "--out", "video.gif"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("video.gif").stat().st_size > 1000


# Models that are no agents


def model_run(capsys, what, *flags):
    output(capsys, "train", what, *flags, "--progress", "none", "--out", what)
    return load_model(what)


@pytest.mark.parametrize(
    ("what", "flags"),
    [
        ("vae", ["--data", "digits", "--steps", "3"]),
        ("gan", ["--data", "digits", "--steps", "3"]),
        ("wgan", ["--data", "8gaussians", "--steps", "2", "--critic-steps", "1"]),
        ("diffusion", ["--data", "8gaussians", "--steps", "2", "--noise-steps", "4", "--sample-steps", "2"]),
    ],
)
def test_samples_of_a_model_file(capsys, what, flags):
    model, about = model_run(capsys, what, *flags)
    assert (about["learner"], about["trained_on"]) == (what, flags[1])
    assert about.get("sample_steps") == (2 if what == "diffusion" else None)
    shape = (1, 8, 8) if flags[1] == "digits" else (2,)
    text = output(capsys, "sample", what, "--n", "6", "--seed", "1", "--out", "samples.npz")
    assert text == f"samples.npz: 6 examples of shape {shape}\n"
    data: Any = load("samples.npz")
    assert data.x.shape == (6, *shape)
    how: dict[str, Any] = {"generator": torch.Generator().manual_seed(1)}
    if what == "gan":
        assert data.y is not None
        assert data.classes == ("0", "1", "3", "5", "6", "8")  # ten labels in turn, over six examples
        how["label"] = torch.arange(6) * 10 // 6
    if what == "diffusion":
        how["steps"] = 2
    with torch.no_grad():
        assert torch.equal(model.sample(6, **how), data.x)
    pytest.importorskip("matplotlib")
    output(capsys, "sample", what)
    assert Path(what, "samples.png").read_bytes()[:4] == b"\x89PNG"


def test_labels_of_samples(capsys):
    model_run(capsys, "gan", "--data", "digits", "--steps", "2")
    output(capsys, "sample", "gan", "--n", "3", "--label", "7", "--out", "sevens.npz")
    with np.load("sevens.npz") as file:
        assert file["y"].tolist() == [7, 7, 7]
    assert "its labels are 0 to 9" in output(capsys, "sample", "gan", "--label", "10", code=2)
    given: Any = {"steps": 2, "noise_steps": 4, "conditional": True, "net_arch": (8,), "progress": False}
    agentlib.train("diffusion", data=Dataset(torch.rand(60, 2), torch.rand(60, 3)), out="numbers", **given)
    for flags in ([], ["--label", "1"]):  # rows of numbers are no labels
        assert "rows of 3 numbers, and no labels" in output(capsys, "sample", "numbers", *flags, code=2)
    model_run(capsys, "vae", "--data", "digits", "--steps", "2")
    assert "leave out --label" in output(capsys, "sample", "vae", "--label", "1", code=2)
    model_run(capsys, "denoising_autoencoder", "--data", "digits", "--steps", "2")
    assert "draws no samples: see agentlib predict" in output(capsys, "sample", "denoising_autoencoder", code=2)


@pytest.mark.parametrize(
    ("what", "uses"),
    [
        ("vae", ["agentlib sample vae", "agentlib predict vae INPUT --out FILE.npz"]),
        ("gan", ["agentlib sample gan"]),
        ("denoising_autoencoder", ["agentlib predict denoising_autoencoder INPUT --out FILE.npz"]),
        ("prototypical", ["agentlib predict prototypical INPUT --out FILE.npz"]),
    ],
)
def test_a_run_on_data_ends_with_the_commands_that_use_its_model(capsys, what, uses):
    few = ["--ways", "2", "--shots", "1"] if what == "prototypical" else []
    arguments = ["--data", "digits", "--steps", "2", *few, "--progress", "none", "--out", what]
    printed = " ".join(output(capsys, "train", what, *arguments).split())
    said = ", or ".join([*uses, "agentlib.runs.models.load_model(path)"])
    assert f"The model is in {what}/model.safetensors: {said}" in printed
    for line in uses:
        words = line.replace("INPUT", "digits").replace("FILE.npz", "made.npz").split()[1:]
        output(capsys, *words, *(["--out", "made.npz"] if "--out" not in words else []))
        assert Path("made.npz").stat().st_size > 0


@pytest.mark.parametrize("what", ["vae", "denoising_autoencoder", "simclr", "byol", "prototypical", "maml"])
def test_each_run_on_data_leaves_its_model(capsys, what):
    few = ["--ways", "2", "--shots", "1"] if what in ("maml", "prototypical") else []
    small = ["--batch-size", "16"] if what in ("simclr", "byol") else []
    model, _ = model_run(capsys, what, "--data", "digits", "--steps", "2", *few, *small)
    trained: Any = agentlib.train(resume=what, progress=False)
    states = model.state_dict(), trained.model.state_dict()
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())
    assert not model.training


def test_predictions_of_a_classifier(capsys):
    image = pytest.importorskip("PIL.Image")
    output(capsys, "train", "classifier", "--data", "digits", "--steps", "60", "--progress", "none", "--out", "run")
    agent, digits = Agent.load("run"), load_digits()
    for number in (0, 5):
        image.fromarray(np.uint8(np.round(digits[number, 0] * 255))).resize((16, 16)).save(f"{number}.png")
    lines = output(capsys, "predict", "run", "digits").splitlines()
    assert len(lines) == len(digits)
    expected = agent.act(digits[:3])
    assert [line.split(": ")[1].split()[0] for line in lines[:3]] == [str(one) for one in expected]
    assert lines[0].endswith(f"({agent.confidence(digits[0]):.3f})")
    assert output(capsys, "predict", "run", "5.png").startswith("5.png: ")
    flat = output(capsys, "predict", "run", ".").splitlines()
    for number in (0, 5):
        Path("classes", f"{number}").mkdir(parents=True)
        Path(f"{number}.png").rename(f"classes/{number}/one.png")
    nested = output(capsys, "predict", "run", "classes").splitlines()
    assert [line.partition(": ")[0] for line in (*flat, *nested)] == ["0.png", "5.png", "0/one.png", "5/one.png"]
    assert [line.partition(": ")[2] for line in flat] == [line.partition(": ")[2] for line in nested]
    np.save("digits.npy", digits[:4])
    assert output(capsys, "predict", "run", "digits.npy", "--out", "answers.npz").splitlines()[:4] == lines[:4]
    with np.load("answers.npz") as file:
        assert file["prediction"].tolist() == agent.act(digits[:4]).tolist()
    np.save("points.npy", np.zeros((3, 2)))
    message = output(capsys, "predict", "run", "points.npy", code=1)
    assert "takes examples of shape (1, 8, 8), and those of points.npy have (2,)" in message


def load_digits():
    from agentlib.data import dataset

    return dataset("digits").x.numpy()


def test_predictions_of_a_table_with_and_without_its_target(capsys):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(80, 3))
    y = x @ [1.0, -2.0, 0.5]
    header = ",".join("abcy")
    np.savetxt("table.csv", np.column_stack([x, y]), delimiter=",", header=header, comments="")
    np.savetxt("inputs.csv", x, delimiter=",", header="a,b,c", comments="")
    output(capsys, "train", "regressor", "--data", "table.csv", "--steps", "30", "--progress", "none", "--out", "run")
    both = [output(capsys, "predict", "run", name) for name in ("table.csv", "inputs.csv")]
    assert both[0] == both[1]
    assert len(both[0].splitlines()) == 80
    expected = Agent.load("run").act(x[0].astype(np.float32))
    assert both[0].splitlines()[0] == f"example 0: {expected}"


def test_reconstructions_and_features(capsys):
    model, _ = model_run(capsys, "vae", "--data", "digits", "--steps", "2")
    digits = torch.from_numpy(load_digits())
    assert "say where to, --out FILE.npz" in output(capsys, "predict", "vae", "digits", code=2)
    output(capsys, "predict", "vae", "digits", "--out", "made.npz")
    output(capsys, "predict", "vae/backbone.safetensors", "digits", "--out", "features.npz")
    with np.load("made.npz") as made, np.load("features.npz") as features, torch.no_grad():
        torch.testing.assert_close(torch.from_numpy(made["prediction"]), model.reconstruct(digits))
        backbone = load_backbone("vae/backbone.safetensors")
        torch.testing.assert_close(torch.from_numpy(features["prediction"]), backbone(digits))
    model_run(capsys, "wgan", "--data", "8gaussians", "--steps", "2", "--critic-steps", "1")
    assert "agentlib sample" in output(capsys, "predict", "wgan", "8gaussians", "--out", "x.npz", code=2)


# Plots, and smaller things


def test_runs_that_differ_in_their_seed_are_one_curve(capsys):
    pytest.importorskip("matplotlib")
    for seed in ("0", "1"):
        output(capsys, "train", "dqn", *SHORT, "--seed", seed, "--eval-every", "20", "--out", f"dqn{seed}")
    output(capsys, "train", "dqn", *SHORT, "--eval-every", "20", "--out", "double", "--double")
    text = output(capsys, "plot", "dqn0", "dqn1", "double", "--out", "all.png")
    assert text == "all.png: eval/mean_reward of 3 runs\n"
    assert Path("all.png").read_bytes()[:4] == b"\x89PNG"
    assert output(capsys, "plot", "dqn0", "--metric", "train/loss").startswith("curves.png: train/loss of 1 run")
    message = output(capsys, "plot", "dqn0", "--metric", "nothing", code=2)
    assert "dqn0 has no metric nothing; with --metric: " in message
    assert "rollout/ep_rew_mean" in message


def test_only_options_that_mean_something_are_shown(capsys):
    text = output(capsys, "train", "dqn", "--help")
    assert not any(flag in text for flag in ("--data", "--demos", "--expert", "--image-size"))
    assert "--agent" in text
    text = output(capsys, "train", "vae", "--help")
    assert "--agent" not in text
    assert "--image-size" in text
    text = " ".join(output(capsys, "compare", "--help").replace("│", " ").split())
    known = [name for name in LEARNERS if recipe_of(name).sb3 is not None]
    assert f"The learner, given first: {', '.join(known)}. " in text
    assert 2 <= len(known) < len(LEARNERS)
    assert "Stable-Baselines3" in text


def test_numbers_and_schedules_as_people_write_them(capsys):
    flags = [*SHORT[:2], *FLAGS, "--steps", "6e1", "--learning-starts", "2e1", "--out", "run"]
    output(capsys, "train", "dqn", *flags, "--learning-rate", "lin_1e-3")
    record = json.loads(Path("run", "config.json").read_text())
    assert (record["steps"], record["config"]["learning_starts"]) == (60, 20)
    assert record["config"]["learning_rate"] == {"schedule": "Linear", "start": 0.001, "end": 0.0, "over": 1.0}
    assert main(["train", "dqn", *SHORT[:2], "--steps", "2.5e-1"]) == 2
    config: Any = agentlib.train  # the same text in Python
    config("dqn", env=IDENTITY, steps=60, learning_rate="lin_1e-3", learning_starts=20, out="python", progress=False)
    python = json.loads(Path("python", "config.json").read_text())["config"]
    assert python["learning_rate"] == record["config"]["learning_rate"]
    from agentlib.core import Cosine
    from agentlib.learners import DQNConfig

    assert DQNConfig(learning_rate="cos_1e-3_1e-4").learning_rate == Cosine(1e-3, 1e-4)
    with pytest.raises(ValueError, match=r"DQNConfig.learning_rate is 'abc', but must be a number or a schedule"):
        DQNConfig(learning_rate="abc")


def test_compile_is_a_switch(capsys):
    output(capsys, "train", "dqn", *SHORT, "--no-compile", "--out", "run")
    assert json.loads(Path("run", "config.json").read_text())["compile"] is False
    assert "exclude each other" in output(capsys, "train", "dqn", *SHORT, "--compile", "--no-compile", code=2)


def test_an_agent_to_start_from(capsys):
    output(capsys, "train", "dqn", *SHORT, "--out", "first")
    output(capsys, "train", "dqn", *SHORT, "--agent", "first", "--out", "second", "--seed", "1")
    assert json.loads(Path("second", "config.json").read_text())["from_agent"] is True
    assert "no agent file at nowhere" in output(capsys, "train", "dqn", *SHORT, "--agent", "nowhere", code=1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "close matches: train"),
        ("train dqm --env CartPole-v1", "close matches: dqn"),
        ("train --env CartPole-v1", "say first what to train"),
        ("evaluate", "required"),
        ("record x --seed many", "many"),
        ("train dqn --env CartPole-v1 --nope 1", "unknown option --nope; agentlib train dqn --help lists them"),
        ("train ppo --learning-rat=1e-3", "unknown option --learning-rat; close matches: --learning-rate"),
        ("train dqn --env CartPole-v1 --steps many", "--steps takes a whole number, not 'many'"),
        ("train --resume run --stpes 5", "close matches: --steps"),
        ("compare sac --env Pendulum-v1 --steps 10 --seedz 3", "close matches: --seed"),
    ],
)
def test_a_mistake_does_not_wait_for_torch(arguments, message):
    code = (
        f"import sys; from agentlib.shell.main import main; main({arguments.split()!r}); print('torch' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "COLUMNS": "200"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert message in done.stdout + done.stderr
    assert done.stdout.endswith("False\n")


def test_no_option_is_called_unknown():
    """The names are read from the text of the package, which may come to be written in another way."""
    for name in LEARNERS:
        assert {field.name for field in dataclasses.fields(recipe_of(name).config)} <= mistakes.option_names(), name
    names = {field.name for field in dataclasses.fields(RunOptions)} | {name for name, *_ in compare.FIELDS}
    names |= {"compile", "verbose", "zoo", "image_size", "resume", "debug", "optimizer"}
    assert names <= mistakes.option_names()
    assert set(mistakes.WHOLE) == set(options.WHOLE)
    assert len(mistakes.option_names()) < 5 * len(LEARNERS) + 150


def test_every_learner_is_listed_where_it_can_be_given(capsys):
    text = output(capsys, "train", code=2)
    assert all(name in text for name in LEARNERS)


def test_the_optimizer_by_name(capsys):
    """On the command line and in one call; the update is that of the rule."""
    data = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32), np.arange(40) % 2
    settings: dict[str, Any] = {"data": data, "steps": 1, "progress": False, "net_arch": (4,)}
    start, adam, sgd = (
        agentlib.train("classifier", **settings, **more).model.state_dict()
        for more in ({"learning_rate": 0.0}, {"learning_rate": 0.1}, {"learning_rate": 0.1, "optimizer": "sgd"})
    )
    steps = [torch.cat([(made[name] - start[name]).flatten() for name in start]).abs() for made in (adam, sgd)]
    assert steps[0][steps[0] > 0].median() == pytest.approx(0.1, rel=1e-2)  # the first step of Adam is the rate
    assert steps[1].max() < 0.09
    output(capsys, "train", "dqn", *SHORT, "--optimizer", "adamw", "--out", "run")
    assert json.loads(Path("run", "config.json").read_text())["config"]["optimizer_name"] == "adamw"
    with pytest.raises(ValueError, match="optimizer_name is 'adamax', but must be 'adam' or 'adamw'"):
        agentlib.train("classifier", **settings, optimizer="adamax")
