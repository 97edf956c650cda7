"""Ensembles of every kind of policy."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import nn

from agentlib import Agent
from agentlib.backbones import MLP, from_spec
from agentlib.core.randomness import fresh_weights
from agentlib.metrics.detection import mutual_information
from agentlib.policies import (
    POLICIES,
    CategoricalPolicy,
    DeterministicPolicy,
    DiffusionPolicy,
    EnsemblePolicy,
    GaussianPolicy,
    Predictor,
    QPolicy,
    policy_for,
)

SPACES: dict[str, Any] = {
    "discrete": spaces.Discrete(4),
    "multi_discrete": spaces.MultiDiscrete(np.array([[2, 5], [3, 2]])),
    "multi_binary": spaces.MultiBinary(3),
    "box": spaces.Box(-2.0, 2.0, (2,)),
}


def members(name, count=5, std=1.0):
    with fresh_weights(0):
        policies = [policy_for(SPACES[name], MLP(3, (8,))) for _ in range(count)]
        for policy in policies:
            for parameter in policy.parameters():
                nn.init.normal_(parameter, std=std)
    return policies


def logits(*rows):
    """The output of an ensemble for one observation, from each member's probabilities."""
    return torch.tensor(rows).log()[None]


@pytest.mark.parametrize("name", SPACES)
def test_the_average_is_at_least_as_likely_as_the_members_are_on_average(name):
    policies = members(name)
    ensemble = EnsemblePolicy(policies)
    observation = torch.randn(200, 3)
    output, state = ensemble(observation)
    assert state is None
    action = ensemble.sample(output)
    assert action.shape == (200, *SPACES[name].shape)
    together = -ensemble.log_prob(output, action)
    alone = torch.stack([-policy.log_prob(policy(observation)[0], action) for policy in policies]).mean(0)
    assert together.shape == (200,)
    assert (together <= alone + 1e-4).all()  # Jensen
    assert (together < alone - 0.1).any()


def test_probabilities_are_averaged_and_not_logits():
    ensemble = EnsemblePolicy(members("discrete", 3))
    # Averaged logits would be those of (0.5, 0.5 * 1e-4 ...): the sure member would rule the others' choice out.
    output = logits([0.998, 0.001, 0.0005, 0.0005], [0.4, 0.6, 1e-9, 1e-9], [0.4, 0.6, 1e-9, 1e-9])
    torch.testing.assert_close(
        ensemble.probabilities(output)[0, :2], torch.tensor([1.798, 1.201]) / 3, rtol=1e-4, atol=0
    )
    assert ensemble.choose(output).tolist() == [0]
    assert EnsemblePolicy(list(ensemble.members), vote="majority").choose(output).tolist() == [1]
    torch.testing.assert_close(ensemble.log_prob(output, torch.tensor([1])).exp(), ensemble.probabilities(output)[:, 1])
    average = ensemble.probabilities(output)
    torch.testing.assert_close(ensemble.entropy(output), -(average * average.log()).sum(-1))


def test_a_tied_vote_goes_to_the_likeliest():
    ensemble = EnsemblePolicy(members("discrete", 2), vote="majority")
    assert ensemble.choose(logits([0.1, 0.5, 0.4, 1e-9], [0.1, 1e-9, 0.2, 0.7])).tolist() == [3]


def test_samples_are_those_of_the_average():
    ensemble = EnsemblePolicy(members("discrete", 2))
    output = logits([0.7, 0.1, 0.1, 0.1], [0.1, 0.1, 0.1, 0.7])
    with fresh_weights(0):
        actions = ensemble.sample(output.expand(40_000, -1, -1))
    counts = torch.bincount(actions, minlength=4) / len(actions)
    assert (counts - torch.tensor([0.4, 0.1, 0.1, 0.4])).abs().max() < 0.01


def test_disagreement_is_0_if_all_agree_and_1_if_they_could_not_differ_more():
    sure = torch.eye(4)
    for count in (2, 3, 4):
        ensemble = EnsemblePolicy(members("discrete", count))
        assert ensemble.disagreement(sure[:count][None].log()).item() == pytest.approx(1.0, abs=1e-6)
        assert ensemble.disagreement(sure[[1] * count][None].log()).item() == pytest.approx(0.0, abs=1e-6)
    two = EnsemblePolicy(members("discrete", 2))
    # Both unsure in the same way: no disagreement, however large the entropy is.
    assert two.disagreement(torch.zeros(1, 2, 4)).item() == pytest.approx(0.0, abs=1e-6)
    p, q = torch.tensor([0.7, 0.1, 0.1, 0.1]), torch.tensor([0.4, 0.4, 0.1, 0.1])
    m = (p + q) / 2
    shannon = 0.5 * (p * (p / m).log()).sum() + 0.5 * (q * (q / m).log()).sum()
    expected = (shannon / math.log(2)).item()
    assert two.disagreement(torch.stack([p, q]).log()[None]).item() == pytest.approx(expected, abs=1e-6)
    assert mutual_information(torch.stack([p, q])[:, None]).item() == pytest.approx(shannon.item(), abs=1e-6)
    assert EnsemblePolicy(members("discrete", 1)).disagreement(sure[:1][None].log()).item() == 0.0


