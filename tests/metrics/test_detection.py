import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from agentlib.backbones import MLP
from agentlib.metrics.detection import (
    alarm,
    density_score,
    detection,
    disagreement_score,
    entropy_score,
    max_softmax_score,
)
from agentlib.policies import CategoricalPolicy, EnsemblePolicy

metrics = pytest.importorskip("sklearn.metrics")
scores = st.lists(st.integers(0, 8).map(lambda i: i / 8), min_size=1, max_size=30)  # with many ties


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(scores, scores)
def test_equals_scikit_learn(usual, unusual):
    found = detection(usual, unusual)
    truth, all_scores = [0] * len(usual) + [1] * len(unusual), usual + unusual
    assert found.auroc == pytest.approx(metrics.roc_auc_score(truth, all_scores), abs=1e-12)
    assert found.aupr == pytest.approx(metrics.average_precision_score(truth, all_scores), abs=1e-12)
    false_alarms, hits, _ = metrics.roc_curve(truth, all_scores, drop_intermediate=False)
    assert found.fpr95 == pytest.approx(false_alarms[np.argmax(hits >= 0.95)], abs=1e-12)
    pairs = [(a < b) + 0.5 * (a == b) for a in usual for b in unusual]
    assert found.auroc == pytest.approx(np.mean(pairs), abs=1e-12)


def test_perfect_useless_and_turned_round():
    assert detection([0, 1], [2, 3, 4]) == (1.0, 1.0, 0.0, 0.6)
    assert detection([1, 1], [1, 1])[:2] == (0.5, 0.5)
    assert detection([2, 3], [0, 1]).auroc == 0.0  # worse than chance stays worse than chance


def test_scores_of_nobody():
    with pytest.raises(ValueError, match="not 0 and 1"):
        detection([], [1.0])
    with pytest.raises(ValueError, match="a score is NaN"):
        detection([math.nan], [1.0])


def test_scores():
    flat, sure = torch.zeros(1, 4), torch.tensor([[1e4, 0.0, 0.0, -1e4]])
    for score, most in ((max_softmax_score, 0.75), (entropy_score, math.log(4))):
        assert float(score(flat)) == pytest.approx(most)
        assert float(score(sure)) == pytest.approx(0.0, abs=1e-6)
    assert float(max_softmax_score(torch.tensor([[math.log(3), 0.0]]))) == pytest.approx(0.25)
    apart = 1e4 * torch.eye(2)[None]  # two members, each sure of another class
    assert float(disagreement_score(apart)) == pytest.approx(math.log(2))
    assert float(disagreement_score(torch.zeros(1, 2, 2))) == pytest.approx(0.0, abs=1e-6)  # unsure, but of one mind
    x = torch.randn(5, 2, requires_grad=True)
    found = density_score(lambda x: -0.5 * x.square().sum(1), x)
    assert torch.equal(found, 0.5 * x.detach().square().sum(1))
    assert not found.requires_grad


def test_alarms_of_policies():
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(0)
        members = [CategoricalPolicy(MLP(3, (8,)), 4) for _ in range(3)]
        x = torch.randn(6, 3)
    assert np.allclose(alarm(members[0])(x), max_softmax_score(members[0](x)[0]).detach())
    logits = torch.stack([member(x)[0] for member in members], 1)
    assert np.allclose(alarm(EnsemblePolicy(members))(x), disagreement_score(logits).detach())


@pytest.mark.parametrize(
    ("usual", "unusual", "auroc"),
    [
        ([math.inf, math.inf], [math.inf, math.inf], 0.5),
        ([0, 1, math.inf], [math.inf, math.inf, 2], 7 / 9),
        ([-math.inf, 0.0], [-math.inf, 1.0], 0.625),
    ],
)
def test_infinite_scores_are_ties(usual, unusual, auroc):
    """An unusual example that scores as a usual one counts half, where both are infinite too."""
    found = detection(usual, unusual)
    assert found.auroc == pytest.approx(auroc, abs=1e-12)
    finite = [np.clip(scores, -9.0, 9.0) for scores in (usual, unusual)]
    assert found == pytest.approx(detection(*finite))


def test_a_density_that_underflows_is_a_tie():
    x = torch.tensor([60.0, 70.0])
    scores = density_score(lambda x: (-0.5 * x.square()).exp().log(), x)  # both are log 0
    assert detection(scores, scores.flip(0)).auroc == 0.5


def test_a_class_that_is_ruled_out_adds_no_entropy():
    logits = torch.tensor([[0.0, 0.0, -math.inf], [5.0, -math.inf, -math.inf]])
    assert entropy_score(logits).tolist() == pytest.approx([math.log(2), 0.0])
    assert max_softmax_score(logits).tolist() == pytest.approx([0.5, 0.0])
    assert disagreement_score(logits[None]).tolist() == pytest.approx(
        [0.75 * math.log(4 / 3)]
    )  # of (.5, .5) and (1, 0)


@pytest.mark.parametrize("score", [max_softmax_score, entropy_score, lambda x: disagreement_score(x[:, None])])
@pytest.mark.parametrize("bad", [[math.nan, 0.0], [math.inf, 0.0], [-math.inf, -math.inf]])
def test_logits_that_give_no_probabilities(score, bad):
    with pytest.raises(ValueError, match="1 of 2 rows of logits give no probabilities, such as"):
        score(torch.tensor([[0.0, 1.0], bad]))
