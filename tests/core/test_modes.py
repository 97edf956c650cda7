"""Evaluating leaves the mode of each module as its owner set it."""

import threading

import torch
from torch import nn

from agentlib.core.modes import in_eval_mode
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.robustness import robust_accuracy


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
