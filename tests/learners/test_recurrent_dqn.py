"""Recurrent DQN: returns against their definition, the loss against episodes read one by one, a task for memory."""

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from agentlib.backbones import GRU, LSTM, MLP, AfterAction, TransformerDecoder, WithMemory, adam, sgd
from agentlib.core import Clock
from agentlib.experience import SequenceBuffer, SequenceReplay, Sequences
from agentlib.learners import RecurrentDQN, RecurrentDQNConfig, run
from agentlib.learners.q_learning.recurrent_dqn import watkins_returns
from agentlib.policies import EpsilonGreedy, MemoryActor, QPolicy

B, T, ACTIONS = 3, 6, 2


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def by_definition(reward, terminated, next_value, trace, gamma):
    """G_t as the mixture of all n-step returns that its traces say, each written out."""
    steps = len(reward)
    returns = []
    for t in range(steps):
        total, share = 0.0, 1.0
        for n in range(1, steps - t + 1):
            last = t + n - 1
            ended = [k for k in range(t, last + 1) if terminated[k]]
            stop = ended[0] if ended else last
            plain = sum(gamma ** (k - t) * reward[k] for k in range(t, stop + 1))
            if not ended:
                plain += gamma**n * next_value[last]
            go_on = trace[last] if last < steps - 1 else 0.0
            total += share * (1 - go_on) * plain
            share *= go_on
        returns.append(total)
    return returns


def test_returns_are_the_mixture_of_n_step_returns():
    reward, next_value = torch.randn(2, B, T, dtype=torch.float64)
    terminated = (torch.rand(B, T) < 0.2).double()
    trace = 0.8 * (torch.rand(B, T) < 0.7)
    found = watkins_returns(reward, terminated, next_value, trace.double(), 0.9)
    rows = zip(reward.tolist(), terminated.tolist(), next_value.tolist(), trace.tolist(), strict=True)
    expected = [by_definition(*row, 0.9) for row in rows]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def test_returns_at_both_ends():
    reward, next_value = torch.randn(2, B, T)
    none = torch.zeros(B, T)
    torch.testing.assert_close(watkins_returns(reward, none, next_value, none, 0.9), reward + 0.9 * next_value)
    whole = watkins_returns(reward, none, next_value, torch.ones(B, T), 0.9)
    powers = 0.9 ** torch.arange(T)
    torch.testing.assert_close(whole[:, 0], (powers * reward).sum(1) + 0.9**T * next_value[:, -1])


def network(memory: Any = None, previous_action: int | None = 2) -> QPolicy:
    width = 3 + (previous_action or 0)
    return QPolicy(WithMemory(MLP(3, ()), memory or LSTM(width, 4), previous_action), ACTIONS)


def random_batch(policy: QPolicy) -> Sequences:
    start = torch.zeros(B, T + 1, dtype=torch.bool)
    start[0, 3] = start[2, 0] = True
    previous = torch.randint(ACTIONS, (B, T + 1))
    weight = torch.ones(B, T)
    weight[0, 2] = 0.0  # the last frame of the episode before the one that starts at 3
    terminated = torch.zeros(B, T)
    terminated[0, 1] = 1.0
    state = policy.initial_state(B)
    (h, c), action = state
    action = previous[:, 1:].clone()
    return Sequences(
        observation=AfterAction(torch.randn(B, T + 1, 3), previous.masked_fill(start, -1)),
        action=action,
        reward=torch.randn(B, T),
        terminated=terminated,
        weight=weight,
        episode_start=start,
        state=((torch.randn_like(h), torch.randn_like(c)), state[1]),
        clock=Clock(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0)),
    )


@pytest.mark.parametrize("masked", [False, True])
def test_loss_is_that_of_episodes_read_one_by_one(masked):
    """Row 0 holds the end of one episode and the start of another: as separate batches they give the same errors."""
    config = RecurrentDQNConfig(burn_in=1, trace=0.7, reward_scale=0.5, gamma=0.9, loss="mse")
    policy = network()
    learner = RecurrentDQN(policy, sgd(0.0), config)
    for parameter in learner.target.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    legal = torch.ones(B, T + 1, ACTIONS, dtype=torch.bool)
    if masked:
        forbidden = torch.randint(2 * ACTIONS, (B, T + 1, 1))
        legal &= torch.arange(ACTIONS) != forbidden  # half of the time nothing is
    batch = random_batch(policy)._replace(mask=legal if masked else None)

    def values(net: Any, row: int, first: int, last: int) -> Tensor:
        """(frames, actions): from the stored state, or from nothing at an episode's start."""
        seen = AfterAction(*(part[row : row + 1, first:last] for part in batch.observation))
        begins = bool(batch.episode_start[row, first])
        (h, c), action = batch.state
        state = None if begins else ((h[row : row + 1], c[row : row + 1]), action[row : row + 1])
        return net(seen, state, None)[0][0]

    errors = []
    with torch.no_grad():
        # (row, first frame, one behind the last): row 0 has two episodes, the others one.
        for row, first, last in ((0, 0, 3), (0, 3, 7), (1, 0, 7), (2, 0, 7)):
            q, target = values(policy, row, first, last), values(learner.target, row, first, last)
            begin = 1 if first == 0 else 0  # without the burn-in
            steps = range(first + begin, last - 1)
            best = q.masked_fill(~legal[row, first:last], -torch.inf).argmax(-1)
            next_value = [target[t + 1 - first, best[t + 1 - first]].item() for t in steps]
            trace = [0.7 * float(t + 1 in steps and batch.action[row, t + 1] == best[t + 1 - first]) for t in steps]
            reward = [0.5 * batch.reward[row, t].item() for t in steps]
            terminated = [batch.terminated[row, t].item() for t in steps]
            returns = by_definition(reward, terminated, next_value, trace, 0.9)
            chosen = [q[t - first, batch.action[row, t]].item() for t in steps]
            errors += [(a - b) ** 2 for a, b in zip(chosen, returns, strict=True)]
    update = learner.update(batch)
    assert update.metrics["loss"].item() == pytest.approx(np.mean(errors), rel=1e-5)


