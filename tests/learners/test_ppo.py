"""PPO and A2C: the rules against closed forms, and whole updates against Stable-Baselines3's and sb3-contrib's."""

from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib.backbones import MLP
from agentlib.core import Clock, Source
from agentlib.core.host import global_generators_kept
from agentlib.core.randomness import fresh_weights
from agentlib.experience.transition import Minibatch
from agentlib.learners import PPO, A2CConfig, PPOConfig, run
from agentlib.learners.actor_critic.ppo import clipped_loss, normalized
from agentlib.policies import (
    ActorCritic,
    CategoricalPolicy,
    MultiCategoricalPolicy,
    StateDependentNoisePolicy,
    policy_for,
)
from tests.moody import Moody


def test_the_loss_is_clipped_where_that_makes_it_larger():
    ratio, advantage = torch.tensor([0.5, 1.5, 0.5, 1.5, 1.1]), torch.tensor([1.0, 1.0, -1.0, -1.0, 2.0])
    assert clipped_loss(ratio, advantage, 0.2).tolist() == pytest.approx([-0.5, -1.2, 0.8, 1.5, -2.2])


def test_at_ratio_1_the_gradient_is_the_policy_gradient():
    log_prob = torch.randn(8, dtype=torch.float64, requires_grad=True)
    advantage = torch.randn(8, dtype=torch.float64)
    loss = clipped_loss((log_prob - log_prob.detach()).exp(), advantage, 0.2).sum()
    (slope,) = torch.autograd.grad(loss, log_prob)
    torch.testing.assert_close(slope, -advantage)


@pytest.mark.parametrize("count", [1, 2, 5, 8])
def test_advantages_are_normalized_over_those_that_count(count):
    advantage = torch.randn(8, dtype=torch.float64)
    weight = torch.zeros(8, dtype=torch.float64)
    weight[:count] = 1 / count
    real = advantage[:count]
    expected = real if count == 1 else (real - real.mean()) / (real.std() + 1e-8)
    torch.testing.assert_close(normalized(advantage, weight)[:count], expected)


class Masked(Moody):
    """With its mask as sb3-contrib asks for it."""

    def action_masks(self):
        return self.mask


CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "plain": ("PPO", "CartPole-v1", {}),
    "value clip, entropy, ragged": (
        "PPO",
        "CartPole-v1",
        {"clip_range_vf": 0.1, "ent_coef": 0.01, "batch_size": 48, "normalize_advantage": True},
    ),
    "continuous": ("PPO", "Pendulum-v1", {"ent_coef": 0.01, "max_grad_norm": 0.3}),
    "gsde": ("PPO", "Pendulum-v1", {"use_sde": True, "sde_sample_freq": 4, "ent_coef": 0.01}),
    "a2c": ("A2C", "CartPole-v1", {"ent_coef": 0.01}),
    "masked": ("MaskablePPO", partial(Masked, (5,)), {"ent_coef": 0.01}),
    "masked, several choices": ("MaskablePPO", partial(Masked, (3, 4)), {"ent_coef": 0.01, "clip_range_vf": 0.1}),
}


class Recorded(Source):
    """The minibatches that SB3 learned from, filled up to one size."""

    def __init__(self, batches, size, dtype, learner):
        super().__init__()
        self.batches, self.size, self.dtype, self.at = batches, size, dtype, -1
        self.learner = (learner,)

    def advance(self):
        self.at += 1

    def sample(self):
        data = self.batches[self.at]
        count = len(data.advantages)
        rows = torch.arange(self.size) % count
        weight = (torch.arange(self.size) < count).to(self.dtype) / count
        action = data.actions[rows]
        names = ("old_log_prob", "old_values", "advantages", "returns")
        old, value, advantage, returns = (getattr(data, name)[rows].to(self.dtype) for name in names)
        action = action.to(self.dtype) if data.is_real else action.long().reshape(self.size, *data.shape)
        observation = data.observations[rows].to(self.dtype)
        (learner,) = self.learner
        if isinstance(learner.config, A2CConfig):  # SB3 does not look at the old ones, which it keeps in float32
            with torch.no_grad():
                old = learner.policy.log_prob(learner.networks(observation)[0], action)
        mask = data.action_masks[rows] > 0.5 if hasattr(data, "action_masks") else None
        return Minibatch(observation, action, old, value, advantage, returns, weight, self.batch_clock, mask=mask)


