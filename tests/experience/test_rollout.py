"""Rollouts: advantages against closed forms and Stable-Baselines3's buffer, minibatches, ends of episodes, resume."""

import itertools
from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agentlib
from agentlib.backbones import MLP
from agentlib.core.host import global_generators_kept
from agentlib.core.randomness import fresh_weights
from agentlib.core.source import Diverged
from agentlib.core.trees import copied, difference
from agentlib.engine import run
from agentlib.experience.advantages import RewardScale, gae
from agentlib.experience.rollout import Rollout
from agentlib.learners import PPO
from agentlib.policies import ActorCritic, policy_for
from agentlib.runs.checkpoints import load_checkpoint, save_checkpoint
from tests.experience.masked import Masked
from tests.experience.scripted import VECTOR
from tests.moody import Moody

GAMMA, LAMBDA = 0.9, 0.8


def test_advantages_are_the_weighted_sum_of_temporal_differences():
    generator = np.random.default_rng(0)
    reward, value, next_value = generator.normal(size=(3, 6, 2))
    ended = np.zeros((6, 2), bool)
    ended[2, 0] = ended[4, 1] = True
    found = gae(reward, value, next_value, ended, GAMMA, LAMBDA)
    delta = reward + GAMMA * next_value - value
    for row in range(2):
        for t in range(6):
            last = next((k for k in range(t, 6) if ended[k, row]), 5)
            expected = sum((GAMMA * LAMBDA) ** (k - t) * delta[k, row] for k in range(t, last + 1))
            assert found[t, row] == pytest.approx(expected)
    np.testing.assert_allclose(gae(reward, value, next_value, ended, GAMMA, 0.0), delta)


def test_with_lambda_1_they_are_the_returns_less_the_value():
    reward, value = np.array([[1.0], [2.0], [3.0]]), np.array([[10.0], [20.0], [30.0]])
    next_value = np.array([[20.0], [30.0], [40.0]])
    found = gae(reward, value, next_value, np.zeros((3, 1), bool), GAMMA, 1.0)
    returns = 1.0 + 0.9 * (2.0 + 0.9 * (3.0 + 0.9 * 40.0))
    assert found[0, 0] == pytest.approx(returns - 10.0)


class Counting(gymnasium.Env):
    """Shows which episode and step it is; episodes end in turn by the task, by the time limit, or both."""

    observation_space, action_space = VECTOR, spaces.Discrete(2)

    def __init__(self, number: int = 0, render_mode: None = None) -> None:
        self.number, self.episode, self.render_mode = number, -1, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.t = self.episode + 1, 0
        return self.seen(), {}

    def seen(self):
        return np.array([self.number, self.episode, self.t], np.float32) / 10.0

    def step(self, action):
        self.t += 1
        done = self.t == 3 + self.episode % 2
        kind = (self.episode + self.number) % 3
        return self.seen(), float(self.t + self.number), done and kind != 1, done and kind != 0, {}


def networks_for(space: Any, actions: Any, width: int = 3) -> ActorCritic:
    with fresh_weights(0):
        return ActorCritic(policy_for(actions, MLP(width, (8,), "tanh")))


def counting(mode: Any) -> Any:
    return SyncVectorEnv([partial(Counting, i) for i in range(3)], autoreset_mode=mode)


