"""Models on the Hub: what is there, what the card says, and that they come back as they were."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP, load_backbone, save_backbone
from agentlib.policies import QPolicy
from agentlib.runs.hub import card, downloaded, push_file
from agentlib.shell.main import main

huggingface_hub = pytest.importorskip("huggingface_hub")
SPACES = spaces.Box(-5, 5, (4,)), spaces.Discrete(2)
DOUBLE = Path(__file__).with_name("hub_double.py")


@pytest.fixture
def agent() -> Agent:
    about = {"learner": "dqn", "trained_on": "CartPole-v1"}
    world = gymnasium.make("CartPole-v1")
    return Agent(QPolicy(MLP(4, (8,)), 2), world.observation_space, world.action_space, about=about)


@pytest.fixture
def hub(tmp_path, monkeypatch) -> Path:
    """A folder in place of the Hub's two calls and of its downloads."""

    class Api:
        def __init__(self, **_: str) -> None:
            pass

        def create_repo(self, repo_id: str, private: bool, exist_ok: bool) -> None:
            assert exist_ok
            (tmp_path / repo_id).mkdir(parents=True, exist_ok=True)
            (tmp_path / "private").write_text(str(private))

        def upload_folder(self, repo_id: str, folder_path: Path, commit_message: str) -> str:
            shutil.copytree(folder_path, tmp_path / repo_id, dirs_exist_ok=True)
            return f"https://hub/{repo_id}"

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        path = tmp_path / repo_id / filename
        if not path.is_file() or revision is not None:
            raise OSError(f"404 for\n {path.name}")
        return str(path)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    return tmp_path


def test_an_agent_comes_back_as_it_was(agent, hub):
    assert agent.push_to_hub("me/dqn", episodes=2, film=False) == "https://hub/me/dqn"
    assert sorted(path.name for path in (hub / "me/dqn").iterdir()) == [
        "README.md",
        "agent.safetensors",
        "config.json",
        "results.json",
    ]
    again = Agent.from_hub("me/dqn")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    assert (agent.act(x) == again.act(x)).all()
    assert again.about == agent.about
    assert (hub / "private").read_text() == "False"


def test_the_card_says_what_was_played(agent, hub):
    found = agentlib.evaluate(agent, episodes=3)
    agent.push_to_hub("me/dqn", episodes=3, film=False, private=True)
    data = huggingface_hub.ModelCard((hub / "me/dqn/README.md").read_text()).data
    (result,) = data.eval_results
    assert (result.metric_type, result.metric_value) == ("mean_reward", round(found.mean, 4))
    assert (result.task_type, result.dataset_name, result.verified) == ("reinforcement-learning", "CartPole-v1", False)
    assert {"reinforcement-learning", "CartPole-v1", "dqn", "agentlib"} <= set(data.tags)
    assert data.library_name == "agentlib"
    results = json.loads((hub / "me/dqn/results.json").read_text())
    assert (results["mean_reward"], results["n_eval_episodes"]) == (found.mean, 3)
    assert (hub / "private").read_text() == "True"


def test_a_card_without_an_evaluation_has_no_result():
    text = card("backbone", "me/features", {"learner": "simclr"}, "", None)
    data = huggingface_hub.ModelCard(text).data
    assert data.eval_results is None
    assert data.pipeline_tag is None
    assert 'downloaded("me/features", "backbone.safetensors")' in text


def test_a_backbone_comes_back_by_the_lines_of_its_card(hub, tmp_path):
    path = save_backbone(MLP(3, (5,)), tmp_path / "features")
    push_file(path, "me/features")
    again = load_backbone(downloaded("me/features", "backbone.safetensors"))
    assert again.spec == {"name": "mlp", "arguments": MLP(3, (5,)).spec["arguments"]}


