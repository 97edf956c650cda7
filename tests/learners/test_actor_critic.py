"""SAC and TD3 beside Stable-Baselines3's, from the same weights, batches and noise; and their parts alone."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

import agentlib
from agentlib.backbones import MLP, adam
from agentlib.core import Clock
from agentlib.experience import Transition
from agentlib.learners import SAC, TD3, SACConfig, TD3Config, run
from agentlib.learners.actor_critic.td3 import smoothed
from agentlib.policies import ActionNoise, Critics, DeterministicPolicy, GaussianPolicy, SampledActor
from agentlib.policies.critics import smallest, without_highest

HIDDEN, B = (16, 16), 32
OBSERVATIONS, ACTIONS = spaces.Box(-8.0, 8.0, (3,)), spaces.Box(-2.0, 2.0, (1,))


class Rows(gymnasium.Env[Any, Any]):
    """Only its spaces are of use."""

    observation_space, action_space = OBSERVATIONS, ACTIONS


def critics(n: int, hidden: tuple[int, ...] = HIDDEN) -> Critics:
    return Critics.for_spaces(OBSERVATIONS, ACTIONS, n, hidden)


def batches(count: int, dtype: torch.dtype) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=dtype)

    return [
        {
            "observation": numbers(B, 3),
            "relative": numbers(B, 1).tanh(),
            "reward": numbers(B),
            "next_observation": numbers(B, 3),
            "terminated": (numbers(B) > 1.0).to(dtype),
        }
        for _ in range(count)
    ]


def copy_into(ours: Any, theirs: list[torch.Tensor]) -> None:
    mine = list(ours)
    assert [p.shape for p in mine] == [p.shape for p in theirs]
    with torch.no_grad():
        for a, b in zip(mine, theirs, strict=True):
            a.copy_(b)


def critic_parameters(of: Critics) -> list[torch.Tensor]:
    return [p for b, h in zip(of.backbones, of.heads, strict=True) for p in (*b.parameters(), *h.parameters())]


def sb3_model(name: str, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Any:
    sb3 = pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.logger import Logger

    kwargs = {"net_arch": list(HIDDEN)}
    model = getattr(sb3, name)("MlpPolicy", Rows(), policy_kwargs=kwargs, seed=0, device="cpu", **settings)
    model.set_logger(Logger(None, []))
    model.policy.to(dtype)
    for network in (model.actor, model.critic):
        network.optimizer = torch.optim.Adam(network.parameters(), lr=settings["learning_rate"])
    monkeypatch.setattr("stable_baselines3.common.policies.preprocess_obs", lambda obs, *_, **__: obs.to(dtype))
    return model


def train_sb3(model: Any, batch: dict[str, torch.Tensor]) -> None:
    from stable_baselines3.common.type_aliases import ReplayBufferSamples

    columns = (batch["observation"], batch["relative"], batch["next_observation"])
    sample = ReplayBufferSamples(*columns, batch["terminated"][:, None], batch["reward"][:, None])
    model.replay_buffer.sample = lambda *_, **__: sample
    model.train(gradient_steps=1, batch_size=B)


def ours_of(batch: dict[str, torch.Tensor]) -> Transition:
    one = torch.ones_like(batch["reward"])
    return Transition(
        batch["observation"], 2.0 * batch["relative"], batch["reward"], batch["next_observation"], batch["terminated"],
        0.99 * one, one, torch.arange(B), Clock(0, 0, 0.0),
    )  # fmt: skip


PRECISIONS = [
    pytest.param(torch.float64, 200, 1e-8, marks=pytest.mark.slow, id="float64"),
    pytest.param(torch.float32, 20, 1e-4, id="float32"),
]
"""Updates in this precision, and how far weights may be apart after them."""


def largest_difference(ours: list[torch.Tensor], theirs: list[torch.Tensor]) -> float:
    return max(float((a - b).detach().abs().max()) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("dtype", "updates", "tolerance"), PRECISIONS)
def test_sac_is_sb3s(dtype: torch.dtype, updates: int, tolerance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.distributions import DiagGaussianDistribution, SquashedDiagGaussianDistribution

    def exact(self: Any, actions: torch.Tensor, u: torch.Tensor) -> torch.Tensor:
        """Theirs adds 1e-6 inside the logarithm, which is wrong at the bounds."""
        slope = 2.0 * (np.log(2.0) - u - functional.softplus(-2.0 * u))
        return DiagGaussianDistribution.log_prob(self, u) - slope.sum(1)

    monkeypatch.setattr(SquashedDiagGaussianDistribution, "log_prob", exact)
    model = sb3_model("SAC", dtype, monkeypatch, learning_rate=1e-3)
    model.log_ent_coef = model.log_ent_coef.detach().to(dtype).requires_grad_()
    model.ent_coef_optimizer = torch.optim.Adam([model.log_ent_coef], lr=1e-3)
    policy = GaussianPolicy(MLP(3, HIDDEN), ACTIONS, squashed=True, state_dependent_std=True)
    copy_into(policy.parameters(), list(model.actor.parameters()))
    both = critics(2)
    copy_into(critic_parameters(both), [p for q in model.critic.q_networks for p in q.parameters()])
    learner = SAC(policy, both, adam(1e-3), SACConfig(learning_rate=1e-3)).to(dtype)
    for number, batch in enumerate(batches(updates, dtype)):
        torch.manual_seed(number)
        train_sb3(model, batch)
        torch.manual_seed(number)
        learner.update(ours_of(batch))
    assert largest_difference(list(policy.parameters()), list(model.actor.parameters())) < tolerance
    theirs = [p for q in model.critic.q_networks for p in q.parameters()]
    assert largest_difference(critic_parameters(learner.critics), theirs) < tolerance
    targets = [p for q in model.critic_target.q_networks for p in q.parameters()]
    assert largest_difference(critic_parameters(learner.target.network), targets) < tolerance
    assert largest_difference([learner.log_ent_coef], [model.log_ent_coef]) < tolerance
    assert float(learner.log_ent_coef.detach().abs()) > 1e-3  # it has moved


def test_tqc_is_sb3_contribs(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own density, which needs no change here: actions stay far from the bounds."""
    contrib = pytest.importorskip("sb3_contrib")
    import stable_baselines3

    monkeypatch.setattr(stable_baselines3, "TQC", contrib.TQC, raising=False)
    model = sb3_model("TQC", torch.float64, monkeypatch, learning_rate=1e-3, ent_coef=0.2)
    model.ent_coef_tensor = model.ent_coef_tensor.double()
    policy = GaussianPolicy(MLP(3, HIDDEN), ACTIONS, squashed=True, state_dependent_std=True)
    copy_into(policy.parameters(), list(model.actor.parameters()))
    both = Critics.for_spaces(OBSERVATIONS, ACTIONS, 2, HIDDEN, n_quantiles=25)
    copy_into(critic_parameters(both), [p for q in model.critic.q_networks for p in q.parameters()])
    config = SACConfig(learning_rate=1e-3, n_quantiles=25, ent_coef=0.2)
    learner = SAC(policy, both, adam(1e-3), config).double()
    for number, batch in enumerate(batches(50, torch.float64)):
        torch.manual_seed(number)
        train_sb3(model, batch)
        torch.manual_seed(number)
        learner.update(ours_of(batch))
    theirs = [p for q in model.critic.q_networks for p in q.parameters()]
    assert largest_difference(critic_parameters(learner.critics), theirs) < 1e-5  # their 1e-6 in the density
    assert largest_difference(list(policy.parameters()), list(model.actor.parameters())) < 1e-5


