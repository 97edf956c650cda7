import ast
import dataclasses
import inspect
import itertools
import json
import os
import re
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.runs.folder import RunFolder
from agentlib.runs.logs import table
from agentlib.shell.flags import keywords
from agentlib.shell.main import _short_warnings, main
from tests.tiny import FLAGS, IDENTITY, tiny_run

pytestmark = pytest.mark.slow
SHORT = ["--env", IDENTITY, "--steps", "60", *FLAGS]


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")


def output(capsys, *arguments, code=0):
    assert main(list(arguments)) == code
    return capsys.readouterr().out


def run_config(folder):
    return json.loads((folder / "config.json").read_text())


def test_train_keeps_an_agent_and_says_how_to_use_it(capsys, tmp_path):
    text = output(capsys, "train", "dqn", *SHORT, "--seed", "3")
    path = "runs/dqn-agentlib-Identity-v0-1/agent.safetensors"
    assert f'agent = Agent.load("{path}")' in text
    assert text.endswith("agentlib evaluate runs/dqn-agentlib-Identity-v0-1\n")
    assert "Mean return" in text
    record = run_config((tmp_path / path).parent)
    assert (record["seed"], record["steps"], record["env"]) == (3, 60, IDENTITY)
    assert Agent.load(path).act(1) in range(4)


def test_each_run_gets_a_folder_of_its_own(capsys, tmp_path):
    for _ in range(2):
        output(capsys, "train", "dqn", *SHORT)
    output(capsys, "train", "dqn", *SHORT, "--out", "mine")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [
        "dqn-agentlib-Identity-v0-1",
        "dqn-agentlib-Identity-v0-2",
    ]
    assert (tmp_path / "mine" / "agent.safetensors").exists()


def test_the_settings_are_printed_by_where_they_come_from(capsys):
    arguments = [
        "train",
        "dqn",
        "--env",
        "CartPole-v1",
        "--steps",
        "10",
        "--learning-starts",
        "5",
        "--progress",
        "none",
    ]
    lines = output(capsys, *arguments, "--net-arch", "8", "4", "--verbose").splitlines()
    assert lines[0] == "dqn on CartPole-v1: 10 steps, seed 0 (the preset for CartPole-v1)"
    assert lines[1] == "  given: net_arch 8 4, learning_starts 5"
    assert lines[2].startswith("  the preset for CartPole-v1: learning_rate 0.0023, ")
    assert "  the defaults: " in "\n".join(lines)
    assert "tau 1.0" in " ".join(lines)
    assert all(len(line) <= 100 for line in lines)
    agent = Agent.load("runs/dqn-CartPole-v1-1/agent.safetensors")
    assert agent.backbone.hidden == (8, 4)
    lines = output(capsys, *arguments, "--net-arch", "8", "4").splitlines()
    given = "10 steps, seed 0, net_arch 8 4, learning_starts 5"
    assert lines[0] == f"dqn on CartPole-v1: {given} (the preset for CartPole-v1; --verbose shows all)"
    assert lines[1] == ""


def test_flags_come_before_the_preset_and_the_rest_of_it_stays(capsys, tmp_path):
    arguments = ["train", "dqn", "--env", "CartPole-v1", "--steps", "10", "--learning-starts", "5", "--out", "run"]
    output(
        capsys, *arguments, "--progress", "none", "--double", "--learning-rate", "lin_1e-3", "--max_grad_norm", "None"
    )
    config = run_config(tmp_path / "run")["config"]
    assert config["learning_rate"] == {"schedule": "Linear", "start": 0.001, "end": 0.0, "over": 1.0}
    assert (config["double"], config["max_grad_norm"], config["train_freq"]) == (True, None, 256)


def test_the_shell_and_python_give_the_same_agent(capsys):
    output(capsys, "train", "dqn", *SHORT, "--seed", "3", "--out", "run")
    python, shell = tiny_run(steps=60, seed=3), Agent.load("run/agent.safetensors")
    assert [python.act(i) for i in range(4)] == [shell.act(i) for i in range(4)]
    for name, tensor in python.policy.state_dict().items():
        assert tensor.equal(shell.policy.state_dict()[name])