class Flat(torch.nn.Module):
    """Observations as they are, in another dtype than SB3 makes them."""

    def __init__(self, dtype):
        super().__init__()
        self.dtype = dtype

    def forward(self, observation):
        return observation.flatten(1).to(self.dtype)


def recorded(algorithm: str, env: Any, settings: dict[str, Any], updates: int, dtype: torch.dtype) -> Any:
    """A model of SB3 after this many updates, its first weights, and the minibatches."""
    sb3 = pytest.importorskip("sb3_contrib" if algorithm == "MaskablePPO" else "stable_baselines3")
    usual: dict[str, Any] = {"n_steps": 64, "batch_size": 32, "n_epochs": 4, "learning_rate": 1e-3}
    if algorithm == "A2C":
        usual = {"n_steps": 16}
    batches: list[Any] = []
    with global_generators_kept():
        model: Any = getattr(sb3, algorithm)(
            "MlpPolicy", env() if callable(env) else env, seed=0, device="cpu", **usual | settings
        )
        first = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
        get = model.rollout_buffer.get
        model.policy.to(dtype)
        for name in ("features_extractor", "pi_features_extractor", "vf_features_extractor"):
            setattr(model.policy, name, Flat(dtype))

        def remember(batch_size=None):
            for data in get(batch_size):
                space = model.action_space
                kind = {"is_real": isinstance(space, spaces.Box), "shape": space.shape}
                batches.append(SimpleNamespace(**kind, **data._asdict()))
                yield data._replace(**{name: value.to(dtype) for name, value in data._asdict().items()})

        model.rollout_buffer.get = remember
        while len(batches) < updates:
            model.learn(model.n_steps, reset_num_timesteps=False)
    assert len(batches) == updates
    return model, first, batches


