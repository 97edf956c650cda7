"""Rollouts with memory: sequences read as they were acted, advantages at all ends, masks, resume, bad input.

L = -E[ min(r A, clip(r, 1 - eps, 1 + eps) A) ]                                      (Schulman et al. 2017)
"""

from functools import partial
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

import agentlib
from agentlib.backbones import GRU, LSTM, MLP, RNN, TransformerDecoder, WithMemory
from agentlib.core.randomness import fresh_weights
from agentlib.experience.advantages import gae
from agentlib.experience.sequence_rollout import SequenceRollout
from agentlib.learners import PPO, PPOConfig
from agentlib.learners.actor_critic.ppo import RECIPE
from agentlib.policies import ActorCritic, policy_for
from agentlib.testing import check_learner
from tests.experience.scripted import VECTOR
from tests.experience.test_rollout import Counting, counting
from tests.moody import Moody

MEMORIES: dict[str, Any] = {
    "lstm": lambda: WithMemory(MLP(3, (5,)), LSTM(5, 4)),
    "gru": lambda: WithMemory(MLP(3, ()), GRU(3, 4, layers=2)),
    "rnn alone": lambda: RNN(3, 4),
    "transformer": lambda: WithMemory(MLP(3, (4,)), TransformerDecoder(4, 4, layers=2, heads=2, window=5)),
}


def networks_of(memory: str = "lstm", actions: Any = None) -> ActorCritic:
    with fresh_weights(0):
        return ActorCritic(policy_for(actions or spaces.Discrete(2), MEMORIES[memory]()), (6,))