def test_other_options_reach_the_run(capsys, tmp_path):
    flags = ["--n-envs", "2", "--backbone", "mlp", "--device", "cpu", "--eval-every", "20", "--env-kwargs", "n=3"]
    output(capsys, "train", "dqn", *SHORT, "--out", "run", *flags)
    record = run_config(tmp_path / "run")
    assert (record["n_envs"], record["backbone"], record["device"], record["eval_every"]) == (2, "mlp", "cpu", 20)
    assert Agent.load("run/best_agent.safetensors").action_space == spaces.Discrete(3)


def test_progress_as_a_table_or_a_bar(capsys):
    flags = [flag for flag in SHORT if flag not in ("--progress", "none")]
    assert "ep_rew_mean" in output(capsys, "train", "dqn", *flags)  # this is no terminal
    main(["train", "dqn", *flags, "--progress", "bar"])
    printed = capsys.readouterr()
    assert "dqn, seed 0: 100%" in printed.err
    assert "ep_len_mean" not in printed.out


def test_a_run_is_resumed(capsys, tmp_path):
    def stop(clock, metrics):
        return clock.steps < 40

    tiny_run(out=tmp_path / "run", callback=stop, steps=80)
    text = output(capsys, "train", "--resume", "run", "--progress", "none")
    assert 'Agent.load("run/agent.safetensors")' in text
    assert json.loads((tmp_path / "run" / "results.json").read_text())["steps"] == 80
    assert main(["train", "dqn", *SHORT, "--out", "run"]) == 1
    assert "holds a run already" in capsys.readouterr().err


def test_what_is_resumed_is_said(capsys):
    output(capsys, "train", "dqn", *SHORT, "--out", "run", "--progress", "none")
    for path in (Path("run", "results.json"), *list(Path("run", "checkpoints").glob("step_*60*"))):
        path.unlink()
    step = int(RunFolder("run").checkpoints()[-1].stem.removeprefix("step_"))
    text = output(capsys, "train", "--resume", "run", "--progress", "none")
    assert text.startswith(f"dqn on {IDENTITY}, in run: going on at step {step} of 60\n")
    text = output(capsys, "train", "--resume", "run", "--progress", "none")
    assert "in run: has finished its 60 steps (--steps N makes it longer, such as 120)\n" in text


@pytest.mark.parametrize(
    ("what", "flags", "line"),
    [
        ("dqn", SHORT, "Mean return "),
        ("classifier", ["--data", "digits", "--steps", "60", "--eval-every", "10"], "test/accuracy"),
    ],
)
def test_a_finished_run_is_shown_and_left_as_it_is(what, flags, line, capsys):
    output(capsys, "train", what, *flags, "--out", "run", "--progress", "none")
    files = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != ".lock"}
    shown = output(capsys, "train", "--resume", "run", "--progress", "none")
    assert "has finished its 60 steps" in shown
    assert line in shown
    assert any(path.suffix == ".png" for path in files)
    assert ("picture: run/" in shown) == (what == "classifier")
    after = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file() and path.name != ".lock"}
    assert after == files


def test_a_run_is_made_longer(capsys):
    output(capsys, "train", "dqn", *SHORT, "--out", "run", "--progress", "none")
    text = output(capsys, "train", "--resume", "run", "--steps", "1e2", "--progress", "none")
    assert text.startswith(f"dqn on {IDENTITY}, in run: going on at step 60 of 100\n")
    assert json.loads(Path("run", "results.json").read_text())["steps"] == run_config(Path("run"))["steps"] == 100
    assert main(["train", "--resume", "run", "--steps", "90"]) == 1
    assert "run has a length of 100 steps: a run can be made longer, not shorter" in capsys.readouterr().err
    assert run_config(Path("run"))["steps"] == 100