def ours_of(model: Any, first: dict[str, Any], config: PPOConfig, dtype: torch.dtype) -> PPO:
    space = model.action_space
    with fresh_weights(0):
        backbone = MLP(model.observation_space.shape[0], (64, 64), "tanh")
        networks = ActorCritic(policy_for(space, backbone, use_sde=config.use_sde))
    copies = {f"policy.backbone.layers.{i}": f"mlp_extractor.policy_net.{i}" for i in (0, 2)}
    copies |= {f"critic.layers.{i}": f"mlp_extractor.value_net.{i}" for i in (0, 2)}
    copies |= {"policy.head": "action_net", "head": "value_net"}
    state = {f"{a}.{part}": first[f"{b}.{part}"] for a, b in copies.items() for part in ("weight", "bias")}
    if "log_std" in first:
        state["policy.log_std"] = first["log_std"]
    networks.load_state_dict(state, strict=True)
    networks.to(dtype)
    learner = PPO(networks, config.optimizer(), config)
    learner.theirs = lambda: {
        name: dict(model.policy.state_dict())[b + name.removeprefix(a)]
        for a, b in [*copies.items(), ("policy.log_std", "log_std")]
        for name in state
        if name.startswith(a + ".") or name == a
    }
    return learner


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size:UserWarning")
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("dtype", "updates", "tolerance"), [(torch.float64, 200, 1e-8), (torch.float32, 20, 1e-4)])
def test_updates_equal_those_of_stable_baselines3(case, dtype, updates, tolerance):
    """From SB3's weights and its minibatches, the same parameters."""
    algorithm, env, settings = CASES[case]
    per_rollout = 1 if algorithm == "A2C" else 8
    if case == "value clip, entropy, ragged":
        settings = {**settings, "batch_size": 48, "n_steps": 64}  # 48 and 16
    updates = -(-updates // per_rollout) * per_rollout
    model, first, batches = recorded(algorithm, env, settings, updates, dtype)
    config: PPOConfig = A2CConfig(**settings) if algorithm == "A2C" else PPOConfig(learning_rate=1e-3, **settings)
    learner = ours_of(model, first, config, dtype)
    before = {name: tensor.clone() for name, tensor in learner.networks.state_dict().items()}
    size = max(len(data.advantages) for data in batches)
    for _ in run(learner, Recorded(batches, size, dtype, learner), updates, compile=False):
        pass
    now = dict(learner.networks.state_dict())
    theirs = learner.theirs()
    assert len(theirs) >= 12
    for name, value in theirs.items():
        torch.testing.assert_close(now[name], value, atol=tolerance, rtol=0, msg=name)
        assert not torch.equal(value, before[name])


@pytest.mark.parametrize("sizes", [(5,), (3, 4)])
def test_masked_distributions_are_sb3_contribs(sizes):
    pytest.importorskip("sb3_contrib")
    from sb3_contrib.common.maskable.distributions import make_masked_proba_distribution

    space = spaces.Discrete(sizes[0]) if len(sizes) == 1 else spaces.MultiDiscrete(sizes)
    policy: Any = CategoricalPolicy(MLP(2, ()), 5) if len(sizes) == 1 else MultiCategoricalPolicy(MLP(2, ()), sizes)
    logits = torch.randn(64, sum(sizes), dtype=torch.float64)
    mask = torch.rand(64, sum(sizes)) < 0.5
    mask[:, [0, -1]] = True  # one of each choice
    theirs = make_masked_proba_distribution(space)
    theirs.proba_distribution(logits)
    theirs.apply_masking(mask)
    action, output = theirs.get_actions(), policy.masked(logits, mask)
    torch.testing.assert_close(policy.log_prob(output, action), theirs.log_prob(action), atol=1e-12, rtol=0)
    torch.testing.assert_close(policy.entropy(output), theirs.entropy(), atol=1e-12, rtol=0)
    assert torch.equal(policy.choose(logits, mask), theirs.mode())


def test_the_ratio_is_1_in_the_first_minibatch_of_a_rollout():
    learner, source = PPO.tiny(seed=0)
    per_rollout = source.updates_for(64)
    metrics = [update.metrics for _, update in run(learner, source, 3 * per_rollout, compile="eager")]
    for number, metric in enumerate(metrics):
        if number % per_rollout == 0:
            assert metric["clip_fraction"] == 0.0
            assert abs(metric["approx_kl"]) < 1e-6
    assert max(float(metric["approx_kl"]) for metric in metrics) > 1e-5


def test_weights_start_as_those_of_stable_baselines3():
    """Orthogonal, times sqrt 2 inside, 0.01 for actions and 1 for values, without biases."""
    learner, _ = PPO.tiny(seed=0)
    networks = learner.networks
    gains = {"policy.backbone.layers.0": 2.0, "critic.layers.2": 2.0, "policy.head": 1e-4, "head": 1.0}
    for name, gain in gains.items():
        layer: Any = networks.get_submodule(name)
        weight = layer.weight if layer.weight.shape[0] <= layer.weight.shape[1] else layer.weight.T
        torch.testing.assert_close(weight @ weight.T, gain * torch.eye(len(weight)), atol=1e-5, rtol=1e-4)
        assert not layer.bias.any()


def test_an_agent_that_acts_by_values_cannot_go_on(tmp_path):
    agent: Any = agentlib.train(
        "dqn", env="CartPole-v1", steps=60, learning_starts=20, net_arch=(8,), progress=False, compile=False
    )
    with pytest.raises(ValueError, match="ppo goes on from an agent with a distribution of actions, not QPolicy"):
        agentlib.train("ppo", env="CartPole-v1", steps=60, agent=agent, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "steps", "least"), [("ppo", 50_000, 400), ("a2c", 200_000, 200)])
def test_it_learns_cartpole(what, steps, least):
    agent: Any = agentlib.train(what, env="CartPole-v1", steps=steps, seed=0, progress=False)
    assert agentlib.evaluate(agent, "CartPole-v1", episodes=30).mean >= least


@pytest.mark.slow
def test_it_learns_pendulum_with_noise_that_depends_on_the_state():
    """By the RL Zoo's settings, whose own agent has -172."""
    agent: Any = agentlib.train("ppo", env="Pendulum-v1", steps=100_000, seed=0, progress=False)
    assert isinstance(agent.policy, StateDependentNoisePolicy)
    assert agentlib.evaluate(agent, "Pendulum-v1", episodes=100).mean >= -250


def test_the_clock_stands_still_while_a_rollout_is_learned_from():
    learner, source = PPO.tiny(seed=0)
    clocks: list[Clock] = [clock for clock, _ in run(learner, source, 20, compile="eager")]
    assert [clock.steps for clock in clocks] == [64] * 16 + [128] * 4
    assert np.isclose(clocks[0].fraction, 64 / 100_000)
