"""Evaluating leaves the mode of each module as its owner set it."""

import threading

import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import MLP, adam, load_backbone, save_backbone
from agentlib.core.modes import in_eval_mode
from agentlib.data import Batches, Dataset
from agentlib.learners import Classifier, ClassifierConfig, run
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.robustness import robust_accuracy
from agentlib.policies import CategoricalPolicy


def frozen():
    """A network in training mode, but for a normalization that its owner froze."""
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3))
    network[1].eval()
    return network, [True, True, False, True, True]


def modes_of(network):
    return [module.training for module in network.modules()]


def test_a_frozen_normalization_stays_frozen():
    network, modes = frozen()
    statistics = network[1].running_mean.clone()
    x, y = torch.rand(16, 4), torch.arange(16) % 3
    logits_of(network, x)
    assert modes_of(network) == modes
    robust_accuracy(network, x, y, epsilon=0.1, steps=2)
    assert modes_of(network) == modes
    network(x)
    assert torch.equal(network[1].running_mean, statistics)


def test_of_several_threads_the_last_one_puts_the_modes_back():
    network, modes = frozen()
    inside, leave = threading.Event(), threading.Event()

    def act():
        with in_eval_mode(network):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=act)
    thread.start()
    inside.wait(10)
    with in_eval_mode(network), in_eval_mode(network):
        assert not any(modes_of(network))
    assert not any(modes_of(network))
    leave.set()
    thread.join()
    assert modes_of(network) == modes


def normalized(is_frozen):
    """A network with a normalization by batches, in training mode, and that normalization."""
    network = MLP(2, (8,), norm="batch")
    [layer] = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    layer.train(not is_frozen)
    return network, layer


@pytest.mark.parametrize("is_frozen", [True, False])
@pytest.mark.parametrize("compile", ["eager", False])
def test_learning_leaves_a_frozen_normalization_as_it_is(is_frozen, compile):
    """Also after its caller has evaluated in between; and one that is not frozen learns its statistics."""
    network, layer = normalized(is_frozen)
    learner = Classifier(CategoricalPolicy(network, 2), adam(1e-2), ClassifierConfig())
    data = Dataset(torch.rand(64, 2) + 3.0, torch.arange(64) % 2, ("a", "b"))
    modes, weight = modes_of(learner.policy), layer.weight.detach().clone()
    for clock, _ in run(learner, Batches(data, 16), 120, compile=compile):
        assert modes_of(learner.policy) == modes
        if clock.updates == 110:
            learner.eval()
    assert modes_of(learner.policy) == modes
    assert torch.equal(layer.running_mean, torch.zeros(8)) == is_frozen
    assert not torch.equal(layer.weight, weight)  # its weights learn in both cases


def test_a_run_leaves_a_frozen_normalization_as_it_is():
    """A network that is in eval mode as a whole, as files and finished runs give it, is trained."""
    x, y = torch.rand(64, 2).numpy() + 3.0, torch.arange(64).numpy() % 2
    network, layer = normalized(is_frozen=True)
    agentlib.train("classifier", data=(x, y), steps=20, backbone=network, progress=False)
    assert torch.equal(layer.running_mean, torch.zeros(8))
    network, layer = normalized(is_frozen=True)
    network.eval()
    agentlib.train("classifier", data=(x, y), steps=20, backbone=network, progress=False)
    assert not torch.equal(layer.running_mean, torch.zeros(8))


def test_a_backbone_that_was_loaded_learns_its_statistics(tmp_path):
    network = load_backbone(save_backbone(MLP(2, (8,), norm="batch"), tmp_path / "backbone"))
    assert not network.training
    [layer] = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d)]
    learner = Classifier(CategoricalPolicy(network, 2), adam(1e-2), ClassifierConfig())
    x = torch.rand(64, 2)
    for _ in run(learner, Batches(Dataset(x, (x[:, 0] > 0.5).long()), 16), 20):
        pass
    assert network.training
    assert layer.training
    assert layer.running_mean.abs().min() > 0.0