def test_nothing_is_learned_from_the_burn_in_and_from_where_nothing_was_done():
    policy = network()
    learner = RecurrentDQN(policy, sgd(0.0), RecurrentDQNConfig(burn_in=2))
    batch = random_batch(policy)
    loss = learner.update(batch).metrics["loss"]
    reward = batch.reward.clone()
    reward[:, :2], reward[0, 2] = 100.0, 100.0
    torch.testing.assert_close(learner.update(batch._replace(reward=reward)).metrics["loss"], loss)
    reward[1, 4] += 1.0
    assert learner.update(batch._replace(reward=reward)).metrics["loss"] != loss


def test_returns_end_where_an_episode_is_cut_off():
    """Whatever follows an end without termination: the value there, and no action or reward behind it, counts."""
    policy = network()
    learner = RecurrentDQN(policy, sgd(0.0), RecurrentDQNConfig(burn_in=0, trace=0.9))
    batch = random_batch(policy)._replace(terminated=torch.zeros(B, T))
    losses = []
    for action in range(ACTIONS):  # one of them is the greedy one, as if the trace went on
        behind, reward = batch.action.clone(), batch.reward.clone()
        behind[0, 2], reward[0, 2] = action, 100.0 * action
        losses.append(learner.update(batch._replace(action=behind, reward=reward)).metrics["loss"])
    torch.testing.assert_close(*losses)
    reward = batch.reward.clone()
    reward[0, 1] += 1.0  # the last step before the end does count
    assert learner.update(batch._replace(reward=reward)).metrics["loss"] != losses[0]


def test_the_target_follows_by_environment_steps():
    learner = RecurrentDQN(network(), sgd(0.0), RecurrentDQNConfig(tau=0.5, target_update_interval=10))
    start = [p.clone() for p in learner.target.parameters()]
    for parameter in learner.policy.parameters():
        parameter.data += 1.0
    learner.before_update(Clock(0, 9, 0.0))
    assert all(torch.equal(a, b) for a, b in zip(start, learner.target.parameters(), strict=True))
    learner.before_update(Clock(1, 20, 0.0))  # two are due
    for before, now in zip(start, learner.target.parameters(), strict=True):
        torch.testing.assert_close(now, before + 0.75)


def test_policies_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"needs a policy with memory, such as QPolicy\(WithMemory"):
        RecurrentDQN(QPolicy(MLP(3), 2), adam(1e-3))
    with pytest.raises(ValueError, match=r"RecurrentDQNConfig.trace must be between 0 and 1, not 2"):
        RecurrentDQNConfig(trace=2.0)


class Cue(gymnasium.Env):
    """A cue of -1 or 1 is shown for one moment; four moments later the action that it names pays 1."""

    observation_space = spaces.Box(-1, 1, (2,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.t = int(self.np_random.integers(2)), 0
        return np.array([2 * self.cue - 1, 0], np.float32), {}

    def step(self, action):
        self.t += 1
        done = self.t == 5
        return np.array([0, self.t == 4], np.float32), float(done and action == self.cue), done, False, {}


MEMORIES: dict[str, Any] = {
    "lstm": lambda: LSTM(4, 16),
    "gru": lambda: GRU(4, 16),
    "transformer": lambda: TransformerDecoder(4, 16, 1, 2, window=5),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MEMORIES)
def test_remembers_a_cue(name):
    """Without memory one half is the best there is."""
    policy = QPolicy(WithMemory(MLP(2, ()), MEMORIES[name](), previous_action=2), 2)
    config = RecurrentDQNConfig(sequence_length=8, burn_in=2, gamma=0.9, tau=0.05, target_update_interval=4)
    state = policy.initial_state(1)
    spaces_of = (Cue.observation_space, Cue.action_space)
    buffer = SequenceBuffer(*spaces_of, 4000, sequence_length=10, period=4, with_actions=True, state=state)
    exploration = EpsilonGreedy(Cue.action_space, epsilon=0.2, random_steps=200)
    actor = MemoryActor(policy, Cue.observation_space)
    replay = SequenceReplay(Cue(), actor, buffer, exploration, learning_starts=200, train_freq=8, total_steps=3000)
    learner = RecurrentDQN(policy, adam(5e-3), config)
    for _ in run(learner, replay, 350, compile=False):
        pass
    env, actor = Cue(), MemoryActor(learner.target.network, Cue.observation_space)
    returns = []
    for seed in range(20):
        observation, _ = env.reset(seed=seed)
        actor.begin(1)
        ended = False
        while not ended:
            action = actor(observation[None])
            actor.acted(action)
            observation, reward, ended, _, _ = env.step(int(action[0]))
        returns.append(reward)
    assert np.mean(returns) == 1.0