def steps_of(source: Rollout) -> dict[tuple[int, ...], tuple[float, float]]:
    """Advantage and return of each step, by its observation."""
    source.collect()
    seen = (source.get_buffer("leaf_0") * 10).round().int().tolist()
    rows = zip(seen, source.advantage.tolist(), source.returns.tolist(), source.made.valid.ravel(), strict=True)
    return {tuple(o): (a, r) for o, a, r, is_valid in rows if is_valid}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_advantages_equal_those_of_stable_baselines3_in_each_autoreset_mode(mode):
    """At terminations and at timeouts: the value of the true final observation counts there, once."""
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.buffers import RolloutBuffer

    length = 24
    networks = networks_for(VECTOR, spaces.Discrete(2))
    source = Rollout(counting(mode), networks, n_steps=length, gamma=GAMMA, gae_lambda=LAMBDA, batch_size=12, seed=0)
    ours = steps_of(source)

    def value(observation):
        with torch.no_grad():
            return networks(torch.as_tensor(observation))[1]

    with global_generators_kept():
        buffer = RolloutBuffer(length, VECTOR, spaces.Discrete(2), "cpu", LAMBDA, GAMMA, n_envs=3)
    worlds = [Counting(i) for i in range(3)]
    observation = np.stack([world.reset(seed=0)[0] for world in worlds])
    starts = np.ones(3, bool)
    for _ in range(length):
        before, values = observation.copy(), value(observation)
        rewards, dones = np.zeros(3), np.zeros(3, bool)
        for i, world in enumerate(worlds):
            observation[i], rewards[i], terminated, truncated, _ = world.step(0)
            dones[i] = terminated or truncated
            if truncated and not terminated:
                rewards[i] += GAMMA * float(value(observation[i : i + 1]))
            if dones[i]:
                observation[i] = world.reset()[0]
        buffer.add(before, np.zeros((3, 1)), rewards, starts, values, torch.zeros(3))
        starts = dones
    buffer.compute_returns_and_advantage(value(observation), dones)

    is_cut = mode == AutoresetMode.NEXT_STEP  # the last episodes, elsewhere: resetting takes steps
    last = [max(key[1] for key in ours if key[0] == i) for i in range(3)]
    compared = 0
    for t in range(length):
        for i in range(3):
            key = tuple(np.round(buffer.observations[t, i] * 10).astype(int).tolist())
            if key[1] < last[i] or not is_cut:
                compared += 1
                assert ours[key] == pytest.approx((buffer.advantages[t, i], buffer.returns[t, i]), abs=1e-5)
    assert compared >= (40 if is_cut else 72)


