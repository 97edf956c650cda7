import math

import pytest
import torch
from torch.nn import functional

from agentlib.backbones import MLP, adam
from agentlib.core import Cosine
from agentlib.core.randomness import fresh_weights
from agentlib.data import Batches, Dataset, dataset, split
from agentlib.engine import run
from agentlib.learners import AdversarialTraining, AdversarialTrainingConfig, Classifier, ClassifierConfig
from agentlib.learners.robustness import attack
from agentlib.metrics.robustness import accuracy_curve, robust_accuracy
from agentlib.policies import CategoricalPolicy, QPolicy


def linear(inputs=64, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.random.manual_seed(seed)
        return CategoricalPolicy(MLP(inputs, ()), 2)


def threes_and_sevens(seed=0):
    data = dataset("digits")
    rows = ((data.targets == 3) | (data.targets == 7)).nonzero()[:, 0]
    pair = Dataset(data.x[rows].flatten(1), (data.targets[rows] == 7).long(), ("3", "7"))
    return split(pair, seed)


def train(learner, data, batch_size, updates):
    for _ in run(learner, Batches(data, batch_size), updates, compile=False):
        pass
    return learner.eval()


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1), ("l2", 2), ("l1", math.inf)])
def test_the_exact_loss_is_the_largest(norm, dual):
    """log(1 + exp(-(m - eps ||w||_q))) is what FGSM and PGD reach, and no random change exceeds it."""
    policy = linear()
    x, y = torch.randn(20, 64, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    weight = (policy.head.weight[1] - policy.head.weight[0]).detach()

    def margin(x):
        logits = policy(x)[0].detach()
        return (2.0 * y - 1.0) * (logits[:, 1] - logits[:, 0])

    exact = functional.softplus(0.3 * torch.linalg.vector_norm(weight, dual) - margin(x))
    changed = attack(policy, x, y, epsilon=0.3, norm=norm, steps=1, bounds=None)
    assert torch.allclose(functional.softplus(-margin(changed)), exact, atol=1e-5)


def test_one_step_is_exact_for_a_linear_model():
    """The update's gradient is that of the exact robust loss."""
    config = AdversarialTrainingConfig(epsilon=0.1, attack_steps=1, random_start=False, bounds=None)
    data = threes_and_sevens().train
    learner = AdversarialTraining(linear(), adam(1e-2), config)
    head, y = learner.policy.head, 2.0 * data.targets - 1.0
    assert isinstance(head, torch.nn.Linear)
    w, b = head.weight[1] - head.weight[0], head.bias[1] - head.bias[0]
    exact = functional.softplus(0.1 * w.abs().sum() - y * (data.x @ w + b))
    (expected,) = torch.autograd.grad(exact.mean(), head.weight)
    seen = {}

    def keep(loss, clock):
        seen["gradient"] = torch.autograd.grad(loss, head.weight)[0]
        return torch.zeros(())

    learner.step.forward = keep
    source = Batches(data, len(data))
    for _, update in run(learner, source, 1, compile=False):
        assert torch.allclose(update.per_sample, exact[source.rows], atol=1e-6)  # type: ignore[arg-type]
    assert torch.allclose(seen["gradient"], expected, atol=1e-6)


def changed_and_losses(policy, data, **settings):
    """The examples on which one update learns, and its losses."""
    config = AdversarialTrainingConfig(epsilon=0.3, attack_steps=1, bounds=None, **{"random_start": False, **settings})
    learner, seen = AdversarialTraining(policy, adam(1e-2), config), []
    policy.register_forward_hook(lambda module, inputs, output: seen.append((inputs[0].detach(), output[0].detach())))
    source = Batches(data, len(data))
    ((_, update),) = run(learner, source, 1, compile=False)
    return data.x[source.rows], data.targets[source.rows], seen, update.per_sample


def test_adversarial_training_of_action_values_attacks_their_margin():
    """Values of any scale are attacked alike; by the cross-entropy, large ones are not attacked at all."""
    observation = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
    data = Dataset(observation, torch.arange(60) % 2, ("left", "right"))
    moved = {}
    for scale, loss in ((1.0, None), (1e4, None), (1e4, "cross_entropy")):
        with fresh_weights(0):
            policy = QPolicy(MLP(4, (16,)), 2)
        for parameter in policy.head.parameters():
            parameter.data *= scale
        x, _, seen, _ = changed_and_losses(policy, data, attack_loss=loss)
        moved[scale, loss] = (seen[1][0] - x).abs().amax(1)
    assert torch.equal(moved[1.0, None], moved[1e4, None])
    assert (moved[1.0, None] > 0.29).all()
    assert (moved[1e4, "cross_entropy"] == 0.0).double().mean() > 0.3


def test_the_share_of_unchanged_examples_and_the_hinge():
    """(1 - share) L(x + d) + share L(x), with L = max(max_{a != y} Q(a) - Q(y), -c) + c."""
    observation = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = Dataset(observation, torch.arange(40) % 3, ("left", "none", "right"))
    with fresh_weights(0):
        policy = QPolicy(MLP(4, (16,)), 3)
    _, y, seen, losses = changed_and_losses(policy, data, hinge=0.2, clean_share=0.25)
    _, (_, attacked), (_, clean) = seen

    def hinge(values):
        others = values.masked_fill(functional.one_hot(y, 3).bool(), -math.inf).amax(1)
        return torch.maximum(others - values.gather(1, y[:, None])[:, 0], torch.tensor(-0.2)) + 0.2

    torch.testing.assert_close(losses, 0.75 * hinge(attacked) + 0.25 * hinge(clean))
    assert (hinge(attacked) > hinge(clean)).double().mean() > 0.6


@pytest.mark.parametrize("random_start", [True, False])
def test_where_the_inner_attack_starts(random_start):
    """With steps of no length it ends where it starts: uniform in the ball, or at the example."""
    observation = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    data = Dataset(observation, torch.arange(500) % 2, ("left", "right"))
    x, _, seen, _ = changed_and_losses(linear(4), data, attack_step_size=1e-9, random_start=random_start)
    moved = seen[1][0] - x
    assert float(moved.abs().max()) <= 0.3 + 1e-6
    assert float(moved.std()) == pytest.approx(0.3 / math.sqrt(3) if random_start else 0.0, abs=0.01)


def test_epsilon_rises_over_the_first_part_of_the_run():
    """Ten updates, of which the first half is the rise; step and ball grow together."""
    observation = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
    data = Dataset(observation, torch.arange(40) % 2, ("left", "right"))
    config = AdversarialTrainingConfig(epsilon=0.3, attack_steps=1, bounds=None, random_start=False, epsilon_warmup=0.5)
    learner, seen, source = AdversarialTraining(linear(4), adam(1e-2), config), [], Batches(data, 40)
    learner.policy.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach()))
    for number, _ in enumerate(run(learner, source, 10, compile=False)):
        moved = (seen[-1] - data.x[source.rows]).abs().amax()
        assert float(moved) == pytest.approx(0.3 * min(max(number / 5, 1e-3), 1.0), abs=1e-6)


