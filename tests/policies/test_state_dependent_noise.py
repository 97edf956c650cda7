"""gSDE: distribution and noise against Stable-Baselines3's, when noise is drawn, agents without it, bad input.

p(a | s) = N(mean(s), sum_j x_j(s)^2 sigma_ij^2)                                     (Raffin et al. 2022)
"""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib.backbones import MLP
from agentlib.core import Source
from agentlib.core.host import global_generators_kept
from agentlib.core.randomness import fresh_weights
from agentlib.core.trees import copied, difference
from agentlib.learners import PPO, SAC, PPOConfig, SACConfig, run
from agentlib.learners.actor_critic.ppo import RECIPE as PPO_RECIPE
from agentlib.learners.actor_critic.sac import RECIPE as SAC_RECIPE
from agentlib.policies import StateDependentNoiseActor, StateDependentNoisePolicy
from agentlib.testing import check_learner

WIDTH, SIZE, COUNT = 5, 2, 7
BOX = spaces.Box(-1, 1, (SIZE,))
VECTOR = spaces.Box(-np.inf, np.inf, (WIDTH,))


def policy_of(squashed: bool = False) -> StateDependentNoisePolicy:
    with fresh_weights(0):
        return StateDependentNoisePolicy(MLP(WIDTH, ()), BOX, squashed, log_std=-0.5)


