"""`train(..., seeds=N)`: several runs as one, each with a folder and an agent of its own."""

from typing import Any

import gymnasium
import pytest
import torch

import agentlib
from agentlib.backbones import MLP
from agentlib.core.source import Diverged
from agentlib.runs.folder import RunFolder
from agentlib.runs.seeds import seeds_of
from tests.tiny import IDENTITY, tiny_run

NAMES = ("seed_0", "seed_1", "seed_2")


def weights(agent):
    return torch.cat([parameter.flatten() for parameter in agent.policy.parameters()])


def test_seeds_are_a_number_or_a_list():
    assert seeds_of(3, None) == [0, 1, 2]
    assert seeds_of(2, 5) == [5, 6]
    assert seeds_of([7, 3], None) == [7, 3]
    wrongs: list[Any] = [0, [], [1, 1], "two", 1.5]
    for wrong in wrongs:
        with pytest.raises(ValueError, match="seeds"):
            seeds_of(wrong, None)


@pytest.mark.slow
def test_each_seed_has_its_run(tmp_path):
    agents = tiny_run(seeds=3, steps=300, out=tmp_path / "runs")
    assert [agent.about["seed"] for agent in agents] == [0, 1, 2]
    for seed, agent in enumerate(agents):
        saved = agentlib.Agent.load(tmp_path / "runs" / f"seed_{seed}" / "agent.safetensors")
        assert torch.equal(weights(agent), weights(saved))
    again = tiny_run(seeds=3, steps=300)
    assert all(torch.equal(weights(one), weights(other)) for one, other in zip(agents, again, strict=True))
    assert not torch.equal(weights(agents[0]), weights(agents[1]))
    longer = agentlib.train(resume=tmp_path / "runs" / "seed_1", steps=400, progress=False)
    assert not torch.equal(weights(longer), weights(agents[1]))


@pytest.mark.slow
def test_rainbow_and_a_classifier_are_trained_so_too():
    assert len(tiny_run("rainbow", seeds=2, steps=120)) == 2
    results = agentlib.train("classifier", data="digits", seeds=2, steps=100, progress=False)
    assert all(result.measures["test/accuracy"] > 0.8 for result in results)


def test_a_seed_that_diverges_is_named_and_the_others_are_saved(tmp_path):
    def spoil(clock, metrics, agent):
        if agent.about["seed"] == 1:
            with torch.no_grad():
                next(agent.policy.parameters()).fill_(float("nan"))

    with pytest.raises(Diverged, match=r"became nan by step \d+") as caught:
        tiny_run(seeds=3, out=tmp_path, callback={"start": spoil})

    folders = [RunFolder(tmp_path / f"seed_{seed}") for seed in range(3)]
    assert caught.value.saved_in == folders[1].path
    assert "seed 1 diverged, which ended all: train without it, or resume the others" in caught.value.__notes__
    assert [len(folder.checkpoints()) > 1 for folder in folders] == [True, False, True]
    assert [f"what was learned so far is in {tmp_path / name}" in caught.value.__notes__ for name in NAMES] == [
        True,
        False,
        True,
    ]
    assert torch.isfinite(weights(agentlib.Agent.load(tmp_path / "seed_2" / "agent.safetensors"))).all()


def test_a_start_is_that_of_the_seed_alone():
    """Weights and environments are those of `train(seed=...)`."""
    stops = {"start": lambda clock, metrics: False}
    together, alone = tiny_run(seeds=[4, 5], callback=stops), tiny_run(seed=5, callback=stops)
    assert torch.equal(weights(together[1]), weights(alone))


def test_what_does_not_fit_is_refused_with_the_reason():
    for what, changes, reason in (
        ("ppo", {"env": "CartPole-v1"}, "ppo cannot be trained for several seeds at once"),
        ("dqn", {"n_envs": 2}, "n_envs does not fit"),
        ("dqn", {"backbone": MLP(4)}, "backbone does not fit"),
        ("dqn", {"env": gymnasium.make("CartPole-v1")}, "env does not fit"),
        ("dqn", {"precision": "bfloat16"}, "precision does not fit"),
        ("regressor", {"env": None, "data": "diabetes", "balance": "surgery"}, "balance does not fit"),
        ("dqn", {"data_parallel": True}, "data_parallel"),
        ("dqn", {"learning_starts": 20, "eval_every": 1_000}, "eval_every must be between 1 and the run's 100 steps"),
        ("dqn", {"learning_starts": 20, "video_every": 50}, "give out="),
        ("classifier", {"env": None, "data": "digits", "video_every": 50, "out": "nowhere"}, "no episodes to film"),
        (None, {"resume": "somewhere"}, "one by one"),
    ):
        given = {"env": IDENTITY} | changes
        with pytest.raises(ValueError, match=reason):
            agentlib.train(what, seeds=2, steps=100, progress=False, **given)
