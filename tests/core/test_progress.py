"""Long work beside updates is shown where somebody asked for it, and only there."""

import io
import sys
from typing import Any

import pytest
import torch

import agentlib
import agentlib.core.progress
from agentlib.backbones import CNN
from agentlib.core.progress import showing, watched
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import record_episodes
from agentlib.families.building import predicted
from agentlib.learners import Classifier
from agentlib.learners.robustness.stress import stress_classifier
from agentlib.policies import CategoricalPolicy
from agentlib.shell.main import main
from tests.tiny import tiny_run


@pytest.fixture
def _at_once(monkeypatch):
    monkeypatch.setattr(agentlib.core.progress, "SECONDS_BEFORE", 0.0)
    monkeypatch.setattr(agentlib.core.progress, "SECONDS_BETWEEN", 0.0)


@pytest.mark.usefixtures("_at_once")
def test_a_bar_a_line_or_nothing(capsys):
    assert list(watched(range(3), "work")) == [0, 1, 2]
    with showing(False):
        assert list(watched(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    with showing("table"):
        assert list(watched(range(3), "work")) == [0, 1, 2]
    printed = capsys.readouterr()
    assert printed.out.splitlines() == ["work: 1 of 3, 0 s left", "work: 2 of 3, 0 s left"]
    assert printed.err == ""
    with showing(True):
        assert [(item, list(watched("ab", "inner"))) for item in watched(range(2), "work")] == [
            (0, ["a", "b"]),
            (1, ["a", "b"]),
        ]
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "work" in printed.err
    assert "inner" not in printed.err  # one bar at a time
    assert list(watched(range(3), "work")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_program_without_streams(monkeypatch):
    monkeypatch.setattr(sys, "stderr", None)
    with showing(True):
        assert list(watched(range(3), "work")) == [0, 1, 2]


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize(("progress", "shown"), [("table", True), (False, False)])
def test_sampling_after_training_is_shown(progress, shown, capsys):
    settings: Any = {"batch_size": 32, "noise_steps": 5, "net_arch": (8,), "steps": 2}
    agentlib.train("diffusion", data="8gaussians", progress=progress, **settings)
    assert ("sampling: 1 of 5, " in capsys.readouterr().out) == shown


@pytest.mark.usefixtures("_at_once")
def test_the_shell_shows_a_bar_on_a_terminal(capsys, tmp_path, monkeypatch):
    path = str(tiny_run(steps=30).save(tmp_path / "agent"))
    assert main(["evaluate", path, "--episodes", "3"]) == 0
    assert capsys.readouterr().err == ""

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    assert main(["evaluate", path, "--episodes", "3"]) == 0
    assert "evaluating" in terminal.getvalue()
    play = ["record", "scripted", "--env", "CartPole-v1", "--episodes", "3", "--max-steps", "5", "--out"]
    assert main([*play, str(tmp_path / "shown.safetensors")]) == 0
    assert "recording" in terminal.getvalue()
    terminal.truncate(0)
    assert main([*play, str(tmp_path / "silent.safetensors"), "--progress", "none"]) == 0
    assert main(["evaluate", path, "--episodes", "3", "--progress", "none"]) == 0
    assert terminal.getvalue() == ""


@pytest.mark.usefixtures("_at_once")
@pytest.mark.parametrize("progress", ["table", False])
def test_recording_is_shown(progress, capsys):
    with showing(progress):
        demonstrations = record_episodes(cartpole_expert, "CartPole-v1", 3, max_steps=5)
    assert len(demonstrations) == 3
    assert ("recording: 1 of 3, " in capsys.readouterr().out) == (progress == "table")


@pytest.mark.usefixtures("_at_once")
def test_judging_and_stressing_are_shown(capsys):
    learner, images = Classifier.tiny()[0], torch.rand(3, 1, 8, 8)
    policy = CategoricalPolicy(CNN((1, 8, 8), (2,), feature_dim=4), 2)
    modes: list[tuple[Any, bool]] = [("table", True), (False, False)]
    for mode, shown in modes:
        with showing(mode):
            assert predicted(learner, torch.zeros(500, 2)).shape == (500, 3)
            stress_classifier(policy, images, torch.zeros(3, dtype=torch.int64), severities=[1])
        printed = capsys.readouterr().out
        assert ("judging: 1 of " in printed, "stressing: 1 of 15, " in printed) == (shown, shown)