def test_messages_are_written_for_the_shell(capsys):
    output(capsys, "train", "dqn", *SHORT, "--out", "run", "--progress", "none")
    main(["train", "dqn", *SHORT, "--out", "run"])
    assert "choose another folder with --out DIR, or go on with --resume run" in capsys.readouterr().err
    main(["compare", "rainbow", "--env", "CartPole-v1", "--steps", "10", "--seeds", "1"])
    assert "--no-strict" in capsys.readouterr().err
    main(["compare", "dqn", "--env", IDENTITY, "--steps", "60", "--out", "run"])
    assert "run holds results already: choose another folder with --out DIR" in capsys.readouterr().err
    main(["train", "trpo", "--env", "CartPole-v1"])
    assert "Agent.from_sb3" in capsys.readouterr().err
    main(["train", "dqn", *SHORT, "--threads", "many"])
    assert "--threads takes a number" in capsys.readouterr().err
    record = run_config(Path("run"))
    assert (record["threads"], record["compile"]) == ("auto", "auto")
    Path("zip.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    main(["evaluate", "zip.zip", "--env", IDENTITY])
    assert "sb3:PATH" in capsys.readouterr().err


def test_warnings_are_notes(capsys, monkeypatch):
    others: list[str] = []
    monkeypatch.setattr(warnings, "showwarning", lambda message, *where: others.append(str(message)))
    before = warnings.showwarning
    with warnings.catch_warnings(), _short_warnings():
        warnings.simplefilter("always")
        warnings.warn_explicit("mind the gap", UserWarning, "/somewhere/agentlib/runs/train.py", 1)
        warnings.warn_explicit("not ours", UserWarning, "/somewhere/else.py", 1)
    error = capsys.readouterr().err
    assert "agentlib: note: mind the gap\n" in error
    assert "not ours" not in error
    assert others == ["not ours"]
    assert warnings.showwarning is before


def test_the_arguments_of_the_environment_are_kept(capsys):
    output(capsys, "train", "dqn", *SHORT, "--env-kwargs", "n=5", "--progress", "none")
    agent = Agent.load(next(Path("runs").glob("*/agent.safetensors")))
    assert agent.about["env_kwargs"] == {"n": 5}


def test_settings_of_the_zoo(capsys, tmp_path):
    (tmp_path / "dqn.yml").write_text(
        f"{IDENTITY}:\n  n_timesteps: !!float 60\n  batch_size: 8\n  learning_starts: 20\n  verbose: 1\n"
        '  policy: MlpPolicy\n  policy_kwargs: "dict(net_arch=[8])"\n  env_kwargs: {n: 3}\n'
    )
    arguments = ["train", "dqn", "--zoo", "dqn.yml", "--env", IDENTITY, "--progress", "none", "--out", "run"]
    text = output(capsys, *arguments, "--batch-size", "4", "--verbose")
    assert "  given: batch_size 4" in text
    assert f"  dqn.yml, section {IDENTITY}: net_arch 8, learning_starts 20" in text
    assert "  note: verbose is left out" in text
    record = run_config(tmp_path / "run")
    assert (record["steps"], record["backbone"], record["env_kwargs"]) == (60, "mlp", {"n": 3})
    assert main(["train", "dqn", "--zoo", "dqn.yml"]) == 2
    assert "--zoo FILE needs --env ID" in capsys.readouterr().err


def test_evaluate(capsys, tmp_path):
    path = str(tiny_run(env_kwargs={"n": 3}).save(tmp_path / "agent"))
    flags = ["--env", IDENTITY, "--env-kwargs", "n=3", "--episodes", "5"]
    text = output(capsys, "evaluate", path, *flags, "--seed", "1")
    score = agentlib.evaluate(Agent.load(path), lambda: gymnasium.make(IDENTITY, n=3), episodes=5, seed=1)
    assert text == f"{score}\n"
    assert "(5 episodes)" in text


def test_record(capsys, tmp_path):
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("pygame")
    path = tiny_run(env="CartPole-v1", steps=30).save(tmp_path / "agent")
    text = output(capsys, "record", str(path), "--env", "CartPole-v1", "--episodes", "2", "--seed", "4")
    score = agentlib.evaluate(Agent.load(path), "CartPole-v1", episodes=2, seed=4)
    steps = score.lengths.sum()
    assert text == f"{tmp_path / 'agent.gif'}: 2 episodes, {steps} steps, mean return {score.mean:.4g}\n"
    with image.open(tmp_path / "agent.gif") as film:
        assert film.size == (600, 400)
        assert film.info["duration"] % 20 == 0
        assert 2 < film.n_frames <= steps + 2  # equal frames are stored once


def test_demonstrations_are_not_overwritten(capsys, tmp_path):
    path, out = str(tiny_run(steps=30).save(tmp_path / "agent")), tmp_path / "demos.safetensors"
    arguments = ["record", path, "--env", IDENTITY, "--episodes", "2", "--out", str(out)]
    output(capsys, *arguments)
    before = out.read_bytes()
    assert main([*arguments, "--seed", "5"]) == 2
    assert "demos.safetensors exists already: choose another name with --out" in capsys.readouterr().err
    assert out.read_bytes() == before


@pytest.mark.filterwarnings("ignore:.*not in the possible render_modes:UserWarning")
def test_what_cannot_be_filmed(capsys, tmp_path, monkeypatch):
    path = str(tiny_run(steps=30).save(tmp_path / "agent"))
    for flags, message in [
        (["--out", "film.avi"], "a video is written as .gif or .mp4, not as 'film.avi'"),
        ([], "the environment does not render pictures"),
    ]:
        assert main(["record", path, "--env", IDENTITY, *flags]) == 1
        assert message in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    assert main(["record", path, "--env", IDENTITY, "--out", "film.mp4"]) == 1
    assert "pip install 'agentlib-rl[video]'" in capsys.readouterr().err


@pytest.mark.slow
def test_compare(capsys, tmp_path):
    pytest.importorskip("stable_baselines3")
    pytest.importorskip("matplotlib")
    flags = [flag for flag in FLAGS if flag not in ("--progress", "none")]
    arguments = ["compare", "dqn", "--env", "CartPole-v1", "--steps", "80", "--seeds", "1", "--episodes", "2"]
    text = output(capsys, *arguments, *flags, "--train-freq", "4", "--gradient-steps", "1", "--threads", "1")
    assert "dqn on CartPole-v1, ours and Stable-Baselines3's: 80 steps, 1 seed, batch_size 16, " in text
    assert "Stable-Baselines3" in text.partition("\n\n")[2]
    results = json.loads((tmp_path / "runs" / "compare-dqn-CartPole-v1-1" / "results.json").read_text())
    assert results["hyperparameters"]["batch_size"] == 16
    assert results["hyperparameters"]["target_update_interval"] == 10  # of the preset
    assert main([*arguments, *flags, "--double"]) == 1
    assert "double" in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == 1


def test_list(capsys):
    everything = output(capsys, "list")
    for name in (*LEARNERS, "nature_cnn", "CartPole-v1", IDENTITY, "ALE/Pong-v5"):
        assert name in everything
    assert output(capsys, "list", "learners").startswith("learners\n  dqn ")
    assert "CartPole" not in output(capsys, "list", "backbones")
    assert "Taxi-v3, Taxi-v4" not in output(capsys, "list", "envs")  # the newest only
    assert main(["list", "nothing"]) == 2
    assert (
        "there is no kind 'nothing' to list; known: learners, presets, backbones, envs, data" in capsys.readouterr().err
    )


def test_what_is_no_learner_gets_a_hint(capsys):
    Path("mine.py").write_text("")
    for what, message in (("TRPO", "becomes an agent by Agent.from_sb3"), ("mine", "such as mine:RECIPE")):
        assert main(["train", what, "--env", "CartPole-v1"]) == 2
        assert message in capsys.readouterr().err
        with pytest.raises(ValueError, match=message):
            agentlib.train(what, env="CartPole-v1")


def test_help_says_where_settings_come_from(capsys):
    text = " ".join(output(capsys, "train", "dqn", "--help").split())
    assert "start from the defaults; with --env ID from the preset for it" in text
    assert "cos_START" in text
    assert "the preset for CartPole-v1." in output(capsys, "train", "dqn", "--env", "CartPole-v1", "--help")


def test_a_run_that_made_no_agent_says_so(capsys):
    output(capsys, "train", "byol", "--data", "digits", "--steps", "2", "--out", "run", "--progress", "none")
    assert main(["evaluate", "run", "--env", "CartPole-v1"]) == 1
    assert "the run made a backbone, run/backbone.safetensors, and no agent" in capsys.readouterr().err


def test_options_of_a_network_that_are_off_are_not_shown(capsys):
    text = output(capsys, "train", "dqn", *SHORT, "--out", "run", "--progress", "none")
    assert "its report is run/report.html" in text
    text = output(capsys, "inspect", "run/agent.safetensors")
    assert "n_actions=" in text
    assert not re.search("dueling|v_min|noise|dropout|null|norm=none", text)


def test_counts_are_printed_whole():
    text = table(
        {"time/total_timesteps": 123_456.0, "train/n_updates": 100_000.0, "train/loss": 0.123456, "a/b": float("nan")}
    )
    assert "123456" in text
    assert "100000" in text
    assert "0.1235" in text
    assert "nan" in text


def test_help_is_complete(capsys):
    overview = output(capsys, "--help")
    for command in ("train", "evaluate", "compare", "sweep", "record", "inspect", "list"):
        assert command in overview
        assert f"usage: agentlib {command}" in output(capsys, command, "--help")
    text = " ".join(output(capsys, "train", "--help").split())
    assert "The learner, given first: dqn, " in text
    assert "agentlib train --resume DIR" in text
    assert "--resume DIR" in text
    flags = "env env-kwargs steps seed backbone device n-envs out zoo eval-every progress debug"
    for flag in flags.split():
        assert f"--{flag}" in text


@pytest.mark.parametrize(
    ("command", "name"), [("train", name) for name in LEARNERS] + [("compare", name) for name in ("dqn", "rainbow")]
)
def test_each_hyperparameter_is_a_flag_with_its_description(command, name, capsys):
    text = " ".join(output(capsys, command, name, "--help").replace("│", " ").split())
    config = recipe_of(name).config
    kinds = [kind for kind in config.__mro__ if dataclasses.is_dataclass(kind)]
    bodies = [ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0].body for kind in kinds]  # type: ignore[attr-defined]
    documented: dict[str, Any] = {
        ast.unparse(line.target): after.value.value
        for body in reversed(bodies)
        for line, after in itertools.pairwise(body)
        if isinstance(line, ast.AnnAssign) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
    }
    fields = dataclasses.fields(config)
    assert set(documented) == {field.name for field in fields}
    for name, sentence in documented.items():
        assert sentence.endswith(".") or "; " in sentence, name
        assert sentence[0].isupper() or sentence[0] in "\"'", name
    for field in fields:
        assert f"--{field.name.replace('_', '-')} " in text or f"--{field.name.replace('_', '-')}," in text
    assert text.count("(default: ") >= len(fields)


