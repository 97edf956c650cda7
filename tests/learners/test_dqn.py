"""Deep Q-learning: its rules against hand numbers, and its update against Stable-Baselines3's."""

from typing import Any

import numpy as np
import pytest
import torch

from agentlib.backbones import MLP, adam
from agentlib.core import Clock, Source
from agentlib.core.host import global_generators_kept
from agentlib.core.randomness import fresh_weights
from agentlib.experience import Transition
from agentlib.learners import DQN, DQNConfig, run
from agentlib.learners.q_learning.dqn import td_target
from agentlib.policies import QPolicy


def test_the_target_follows_the_formula():
    reward, discount = torch.tensor([1.0, 1.0, 0.5]), torch.tensor([0.9, 0.9, 0.81])
    terminated, value = torch.tensor([0.0, 1.0, 0.0]), torch.tensor([10.0, 10.0, -2.0])

    assert td_target(reward, discount, terminated, value).tolist() == pytest.approx([10.0, 1.0, -1.12])


def test_the_target_goes_along_any_further_axes():
    reward, discount, terminated = torch.randn(3), torch.rand(3), torch.tensor([0.0, 1.0, 0.0])
    for value in (torch.randn(3, 1), torch.randn(3, 5), torch.randn(3, 2, 5)):
        found = td_target(reward, discount, terminated, value)
        for i in range(3):
            expected = reward[i] + discount[i] * (1 - terminated[i]) * value[i]
            torch.testing.assert_close(found[i], expected)


def test_pick_takes_the_value_of_the_action():
    values = torch.tensor([[1.0, 2.0], [3.0, 4.0]])

    assert QPolicy(MLP(4, ()), 2).pick(values, torch.tensor([1, 0])).tolist() == [2.0, 3.0]


def batch_of(size=16, **changes):
    generator = torch.Generator().manual_seed(0)
    observation, next_observation = torch.randn(2, size, 4, generator=generator)
    batch = Transition(
        observation=observation,
        action=torch.randint(0, 2, (size,), generator=generator),
        reward=torch.ones(size),
        next_observation=next_observation,
        terminated=torch.zeros(size),
        discount=torch.full((size,), 0.99),
        weight=torch.ones(size),
        index=torch.arange(size),
        clock=Clock(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)),
    )
    return batch._replace(**changes)


def a_learner(**config):
    with fresh_weights(0):
        policy = QPolicy(MLP(4, hidden=(16,)), n_actions=2)
    learner = DQN(policy, adam(1e-3), DQNConfig(**config))
    with torch.no_grad():  # online and target network must differ for double Q-learning to matter
        for parameter in learner.target.parameters():
            parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return learner


@pytest.mark.parametrize("double", [False, True])
def test_errors_are_those_of_the_equations(double):
    learner, batch = a_learner(double=double), batch_of()
    with torch.no_grad():
        online, target = learner.policy(batch.next_observation)[0], learner.target(batch.next_observation)[0]
        value = learner.policy(batch.observation)[0][torch.arange(16), batch.action]
    best = [max((0, 1), key=lambda a: (online if double else target)[i, a].item()) for i in range(16)]
    expected = [value[i].item() - (1.0 + 0.99 * target[i, best[i]].item()) for i in range(16)]

    errors = learner.update(batch).per_sample

    np.testing.assert_allclose(errors.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("loss", ["huber", "mse"])
def test_the_loss_is_weighted(loss):
    weight = torch.linspace(0.0, 1.0, 16)
    update = a_learner(loss=loss).update(batch_of(weight=weight))
    error = update.per_sample
    each = torch.where(error.abs() < 1, 0.5 * error**2, error.abs() - 0.5) if loss == "huber" else error**2

    assert update.metrics["loss"].item() == pytest.approx((weight * each).mean().item(), rel=1e-5)


def test_a_terminal_step_is_worth_its_reward():
    batch = batch_of(terminated=torch.ones(16))
    learner = a_learner()
    with torch.no_grad():
        value = learner.policy(batch.observation)[0][torch.arange(16), batch.action]

    np.testing.assert_allclose(learner.update(batch).per_sample.numpy(), (value - 1.0).numpy(), atol=1e-6)


def test_no_gradient_reaches_the_target():
    learner = a_learner()
    before = [parameter.clone() for parameter in learner.target.parameters()]
    learner.update(batch_of())

    assert all(torch.equal(a, b) for a, b in zip(before, learner.target.parameters(), strict=True))


@pytest.mark.parametrize(("tau", "steps", "moves"), [(1.0, 25, 1.0), (0.5, 25, 0.75), (0.5, 9, 0.0), (0.5, 10, 0.5)])
def test_the_target_follows_once_per_interval(tau, steps, moves):
    """As many times as intervals went by: 25 steps at an interval of 10 are two."""
    learner = a_learner(tau=tau, target_update_interval=10)
    old, online = learner.target.network.head.weight.clone(), learner.policy.head.weight

    learner.before_update(Clock(0, steps, 0.0))

    expected = old + moves * (online - old)
    torch.testing.assert_close(learner.target.network.head.weight, expected.detach())
    learner.before_update(Clock(1, steps, 0.0))  # no further step, no further move
    torch.testing.assert_close(learner.target.network.head.weight, expected.detach())


class Recorded(Source):
    """The batches that SB3 drew, each with the environment step at which it drew them."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.at = batches, -1

    def advance(self):
        self.at += 1

    @property
    def clock(self):
        return Clock(self.updates, self.batches[self.at][0], 0.0)

    def sample(self):
        data = self.batches[self.at][1]
        size = len(data.rewards)
        return Transition(
            observation=data.observations,
            action=data.actions[:, 0],
            reward=data.rewards[:, 0],
            next_observation=data.next_observations,
            terminated=data.dones[:, 0],
            discount=torch.full((size,), 0.99),
            weight=torch.ones(size),
            index=torch.arange(size),
            clock=self.batch_clock,
        )


@pytest.mark.slow
def test_a_thousand_updates_equal_those_of_stable_baselines3():
    """The same initial weights and the same batches give the same parameters, target network included."""
    sb3 = pytest.importorskip("stable_baselines3")
    settings: dict[str, Any] = {
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 5_000,
        "learning_starts": 100,
        "train_freq": 4,
        "gradient_steps": 1,
        "target_update_interval": 50,
    }
    with global_generators_kept():
        model = sb3.DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [64, 64]}, seed=0, **settings)
        policy = QPolicy(MLP(4, hidden=(64, 64)), n_actions=2)
        theirs = [module for module in model.q_net.modules() if isinstance(module, torch.nn.Linear)]
        ours = [module for module in policy.modules() if isinstance(module, torch.nn.Linear)]
        for our_layer, their_layer in zip(ours, theirs, strict=True):
            our_layer.load_state_dict(their_layer.state_dict())
        batches, draw = [], model.replay_buffer.sample

        def remember(size, env=None):
            batches.append((model.num_timesteps, draw(size, env=env)))
            return batches[-1][1]

        model.replay_buffer.sample = remember
        model.learn(100 + 4 * 1_000)
    assert len(batches) == 1_000
    learner = DQN(policy, adam(settings["learning_rate"]), DQNConfig(**settings))

    for _ in run(learner, Recorded(batches), 1_000, compile=False):
        pass

    for mine, other in zip(learner.policy.parameters(), model.q_net.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)
    for mine, other in zip(learner.target.parameters(), model.q_net_target.parameters(), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-4, rtol=0)