@pytest.mark.parametrize("batch_size", [8, 24, 7, 5])
def test_each_step_is_in_each_epoch_once(batch_size):
    """Also where minibatches do not divide the rollout: the last has fewer, each with more weight."""
    networks = networks_for(VECTOR, spaces.Discrete(2))
    envs = counting(AutoresetMode.SAME_STEP)
    source = Rollout(envs, networks, n_steps=8, n_epochs=2, batch_size=batch_size, total_steps=48)
    orders = []
    for _ in range(2):
        rows: list[int] = []
        for number in range(source.updates_for(24) // 2):
            source.advance()
            batch = source.sample()
            real = batch.weight > 0
            assert batch.weight.sum().item() == pytest.approx(1.0)
            assert len(batch.advantage) == batch_size
            if number < 24 // batch_size:
                assert real.all()
            rows += source.rows[real].tolist()
        assert sorted(rows) == list(range(24))
        orders.append(rows)
    assert orders[0] != orders[1]
    assert source.collector.steps == 24
    source.advance()
    assert source.collector.steps == 48


def test_steps_that_only_reset_are_not_learned_from():
    networks = networks_for(VECTOR, spaces.Discrete(2))
    source = Rollout(counting(AutoresetMode.NEXT_STEP), networks, n_steps=16, n_epochs=1, batch_size=16)
    source.advance()
    valid = source.made.valid
    assert 0 < (~valid).sum() < 16
    assert source.collector.steps == valid.sum()
    rows = source.rows[source.weight > 0].tolist()
    while source.done < source.count:
        source.advance()
        rows += source.rows[source.weight > 0].tolist()
    assert sorted(rows) == np.flatnonzero(valid).tolist()


def test_a_large_divergence_ends_the_epochs():
    networks = networks_for(VECTOR, spaces.Discrete(2))
    envs = counting(AutoresetMode.SAME_STEP)
    source = Rollout(envs, networks, n_steps=8, n_epochs=5, batch_size=8, target_kl=0.1, total_steps=48)
    for divergence, steps in ((0.0, 24), (0.14, 24), (0.16, 24), (0.0, 48)):
        source.advance()
        assert source.collector.steps == steps
        batch = source.sample()
        source.feedback(batch, torch.full((8,), divergence))
    assert not source.finished
    source.feedback(batch, torch.full((8,), 1.0))
    assert source.finished


@pytest.mark.parametrize(
    ("env", "kind"),
    [
        (partial(Moody, (5,)), "legal"),
        (partial(Moody, (3, 4), in_observation=True, start=1), "legal"),
        (partial(Masked, 0, [(3, "truncated")], spaces.Discrete(4)), "legal"),
    ],
)
def test_only_legal_actions_are_taken_and_counted(env, kind):
    """The environments refuse all others; the probabilities are those among the legal ones."""
    agent: Any = agentlib.train(
        "ppo", env=env, steps=128, n_steps=32, batch_size=16, n_epochs=2, net_arch=(8,), progress=False
    )
    world = env()
    observation, info = world.reset(seed=0)
    assert ("learned_with_action_masks" in agent.about) == ("action_mask" in info)
    for deterministic in (True, False):
        for _ in range(50):
            action, _ = agent.predict(observation, deterministic=deterministic, action_mask=info.get("action_mask"))
            observation, _, terminated, truncated, info = world.step(action)
            if terminated or truncated:
                observation, info = world.reset()


SPACES: dict[str, Any] = {
    "Discrete": spaces.Discrete(3, start=2),
    "MultiDiscrete": spaces.MultiDiscrete([2, 3]),
    "MultiBinary": spaces.MultiBinary(4),
    "Box": spaces.Box(-1, 1, (2,)),
    "Box of several rows": spaces.Box(np.full((2, 2), -2.0), np.full((2, 2), 2.0), dtype=np.float64),
    "whole numbers": spaces.Box(0, 5, (2,), np.int32),
}


class Takes(gymnasium.Env):
    """Any actions; refuses what is not one."""

    observation_space = spaces.Box(-1, 1, (3,))

    def __init__(self, space: Any, render_mode: None = None) -> None:
        self.action_space, self.render_mode = space, render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observation_space.sample(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observation_space.sample(), 1.0, self.t == 9, self.t % 7 == 0, {}


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("n_envs", [1, 2])
def test_any_actions(name, n_envs, tmp_path):
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 8, "n_epochs": 2, "net_arch": (8,)}
    env = partial(Takes, SPACES[name])
    agent: Any = agentlib.train("ppo", env=env, n_envs=n_envs, steps=64, progress=False, **settings)
    again = agentlib.Agent.load(agent.save(tmp_path / "agent"))
    assert SPACES[name].contains(again.act(Takes.observation_space.sample()))


def test_a_rollout_in_the_middle_is_resumed_bit_for_bit(tmp_path):
    learner, source = PPO.tiny(seed=0)
    list(run(learner, source, 22, compile="eager"))  # of 16 to a rollout
    assert (source.done, source.count) == (6, 4)
    save_checkpoint(tmp_path / "state", learner, source)
    again = PPO.tiny(seed=1)
    load_checkpoint(tmp_path / "state", *again)
    pairs: list[Any] = [(learner, source), again]
    results = [[copied(tuple(update)) for _, update in run(one[0], one[1], 40, compile="eager")] for one in pairs]
    assert difference(results[0], results[1]) is None
    assert difference(copied(dict(source.state_dict())), copied(dict(again[1].state_dict()))) is None


def test_rewards_are_scaled_as_by_stable_baselines3():
    pytest.importorskip("stable_baselines3")
    from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

    with global_generators_kept():
        envs = VecNormalize(DummyVecEnv([partial(Counting, i) for i in range(3)]), gamma=GAMMA)
        envs.reset()
        scale = RewardScale(3, GAMMA)
        for _ in range(40):
            _, theirs, done, _ = envs.step(np.zeros(3, np.int64))
            np.testing.assert_allclose(scale(envs.get_original_reward().astype(np.float64), done), theirs, rtol=1e-6)


def test_running_statistics_stand_still_while_a_rollout_is_made_and_learned_from():
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "net_arch": (8,), "normalize": True}
    divergences = []
    agent: Any = agentlib.train(
        "ppo",
        env="Pendulum-v1",
        n_envs=1,
        steps=32 * 4,
        normalize_reward=True,
        progress=False,
        callback=lambda clock, now: divergences.append(now["train/approx_kl"]),
        **settings,
    )
    norm = agent.policy.backbone.stages[0].stages[0]
    assert norm.count == 96  # not of the last rollout
    np.testing.assert_allclose(max(divergences), 0.0, atol=1e-2)


def test_a_batch_larger_than_the_rollout_is_refused():
    with pytest.raises(ValueError, match="batch_size=64 is larger than a rollout: n_steps=8 of 2 environments are 16"):
        agentlib.train("ppo", env="Pendulum-v1", n_envs=2, steps=64, n_steps=8, progress=False)


def test_batches_that_do_not_divide_the_rollout_are_announced():
    with pytest.warns(UserWarning, match="last minibatch of each epoch has 2 samples in place of batch_size=7"):
        agentlib.train("ppo", env="CartPole-v1", steps=16, n_envs=1, n_steps=16, batch_size=7, progress=False)


