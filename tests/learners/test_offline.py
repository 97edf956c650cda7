"""Learning from recorded transitions: TD3+BC and CQL by their formulas, data outside of checkpoints, results."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

import agentlib
from agentlib.backbones import MLP, RunningNorm
from agentlib.catalog import recipe_of
from agentlib.core import Clock
from agentlib.envs.experts import cartpole_expert
from agentlib.experience import Demonstration, Demonstrations, RecordedTransitions, Transition, record_episodes
from agentlib.learners import DQN, TD3, CQLConfig, DQNConfig, TD3BCConfig, TD3Config, run
from agentlib.policies import QPolicy
from agentlib.runs.checkpoints import load_state
from agentlib.runs.folder import RunFolder

ACTIONS = spaces.Box(-2.0, 2.0, (1,), np.float32)


def swings(episodes: int = 20, seed: int = 0) -> Demonstrations:
    """Ten steps each: an action between -2 and 2, whose reward is best where it is half of the observation."""
    generator = np.random.default_rng(seed)
    demonstrations = Demonstrations(spaces.Box(-2.0, 2.0, (1,), np.float32), ACTIONS)
    for _ in range(episodes):
        seen = generator.uniform(-2.0, 2.0, (11, 1)).astype(np.float32)
        done = generator.uniform(-2.0, 2.0, (10, 1)).astype(np.float32)
        reward = -np.square(done - 0.5 * seen[:10])[:, 0]
        demonstrations.append(Demonstration(seen, done, reward, terminated=True))
    return demonstrations


# TD3+BC


def test_the_policys_loss_is_that_of_the_paper() -> None:
    learner, source = recipe_of("td3_bc").tiny(TD3, TD3Config(bc_alpha=2.5, net_arch=(16,)), 0, demos=swings())
    batch = source.sample()
    before = copy.deepcopy(learner)
    with torch.no_grad():  # values of both signs
        learner.critics.heads[0].bias -= learner.critics.value(0, batch.observation, batch.action / 2.0).mean()
    found = learner.update(batch).metrics["actor_loss"]
    action = before.policy(batch.observation)[0] / 2.0
    q = learner.critics.value(0, batch.observation, action)  # the critics have just learned
    expected = -2.5 / q.abs().mean() * q.mean() + ((action - batch.action / 2.0) ** 2).mean()
    assert float(found) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_with_no_weight_of_values_it_clones() -> None:
    """The mean action of the data is their best guess: 0, wherever one is."""
    config = TD3Config(bc_alpha=0.0, net_arch=(32,), learning_rate=3e-3, policy_delay=1)
    learner, source = recipe_of("td3_bc").tiny(TD3, config, 0, demos=swings(60))
    for _ in run(learner, source, 400, compile=False):
        pass
    actions = learner.policy(torch.linspace(-2.0, 2.0, 9)[:, None])[0]
    assert float(actions.detach().abs().max()) < 0.5


@pytest.mark.slow
def test_td3_bc_finds_better_actions_than_the_data_have() -> None:
    settings: Any = {"net_arch": (64, 64), "learning_rate": 1e-3, "gamma": 0.0, "progress": False}
    agent: Any = agentlib.train("td3_bc", demos=swings(100), steps=3_000, seed=0, **settings)
    seen = np.linspace(-1.8, 1.8, 13, dtype=np.float32)[:, None]
    assert np.abs(agent.act(seen) - 0.5 * seen).mean() < 0.25


def test_observations_are_standardized_by_the_data() -> None:
    agent: Any = agentlib.train("td3_bc", demos=swings(), steps=2, net_arch=(8,), progress=False, compile=False)
    (norm,) = [module for module in agent.policy.modules() if isinstance(module, RunningNorm)]
    rows = torch.from_numpy(np.concatenate([episode.observations for episode in swings()])).double()
    assert float(norm.count) == len(rows)
    assert torch.allclose(norm.mean, rows.mean(0))


# CQL


def transitions(n: int) -> Transition:
    one, seen = torch.ones(n), torch.randn(n, 3)
    return Transition(
        seen, torch.randint(4, (n,)), torch.randn(n), seen, one, 0.99 * one, one, torch.arange(n), Clock(0, 0, 0.0)
    )


@pytest.mark.parametrize("distributional", [None, "quantile"])
def test_values_of_other_actions_are_held_down(distributional: Any) -> None:
    torch.manual_seed(0)
    batch, losses = transitions(32), []
    policy = QPolicy(MLP(3, (16,)), 4, distributional=distributional, n_atoms=8)
    for alpha in (0.0, 0.7):
        one = copy.deepcopy(policy)
        config = DQNConfig(cql_alpha=alpha, distributional=distributional, learning_rate=0.0)
        losses.append(float(DQN(one, config.optimizer(), config).update(batch).metrics["loss"]))
    values = policy.values(policy(batch.observation)[0])
    gap = torch.log(values.exp().sum(1)) - values[torch.arange(32), batch.action]
    assert losses[1] - losses[0] == pytest.approx(0.7 * float(gap.detach().mean()), rel=1e-4)


def test_the_excess_of_branches_and_of_legal_actions() -> None:
    policy = QPolicy(MLP(3, (8,)), [2, 3])
    output, action = torch.randn(6, 5), torch.tensor([[0, 2]] * 6)
    first, second = output[:, :2].logsumexp(1) - output[:, 0], output[:, 2:].logsumexp(1) - output[:, 4]
    assert torch.allclose(policy.excess(output, action), (first + second) / 2.0)
    plain = QPolicy(MLP(3, (8,)), 3)
    mask = torch.tensor([[True, False, True]] * 6)
    found = plain.excess(output[:, :3], torch.zeros(6, dtype=torch.int64), mask)
    assert torch.allclose(found, output[:, [0, 2]].logsumexp(1) - output[:, 0])


@pytest.mark.slow
def test_cql_is_better_than_its_data() -> None:
    demonstrations = record_episodes(cartpole_expert, "CartPole-v1", episodes=100, noise=0.6, seed=1)
    agent: Any = agentlib.train("cql", demos=demonstrations, steps=3_000, net_arch=(64, 64), seed=0, progress=False)
    assert agentlib.evaluate(agent, "CartPole-v1", episodes=50).mean > 1.5 * demonstrations.returns.mean()


# Data


@pytest.mark.parametrize("what", ["iql", "td3_bc"])
def test_checkpoints_hold_no_data_and_a_run_knows_them_again(what: str, tmp_path: Any) -> None:
    settings: Any = {"net_arch": (8,), "batch_size": 8, "progress": False, "compile": False}
    data = swings()
    whole: Any = agentlib.train(what, demos=data, steps=6, out=tmp_path / "run", **settings)
    state = load_state(RunFolder(tmp_path / "run").checkpoints()[-1])
    sizes = [value.numel() for name, value in state["source"].items() if isinstance(value, torch.Tensor)]
    assert max(sizes) < 10
    assert "columns" not in str(state["source"])

    data.save(tmp_path / "data")
    agentlib.train(what, demos=tmp_path / "data.safetensors", steps=3, out=tmp_path / "part", **settings)
    longer: Any = agentlib.train(resume=tmp_path / "part", steps=6, progress=False)
    for one, other in zip(whole.policy.parameters(), longer.policy.parameters(), strict=True):
        assert torch.equal(one, other)
    swings(seed=1).save(tmp_path / "data")
    with pytest.warns(UserWarning, match="the data have changed since the run began"):
        agentlib.train(resume=tmp_path / "part", steps=8, progress=False)


def test_the_fingerprint_is_of_the_data() -> None:
    one, same, other = (RecordedTransitions(swings(seed=seed), 8).fingerprint() for seed in (0, 0, 1))
    assert one == same != other


@pytest.mark.parametrize("name", ["buffer_size", "learning_starts", "train_freq", "prioritized"])
@pytest.mark.parametrize("what", ["cql", "iql", "td3_bc"])
def test_options_of_acting_and_replay_are_not_there(what: str, name: str) -> None:
    settings: Any = {name: 1}
    with pytest.raises(ValueError, match=f"{what} has no hyperparameter '{name}'"):
        agentlib.train(what, demos=swings(), steps=2, progress=False, **settings)


def test_their_configs_are_taken_literally() -> None:
    assert (CQLConfig().cql_alpha, CQLConfig().tau) == (1.0, 0.005)
    agent: Any = agentlib.train(TD3BCConfig(net_arch=(8,)), demos=swings(), steps=2, progress=False, compile=False)
    assert agent.training[2].config.bc_alpha == 2.5


def test_other_actions_are_refused_by_name() -> None:
    cartpole = record_episodes(cartpole_expert, "CartPole-v1", episodes=1)
    with pytest.raises(ValueError, match="td3 needs real-valued actions"):
        agentlib.train("td3_bc", demos=cartpole, steps=2, progress=False)
    with pytest.raises(ValueError, match="dqn needs a Discrete action space"):
        agentlib.train("cql", demos=swings(), steps=2, progress=False)


def test_data_with_huge_rewards_are_told_of() -> None:
    demonstrations = Demonstrations(spaces.Box(-1.0, 1.0, (1,), np.float32), ACTIONS)
    demonstrations.append(Demonstration(np.zeros((3, 1)), np.zeros((2, 1), np.float32), np.array([1.0, -1e10])))
    with pytest.warns(UserWarning, match=r"the reward 1e\+10 in the data: values so large .*TransformReward"):
        RecordedTransitions(demonstrations, 8)