@pytest.mark.parametrize("name", SPACES)
def test_disagreement_keeps_leading_axes_and_grows_with_the_spread_of_the_members(name):
    observation = torch.randn(6, 3)
    means = []
    for std in (0.0, 0.3, 3.0):
        ensemble = EnsemblePolicy(members(name, std=std))
        output, _ = ensemble(observation)
        disagreement = ensemble.disagreement(output)
        assert ((disagreement >= 0.0) & (disagreement <= 1.0)).all()
        torch.testing.assert_close(
            ensemble.disagreement(output.reshape(2, 3, *output.shape[1:])).flatten(), disagreement
        )
        means.append(disagreement.mean().item())
    assert means[0] == pytest.approx(0.0, abs=1e-6)
    assert means[0] < means[1] < means[2]


def test_disagreement_of_real_numbers_has_no_unit():
    for scale in (1.0, 100.0):
        box = spaces.Box(np.array([-scale, -np.inf], np.float32), np.array([scale, np.inf], np.float32))
        ensemble = EnsemblePolicy([GaussianPolicy(MLP(3, ()), box) for _ in range(2)])
        deviation = math.log(0.5 * scale)
        # The first number at both bounds, the second one standard deviation (of the members) around its mean.
        output = torch.tensor([[[scale, 0.5 * scale, 0.0, deviation], [-scale, -0.5 * scale, 0.0, deviation]]])
        assert ensemble.disagreement(output).item() == pytest.approx((1.0 + 0.5) / 2)
        torch.testing.assert_close(ensemble.choose(output), torch.zeros(1, 2))
    fixed = EnsemblePolicy([DeterministicPolicy(MLP(3, ()), SPACES["box"], squashed=True) for _ in range(3)])
    output, _ = fixed(torch.randn(4, 3))
    torch.testing.assert_close(fixed.choose(output), output.mean(-2))


def test_predictions_are_averaged_and_disagree_in_units_of_their_scale():
    for scale in (1.0, 100.0):
        with fresh_weights(0):
            members = [Predictor(MLP(3, (8,)), 2) for _ in range(3)]
        for member in members:
            member.fit_scale(torch.tensor([[-scale, 0.0], [scale, 2.0 * scale]]))
        ensemble = EnsemblePolicy(members)
        output, _ = ensemble(torch.randn(6, 3, generator=torch.Generator().manual_seed(0)))
        assert output.shape == (6, 3, 2)
        torch.testing.assert_close(ensemble.choose(output), output.mean(-2))
        deviation = output.detach().double().std(-2, correction=0)
        expected = (deviation / (deviation + scale)).mean(-1)
        torch.testing.assert_close(ensemble.disagreement(output).double(), expected, rtol=1e-5, atol=0)
        if scale == 1.0:
            first = ensemble.disagreement(output)
        torch.testing.assert_close(ensemble.disagreement(output), first)  # it has no unit
        assert (ensemble.disagreement(output[:, [1, 1, 1]]) == 0.0).all()
    agent = Agent(ensemble, spaces.Box(-1.0, 1.0, (3,)), spaces.Box(-np.inf, np.inf, (2,)))
    observation = np.zeros((4, 3), np.float32)
    np.testing.assert_allclose(agent.act(observation), ensemble.choose(ensemble(torch.zeros(4, 3))[0]).detach())
    for method in (ensemble.sample, ensemble.entropy, ensemble.probabilities):
        with pytest.raises(TypeError, match="Predictor"):
            method(output)


def test_action_values_vote_and_average():
    with fresh_weights(0):
        ensemble = EnsemblePolicy([QPolicy(MLP(3, (8,)), 3) for _ in range(3)])
    values = torch.tensor([[[9.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 2.0, 0.0]]])
    assert ensemble.choose(values).tolist() == [0]
    assert EnsemblePolicy(list(ensemble.members), "majority").choose(values).tolist() == [1]
    votes = torch.tensor([1 / 3, 2 / 3])
    expected = -(votes * votes.log()).sum() / math.log(3)
    assert ensemble.disagreement(values).item() == pytest.approx(expected.item())
    observation = torch.randn(10, 3)
    expected_output = torch.stack([member(observation)[0] for member in ensemble.members], 1)
    torch.testing.assert_close(ensemble(observation)[0], expected_output)
    for method in (ensemble.sample, ensemble.entropy, ensemble.probabilities):
        with pytest.raises(TypeError, match="QPolicy"):
            method(values)


