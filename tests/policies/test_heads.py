"""Policies for every action space, against torch.distributions."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import distributions, nn

from agentlib.backbones import MLP, from_spec
from agentlib.core.randomness import fresh_weights
from agentlib.policies import (
    POLICIES,
    BernoulliPolicy,
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    MultiCategoricalPolicy,
    policy_for,
)

FEATURES = 5
BOX = spaces.Box(np.array([-2.0, 0.0], np.float32), np.array([2.0, 5.0], np.float32))
HALF_OPEN = spaces.Box(np.array([-1.0, 0.0, -np.inf], np.float32), np.array([1.0, np.inf, np.inf], np.float32))
SPACES: dict[str, spaces.Space[Any]] = {
    "discrete": spaces.Discrete(4, start=3),
    "multi_discrete": spaces.MultiDiscrete([2, 5, 3]),
    "multi_discrete_grid": spaces.MultiDiscrete(np.array([[2, 5, 3], [4, 2, 2]])),
    "multi_binary": spaces.MultiBinary(3),
    "multi_binary_grid": spaces.MultiBinary([2, 3]),
    "box": BOX,
    "box_grid": spaces.Box(-1.0, 3.0, (2, 2)),
    "box_scalar": spaces.Box(-1.0, 3.0, ()),
    "box_unbounded": HALF_OPEN,
}


class Running(nn.Module):
    """A sequence backbone: a running sum of what was seen since the episode began."""

    is_sequence, feature_dim = True, FEATURES

    def __init__(self):
        super().__init__()
        self.spec = {"name": "Running", "arguments": {}}

    def initial_state(self, batch_size):
        return torch.zeros(batch_size, FEATURES)

    def forward(self, observation, state=None, episode_start=None):
        state = self.initial_state(len(observation)) if state is None else state
        features = []
        for t in range(observation.shape[1]):
            if episode_start is not None:
                state = torch.where(episode_start[:, t, None], 0.0, state)
            state = state + observation[:, t]
            features.append(state)
        return torch.stack(features, dim=1), state


def make(name, **options):
    with fresh_weights(0):
        policy = policy_for(SPACES[name], MLP(FEATURES, (8,)), **options)
        for parameter in policy.parameters():
            nn.init.normal_(parameter, std=0.7)
    return policy


def outputs_of(policy, *leading):
    return policy.output_of(torch.randn(*leading, policy.feature_dim, generator=torch.Generator().manual_seed(1)))


def reference(policy, output):
    """The same distribution by torch, over flat actions `(..., d)`."""
    if isinstance(policy, CategoricalPolicy):
        return distributions.Categorical(logits=output)
    if isinstance(policy, MultiCategoricalPolicy):
        return [distributions.Categorical(logits=part) for part in output.split(policy.sizes, -1)]
    if isinstance(policy, BernoulliPolicy):
        return distributions.Independent(distributions.Bernoulli(logits=output), 1)
    mean, log_std = output.chunk(2, -1)
    return distributions.Independent(distributions.Normal(mean, log_std.exp()), 1)


@pytest.mark.parametrize("leading", [(6,), (2, 3)], ids=["batch", "sequence"])
@pytest.mark.parametrize("name", SPACES)
def test_log_probability_and_entropy_are_those_of_torch(name, leading):
    policy = make(name)
    output = outputs_of(policy, *leading)
    action = policy.sample(output)
    log_prob, entropy = policy.log_prob(output, action), policy.entropy(output)
    assert action.shape == (*leading, *(SPACES[name].shape or ()))
    assert log_prob.shape == entropy.shape == leading
    flat = action if name == "discrete" else action.reshape(*leading, -1)
    theirs = reference(policy, output)
    if isinstance(theirs, list):
        expected = sum(part.log_prob(flat[..., i]) for i, part in enumerate(theirs))
        expected_entropy = sum(part.entropy() for part in theirs)
    else:
        expected = theirs.log_prob(flat.float() if isinstance(policy, BernoulliPolicy) else flat)
        expected_entropy = theirs.entropy()
    torch.testing.assert_close(log_prob, expected)
    torch.testing.assert_close(entropy, expected_entropy)


@pytest.mark.parametrize("name", [name for name in SPACES if not name.startswith("box")])
def test_discrete_samples_come_as_often_as_their_probabilities_say(name):
    policy = make(name)
    output = outputs_of(policy, 1)
    with fresh_weights(0):
        actions = policy.sample(output.expand(40_000, -1))
    probability = policy.probabilities(output)[0]
    if name == "discrete":
        counts = torch.bincount(actions, minlength=4) / len(actions)
    elif name.startswith("multi_discrete"):
        options = torch.arange(probability.shape[-1])
        counts = (actions.reshape(len(actions), -1, 1) == options).float().mean(0)
    else:
        counts = actions.float().mean(0)
    assert (counts - probability).abs().max() < 0.01
    chosen = policy.choose(output)
    more_likely = policy.log_prob(output, chosen) >= policy.log_prob(output.expand(len(actions), -1), actions) - 1e-5
    assert more_likely.all()


def test_one_component_of_several_is_a_choice_of_its_own():
    several, one = make("multi_discrete"), make("discrete")
    logits = outputs_of(one, 7)
    alone = MultiCategoricalPolicy(MLP(FEATURES, (8,)), [4])
    action = one.choose(logits)
    torch.testing.assert_close(alone.log_prob(logits, action[:, None]), one.log_prob(logits, action))
    probability = several.probabilities(outputs_of(several, 7))
    torch.testing.assert_close(probability.sum(-1), torch.ones(7, 3))
    assert (probability[:, 0, 2:] == 0.0).all()  # the first choice has two options


def test_a_ruled_out_option_is_never_drawn_and_leaves_entropy_and_gradient_finite():
    policy = CategoricalPolicy(MLP(FEATURES, (8,)), 3)
    logits = torch.tensor([[0.3, -torch.inf, 0.1]], requires_grad=True)
    assert set(policy.sample(logits.expand(1000, -1)).tolist()) == {0, 2}
    (gradient,) = torch.autograd.grad(policy.entropy(logits).sum(), logits)
    expected = distributions.Categorical(logits=torch.tensor([[0.3, 0.1]])).entropy()
    torch.testing.assert_close(policy.entropy(logits).detach(), expected)
    assert torch.isfinite(gradient).all()


def squashed_reference(policy, output):
    mean, log_std = output.chunk(2, -1)
    low, high = policy.bounds.low, policy.bounds.high
    changes = [
        distributions.TanhTransform(cache_size=1),
        distributions.AffineTransform((low + high) / 2, (high - low) / 2, cache_size=1),
    ]
    squashed = distributions.TransformedDistribution(distributions.Normal(mean, log_std.exp()), changes)
    return distributions.Independent(squashed, 1)


def test_squashed_density_is_that_of_torch_and_its_samples_lie_inside():
    policy = make("box", squashed=True, state_dependent_std=True)
    output = outputs_of(policy, 500)
    action = policy.sample(output)
    low, high = (torch.from_numpy(side) for side in (BOX.low, BOX.high))
    assert ((action >= low) & (action <= high)).all()
    inside = (((action - low) / (high - low) - 0.5).abs() < 0.4999).all(-1)  # atanh loses its digits at the bounds
    assert inside.float().mean() > 0.5
    theirs = squashed_reference(policy, output[inside]).log_prob(action[inside])
    torch.testing.assert_close(policy.log_prob(output, action)[inside], theirs, rtol=1e-3, atol=1e-3)
    assert torch.isfinite(policy.log_prob(output, action)).all()
    assert torch.isfinite(policy.log_prob(output, torch.stack([low, high]).mean(0).expand(500, 2))).all()
    assert torch.isfinite(policy.log_prob(output, high.expand(500, 2))).all()


@pytest.mark.parametrize("std", [0.3, 1.0, 2.0])
def test_squashed_density_integrates_to_one_and_its_entropy_is_the_integral(std):
    policy = GaussianPolicy(MLP(FEATURES, (8,)), spaces.Box(-3.0, 1.0, (1,)), squashed=True).double()
    output = torch.tensor([0.4, math.log(std)], dtype=torch.float64)
    u = torch.linspace(-7.2, 7.2, 40_001, dtype=torch.float64)  # even steps in u resolve the ends of the Box
    action = (-1.0 + 2.0 * u.tanh())[:, None]
    log_density = policy.log_prob(output.expand(len(u), 2), action)
    assert torch.trapezoid(log_density.exp(), action[:, 0]).item() == pytest.approx(1.0, abs=2e-3)
    integral = torch.trapezoid(-log_density.exp() * log_density, action[:, 0]).item()
    assert policy.entropy(output).item() == pytest.approx(integral, abs=2e-2 if std > 1 else 5e-3)


def test_numbers_without_two_bounds_are_not_squashed():
    policy = make("box_unbounded", squashed=True)
    output = outputs_of(policy, 200)
    plain, _ = policy.mean_and_log_std(output)
    chosen = policy.choose(output)
    torch.testing.assert_close(chosen[:, 0], plain[:, 0].tanh())
    torch.testing.assert_close(chosen[:, 1], plain[:, 1].clamp_min(0.0))
    torch.testing.assert_close(chosen[:, 2], plain[:, 2])
    assert torch.isfinite(policy.log_prob(output, policy.sample(output))).all()
    assert torch.isfinite(policy.entropy(output)).all()


def test_a_plain_mode_is_cut_to_the_bounds_and_its_samples_are_not():
    policy = make("box")
    output = 10.0 * outputs_of(policy, 500).detach()
    chosen = policy.choose(output).numpy()
    assert (chosen >= BOX.low).all()
    assert (chosen <= BOX.high).all()
    assert (chosen == BOX.high).any()
    assert (policy.sample(output).numpy() > BOX.high).any()


def test_the_standard_deviation_depends_on_the_observation_only_if_asked():
    for asked in (False, True):
        output = outputs_of(make("box", state_dependent_std=asked), 10)
        same = (output[:, 2:] == output[:1, 2:]).all()
        assert bool(same) is not asked
    assert make("box", log_std=-1.0).spec["arguments"]["log_std"] == -1.0


def test_a_deterministic_policy_keeps_the_bounds():
    for squashed in (False, True):
        policy = DeterministicPolicy(MLP(FEATURES, (8,)), BOX, squashed)
        nn.init.normal_(policy.head.weight, std=5.0)
        action = policy.choose(policy(torch.randn(100, FEATURES))[0]).detach().numpy()
        assert (action >= BOX.low).all()
        assert (action <= BOX.high).all()
    with pytest.raises(ValueError, match="need a Box"):
        DeterministicPolicy(MLP(FEATURES, (8,)), {"type": "Discrete", "n": 2, "start": 0})


@pytest.mark.parametrize("name", SPACES)
def test_specs_rebuild_the_policy(name):
    for options in ({}, {"squashed": True, "state_dependent_std": True}):
        policy = make(name, **options)
        again: Any = from_spec(json.loads(json.dumps(policy.spec, allow_nan=False)), POLICIES)
        assert type(again) is type(policy)
        again.load_state_dict(policy.state_dict())
        observation = torch.randn(3, FEATURES)
        torch.testing.assert_close(
            again.choose(again(observation)[0]), policy.choose(policy(observation)[0]), rtol=0, atol=0
        )


def test_the_policy_that_fits_is_found_and_others_are_named():
    kinds = {name: type(make(name)).__name__ for name in SPACES}
    assert kinds["discrete"] == "CategoricalPolicy"
    assert kinds["multi_discrete_grid"] == "MultiCategoricalPolicy"
    assert kinds["multi_binary"] == "BernoulliPolicy"
    assert kinds["box_scalar"] == "GaussianPolicy"
    with pytest.raises(ValueError, match=r"no policy acts in Text"):
        policy_for(spaces.Text(5), MLP(FEATURES, (8,)))


def test_memory_goes_through():
    policy = policy_for(SPACES["discrete"], Running())
    assert policy.is_sequence
    observation = torch.randn(2, 6, FEATURES)
    whole, _ = policy(observation)
    assert whole.shape == (2, 6, 4)
    state = policy.initial_state(2)
    first, state = policy(observation[:, :3], state)
    second, _ = policy(observation[:, 3:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole)
    starts = torch.zeros(2, 6, dtype=torch.bool)
    starts[0, 3] = True
    torch.testing.assert_close(policy(observation, None, starts)[0][0, 3:], policy(observation[:1, 3:])[0][0])
    assert policy.choose(whole).shape == policy.log_prob(whole, policy.sample(whole)).shape == (2, 6)
    plain = make("discrete")
    assert plain.initial_state(2) is None
    assert plain(torch.randn(2, FEATURES), "as it came")[1] == "as it came"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["discrete", "multi_discrete_grid", "multi_binary", "box", "ensemble"])
def test_all_of_it_compiles_into_one_graph(name):
    from agentlib.policies import EnsemblePolicy

    policy = EnsemblePolicy([make("discrete"), make("discrete")]) if name == "ensemble" else make(name, squashed=True)

    def all_of_it(observation):
        output, _ = policy(observation)
        action = policy.sample(output)
        return policy.choose(output), action, policy.log_prob(output, action), policy.entropy(output)

    observation = torch.randn(4, FEATURES)
    with fresh_weights(0):
        eager = all_of_it(observation)
    compiled = torch.compile(all_of_it, fullgraph=True, dynamic=False, options={"fallback_random": True})
    with fresh_weights(0):
        for ours, theirs in zip(compiled(observation), eager, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
