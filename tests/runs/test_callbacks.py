"""What callbacks are given, what stops a run, and the curves that it keeps."""

import json
from typing import Any

import numpy as np
import pytest

import agentlib
from agentlib import Agent
from agentlib.runs.folder import RunFolder
from tests.tiny import tiny_run


@pytest.mark.parametrize("answer", [False, np.False_, np.bool_(False), 0, np.array(False)])
def test_any_false_value_stops(answer):
    seen: list[int] = []

    def stop(clock, metrics):
        seen.append(int(clock.steps))
        return answer

    tiny_run(callback=stop)
    assert len(seen) == 1


@pytest.mark.parametrize("answer", [None, True, np.True_, 1])
def test_none_and_true_values_do_not(answer):
    seen: list[int] = []

    def go_on(clock, metrics):
        seen.append(int(clock.steps))
        return answer

    tiny_run(callback=go_on)
    assert seen[-1] >= 195


def test_a_callback_with_an_agent_gets_it():
    seen: list[Any] = []

    def look(clock, metrics, agent):
        seen.append((agent, agent.act(1)))

    agent = tiny_run(callback=look)
    assert {id(one) for one, _ in seen} == {id(agent)}
    assert all(action in range(4) for _, action in seen)
    models: list[Any] = []
    result: Any = agentlib.train(
        "vae", data="digits", steps=3, progress=False, callback=lambda clock, metrics, agent: models.append(agent)
    )
    assert {id(one) for one in models} == {id(result.model)}


def test_a_run_with_evaluations_leaves_their_curve(tmp_path):
    def stop(clock, metrics):
        return clock.steps < 100

    tiny_run(out=tmp_path / "run", eval_every=50, steps=300, callback=stop)
    agentlib.train(resume=tmp_path / "run", progress=False, compile=False)
    assert (tmp_path / "run" / "learning_curve.png").is_file()
    run = RunFolder(tmp_path / "run")
    from agentlib.runs.checkpoints import load_state

    steps, values = load_state(run.checkpoints()[-1], run.segments)["extra"]["progress"]["curves"]["eval/mean_reward"]
    assert steps == sorted(set(steps))
    assert [round(step / 50) for step in steps] == [1, 2, 3, 4, 5, 6]  # those before the stop, too
    assert "learning_curve.png" in json.loads((tmp_path / "run" / "results.json").read_text())["pictures"]
    assert len(values) == 6
    assert isinstance(Agent.load(tmp_path / "run"), Agent)


def test_the_curve_of_a_resumed_classifier_is_whole(tmp_path):
    settings: dict[str, Any] = {"data": "digits", "net_arch": (8,), "progress": False}
    agentlib.train("classifier", steps=60, eval_every=10, out=tmp_path / "run", **settings)
    agentlib.train(resume=tmp_path / "run", steps=120, progress=False)
    from agentlib.runs.checkpoints import load_state

    run = RunFolder(tmp_path / "run")
    curves = load_state(run.checkpoints()[-1], run.segments)["extra"]["progress"]["curves"]
    assert curves["training"][0] == curves["validation"][0] == list(range(10, 121, 10))