@pytest.mark.parametrize("squashed", [False, True])
def test_distribution_and_noise_are_those_of_stable_baselines3(squashed):
    """Log probabilities, their gradients, entropy, and actions of the same matrices."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.distributions import StateDependentNoiseDistribution

    policy = policy_of(squashed)
    with global_generators_kept():
        torch.manual_seed(0)
        theirs = StateDependentNoiseDistribution(SIZE, squash_output=squashed, learn_features=squashed)
        net, log_std = theirs.proba_distribution_net(WIDTH, -0.5)
        net.load_state_dict(policy.head.state_dict())
        assert policy.log_std is not None
        assert torch.equal(log_std, policy.log_std)
        log_std = torch.nn.Parameter(log_std + torch.randn(WIDTH, SIZE))
        policy.log_std.data.copy_(log_std)
        features = [torch.randn(COUNT, WIDTH).requires_grad_(True) for _ in range(2)]
        features[1].data.copy_(features[0])
        theirs.sample_weights(log_std, COUNT)
        mean = net(features[1])
        mean = mean.clamp(-2.0, 2.0) if squashed else mean  # as SB3's SAC
        expected = theirs.actions_from_params(mean, log_std, features[1])
    output = policy.output_of(features[0])
    action = policy.sample_with(features[0], theirs.exploration_matrices)
    torch.testing.assert_close(action, expected)
    tolerance: Any = {"atol": 2e-4, "rtol": 1e-4} if squashed else {}  # SB3 adds 1e-6 to the slope of tanh
    action = expected.detach()
    log_prob, expected = policy.log_prob(output, action), theirs.log_prob(action)
    torch.testing.assert_close(log_prob, expected, **tolerance)
    parameters: Any = [policy.log_std, policy.head.weight, features[0]]
    ours = torch.autograd.grad(log_prob.sum(), parameters)
    others: Any = [log_std, net.weight, features[1]]
    slopes = torch.autograd.grad(expected.sum(), others)
    for one, other in zip(ours, slopes, strict=True):
        bound = 1e-3 if squashed else 1e-6
        torch.testing.assert_close(one, other, atol=bound, rtol=10 * bound)
    if not squashed:
        torch.testing.assert_close(policy.entropy(output), theirs.entropy())
        torch.testing.assert_close(policy.choose(output), theirs.mode().clamp(-1.0, 1.0))


def test_drawn_actions_have_the_deviation_of_the_noise():
    policy = policy_of()
    output = policy.output_of(torch.tensor([[1.0, -2.0, 0.0, 3.0, 0.5]]).expand(40_000, -1))
    deviation = (output[0, :SIZE] - policy.sample(output, torch.Generator().manual_seed(0))).std(0)
    expected = np.exp(-0.5) * np.sqrt(1.0 + 4.0 + 9.0 + 0.25)
    np.testing.assert_allclose(deviation.detach().numpy(), expected, rtol=0.02)


@pytest.mark.parametrize(("freq", "drawn"), [(-1, {0, 6, 12}), (4, {0, 4, 6, 10, 12}), (1, set(range(14)))])
def test_matrices_are_drawn_as_by_stable_baselines3(freq, drawn):
    """At the start of each rollout, and every so often within it; each environment has its own; resumed bit for bit."""
    policy = policy_of()
    actor = StateDependentNoiseActor(policy, VECTOR, 2, 6, freq, 0)
    observation = np.ones((2, WIDTH), np.float32)
    before, found, again = torch.zeros(0), set(), actor
    for step in range(14):
        if step == 8:
            again = StateDependentNoiseActor(policy, VECTOR, 2, 6, freq, 1)
            again.load_state(actor.state())
        action = actor(observation)
        if step >= 8:
            assert np.array_equal(again(observation), action)
        if difference(actor.theta, before) is not None:
            found.add(step)
        before = actor.theta
        assert not np.array_equal(action[0], action[1])
    assert found == drawn


class NoisyPPO(PPO):
    """PPO with gSDE."""

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Any, Source]:
        config = PPOConfig(n_steps=32, batch_size=16, n_epochs=4, net_arch=(8, 8), use_sde=True, sde_sample_freq=4)
        return PPO_RECIPE.tiny(cls, config, seed, env="Pendulum-v1", n_envs=2)


class NoisySAC(SAC):
    """SAC with gSDE."""

    @classmethod
    def tiny(cls, seed: int = 0) -> tuple[Any, Source]:
        config = SACConfig(
            buffer_size=500, batch_size=16, net_arch=(16, 16), learning_rate=3e-3, learning_starts=64, use_sde=True,
            train_freq=4, gradient_steps=4,
        )  # fmt: skip
        return SAC_RECIPE.tiny(cls, config, seed, env="Pendulum-v1")


@pytest.mark.slow
@pytest.mark.parametrize("learner", [NoisyPPO, NoisySAC])
def test_it_keeps_the_contract(learner):
    """Resumed bit for bit in the middle of a rollout, too."""
    check_learner(learner)


@pytest.mark.parametrize("what", ["ppo", "sac"])
def test_agents_act_without_the_noise(what, tmp_path):
    settings: dict[str, Any] = {"ppo": {"n_steps": 32, "n_envs": 2}, "sac": {"learning_starts": 40}}[what]
    agent: Any = agentlib.train(
        what, env="Pendulum-v1", steps=64, batch_size=16, net_arch=(8,), use_sde=True, progress=False, **settings
    )
    again = agentlib.Agent.load(agent.save(tmp_path / "agent"))
    observation = np.array([[0.5, 0.5, 1.0]] * 3, np.float32)
    best = agent.act(observation)
    for one in (agent, again):
        assert isinstance(one.policy, StateDependentNoisePolicy)
        assert np.array_equal(one.act(observation), best)
        assert np.array_equal(one.predict(observation, deterministic=True)[0], best)
        drawn = one.predict(observation)[0]
        assert not np.array_equal(drawn, best)
        assert one.action_space.contains(drawn[0])
    agent.export(tmp_path / "agent.pt2")  # which compares the actions


def test_bad_input():
    with pytest.raises(ValueError, match="use_sde explores with real-valued actions, not in Discrete"):
        agentlib.train("ppo", env="CartPole-v1", steps=64, use_sde=True)


def test_with_memory_the_noise_is_of_its_features():
    """Deviations from the mean are of one matrix as long as it stays; a run goes on bit for bit."""

    class Remembering(PPO):
        """PPO with gSDE and a GRU."""

        @classmethod
        def tiny(cls, seed: int = 0) -> tuple[Any, Source]:
            config = PPOConfig(n_steps=16, batch_size=16, n_epochs=2, net_arch=(4,), use_sde=True, sde_sample_freq=8)
            return PPO_RECIPE.tiny(cls, config, seed, env="Pendulum-v1", n_envs=2, backbone="gru")

    learner, source = Remembering.tiny(0)
    source.advance()
    batch: Any = source.sample()
    assert batch.weight.gt(0).all()
    features = learner.networks.read(batch.observation, batch.state, batch.episode_start)[0][0]  # (16, 4)
    mean, _ = learner.policy.mean_and_log_std(learner.policy.output_of(features))
    noise = (batch.action[:16] - mean).detach()
    for half in (slice(0, 8), slice(8, 16)):
        theta = torch.linalg.lstsq(features[half].detach(), noise[half]).solution
        torch.testing.assert_close(features[half] @ theta, noise[half], atol=1e-3, rtol=1e-3)
    states = []
    for updates in (3, 0):
        again = Remembering.tiny(updates)
        if updates:
            list(run(*again, updates, compile="eager"))
            saved = copied([dict(part.state_dict()) for part in again])
        else:
            for part, state in zip(again, saved, strict=True):
                part.load_state_dict(state)
        list(run(*again, 4, compile="eager"))
        states.append(copied([dict(part.state_dict()) for part in again]))
    assert difference(*states) is None
