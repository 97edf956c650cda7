"""Behavioural cloning: its loss against torch's and by hand, for every kind of action; what its options do."""

import math

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch.nn import functional

from agentlib.backbones import MLP, Nested, adam, sgd
from agentlib.core import Clock
from agentlib.core.randomness import fresh_weights
from agentlib.experience import Demonstration, DemonstrationBatches, Demonstrations, Labelled
from agentlib.learners import BC, BCConfig, DAggerConfig, run
from agentlib.learners.imitation.bc import negative_log_likelihood, squared_error, weighted_mean
from agentlib.policies import (
    CategoricalPolicy,
    DeterministicPolicy,
    EnsemblePolicy,
    GaussianPolicy,
    QPolicy,
    policy_for,
)

NOW = Clock(torch.tensor(0.0), torch.tensor(0.0), torch.tensor(0.0))
BOX = spaces.Box(-2, 2, (2,), np.float32)
ACTIONS = {
    "choice": spaces.Discrete(3),
    "choices": spaces.MultiDiscrete([3, 4]),
    "switches": spaces.MultiBinary(3),
    "numbers": BOX,
}


def batch_of(space, size=64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    space.seed(seed)
    action = torch.from_numpy(np.stack([np.asarray(space.sample()) for _ in range(size)]))
    observation = torch.randn(size, 4, generator=generator)
    weight = (torch.rand(size, generator=generator) > 0.3).float()
    start = torch.ones(size, dtype=torch.bool)
    return Labelled(observation, action if space is BOX else action.long(), weight, start, NOW)


def a_policy(space, **options):
    with fresh_weights(0):
        return policy_for(space, MLP(4, (16,)), **options)


@pytest.mark.parametrize("kind", ACTIONS)
def test_the_loss_is_that_of_the_formula(kind):
    policy, batch = a_policy(ACTIONS[kind]), batch_of(ACTIONS[kind])
    output, _ = policy(batch.observation)
    kept = batch.weight > 0
    if kind == "choice":
        by_hand = functional.cross_entropy(output[kept], batch.action[kept])
    elif kind == "choices":
        by_hand = functional.cross_entropy(output[kept, :3], batch.action[kept, 0])
        by_hand = by_hand + functional.cross_entropy(output[kept, 3:], batch.action[kept, 1])
    elif kind == "switches":
        by_hand = functional.binary_cross_entropy_with_logits(output[kept], batch.action[kept].float()) * 3
    else:
        mean, log_std = output[kept].chunk(2, -1)
        by_hand = -torch.distributions.Normal(mean, log_std.exp()).log_prob(batch.action[kept]).sum(-1).mean()
    entropy = policy.entropy(output)[kept].mean()
    l2 = sum(p.square().sum() for p in policy.parameters()) / 2
    learner = BC(policy, sgd(0.0), BCConfig(ent_weight=0.3, l2_weight=0.01))

    metrics = learner.update(batch).metrics

    torch.testing.assert_close(metrics["neglogp"], by_hand.detach())
    torch.testing.assert_close(metrics["loss"], (by_hand - 0.3 * entropy + 0.01 * l2).detach())
    torch.testing.assert_close(metrics["l2_norm"], l2.detach())


def test_at_first_it_is_ln_n_and_at_last_zero():
    policy = a_policy(spaces.Discrete(3))
    torch.nn.init.zeros_(policy.head.weight)
    torch.nn.init.zeros_(policy.head.bias)
    batch = batch_of(spaces.Discrete(3), 16)
    learner = BC(policy, adam(3e-2), BCConfig(ent_weight=0.0))
    losses = [float(learner.update(batch).metrics["loss"]) for _ in range(400)]
    assert losses[0] == pytest.approx(math.log(3), abs=1e-6)
    assert losses[-1] < 0.01


def test_one_step_is_that_of_torch():
    """The update of the `imitation` library, written out: neglogp - ent_weight entropy + l2_weight |theta|^2 / 2."""
    policy, batch = a_policy(spaces.Discrete(3)), batch_of(spaces.Discrete(3))
    batch = batch._replace(weight=torch.ones(64))
    with fresh_weights(0):
        theirs = torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Linear(16, 3))
    theirs.load_state_dict(dict(zip(theirs.state_dict(), policy.state_dict().values(), strict=True)))
    optimizer = torch.optim.Adam(theirs.parameters(), lr=1e-3)
    learner = BC(policy, adam(1e-3), BCConfig(ent_weight=0.1, l2_weight=0.01))
    for _ in range(5):
        learner.update(batch)
        distribution = torch.distributions.Categorical(logits=theirs(batch.observation))
        l2 = sum(p.square().sum() for p in theirs.parameters()) / 2
        loss = -distribution.log_prob(batch.action).mean() - 0.1 * distribution.entropy().mean() + 0.01 * l2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    for mine, other in zip(policy.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("shape", [(8,), (8, 5)])
def test_smoothed_labels_are_torchs(shape):
    policy = a_policy(spaces.Discrete(3))
    output, action = torch.randn(*shape, 3), torch.randint(0, 3, shape)
    expected = functional.cross_entropy(output.flatten(0, -2), action.flatten(), label_smoothing=0.2, reduction="none")
    found = negative_log_likelihood(policy, output, action, 0.2)
    torch.testing.assert_close(found, expected.reshape(shape))
    torch.testing.assert_close(negative_log_likelihood(policy, output, action), -policy.log_prob(output, action))


def test_class_weights_are_torchs():
    policy, batch = a_policy(spaces.Discrete(3)), batch_of(spaces.Discrete(3))
    kept = batch.weight > 0
    output, _ = policy(batch.observation)
    weights = (0.5, 1.0, 4.0)
    expected = functional.cross_entropy(output[kept], batch.action[kept], weight=torch.tensor(weights))
    learner = BC(policy, sgd(0.0), BCConfig(class_weights=weights))
    torch.testing.assert_close(learner.update(batch).metrics["neglogp"], expected.detach())


@pytest.mark.parametrize("squashed", [False, True])
@pytest.mark.parametrize("kind", [GaussianPolicy, DeterministicPolicy])
def test_squared_error_is_of_the_mean_before_it_is_cut(kind, squashed):
    with fresh_weights(0):
        policy = kind(MLP(4, (16,)), BOX, squashed)
    torch.nn.init.constant_(policy.head.bias, 5.0)  # far beyond the bounds
    observation = torch.randn(6, 4)
    output, _ = policy(observation)
    mean = output[:, :2]
    if squashed and kind is GaussianPolicy:
        mean = 2 * torch.tanh(mean)
    action = torch.rand(6, 2)
    expected = (mean - action).square().mean(-1)
    torch.testing.assert_close(squared_error(policy, output, action), expected)
    if not squashed:
        assert torch.autograd.grad(expected.sum(), policy.head.bias)[0].abs().min() > 1  # it is not stuck there


def test_weights_leave_out_and_an_empty_batch_is_no_nan():
    values = torch.tensor([1.0, 2.0, 4.0])
    assert weighted_mean(values, torch.tensor([1.0, 0.0, 1.0])).item() == 2.5
    assert weighted_mean(values, torch.zeros(3)).item() == 0.0


def test_members_of_an_ensemble_learn_as_if_they_were_alone():
    with fresh_weights(0):
        members = [CategoricalPolicy(MLP(4, (16,)), 3) for _ in range(3)]
    batch = batch_of(spaces.Discrete(3))
    import copy

    alone = [copy.deepcopy(member) for member in members]
    together = BC(EnsemblePolicy(members), sgd(3e-1), BCConfig())  # the mean over three members
    apart = [BC(member, sgd(1e-1), BCConfig()) for member in alone]
    for _ in range(3):
        together.update(batch)
        for learner in apart:
            learner.update(batch)
    for mine, other in zip(members, alone, strict=True):
        for a, b in zip(mine.parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(a, b)


class Summing(torch.nn.Module):
    """The smallest memory there is: running sums, which start anew where an episode does."""

    is_sequence = True
    feature_dim = 2

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, 2)

    def forward(self, observation, state=None, episode_start=None):
        state = self.initial_state(len(observation)) if state is None else state
        sums = []
        for t in range(observation.shape[1]):
            if episode_start is not None:
                state = state * ~episode_start[:, t, None]
            state = state + observation[:, t]
            sums.append(state)
        return torch.stack(sums, 1), state


def test_a_memory_learns_from_chunks():
    """Whether the sum of all that was seen is positive: a single step does not tell."""
    generator = np.random.default_rng(0)
    demonstrations = Demonstrations(spaces.Box(-9, 9, (2,), np.float32), spaces.Discrete(2))
    for _ in range(30):
        length = int(generator.integers(5, 30))
        seen = generator.normal(size=(length + 1, 2)).astype(np.float32)
        right = (np.cumsum(seen[:-1, 0]) > 0).astype(np.int64)
        demonstrations.append(Demonstration(seen, right, np.zeros(length)))
    with fresh_weights(0):
        policy = CategoricalPolicy(Summing(), 2)
    source = DemonstrationBatches(demonstrations, batch_size=8, sequence_length=30, from_start=1.0)
    *_, (_, update) = run(BC(policy, adam(3e-2), BCConfig(ent_weight=0.0)), source, 150, compile=False)
    assert update.metrics["prob_true_act"] > 0.9
    episode = demonstrations[0]
    output, _ = policy(torch.from_numpy(episode.observations[None, :-1]))
    assert (policy.choose(output)[0].numpy() == episode.actions).mean() > 0.9


def test_dict_observations():
    space = spaces.Dict({"a": spaces.Box(-1, 1, (2,)), "b": spaces.Box(-1, 1, (3,))})
    generator = np.random.default_rng(0)
    seen = {"a": generator.uniform(-1, 1, (200, 2)), "b": generator.uniform(-1, 1, (200, 3))}
    right = ((seen["a"][:-1, 0] + seen["b"][:-1, 0]) > 0).astype(np.int64)
    demonstrations = Demonstrations(space, spaces.Discrete(2))
    demonstrations.append(Demonstration(seen, right, np.zeros(199)))
    with fresh_weights(0):
        policy = CategoricalPolicy(Nested({"a": MLP(2, ()), "b": MLP(3, ())}), 2)
    *_, (_, update) = run(BC(policy, adam(3e-2)), DemonstrationBatches(demonstrations), 150, compile=False)
    assert update.metrics["prob_true_act"] > 0.85


@pytest.mark.parametrize(
    ("policy", "config", "message"),
    [
        (lambda: QPolicy(MLP(4, (8,)), 3), BCConfig(), "QPolicy gives no distribution"),
        (lambda: DeterministicPolicy(MLP(4, (8,)), BOX), BCConfig(), "DeterministicPolicy gives no distribution"),
        (lambda: CategoricalPolicy(MLP(4, (8,)), 3), BCConfig(loss="mse"), "real-valued"),
        (lambda: GaussianPolicy(MLP(4, (8,)), BOX), BCConfig(label_smoothing=0.1), "Discrete"),
        (lambda: CategoricalPolicy(MLP(4, (8,)), 3), BCConfig(class_weights=(1.0, 2.0)), "2 class_weights for 3"),
        (lambda: CategoricalPolicy(MLP(4, (8,)), 3), BCConfig(class_weights="balanced"), "for a recipe"),
    ],
)
def test_what_does_not_go_together_is_refused(policy, config, message):
    with pytest.raises(ValueError, match=message):
        BC(policy(), adam(1e-3), config)


@pytest.mark.parametrize(
    ("kind", "settings", "message"),
    [
        (BCConfig, {"batch_size": 0}, "batch_size must be at least 1"),
        (BCConfig, {"label_smoothing": 2.0}, "label_smoothing must be between 0 and 1"),
        (BCConfig, {"patience": 3}, "set validation"),
        (DAggerConfig, {"rounds": 0}, "rounds must be at least 1"),
        (DAggerConfig, {"beta": 1.5}, "beta must be between 0 and 1"),
        (DAggerConfig, {"threshold": 0.5}, "threshold is of the gates unsure and disagreement"),
        (DAggerConfig, {"gate": "disagreement"}, "set ensemble=5"),
        (DAggerConfig, {"calibrated": True}, "calibrated is of the gate 'unsure'"),
    ],
)
def test_numbers_out_of_range(kind, settings, message):
    with pytest.raises(ValueError, match=message):
        kind(**settings)
