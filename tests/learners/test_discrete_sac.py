"""Discrete SAC: its update beside plain PyTorch, a problem of one step with a known answer, masks, and CartPole."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib.backbones import adam
from agentlib.backbones.choice import backbone_for
from agentlib.core import Clock
from agentlib.experience import Transition
from agentlib.families.control import ControlFacts
from agentlib.learners import DiscreteSAC, DiscreteSACConfig
from tests.moody import Moody

SEEN, CHOICES, B = spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4), 32


def built(**settings: Any) -> DiscreteSAC:
    torch.manual_seed(0)
    config = DiscreteSACConfig(net_arch=(16,), learning_rate=1e-3, **settings)
    return DiscreteSAC.build(backbone_for(SEEN, "auto", (16,)), config, ControlFacts(SEEN, CHOICES))


def batch_of(generator: torch.Generator, **more: Any) -> Transition:
    seen, after = (torch.randn(B, 3, generator=generator).double() for _ in range(2))
    reward, one = torch.randn(B, generator=generator).double(), torch.ones(B).double()
    done, ended = torch.randint(4, (B,), generator=generator), (reward > 1.0).double()
    return Transition(seen, done, reward, after, ended, 0.99 * one, one, torch.arange(B), Clock(0, 0, 0.0), **more)


def test_an_update_is_that_of_the_paper() -> None:
    learner = built().double()
    policy, critics = copy.deepcopy(learner.policy), copy.deepcopy(learner.critics.networks)
    targets, log_alpha = copy.deepcopy(critics), torch.zeros(1, dtype=torch.float64, requires_grad=True)
    adams = [torch.optim.Adam(p, lr=1e-3) for p in (policy.parameters(), critics.parameters(), [log_alpha])]
    generator = torch.Generator().manual_seed(3)
    for _ in range(20):
        batch = batch_of(generator)
        learner.update(batch)
        alpha, choices = log_alpha.detach().exp(), torch.distributions.Categorical(logits=policy(batch.observation)[0])
        entropy_gap = choices.entropy() - 0.98 * math.log(4)
        with torch.no_grad():
            following = torch.distributions.Categorical(logits=policy(batch.next_observation)[0])
            smallest = torch.stack([target(batch.next_observation)[0] for target in targets]).min(0).values
            value = (following.probs * smallest).sum(1) + alpha * following.entropy()
            y = batch.reward + 0.99 * (1.0 - batch.terminated) * value
        chosen = [critic(batch.observation)[0][torch.arange(B), batch.action] for critic in critics]
        losses = [(log_alpha * entropy_gap.detach()).mean(), 0.5 * sum(((q - y) ** 2).mean() for q in chosen)]
        for optimizer, loss in zip((adams[2], adams[1]), losses, strict=True):
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        values = torch.stack([critic(batch.observation)[0] for critic in critics]).min(0).values.detach()
        adams[0].zero_grad()
        (-(choices.probs * values).sum(1) - alpha * choices.entropy()).mean().backward()
        adams[0].step()
        for mine, theirs in zip(targets.parameters(), critics.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.005)
    ours = [*learner.policy.parameters(), *learner.critics.parameters(), learner.log_ent_coef]
    for one, other in zip(ours, [*policy.parameters(), *critics.parameters(), log_alpha], strict=True):
        assert torch.allclose(one, other, atol=1e-9)
    assert float(learner.log_ent_coef.detach().abs()) > 1e-3


@pytest.mark.slow
def test_one_step_has_the_policy_that_it_must() -> None:
    """With rewards r(a) and no future, pi(a) is proportional to exp(r(a) / alpha)."""
    learner = built(ent_coef=0.5, tau=1.0).double()
    generator, rewards = torch.Generator().manual_seed(0), torch.tensor([0.0, 0.5, 1.0, -1.0]).double()
    for step in learner.children():
        if hasattr(step, "rule") and step.rule is not None:
            step.rule = adam(1e-2)
    for _ in range(600):
        batch = batch_of(generator)
        learner.update(batch._replace(reward=rewards[batch.action], terminated=torch.ones(B).double()))
    chances = learner.policy(torch.zeros(1, 3).double())[0].softmax(1)[0]
    assert chances.tolist() == pytest.approx((rewards / 0.5).softmax(0).tolist(), abs=0.03)


def test_illegal_actions_have_no_part() -> None:
    learner, generator = built().double(), torch.Generator().manual_seed(0)
    mask = torch.ones(B, 4, dtype=torch.bool)
    mask[:, 3] = False
    batch = batch_of(generator, mask=mask, next_mask=mask)
    pi, _ = learner.chances(batch.observation, mask)
    assert (pi[:, 3] == 0.0).all()
    assert torch.allclose(pi[:, :3], learner.policy(batch.observation)[0][:, :3].softmax(1))
    update = learner.update(batch._replace(action=batch.action % 3))
    assert all(torch.isfinite(value) for value in update.metrics.values())
    assert float(update.metrics["entropy"]) <= math.log(3)
    settings: Any = {"learning_starts": 50, "net_arch": (16,), "batch_size": 16, "progress": False}
    agentlib.train("discrete_sac", env=partial(Moody, (5,)), steps=120, **settings)


@pytest.mark.parametrize("legal", [2, 3, 4])
def test_the_entropy_that_is_aimed_at_is_that_of_legal_actions(legal: int) -> None:
    """A policy that is nearly uniform has more of it than is aimed at, so its weight falls, whatever is legal."""
    learner, generator = built().double(), torch.Generator().manual_seed(0)
    with torch.no_grad():
        learner.policy.head.weight.zero_()
        learner.policy.head.bias.zero_()
    mask = torch.arange(4).expand(B, -1) < legal
    batch = batch_of(generator, mask=mask, next_mask=mask)
    update = learner.update(batch._replace(action=batch.action % legal))
    assert float(update.metrics["entropy"]) == pytest.approx(math.log(legal))
    assert float(learner.log_ent_coef.detach()) < 0.0  # 0 at the start
    fixed = built(target_entropy=2.0).double()
    fixed.update(batch._replace(action=batch.action % legal))
    assert float(fixed.log_ent_coef.detach()) > 0.0


def test_other_actions_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match=r"discrete_sac needs a Discrete action space.*sac, td3, ppo"):
        agentlib.train("discrete_sac", env="Pendulum-v1", steps=200, progress=False)
    with pytest.raises(ValueError, match=r"sac needs real-valued actions.*dqn, ppo, discrete_sac"):
        agentlib.train("sac", env="CartPole-v1", steps=200, progress=False)


@pytest.mark.slow
def test_cartpole_is_learned() -> None:
    """Random play scores 22."""
    settings: Any = {"learning_rate": 1e-3, "net_arch": (64, 64), "learning_starts": 500, "target_entropy": 0.2}
    agent: Any = agentlib.train("discrete_sac", env="CartPole-v1", steps=10_000, seed=0, progress=False, **settings)
    assert agentlib.evaluate(agent, "CartPole-v1", episodes=30).mean > 200.0
    assert agent.act(np.zeros(4, np.float32)) in (0, 1)


def test_its_agent_has_a_critic() -> None:
    settings: Any = {"learning_starts": 50, "net_arch": (16,), "batch_size": 16, "progress": False}
    agent: Any = agentlib.train("discrete_sac", env="CartPole-v1", steps=80, **settings)
    seen = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    learner = agent.training[2]
    with torch.no_grad():
        values = learner.critics(torch.from_numpy(seen)).amin(0).numpy()
    assert agent.critic(seen) == pytest.approx(values[np.arange(5), agent.act(seen)])


@pytest.mark.parametrize("in_observation", [False, True])
def test_its_critic_values_the_legal_action_that_is_taken(in_observation: bool) -> None:
    settings: Any = {"learning_starts": 50, "net_arch": (16,), "batch_size": 16, "progress": False}
    agent: Any = agentlib.train("discrete_sac", env=partial(Moody, (5,), in_observation), steps=80, **settings)
    position = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    mask = np.eye(5, dtype=np.int8)  # one legal action each, so that there is no other choice
    seen: Any = {"action_mask": mask, "position": position} if in_observation else position
    masks: Any = {} if in_observation else {"action_mask": mask}
    assert agent.act(seen, **masks).tolist() == [0, 1, 2, 3, 4]
    tensors: Any = torch.from_numpy(position)
    with torch.no_grad():
        values = agent.training[2].critics({"position": tensors} if in_observation else tensors).amin(0)
    assert agent.critic(seen, **masks) == pytest.approx(values.diagonal().numpy())
    first = {"action_mask": mask[2], "position": position[2]} if in_observation else position[2]
    assert agent.critic(first, **({} if in_observation else {"action_mask": mask[2]})) == pytest.approx(values[2, 2])
    if not in_observation:
        with pytest.raises(ValueError, match="leaves no legal action"):
            agent.critic(position[0], action_mask=np.zeros(5))