def test_a_linear_model_becomes_robust():
    """At eps .2 standard training is below .45, adversarial training 30 points better, without loss on clean data."""
    splits = threes_and_sevens()
    settings = {"learning_rate": Cosine(0.05), "batch_size": len(splits.train), "l2": 1.0 / len(splits.train)}
    standard = train(Classifier(linear(), adam(Cosine(0.05)), ClassifierConfig(**settings)), splits.train, 999, 200)
    config = AdversarialTrainingConfig(epsilon=0.1, attack_steps=1, random_start=False, bounds=None, **settings)
    robust = train(AdversarialTraining(linear(), adam(Cosine(0.05)), config), splits.train, 999, 200)
    x, y = splits.test.x, splits.test.targets
    curves = [
        accuracy_curve(learner.policy, x, y, [0.0, 0.1, 0.2], steps=1, bounds=None) for learner in (standard, robust)
    ]
    assert curves[0][0.2] < 0.45
    assert curves[1][0.2] > curves[0][0.2] + 0.3
    assert curves[1][0.0] > 0.95


def test_the_average_of_the_weights():
    learner, source = AdversarialTraining.tiny()
    assert learner.averaged is not None
    average = [parameter.clone() for parameter in learner.policy.parameters()]
    for _ in run(learner, source, 5, compile=False):
        average = [0.9 * old + 0.1 * new for old, new in zip(average, learner.policy.parameters(), strict=True)]
    for mine, theirs in zip(learner.model.parameters(), average, strict=True):
        assert torch.allclose(mine, theirs, atol=1e-6)
    assert learner.model is learner.averaged.network


def test_robust_accuracy_counts_survivors():
    """Every restart can only lower it; epsilon 0 is plain accuracy; all of the range fools everyone."""
    splits = threes_and_sevens()
    policy = train(Classifier(linear(), adam(1e-2)), splits.train, 64, 100).policy
    x, y = splits.test.x, splits.test.targets
    plain = float((policy(x)[0].argmax(1) == y).double().mean())
    assert robust_accuracy(policy, x, y, epsilon=0.0) == plain
    falling = [robust_accuracy(policy, x, y, epsilon=0.15, steps=3, restarts=restarts) for restarts in (1, 4)]
    assert plain > falling[0] >= falling[1]
    assert robust_accuracy(policy, x, y, epsilon=1.0) == 0.0
    fgsm, exact = (robust_accuracy(policy, x, y, epsilon=0.15, steps=steps) for steps in (1, 50))
    assert fgsm >= exact


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epsilon": 8.0}, r"epsilon=8 is more than the whole range of the data, 0 to 1.*8 / 255 = 0.0314"),
        ({"bounds": (1.0, 0.0)}, "bounds are the smallest and the largest value of the data, not 1 and 0"),
        ({"attack_steps": 0}, "attack_steps must be at least 1"),
    ],
)
def test_settings_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        AdversarialTrainingConfig(**settings)