def test_the_shell_pushes_agents_and_backbones(agent, hub, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    save_backbone(MLP(3, (5,)), run / "backbone")
    assert main(["push", str(run), "me/both"]) == 0
    agent.save(run / "agent")
    assert main(["push", str(run), "me/both", "--episodes", "1", "--no-film"]) == 0
    assert capsys.readouterr().out.split() == ["https://hub/me/both"] * 2
    assert main(["push", str(run / "agent.safetensors"), "me/both", "--best"]) == 2
    assert "there is no best_agent.safetensors" in capsys.readouterr().err
    assert {"agent.safetensors", "backbone.safetensors"} <= {path.name for path in (hub / "me/both").iterdir()}


@pytest.mark.parametrize("name", ["dqn", "me/", "/dqn", "me/dqn/1"])
def test_a_name_without_an_owner_is_refused_before_anything_is_played(agent, hub, name):
    with pytest.raises(ValueError, match="owner/name"):
        agent.push_to_hub(name)


def test_an_agent_of_no_environment_says_how_it_is_pushed(hub):
    agent = Agent(QPolicy(MLP(4, (8,)), 2), *SPACES)
    with pytest.raises(ValueError, match="episodes=0, film=False"):
        agent.push_to_hub("me/none")
    agent.push_to_hub("me/none", episodes=0, film=False)
    assert not (hub / "me/none/results.json").exists()


def test_what_the_hub_refuses_is_one_line(hub):
    with pytest.raises(RuntimeError, match=r"^agent.safetensors of 'me/none': OSError: 404 for agent.safetensors$"):
        Agent.from_hub("me/none")


def test_a_network_that_is_not_there_is_one_line(agent, hub, monkeypatch):
    class Broken(Exception):
        """As the client's own, which is no OSError."""

    def create_repo(*_, **__):
        raise Broken("no route\n to host")

    monkeypatch.setattr(huggingface_hub.HfApi, "create_repo", create_repo)
    with pytest.raises(RuntimeError, match=r"^nothing was published at 'me/dqn': Broken: no route to host$"):
        agent.push_to_hub("me/dqn", episodes=0, film=False)


def test_what_a_function_makes_is_not_called_as_the_environment_of_the_training(agent, hub):
    agent.push_to_hub("me/dqn", env=lambda: gymnasium.make("CartPole-v1", max_episode_steps=3), episodes=2)
    assert not (hub / "me/dqn/replay.mp4").exists()
    text = (hub / "me/dqn/README.md").read_text()
    assert "In an environment of its author's it reaches, with its best actions, a mean return 3.00 " in text
    data = huggingface_hub.ModelCard(text).data
    assert (data.eval_results, data.pipeline_tag) == (None, "reinforcement-learning")
    assert "CartPole-v1" not in data.tags
    assert json.loads((hub / "me/dqn/results.json").read_text())["env"] == ""


def test_a_classifier_is_no_reinforcement_learning(hub):
    agent = Agent(QPolicy(MLP(4, (8,)), 2), *SPACES, about={"learner": "classifier", "trained_on": "digits"})
    agent.push_to_hub("me/digits", episodes=0, film=False)
    data = huggingface_hub.ModelCard((hub / "me/digits/README.md").read_text()).data
    assert data.pipeline_tag is None


def test_files_that_are_none_of_ours(hub, tmp_path):
    (tmp_path / "x.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="no file of agentlib"):
        push_file(tmp_path / "x.safetensors", "me/x")
    with pytest.raises(FileNotFoundError, match="no file at"):
        push_file(tmp_path / "y.safetensors", "me/x")


def test_without_the_client_the_extra_is_named(agent, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"agentlib-rl\[hub\]"):
        agent.push_to_hub("me/dqn")


@pytest.mark.slow
def test_the_real_client_with_a_hub_on_this_machine(agent, tmp_path):
    """Push in one process, pull in another by the revision of the push, with the real client and its real cache."""
    agent.save(tmp_path / "agent")
    push = "import sys; from agentlib import Agent; print(Agent.load(sys.argv[1]).push_to_hub('me/dqn', episodes=1))"
    pull = (
        "import sys, numpy; from agentlib import Agent; agent = Agent.from_hub('me/dqn', revision=sys.argv[1]); "
        "x = numpy.random.default_rng(0).normal(size=(64, 4)).astype('f'); print(*agent.act(x))"
    )
    command = [sys.executable, str(DOUBLE), str(tmp_path / "hub")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        there = {"HF_ENDPOINT": server.stdout.readline().strip(), "HF_HOME": str(tmp_path / "home")}
        environ = os.environ | there | {"HF_TOKEN": "hf_right", "SDL_VIDEODRIVER": "dummy", "HF_HUB_OFFLINE": "0"}

        def run(code: str, *arguments: str, **others: str) -> "subprocess.CompletedProcess[str]":
            command = [sys.executable, "-c", code, *arguments]
            return subprocess.run(command, env=environ | others, capture_output=True, text=True, timeout=120)

        pushed = run(push, str(tmp_path / "agent.safetensors"))
        assert pushed.returncode == 0, pushed.stderr
        revision = pushed.stdout.strip().rpartition("/")[2]
        assert len(revision) == 40
        names = {path.name for path in (tmp_path / "hub/me/dqn/main").iterdir()}
        assert names == {"README.md", "agent.safetensors", "config.json", "results.json", "replay.mp4"}
        x = np.random.default_rng(0).normal(size=(64, 4)).astype("f")
        pulled = run(pull, revision)
        assert pulled.stdout.split() == [str(action) for action in agent.act(x)], pulled.stderr
        assert (tmp_path / "home/hub/models--me--dqn/snapshots" / revision / "agent.safetensors").exists()
        refused = run(push, str(tmp_path / "agent.safetensors"), HF_TOKEN="hf_wrong")
        assert "nothing was published at 'me/dqn'" in refused.stderr
        server.kill()