def test_help_shows_the_settings_of_the_preset(capsys):
    assert "(default: 0.0023)" in output(capsys, "train", "dqn", "--env", "CartPole-v1", "--help")
    assert "(default: 0.0001)" in output(capsys, "train", "dqn", "--help")


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "trian",
        "train",
        "train --env CartPole-v1",
        "train dqn --env",
        "train dqn --env CartPole-v1 --steps many",
        "train dqn --env CartPole-v1 --steps 5 --progress never",
        "train dqn --env CartPole-v1 --steps 5 --learning-rate exp_3",
        "train dqn --env CartPole-v1 --steps 5 --env-kwargs x",
        "evaluate",
        "compare",
        "compare dqn",
        "sweep",
        "sweep dqn",
        "sweep dqn --env CartPole-v1 --pruner some",
        "record",
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys, tmp_path):
    assert main(arguments.split()) == 2
    printed = capsys.readouterr()
    assert (printed.err or printed.out).strip()
    assert "Traceback" not in printed.err
    assert not (tmp_path / "runs").exists() or not any((tmp_path / "runs").iterdir())


def test_arguments_of_the_environment():
    assert keywords(["a=1", "b=False", "c=8x8", "d=[1, 2]", "e=", "f=x=y"]) == {
        "a": 1,
        "b": False,
        "c": "8x8",
        "d": [1, 2],
        "e": "",
        "f": "x=y",
    }