def test_the_highest_quantiles_are_left_out() -> None:
    quantiles = torch.tensor([[[3.0, 1.0, 9.0]], [[2.0, 8.0, 4.0]]])  # two critics, one sample
    assert without_highest(quantiles, 1).tolist() == [[1.0, 2.0, 3.0, 4.0]]
    assert without_highest(quantiles, 0).tolist() == [[1.0, 2.0, 3.0, 4.0, 8.0, 9.0]]
    with pytest.raises(ValueError, match="top_quantiles_to_drop_per_net must be below n_quantiles"):
        SACConfig(n_quantiles=2, top_quantiles_to_drop_per_net=2)


@pytest.mark.parametrize("name", ["TD3", "DDPG"])
@pytest.mark.parametrize(("dtype", "updates", "tolerance"), PRECISIONS)
def test_td3_and_ddpg_are_sb3s(
    name: str, dtype: torch.dtype, updates: int, tolerance: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = sb3_model(name, dtype, monkeypatch, learning_rate=1e-3)
    numbers: dict[str, Any] = {} if name == "TD3" else {"policy_delay": 1, "target_policy_noise": 0.0}
    policy = DeterministicPolicy(MLP(3, HIDDEN), ACTIONS, squashed=True)
    copy_into(policy.parameters(), list(model.actor.parameters()))
    ensemble = critics(len(model.critic.q_networks))
    copy_into(critic_parameters(ensemble), [p for q in model.critic.q_networks for p in q.parameters()])
    learner = TD3(policy, ensemble, adam(1e-3), TD3Config(learning_rate=1e-3, **numbers)).to(dtype)
    # Theirs draws its noise even where all of it is cut away.
    for number, batch in enumerate(batches(updates, dtype)):
        torch.manual_seed(number)
        train_sb3(model, batch)
        torch.manual_seed(number)
        learner.before_update(Clock(number, number, 0.0))
        learner.update(ours_of(batch))
    assert largest_difference(list(policy.parameters()), list(model.actor.parameters())) < tolerance
    theirs = [p for q in model.critic.q_networks for p in q.parameters()]
    assert largest_difference(critic_parameters(learner.critics), theirs) < tolerance
    targets = [p for q in model.critic_target.q_networks for p in q.parameters()]
    assert largest_difference(critic_parameters(learner.target.network), targets) < tolerance


def test_the_density_of_squashed_actions_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float32, within 1e-6 of the logarithm in float64, up to |u| = 20, where tanh is 1 in float32."""
    policy = GaussianPolicy(MLP(3, HIDDEN), ACTIONS, squashed=True, state_dependent_std=True)
    u = torch.linspace(-20.0, 20.0, 4_001)[:, None]
    noise = torch.linspace(-1.5, 1.5, 4_001)[torch.randperm(4_001)][:, None]  # no density near 1, whose log is 0
    mean = u - torch.tensor(-3.0).exp() * noise
    monkeypatch.setattr(torch, "randn_like", lambda like: noise)
    action, log_prob = policy.relative_sample(torch.cat([mean, torch.full_like(mean, -3.0)], dim=1))
    drawn = (mean + torch.tensor(-3.0).exp() * noise).double()
    slope = 2.0 * (np.log(2.0) - drawn.abs() - torch.log1p(torch.exp(-2.0 * drawn.abs())))
    density = -0.5 * noise.double() ** 2 + 3.0 - 0.5 * np.log(2.0 * np.pi)
    assert torch.allclose(log_prob.double(), (density - slope).squeeze(1), rtol=1e-6, atol=0.0)
    assert action.abs().max() <= 1.0


def test_the_density_does_not_depend_on_the_bounds() -> None:
    wide = GaussianPolicy(MLP(3, HIDDEN), spaces.Box(-200.0, 200.0, (1,)), squashed=True, state_dependent_std=True)
    narrow = GaussianPolicy(MLP(3, HIDDEN), spaces.Box(0.0, 0.1, (1,)), squashed=True, state_dependent_std=True)
    output = torch.randn(8, 2)
    found = []
    for policy in (wide, narrow):
        torch.manual_seed(0)
        found.append(policy.relative_sample(output))
    assert torch.equal(found[0][1], found[1][1])
    assert torch.equal(found[0][0], found[1][0])


def test_the_temperature_rests_where_the_entropy_is_its_target() -> None:
    learner, source = SAC.tiny(0)
    assert isinstance(learner, SAC)
    assert learner.target_entropy == -1.0
    source.advance()
    batch = source.sample()
    before = learner.log_ent_coef.detach().clone()
    learner.target_entropy = 50.0  # more than there is: the entropy's weight must grow
    learner.update(batch)
    assert learner.log_ent_coef > before


def test_a_subset_of_the_critics() -> None:
    values = torch.arange(10.0)[:, None].expand(10, 3)
    torch.manual_seed(0)
    found = torch.stack([smallest(values, 2) for _ in range(4_000)])[:, 0]
    assert torch.equal(smallest(values, None), torch.zeros(3))
    # The smaller one of two different numbers of 0 .. 9 has the mean (10 - 2) / 3.
    assert abs(float(found.mean()) - 8.0 / 3.0) < 0.12


def test_noise_on_targets_stays_within_its_clip() -> None:
    action = torch.zeros(10_000, 1)
    noisy = smoothed(action, 0.2, 0.3)
    assert noisy.abs().max() == pytest.approx(0.3)
    assert noisy.std() == pytest.approx(0.1765, abs=0.005)  # 0.2 sqrt(E min(z^2, 1.5^2))
    assert smoothed(torch.ones(5, 1), 0.2, 0.5).max() <= 1.0
    assert smoothed(action, 0.0, 0.5) is action


def test_the_actor_waits() -> None:
    learner, source = TD3.tiny(0)
    assert isinstance(learner, TD3)
    moved = []
    before = [p.detach().clone() for p in learner.policy.parameters()]
    for _ in run(learner, source, 6, compile="eager"):
        now = [p.detach().clone() for p in learner.policy.parameters()]
        moved.append(any(not torch.equal(a, b) for a, b in zip(before, now, strict=True)))
        before = now
    assert moved == [False, True] * 3


def test_exploration() -> None:
    space = spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
    noise = ActionNoise(space, 500, noise=0.1, random_steps=100, seed=0)
    middle = np.tile(np.array([0.0, 5.0], np.float32), (500, 1))
    first = noise(lambda observation: middle, None, Clock(0, 99, 0.0))
    assert first.dtype == np.float32
    assert first.std(0) == pytest.approx(np.array([2.0, 10.0]) / np.sqrt(12.0), rel=0.1)  # of uniform numbers
    later = noise(lambda observation: middle, None, Clock(0, 100, 0.0))
    assert (later - middle).std(0) == pytest.approx([0.1, 0.5], rel=0.1)
    edge = noise(lambda observation: np.tile(space.high, (500, 1)), None, Clock(0, 100, 0.0))
    assert (edge <= space.high).all()
    assert (edge < space.high).mean() == pytest.approx(0.5, abs=0.1)


def test_sampled_actions_follow_the_policy() -> None:
    policy = GaussianPolicy(MLP(3, HIDDEN), ACTIONS, squashed=True, state_dependent_std=True)
    observation = np.zeros((4_000, 3), np.float32)
    actor = SampledActor(policy, OBSERVATIONS, seed=0)
    state = actor.state()
    found = actor(observation)
    assert found.shape == (4_000, 1)
    output, _ = policy(torch.zeros(1, 3))
    torch.manual_seed(0)
    expected = policy.sample(output.expand(100_000, -1)).detach()
    assert found.mean() == pytest.approx(float(expected.mean()), abs=0.06)
    assert found.std() == pytest.approx(float(expected.std()), rel=0.05)
    assert not np.array_equal(actor(observation), found)
    actor.load_state(state)
    assert np.array_equal(actor(observation), found)


@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("squashed", [True, False])
@pytest.mark.parametrize("state_dependent_std", [True, False])
def test_actions_sampled_by_numpy_are_those_of_the_network(
    rows: int, squashed: bool, state_dependent_std: bool
) -> None:
    policy = GaussianPolicy(MLP(3, HIDDEN), ACTIONS, squashed=squashed, state_dependent_std=state_dependent_std)
    actor, observation = SampledActor(policy, OBSERVATIONS, seed=0), np.eye(7, 3, dtype=np.float32)[:rows]
    assert actor.shortcut is not None
    noise = np.random.default_rng([0, 3]).standard_normal((rows, 1), np.float32)
    mean, log_std = policy.mean_and_log_std(policy(torch.from_numpy(observation))[0])
    u = mean + log_std.exp() * torch.from_numpy(noise)
    expected = (policy.bounds.squash(u) if squashed else u).detach().numpy()
    np.testing.assert_allclose(actor(observation), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("what", ["sac", "tqc", "td3", "ddpg"])
def test_other_actions_are_refused_by_name(what: str) -> None:
    with pytest.raises(ValueError, match=r"needs real-valued actions, and this environment has Discrete.*dqn"):
        agentlib.train(what, env="CartPole-v1", steps=200, progress=False)

    class Unbounded(gymnasium.Env[Any, Any]):
        observation_space, action_space = OBSERVATIONS, spaces.Box(-np.inf, np.inf, (1,))

    with pytest.raises(ValueError, match=r"needs finite bounds.*RescaleAction"):
        agentlib.train(what, env=Unbounded, steps=200, progress=False)


@pytest.mark.parametrize("what", ["sac", "tqc", "td3", "ddpg"])
def test_a_whole_run(what: str, tmp_path: Any) -> None:
    agent: Any = agentlib.train(
        what, env="Pendulum-v1", steps=130, learning_starts=100, net_arch=(16, 16), progress=False, out=tmp_path / "run"
    )
    action = agent.act(np.zeros(3, np.float32))
    assert ACTIONS.contains(action)
    again = agentlib.Agent.load(tmp_path / "run" / "agent.safetensors")
    assert np.array_equal(again.act(np.zeros(3, np.float32)), action)


@pytest.mark.slow
@pytest.mark.parametrize(("what", "steps"), [("sac", 6_000), ("td3", 10_000)])
def test_pendulum_is_learned(what: str, steps: int) -> None:
    """Random play scores -1,230; TD3 needs more steps than SAC to swing up."""
    settings: dict[str, Any] = {"learning_rate": 1e-3, "net_arch": (64, 64), "learning_starts": 1_000}
    agent: Any = agentlib.train(what, env="Pendulum-v1", steps=steps, seed=0, progress=False, **settings)
    assert agentlib.evaluate(agent, "Pendulum-v1", episodes=30).mean > -300.0