def test_action_values_of_every_kind_take_part_with_masks_and_in_branches():
    observation = torch.randn(20, 3)
    with fresh_weights(0):
        kinds = [
            [QPolicy(MLP(3, (8,)), 3, dueling=True) for _ in range(3)],
            [QPolicy(MLP(3, (8,)), 3, distributional="quantile", n_atoms=7) for _ in range(3)],
            [QPolicy(MLP(3, (8,)), [2, 3]) for _ in range(3)],
        ]
    for policies in kinds:
        for vote in ("mean", "majority"):
            ensemble = EnsemblePolicy(policies, vote)
            output, _ = ensemble(observation)
            values = torch.stack([policy.values(policy(observation)[0]) for policy in policies], 1)
            torch.testing.assert_close(output, values)
            if vote == "mean":
                expected = policies[0].choose(values.mean(1)) if policies[0].distributional is None else None
                assert expected is None or (ensemble.choose(output) == expected).all()
            width = values.shape[-1]
            mask = torch.zeros(20, width, dtype=torch.bool)
            mask[:, 1] = True  # the only legal action; of two branches the second of the first,
            mask[:, -1] |= policies[0].is_branched  # and the last of the last
            chosen = ensemble.choose(output, mask)
            assert chosen.tolist() == ([[1, 2]] * 20 if policies[0].is_branched else [1] * 20)
            assert ((ensemble.disagreement(output) >= 0) & (ensemble.disagreement(output) <= 1)).all()


def test_an_agent_of_several_keeps_to_the_legal_actions():
    with fresh_weights(0):
        policy = EnsemblePolicy([QPolicy(MLP(3, (8,)), 4) for _ in range(3)], "majority")
    agent = Agent(policy, spaces.Box(-1.0, 1.0, (3,)), spaces.Discrete(4), exploration_rate=0.5)
    observations = np.random.default_rng(0).uniform(-1, 1, (50, 3)).astype(np.float32)
    mask = np.random.default_rng(1).random((50, 4)) < 0.4
    mask[:, 2] |= ~mask.any(1)
    for actions in (agent.act(observations, action_mask=mask), agent.predict(observations, action_mask=mask)[0]):
        assert mask[np.arange(50), actions].all()


@pytest.mark.parametrize("name", [*SPACES, "q", "predictor"])
def test_specs_rebuild_the_ensemble(name):
    made = {"q": lambda: QPolicy(MLP(3, (4,)), 3), "predictor": lambda: Predictor(MLP(3, (4,)), 2)}
    policies = [made[name]() for _ in range(2)] if name in made else members(name, 2)
    ensemble = EnsemblePolicy(policies, "mean" if name in ("box", "predictor") else "majority")
    again: Any = from_spec(json.loads(json.dumps(ensemble.spec, allow_nan=False)), POLICIES)
    again.load_state_dict(ensemble.state_dict())
    observation = torch.randn(20, 3)
    torch.testing.assert_close(again.choose(again(observation)[0]), ensemble.choose(ensemble(observation)[0]))
    assert again.vote == ensemble.vote


def test_what_does_not_fit_together_is_refused():
    one = CategoricalPolicy(MLP(3, ()), 3)
    with pytest.raises(ValueError, match="at least one"):
        EnsemblePolicy([])
    with pytest.raises(ValueError, match=r"CategoricalPolicy for \[3\] actions, CategoricalPolicy for \[4\]"):
        EnsemblePolicy([one, CategoricalPolicy(MLP(3, ()), 4)])
    with pytest.raises(ValueError, match="of one kind"):
        EnsemblePolicy([one, QPolicy(MLP(3, ()), 3)])
    with pytest.raises(ValueError, match="no majority"):
        EnsemblePolicy(members("box"), vote="majority")
    with pytest.raises(ValueError, match="no majority"):
        EnsemblePolicy([Predictor(MLP(3, ()))], vote="majority")
    with pytest.raises(ValueError, match="Predictor for 1 numbers, Predictor for 2 numbers"):
        EnsemblePolicy([Predictor(MLP(3, ()), 1), Predictor(MLP(3, ()), 2)])
    with pytest.raises(ValueError, match="averages actions, action values or predictions; DiffusionPolicy has none"):
        EnsemblePolicy([DiffusionPolicy(MLP(3, ()), SPACES["box"])])
    with pytest.raises(ValueError, match="'mean' or 'majority'"):
        EnsemblePolicy([one], vote="median")  # type: ignore[arg-type]