OWN = """
from dataclasses import dataclass

from agentlib import Recipe
from agentlib.families.examples import on_examples
from agentlib.learners.supervised.classifier import Classifier, ClassifierConfig


@dataclass(frozen=True, kw_only=True)
class MineConfig(ClassifierConfig):
    label_smoothing: float = 0.25
    \"\"\"Share of each label that goes to the others.\"\"\"


class Mine(Classifier):
    pass


RECIPE = Recipe("mine", Mine, MineConfig, on_examples, "a learner of my own", steps=30)
"""


@pytest.mark.slow
def test_a_recipe_of_ones_own_is_a_command(capsys, tmp_path):
    Path("own_learner.py").write_text(OWN)
    text = output(capsys, "train", "own_learner:RECIPE", "--data", "digits", "--help")
    assert "mine: a learner of my own" in text
    assert "Share of each label that goes to the others." in text
    flags = ["--data", "digits", "--progress", "none", "--out", "run"]
    text = output(capsys, "train", "own_learner:RECIPE", *flags, "--label-smoothing", "0.5")
    assert text.startswith(
        "mine on digits: 30 steps, seed 0, label_smoothing 0.5 (the defaults; --verbose shows all)\n"
    )
    assert "test/accuracy" in text
    record = run_config(tmp_path / "run")
    assert (record["what"], record["has_own_recipe"], record["config"]["label_smoothing"]) == ("mine", True, 0.5)
    assert "a learner of my own" in Path("run", "report.html").read_text()
    assert main(["train", "--resume", "run"]) == 1
    assert "the run was of a recipe of your own, 'mine'" in capsys.readouterr().err
    assert "mine on digits, in run: has finished its 30 steps" in output(
        capsys, "train", "own_learner:RECIPE", "--resume", "run"
    )
    for wrong, message in (("own_learner:NONE", "names no Recipe"), ("no_module:RECIPE", "there is no module")):
        assert main(["train", wrong, "--data", "digits"]) == 1
        assert message in capsys.readouterr().err


