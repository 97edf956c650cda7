"""The decision transformer: its loss, and that what is asked for is what is done."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

import agentlib
from agentlib.agent import Agent
from agentlib.backbones import MLP, adamw, sgd
from agentlib.experience import Demonstration, Demonstrations
from agentlib.learners import DecisionTransformer, DecisionTransformerConfig, run
from agentlib.policies import CategoricalPolicy

OBSERVATIONS = spaces.Box(-1, 1, (2,), np.float32)


def skilled(action_space: spaces.Space, episodes: int = 60) -> Demonstrations:
    """Of six steps, as many are right as the episode's return says; right is the sign of the first number."""
    data = Demonstrations(OBSERVATIONS, action_space)
    generator = np.random.default_rng(0)
    for episode in range(episodes):
        seen = generator.uniform(-1, 1, (7, 2)).astype(np.float32)
        right = (seen[:6, 0] > 0).astype(np.int64)
        is_right = generator.permutation(np.arange(6) < (6 if episode % 2 else 0))
        done = np.where(is_right, right, 1 - right)
        actions = done if isinstance(action_space, spaces.Discrete) else (2.0 * done - 1)[:, None].astype(np.float32)
        data.append(Demonstration(seen, actions, is_right.astype(float)))
    return data


def test_loss_is_the_mean_cross_entropy_of_what_is_not_padding():
    learner, source = DecisionTransformer.tiny()
    learner.step.rule = sgd(0.0)
    batch = source.sample()
    output, _ = learner.policy(batch.observation, None, batch.episode_start)
    real = batch.weight.bool()
    expected = functional.cross_entropy(output[real], batch.action[real])
    torch.testing.assert_close(learner.update(batch).metrics["loss"], expected.detach())
    assert 0 < real.float().mean() < 1


def test_learns_what_the_return_says():
    """The lower bound: with the wanted return known, the action is, so the likelihood goes to 1."""
    learner, source = DecisionTransformer.tiny()
    losses = [update.metrics["loss"].item() for _, update in run(learner, source, 300, compile=False)]
    assert losses[0] == pytest.approx(np.log(2), abs=0.25)
    assert np.mean(losses[-20:]) < 0.6 * np.log(2)


@pytest.mark.slow
@pytest.mark.parametrize("action_space", [spaces.Discrete(2), spaces.Box(-1, 1, (1,))], ids=str)
def test_does_as_well_as_it_is_asked_to(action_space):
    data = skilled(action_space)
    config = DecisionTransformerConfig(
        learning_rate=3e-3, context_length=3, embed_dim=32, n_layers=2, n_heads=2, dropout=0.0, max_grad_norm=1.0
    )
    agent = agentlib.train(config, demos=data, steps=400, progress=False, compile=False)
    assert isinstance(agent, Agent)
    backbone: Any = agent.backbone
    assert (backbone.target_return, backbone.return_scale, backbone.expected_reward) == (6.0, 6.0, 0.5)
    generator = np.random.default_rng(1)
    shares = []
    for wanted in (6.0, 0.0):
        backbone.target_return = wanted
        right = []
        for _ in range(20):
            agent.reset()
            for _ in range(6):
                observation = generator.uniform(-1, 1, 2).astype(np.float32)
                action = agent.act(observation)
                positive = bool(action > 0)
                right.append(positive == (observation[0] > 0))
                agent.rewarded(float(right[-1]))
        shares.append(np.mean(right))
    assert shares[0] > 0.9
    assert shares[1] < 0.1


def test_the_recipe_saves_loads_goes_on_and_refuses(tmp_path):
    data = skilled(spaces.Discrete(2), 8)
    options: dict[str, Any] = {"context_length": 2, "embed_dim": 8, "n_layers": 1, "progress": False, "compile": False}
    agent = agentlib.train(
        "decision_transformer", demos=data, steps=5, target_return=4, out=tmp_path / "run", **options
    )
    assert isinstance(agent, Agent)
    loaded = Agent.load(tmp_path / "run")
    observation = np.array([0.3, -0.2], np.float32)
    assert loaded.act(observation) == agent.act(observation)
    assert loaded.backbone.spec["arguments"]["target_return"] == 4.0  # type: ignore[index]
    further = agentlib.train("decision_transformer", demos=data, steps=5, agent=loaded, **options)
    assert isinstance(further, Agent)
    with pytest.raises(ValueError, match="choose a backbone without memory"):
        agentlib.train("decision_transformer", demos=data, steps=5, backbone="lstm", **options)
    with pytest.raises(ValueError, match="over a ReturnConditioned backbone"):
        DecisionTransformer(CategoricalPolicy(MLP(2), 2), adamw(1e-3))
    with pytest.raises(ValueError, match=r"DecisionTransformerConfig.dropout must be between 0 and 1"):
        DecisionTransformerConfig(dropout=2.0)
