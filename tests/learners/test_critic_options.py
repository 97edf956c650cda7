"""DroQ and CrossQ beside plain PyTorch, from the same weights, batches and noise; and their parts in closed form."""

from __future__ import annotations

import copy
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn
from torch.distributions import Normal, TanhTransform

import agentlib
from agentlib.backbones import RunningNorm, adam
from agentlib.backbones.choice import backbone_for
from agentlib.catalog import recipe_of
from agentlib.core import Clock
from agentlib.learners import SAC, TD3, SACConfig, TD3Config, run
from agentlib.learners.actor_critic.presets import CROSSQ_NUMBERS, DROQ_NUMBERS, DROQ_PRESETS
from agentlib.policies import Critics, DeterministicPolicy, GaussianPolicy
from agentlib.policies.critics import BatchRenorm
from agentlib.runs.plan import settings_of
from tests.learners.test_actor_critic import (
    ACTIONS,
    HIDDEN,
    OBSERVATIONS,
    batches,
    copy_into,
    critic_parameters,
    critics,
    largest_difference,
    ours_of,
    sb3_model,
    train_sb3,
)

UPDATES = 12


class PlainNorm(nn.Module):
    """Batch normalization by the batch's own deviation, or by running statistics in eval mode."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))
        self.mean, self.var = torch.zeros(width).double(), torch.ones(width).double()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, var = (x.mean(0), x.var(0)) if self.training else (self.mean, self.var)
        if self.training:
            self.mean = self.mean + 0.01 * (mean.detach() - self.mean)
            self.var = self.var + 0.01 * (var.detach() - self.var)
        return (x - mean) / torch.sqrt(var + 1e-3) * self.weight + self.bias


def plain_critic(name: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    for fan_in, fan_out in ((4, 16), (16, 16), (16, 1)):
        before = [PlainNorm(fan_in)] if name == "crossq" else []
        after = [nn.Dropout(0.2), nn.LayerNorm(16)] if name == "droq" else []
        last = fan_out == 1
        layers += [*before, nn.Linear(fan_in, fan_out), *([] if last else [*after, nn.ReLU()])]
    return nn.Sequential(*layers)


class PlainSAC:
    """SAC with a fixed weight of the entropy, .2, as the two papers change it."""

    def __init__(self, name: str, learner: SAC) -> None:
        self.name, self.policy = name, copy.deepcopy(learner.policy)
        self.critics = nn.ModuleList([plain_critic(name) for _ in range(2)]).double()
        copy_into(self.critics.parameters(), critic_parameters(learner.critics))
        self.targets = copy.deepcopy(self.critics)
        betas = (0.5, 0.999) if name == "crossq" else (0.9, 0.999)
        self.actor_adam = torch.optim.Adam(self.policy.parameters(), lr=1e-3, betas=betas)
        self.critic_adam = torch.optim.Adam(self.critics.parameters(), lr=1e-3, betas=betas)

    def sample(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        mean, log_std = self.policy(observation)[0].chunk(2, 1)
        u = mean + log_std.exp() * torch.randn_like(mean)
        slope = TanhTransform().log_abs_det_jacobian(u, u.tanh())
        return u.tanh(), (Normal(mean, log_std.exp()).log_prob(u) - slope).sum(1)

    def update(self, batch: dict[str, torch.Tensor], is_due: bool) -> None:
        seen, after, rows = batch["observation"], batch["next_observation"], len(batch["reward"])
        if is_due:
            action, log_prob = self.sample(seen)
        with torch.no_grad():
            next_action, next_log_prob = self.sample(after)
        first, second = torch.cat([seen, batch["relative"]], 1), torch.cat([after, next_action], 1)
        if self.name == "crossq":
            both = [critic(torch.cat([first, second]))[:, 0] for critic in self.critics]
            values, following = [q[:rows] for q in both], [q[rows:].detach() for q in both]
        else:
            with torch.no_grad():
                following = [critic(second)[:, 0] for critic in self.targets]
            values = [critic(first)[:, 0] for critic in self.critics]
        bootstrap = torch.minimum(*following) - 0.2 * next_log_prob
        y = batch["reward"] + 0.99 * (1.0 - batch["terminated"]) * bootstrap
        self.critic_adam.zero_grad()
        (0.5 * sum(((q - y) ** 2).mean() for q in values)).backward()
        self.critic_adam.step()
        if is_due:
            self.critics.train(self.name == "droq")  # its dropout stays on; batch normalization rests
            both = [critic(torch.cat([seen, action], 1))[:, 0] for critic in self.critics]
            value = torch.stack(both).mean(0) if self.name == "droq" else torch.minimum(*both)
            self.critics.train()
            self.actor_adam.zero_grad()
            (0.2 * log_prob - value).mean().backward()
            self.actor_adam.step()
        for mine, theirs in zip(self.targets.parameters(), self.critics.parameters(), strict=True):
            mine.data.lerp_(theirs.data, 0.005)


@pytest.mark.parametrize("name", ["droq", "crossq"])
def test_an_update_is_that_of_the_paper(name: str) -> None:
    numbers: Any = DROQ_NUMBERS | {"dropout_rate": 0.2} if name == "droq" else CROSSQ_NUMBERS | {"qf_arch": HIDDEN}
    settings = numbers | {"learning_rate": 1e-3, "ent_coef": 0.2, "policy_delay": 3, "net_arch": HIDDEN}
    config = SACConfig(**settings)
    facts: Any = type("Facts", (), {"observation_space": OBSERVATIONS, "action_space": ACTIONS})
    torch.manual_seed(5)
    learner = SAC.build(backbone_for(OBSERVATIONS, "auto", HIDDEN), config, facts).double()
    plain = PlainSAC(name, learner)
    before = torch.cat([parameter.detach().flatten() for parameter in learner.policy.parameters()]).clone()
    for number, batch in enumerate(batches(UPDATES, torch.float64)):
        torch.manual_seed(number)
        plain.update(batch, is_due=number % 3 == 2)
        torch.manual_seed(number)
        learner.before_update(Clock(number, number, 0.0))
        learner.update(ours_of(batch))
    assert largest_difference(critic_parameters(learner.critics), list(plain.critics.parameters())) < 1e-8
    assert largest_difference(list(learner.policy.parameters()), list(plain.policy.parameters())) < 1e-8
    moved = torch.cat([parameter.detach().flatten() for parameter in learner.policy.parameters()]) - before
    assert float(moved.abs().max()) > 1e-3
    if name == "droq":
        assert learner.target is not None
        targets = critic_parameters(learner.target.network)
        assert largest_difference(targets, list(plain.targets.parameters())) < 1e-8
    else:
        assert learner.target is None
        layers = [layer for layer in learner.critics.modules() if isinstance(layer, BatchRenorm)]
        norms = [layer for layer in plain.critics.modules() if isinstance(layer, PlainNorm)]
        assert [float(layer.count) for layer in layers] == [UPDATES] * 6
        assert largest_difference([one.mean for one in layers], [one.mean for one in norms]) < 1e-8


def test_crossq_is_sb3_contribs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their policy without its normalization; noise that is a function of the mean, as they draw in another order."""
    contrib = pytest.importorskip("sb3_contrib")
    import stable_baselines3
    from sb3_contrib.common.torch_layers import BatchRenorm1d

    monkeypatch.setattr(stable_baselines3, "CrossQ", contrib.CrossQ, raising=False)
    make_actor = contrib.crossq.policies.CrossQPolicy.make_actor

    def without_norm(policy: Any, features_extractor: Any = None) -> Any:
        policy.actor_kwargs["batch_norm"] = False
        return make_actor(policy, features_extractor)

    monkeypatch.setattr(contrib.crossq.policies.CrossQPolicy, "make_actor", without_norm)
    model = sb3_model("CrossQ", torch.float64, monkeypatch, learning_rate=1e-3, ent_coef=0.2, policy_delay=3)
    for network in (model.actor, model.critic):
        network.optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, betas=(0.5, 0.999))
    model.ent_coef_tensor = model.ent_coef_tensor.double()
    policy = GaussianPolicy(backbone_for(OBSERVATIONS, "auto", HIDDEN), ACTIONS, True, True)
    copy_into(policy.parameters(), list(model.actor.parameters()))
    both = Critics.for_spaces(OBSERVATIONS, ACTIONS, 2, HIDDEN, norm="batch_renorm")
    copy_into(critic_parameters(both), [p for q in model.critic.q_networks for p in q.parameters()])
    numbers: Any = CROSSQ_NUMBERS | {"qf_arch": HIDDEN, "ent_coef": 0.2}
    learner = SAC(policy, both, adam(1e-3, (0.5, 0.999)), SACConfig(**numbers)).double()
    noise = lambda mean: (37.0 * mean.detach()).sin()  # noqa: E731
    monkeypatch.setattr(torch, "randn_like", noise)
    monkeypatch.setattr(Normal, "rsample", lambda self, *_: self.loc + self.scale * noise(self.loc))
    for number, batch in enumerate(batches(50, torch.float64)):
        train_sb3(model, batch)
        learner.before_update(Clock(number, number, 0.0))
        learner.update(ours_of(batch))
    theirs = [p for q in model.critic.q_networks for p in q.parameters()]
    assert largest_difference(critic_parameters(learner.critics), theirs) < 1e-5  # their 1e-6 in the density
    assert largest_difference(list(policy.parameters()), list(model.actor.parameters())) < 1e-5
    means: Any = [layer.ra_mean for layer in model.critic.modules() if isinstance(layer, BatchRenorm1d)]
    mine = [layer.mean for layer in learner.critics.modules() if isinstance(layer, BatchRenorm)]
    assert largest_difference(mine, means) < 1e-5