def test_a_rollout_of_steps_that_only_reset_is_made_again():
    networks = networks_for(VECTOR, spaces.Discrete(2))
    envs = SyncVectorEnv([Counting], autoreset_mode=AutoresetMode.NEXT_STEP)
    source = Rollout(envs, networks, n_steps=1, n_epochs=1, batch_size=1, total_steps=12)
    for number in range(12):
        source.advance()
        assert source.collector.steps == number + 1
        assert source.weight.tolist() == [1.0]
    assert source.finished


@pytest.mark.parametrize(
    ("actions", "message"),
    [
        (spaces.Box(-1, 1, (2,)), r"the policy chose the action \[\[nan, nan\]"),
        (spaces.Discrete(2), "the value of an observation or the log probability of an action is NaN or infinite"),
    ],
)
def test_networks_of_nan_are_named_where_they_act(actions, message):
    networks = networks_for(VECTOR, actions)
    envs = SyncVectorEnv([partial(Takes, actions)] * 2)
    source = Rollout(envs, networks, n_steps=8, n_epochs=1, batch_size=16)
    source.advance()
    networks.policy.head.bias.data[0] = torch.nan  # type: ignore[union-attr, operator]
    networks.policy.head.bias.data[1] = torch.nan  # type: ignore[union-attr, operator]
    with pytest.raises(
        Diverged, match=message + ".* at step [0-9]+: a smaller learning_rate or max_grad_norm"
    ) as found:
        source.advance()
    assert found.value.step == source.collector.steps


def test_what_diverges_while_acting_leaves_the_last_good_checkpoint(tmp_path):
    settings: dict[str, Any] = {"n_steps": 16, "batch_size": 16, "n_epochs": 4, "max_grad_norm": None}
    with pytest.raises(Diverged, match="at step 32") as found:
        agentlib.train(
            "ppo", env="Pendulum-v1", n_envs=2, steps=64, learning_rate=1e30, out=tmp_path / "run", progress=False,
            **settings,
        )  # fmt: skip
    assert found.value.saved_in == tmp_path / "run"
    assert any("the last good checkpoint is" in note for note in found.value.__notes__)
    agent = agentlib.Agent.load(tmp_path / "run")
    assert np.isfinite(agent.act(np.zeros(3, np.float32))).all()


def scaled(factor: float) -> Any:
    return gymnasium.wrappers.TransformReward(gymnasium.make("CartPole-v1"), lambda reward: factor * float(reward))


@pytest.mark.filterwarnings("ignore:the reward 1e\\+10 by step 1.*normalize_reward=True:UserWarning")
@pytest.mark.parametrize("scale", [{}, {"normalize_reward": True}])
def test_rewards_of_1e10_are_learned_from(scale):
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 4, "net_arch": (8,), "progress": False}
    agent: Any = agentlib.train("ppo", env=partial(scaled, 1e10), steps=128, **settings, **scale)
    assert all(torch.isfinite(parameter).all() for parameter in agent.policy.parameters())


def uneven() -> Any:
    factors = itertools.cycle((1.0, 1e30))
    return gymnasium.wrappers.TransformReward(
        gymnasium.make("CartPole-v1"), lambda reward: next(factors) * float(reward)
    )


@pytest.mark.filterwarnings("ignore:the reward 1e\\+30 by step .*normalize_reward=True:UserWarning")
def test_rewards_beyond_all_scales_say_how_to_scale_them():
    """Also where only some are."""
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 4, "net_arch": (8,), "progress": False}
    with pytest.raises(Diverged, match=r"rewards are up to 1e\+30: normalize_reward=True scales them"):
        agentlib.train("ppo", env=uneven, steps=128, **settings)
    agentlib.train("ppo", env=partial(scaled, 1e30), steps=128, **settings, normalize_reward=True)


@pytest.mark.parametrize(
    ("what", "env", "message"),
    [
        ("dqn", "Pendulum-v1", "dqn needs a Discrete action space.*Learners that fit: sac, td3, ppo"),
        ("sac", "CartPole-v1", "sac needs real-valued actions.*Learners that fit: dqn, ppo"),
        (
            "sac",
            partial(Takes, spaces.Box(-np.inf, np.inf, (2,))),
            "sac needs finite bounds of the actions.*wrap it in",
        ),
    ],
)
def test_actions_that_do_not_fit_name_learners_that_do(what, env, message):
    with pytest.raises(ValueError, match=message):
        agentlib.train(what, env=env, steps=200, progress=False)