def test_version(capsys):
    assert output(capsys, "--version") == f"agentlib {agentlib.__version__}\n"


def agentlib_process(*arguments):
    command = [sys.executable, "-m", "agentlib", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


@pytest.mark.slow
def test_as_a_process():
    failed = agentlib_process("evaluate", "nothing", "--env", IDENTITY)
    assert (failed.returncode, failed.stderr) == (1, "agentlib: error: no agent file at nothing\n")


def test_help_and_lists_do_not_wait_for_torch():
    code = """
import sys
from agentlib.shell.main import main

for arguments in (["--help"], ["list", "presets"], ["list", "learners"], ["list", "envs"]):
    main(arguments)
    assert "torch" not in sys.modules, arguments
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL, env=environment).returncode == 0


def test_inspect_tells_what_is_inside(capsys):
    output(capsys, "train", "dqn", *SHORT, "--out", "run", "--seed", "3")
    text = output(capsys, "inspect", "run/agent.safetensors")
    assert text.startswith("run/agent.safetensors: agentlib agent\n")
    for row in (
        "Discrete(n=4, start=0",
        "q(backbone=chain(stages=[one_hot(",
        "learner",
        "dqn",
        f"trained_on  {IDENTITY}",
    ):
        assert row in " ".join(text.split(" ")).replace("         ", "  ").replace("learner           ", "learner")
    assert "head.weight  F32 (4, 16)" in text
    whole = output(capsys, "inspect", "run", "--tensors")
    assert "agentlib state" in whole
    assert text in whole
    short = output(capsys, "inspect", "run").splitlines()
    assert short[0] == "run/agent.safetensors: agentlib agent"
    assert any(line.startswith("run/checkpoints: 2 files, ") for line in short)
    assert len(short) < 20
    assert not any("F32" in line for line in short)


def test_inspect_refuses_other_files(capsys, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"no such thing")
    assert main(["inspect", "x.safetensors"]) == 1
    assert "is no file of agentlib, or it is damaged" in capsys.readouterr().err
    assert main(["inspect", "y.safetensors"]) == 1
    assert "no file y.safetensors" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["recurrent_dqn", "decision_transformer", "vae"])
def test_only_what_sb3_has_is_compared_with_it(capsys, name):
    assert main(["compare", name, "--env", IDENTITY, "--steps", "60"]) == 2
    assert f"has no counterpart of {name}; there is dqn, rainbow" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_who_leaves_stops_the_training(tmp_path):
    """As `agentlib train ... | head -1` does: what was learned is kept, and the exit code says that it was stopped."""
    command = [sys.executable, "-m", "agentlib", "train", "dqn", "--env", IDENTITY, "--steps", "30000"]
    command += [*FLAGS[:-2], "--progress", "table", "--out", str(tmp_path / "run")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        while "rollout/" not in process.stdout.readline():  # in the table, once it trains
            pass
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141
    assert "what was learned so far is in" in said
    assert (tmp_path / "run" / "agent.safetensors").is_file()