def epoch_of(source: SequenceRollout) -> list[Any]:
    """The minibatches of one epoch, the first one of a rollout of its own."""
    batches = []
    source.done = source.n_epochs * source.count
    for _ in range(source.updates_for(1) // source.n_epochs):
        source.advance()
        batch = source.sample()
        batches.append(batch._replace(weight=batch.weight.clone()))  # the buffer of all minibatches
    return batches


def compared(source: SequenceRollout, networks: ActorCritic) -> int:
    """How many log probabilities and values of an epoch are those of acting."""
    count = 0
    for batch in epoch_of(source):
        counts = batch.weight > 0
        output, value = networks(batch.observation, batch.state, batch.episode_start)
        found = networks.policy.log_prob(output, batch.action)
        torch.testing.assert_close(found[counts], batch.log_prob[counts], atol=1e-6, rtol=1e-5)
        torch.testing.assert_close(value[counts], batch.value[counts], atol=1e-6, rtol=1e-5)
        count += int(counts.sum())
    return count


class Endless(gymnasium.Env):
    """Random observations, and no end."""

    observation_space, action_space = VECTOR, spaces.Box(-1, 1, (2,))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.np_random.normal(size=3).astype(np.float32), {}

    def step(self, action):
        return self.np_random.normal(size=3).astype(np.float32), 0.0, False, False, {}


@pytest.mark.parametrize("memory", MEMORIES)
def test_one_sequence_of_the_whole_rollout_is_read_as_it_was_acted(memory):
    networks = networks_of(memory, Endless.action_space)
    source = SequenceRollout(SyncVectorEnv([Endless] * 2), networks, n_steps=12, batch_size=24)
    for _ in range(3):  # the memory goes on from one rollout to the next
        assert source.sequence_length == 12
        assert compared(source, networks) == 24


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize(("memory", "length"), [("lstm", 1), ("lstm", 5), ("transformer", 4), ("gru", 16)])
def test_sequences_with_ends_of_episodes_are_read_as_they_were_acted(memory, length, mode):
    networks = networks_of(memory)
    source = SequenceRollout(counting(mode), networks, n_steps=16, batch_size=20, sequence_length=length)
    for _ in range(3):
        assert compared(source, networks) == source.made.valid.sum()
    assert source.start.any()
    assert source.made.cut.any()


def test_advantages_are_of_values_that_remember_their_episode_and_nothing_else():
    """The values are those of episodes read one by one, the true final observation included."""
    networks, length, gamma, decay = networks_of(), 16, 0.9, 0.8
    envs = counting(AutoresetMode.SAME_STEP)
    source = SequenceRollout(envs, networks, n_steps=length, gamma=gamma, gae_lambda=decay, batch_size=12, seed=0)
    values: dict[tuple[int, int], Any] = {}

    def value(number: int, episode: int, t: int) -> float:
        if (number, episode) not in values:
            seen = torch.tensor([[[number, episode, k] for k in range(6)]], dtype=torch.float32) / 10.0
            values[number, episode] = networks.read(seen)[1][0].tolist()
        return values[number, episode][t]

    for _ in range(3):
        source.collect()
        seen = (source.get_buffer("leaf_0") * 10).round().int().reshape(length, 3, 3).tolist()
        reward, before, after = np.zeros((3, length, 3))
        ended = np.zeros((length, 3), bool)
        for t in range(length):
            for i in range(3):
                number, episode, k = seen[t][i]
                ended[t, i] = k + 1 == 3 + episode % 2
                is_task = (episode + number) % 3 != 1
                before[t, i] = value(number, episode, k)
                reward[t, i] = k + 1 + number
                after[t, i] = 0.0 if ended[t, i] and is_task else value(number, episode, k + 1)
        expected = gae(reward, before, after, ended, gamma, decay)
        np.testing.assert_allclose(source.advantage.numpy().reshape(length, 3), expected, atol=1e-5)
        np.testing.assert_allclose(source.returns.numpy().reshape(length, 3), expected + before, atol=1e-5)


@pytest.mark.parametrize(("length", "batch_size"), [(8, 8), (3, 9), (5, 10), (1, 7), (4, None)])
def test_each_step_is_in_each_epoch_once(length, batch_size):
    envs = counting(AutoresetMode.SAME_STEP)
    source = SequenceRollout(envs, networks_of(), n_steps=8, n_epochs=2, batch_size=batch_size, sequence_length=length)
    orders = []
    for _ in range(2):
        rows: list[int] = []
        for _ in range(source.updates_for(24) // 2):
            source.advance()
            batch = source.sample()
            assert batch.weight.sum().item() == pytest.approx(1.0)
            assert batch.episode_start is not None
            assert batch.episode_start.shape == (source.batch_size // length, length)
            rows += source.rows[batch.weight > 0].tolist()
        assert sorted(rows) == list(range(24))
        orders.append(rows)
    assert orders[0] != orders[1]
    assert source.collector.steps == 24


class RecurrentPPO(PPO):
    """PPO with an LSTM."""

    @classmethod
    def tiny(cls, seed=0):
        config = PPOConfig(n_steps=32, batch_size=16, n_epochs=4, net_arch=(8, 8), sequence_length=8, ent_coef=0.01)
        return RECIPE.tiny(cls, config, seed, env="agentlib/CartPoleNoVel-v0", n_envs=2, backbone="lstm")


@pytest.mark.slow
def test_it_keeps_the_contract():
    """Resumed bit for bit in the middle of a rollout, too."""
    check_learner(RecurrentPPO)


@pytest.mark.parametrize("backbone", ["lstm", pytest.param("transformer", marks=pytest.mark.slow)])
@pytest.mark.parametrize("in_observation", [False, True])
def test_memory_and_masks_at_once(backbone, in_observation, tmp_path):
    """The environment refuses what is illegal."""
    settings: dict[str, Any] = {"n_steps": 32, "batch_size": 16, "n_epochs": 2, "net_arch": (8,), "progress": False}
    env = partial(Moody, (3, 4), in_observation=in_observation, start=1)
    agent: Any = agentlib.train("ppo", env=env, steps=128, backbone=backbone, sequence_length=4, **settings)
    again = agentlib.Agent.load(agent.save(tmp_path / "agent"))
    assert again.has_memory
    assert again.takes_masks
    more: Any = agentlib.train("a2c", env=env, steps=64, agent=again, n_steps=8, progress=False)
    assert more.has_memory


class Cue(gymnasium.Env):
    """The first observation says which of four actions is worth 1 at the sixth step, where two are legal; earlier ones
    are worth nothing, and some of them are illegal. Illegal ones are refused. Without memory the best return is 1/2."""

    observation_space, action_space = spaces.Box(0, 1, (5,)), spaces.Discrete(4)

    def seen(self) -> tuple[Any, dict[str, Any]]:
        observation, self.mask = np.zeros(5, np.float32), self.np_random.random(4) < 0.5
        if self.t == 0:
            observation[self.cue] = 1.0
        observation[4] = self.t == 5
        self.mask[self.np_random.integers(4)] = True
        if self.t == 5:
            self.mask[:] = False
            self.mask[[self.cue, (self.cue + int(self.np_random.integers(1, 4))) % 4]] = True
        return observation, {"action_mask": self.mask}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t, self.cue = 0, int(self.np_random.integers(4))
        return self.seen()

    def step(self, action):
        assert self.mask[action], "illegal"
        reward = float(self.t == 5 and action == self.cue)
        self.t += 1
        return *self.seen()[:1], reward, self.t == 6, False, {"action_mask": self.mask}


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["lstm", "auto"])
def test_a_task_that_needs_memory_and_masks_at_once(backbone):
    """At 1 with memory, at 1/2 without."""
    settings: dict[str, Any] = {"n_steps": 48, "batch_size": 96, "n_epochs": 4, "learning_rate": 3e-3, "gamma": 0.95}
    settings |= {} if backbone == "auto" else {"sequence_length": 24}
    agent: Any = agentlib.train(
        "ppo", env=Cue, n_envs=8, steps=20_000, seed=0, backbone=backbone, ent_coef=0.01, progress=False, **settings
    )
    mean = agentlib.evaluate(agent, Cue, episodes=100).mean
    assert mean >= 0.95 if backbone == "lstm" else 0.3 <= mean <= 0.7


@pytest.mark.slow
@pytest.mark.thorough
def test_it_learns_cartpole_without_velocities():
    """Where policies of single observations keep the pole up for about 40 steps."""
    settings: dict[str, Any] = {"n_steps": 128, "batch_size": 256, "sequence_length": 32, "net_arch": (64,)}
    env, backbone = "agentlib/CartPoleNoVel-v0", "lstm"
    agent: Any = agentlib.train(
        "ppo",
        env=env,
        n_envs=8,
        steps=160_000,
        seed=0,
        learning_rate=1e-3,
        backbone=backbone,
        progress=False,
        **settings,
    )
    assert agentlib.evaluate(agent, env, episodes=30).mean >= 300


def test_lengths_that_do_not_fit():
    with pytest.raises(ValueError, match="sequence_length=40 is longer than n_steps=16 or batch_size=20"):
        SequenceRollout(SyncVectorEnv([Counting] * 2), networks_of(), n_steps=16, batch_size=20, sequence_length=40)
    with pytest.raises(ValueError, match='sequence_length is of networks with memory, such as backbone="lstm"'):
        agentlib.train("ppo", env="CartPole-v1", steps=16, n_steps=16, batch_size=8, sequence_length=8)
    with pytest.warns(UserWarning, match="a minibatch has 8 steps, whole sequences, in place of 9"):
        agentlib.train(
            "ppo", env="CartPole-v1", steps=16, n_envs=1, n_steps=16, batch_size=9, sequence_length=8,
            backbone="gru", progress=False,
        )  # fmt: skip
    reads_actions = WithMemory(MLP(4, ()), LSTM(6, 4), previous_action=2)
    with pytest.raises(ValueError, match="build the memory with previous_action=None"):
        agentlib.train("ppo", env="CartPole-v1", steps=16, backbone=reads_actions)