def test_renormalized_features_have_the_running_statistics() -> None:
    """Where nothing is clipped, r (x - m_B) / s_B + d is (x - m) / s, whatever the batch."""
    layer = BatchRenorm(3, warmup=0).double()
    with torch.no_grad():
        layer.mean.copy_(torch.tensor([1.0, -1.0, 0.0]))
        layer.variance.copy_(torch.tensor([2.0, 1.0, 0.5]))
    layer.counting = True
    x = torch.randn(64, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_batch = layer(x)  # the first batch: plain normalization
    assert by_batch.mean(0).abs().max() < 1e-12
    assert torch.allclose(by_batch.var(0), x.var(0) / (x.var(0) + 1e-3))
    usual = layer.mean.clone(), layer.variance.clone()
    assert torch.allclose(usual[0], 0.99 * torch.tensor([1.0, -1.0, 0.0]).double() + 0.01 * x.mean(0))
    assert torch.allclose(layer(x), (x - usual[0]) / (usual[1] + 1e-3).sqrt())
    with torch.no_grad():
        layer.mean.fill_(1e3)
        layer.variance.fill_(1e-8)
    expected = 3.0 * (x - x.mean(0)) / (x.var(0) + 1e-3).sqrt() - 5.0  # r and d at their clips
    assert torch.allclose(layer(x), expected)
    layer.counting, before = False, layer.mean.clone()
    assert torch.allclose(layer(x), (x - layer.mean) / (layer.variance + 1e-3).sqrt())
    assert torch.equal(layer.mean, before)


def test_critics_without_such_layers_value_two_batches_as_each() -> None:
    space = spaces.Dict({"a": OBSERVATIONS, "b": spaces.Discrete(3)})
    plain = Critics.for_spaces(space, ACTIONS, 3, HIDDEN)
    rows: Any = [{"a": torch.randn(5, 3), "b": torch.randint(3, (5,))} for _ in range(2)]
    actions = torch.rand(2, 5, 1)
    found = plain.joint((rows[0], actions[0]), (rows[1], actions[1]))
    for values, seen, action in zip(found, rows, actions, strict=True):
        assert torch.allclose(values, plain(seen, action), atol=1e-6)


def test_td3_without_targets_values_its_own_next_actions() -> None:
    settings: Any = {"target_networks": False, "critic_norm": "batch_renorm", "target_policy_noise": 0.0}
    learner = TD3(
        DeterministicPolicy(backbone_for(OBSERVATIONS, "auto", HIDDEN), ACTIONS, squashed=True),
        Critics.for_spaces(OBSERVATIONS, ACTIONS, 2, HIDDEN, norm="batch_renorm"),
        adam(1e-3),
        TD3Config(**settings),
    )
    (batch,) = batches(1, torch.float32)
    critics = copy.deepcopy(learner.critics)
    action = learner.policy.bounds.relative(learner.policy(batch["next_observation"])[0])
    pairs = (batch["observation"], batch["relative"]), (batch["next_observation"], action)
    with torch.no_grad():
        values, following = critics.joint(*pairs)
    y = batch["reward"] + 0.99 * (1.0 - batch["terminated"]) * following.amin(0)
    found = float(learner.update(ours_of(batch)).metrics["critic_loss"])
    assert found == pytest.approx(float((values - y).square().mean(1).sum()), rel=1e-5)


def test_dropout_stays_on_in_targets_alone() -> None:
    learner, _ = recipe_of("sac").tiny(SAC, SACConfig(dropout_rate=0.5), 0, env="Pendulum-v1")
    learner.eval()
    seen, action = torch.randn(8, 3), torch.rand(8, 1)
    assert learner.target is not None
    assert not torch.equal(learner.target(seen, action), learner.target(seen, action))
    assert torch.equal(learner.critics(seen, action), learner.critics(seen, action))


def test_observations_of_policy_and_critics_have_one_normalization() -> None:
    agent: Any = agentlib.train(
        SACConfig(normalize=True, learning_starts=50, net_arch=(16,)), env="Pendulum-v1", steps=80, progress=False
    )
    norms = [module for module in agent.policy.modules() if isinstance(module, RunningNorm)]
    assert [float(norm.count) for norm in norms] == [81.0]  # of each observation once
    facts: Any = type("Facts", (), {"observation_space": OBSERVATIONS, "action_space": ACTIONS})
    learner = SAC.build(backbone_for(OBSERVATIONS, "auto", HIDDEN, True), SACConfig(normalize=True), facts)
    learner.policy.observe(50.0 + 3.0 * torch.randn(100, 3))
    (norm,) = [module for module in learner.policy.modules() if isinstance(module, RunningNorm)]
    plain = critics(2, (256, 256))
    copy_into(critic_parameters(plain), critic_parameters(learner.critics))
    seen, action = 50.0 + 3.0 * torch.randn(6, 3), torch.rand(6, 1)
    assert torch.allclose(learner.critics(seen, action), plain(norm(seen), action), atol=1e-5)
    assert learner.target is not None
    learner.target.follow(1.0)
    assert torch.allclose(learner.target(seen, action), plain(norm(seen), action), atol=1e-5)


def test_names_are_sac_with_other_numbers() -> None:
    for name, numbers in (("droq", DROQ_NUMBERS), ("crossq", CROSSQ_NUMBERS)):
        config, plain = settings_of(name, "Pendulum-v1", {}).config, settings_of("sac", "Pendulum-v1", {}).config
        assert vars(config) == vars(plain) | numbers
    assert recipe_of(config).name == "sac"
    for env in DROQ_PRESETS:
        droq: Any = settings_of("droq", env or "MyOwn-v0", {}).config
        assert (droq.train_freq, droq.gradient_steps, droq.policy_delay) == (1, 20, 20)


def test_batch_renormalization_needs_the_pass_over_both_batches() -> None:
    for config in (SACConfig, TD3Config):
        with pytest.raises(ValueError, match=r"batch_renorm.*target_networks=False"):
            config(critic_norm="batch_renorm")


@pytest.mark.slow
@pytest.mark.parametrize(("what", "steps"), [("droq", 1_200), ("crossq", 6_000)])
def test_pendulum_is_learned(what: str, steps: int) -> None:
    """Random play scores -1,230."""
    settings: dict[str, Any] = {"learning_starts": 500, "net_arch": (64, 64), "qf_arch": (64, 64)}
    agent: Any = agentlib.train(what, env="Pendulum-v1", steps=steps, seed=0, progress=False, **settings)
    assert agentlib.evaluate(agent, "Pendulum-v1", episodes=30).mean > -300.0


@pytest.mark.parametrize("what", ["droq", "crossq"])
def test_short_runs(what: str) -> None:
    settings: dict[str, Any] = {"learning_starts": 100, "net_arch": (16, 16), "qf_arch": (16, 16), "batch_size": 16}
    agent: Any = agentlib.train(what, env="Pendulum-v1", steps=105, progress=False, compile=False, **settings)
    assert ACTIONS.contains(agent.act(np.zeros(3, np.float32)))


@pytest.mark.slow
@pytest.mark.parametrize("settings", [DROQ_NUMBERS, CROSSQ_NUMBERS | {"qf_arch": (8,)}], ids=["droq", "crossq"])
def test_interpreted_they_do_the_same(settings: dict[str, Any]) -> None:
    results = []
    for way in ("eager", False):
        more: Any = settings | {"gradient_steps": 1, "learning_starts": 64, "batch_size": 16, "net_arch": (8,)}
        learner, source = recipe_of("sac").tiny(SAC, SACConfig(**more), 0, env="Pendulum-v1")
        losses = [float(update.metrics["critic_loss"]) for _, update in run(learner, source, 150, compile=way)]
        results.append((losses, [parameter.detach().clone() for parameter in learner.parameters()]))
    assert results[0][0] == results[1][0]
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    assert math.isfinite(results[0][0][-1])


@pytest.mark.slow
def test_a_run_goes_on_with_its_statistics_and_its_drifting_noise(tmp_path: Any) -> None:
    settings: Any = {"normalize": True, "action_noise_kind": "ornstein-uhlenbeck", "learning_starts": 50}
    settings |= {"net_arch": (8,), "batch_size": 8, "progress": False, "compile": False, "env": "Pendulum-v1"}
    whole: Any = agentlib.train("td3", steps=150, **settings)
    agentlib.train("td3", steps=90, out=tmp_path / "run", **settings)
    longer: Any = agentlib.train(resume=tmp_path / "run", steps=150, progress=False)
    for name, tensor in whole.policy.state_dict().items():
        assert torch.equal(tensor, longer.policy.state_dict()[name]), name
