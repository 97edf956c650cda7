"""What `test_ranks.py` has torchrun start twice: each process writes what it found as JSON."""

import hashlib
import json
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import distributed, nn

import agentlib
from agentlib.backbones import MLP, sgd
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core.ranks import Ranks
from agentlib.data import Batches, Dataset
from agentlib.envs.making import make_envs
from agentlib.experience import Demonstration, DemonstrationBatches, Demonstrations, Rollout
from agentlib.learners import BC, PPO, BCConfig, Classifier, ClassifierConfig, PPOConfig, run
from agentlib.policies import ActorCritic, CategoricalPolicy
from tests.tiny import IDENTITY, SETTINGS


def digest(module):
    tensors = [
        value.detach().cpu().numpy().tobytes() for value in module.state_dict().values() if torch.is_tensor(value)
    ]
    return hashlib.sha256(b"".join(tensors)).hexdigest()


def in_double(seed=0):
    """A classifier in float64 by SGD, and its batches of 24."""
    generator = torch.Generator().manual_seed(1)
    data = Dataset(
        torch.randn(200, 5, generator=generator, dtype=torch.float64), torch.arange(200) % 3, ("a", "b", "c")
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = CategoricalPolicy(MLP(5, hidden=(16,)), 3)
    config = ClassifierConfig(l2=1e-3, max_grad_norm=0.5)
    learner = Classifier(policy, sgd(0.1), config).double()
    return learner, Batches(data, 24, seed=0)


def mixed_in_double():
    """As `in_double`, with mixtures of neighbours, which lie in both parts."""
    learner, source = in_double()
    learner.config = replace(learner.config, mixup=0.4)
    return learner, source


class Doubled(nn.Module):
    """Reads float32 observations in float64."""

    def __init__(self, network):
        super().__init__()
        self.network, self.feature_dim = network, network.feature_dim

    def forward(self, x):
        return self.network(x.double())


def bc_in_double(seed=0):
    """BC in float64 by SGD from steps of which some have no label, in batches of 24, by classes with weights."""
    generator = np.random.default_rng(1)
    space, done = spaces.Box(-1, 1, (5,), np.float32), spaces.Discrete(3)
    demonstrations = Demonstrations(space, done)
    for _ in range(10):
        frames = generator.uniform(-1, 1, (21, 5))
        demonstrations.append(Demonstration(frames, generator.integers(3, size=20), np.zeros(20)))
    config = BCConfig(class_weights=(1.0, 2.0, 0.5), l2_weight=1e-3, max_grad_norm=0.5)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = CategoricalPolicy(Doubled(MLP(5, hidden=(16,))), 3)
    return BC(policy, sgd(0.1), config).double(), DemonstrationBatches(demonstrations, 24, seed=0)


def ppo_in_double(seed=0):
    """PPO in float64 by SGD: 54 updates on one rollout, whose last minibatches have fewer samples."""
    envs = make_envs("CartPole-v1", 2)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        policy = CategoricalPolicy(Doubled(MLP(4, hidden=(16,))), 2)
        networks = ActorCritic(policy, (16,)).double()
    config = PPOConfig(ent_coef=0.01)
    settings: dict[str, Any] = {"n_steps": 30, "batch_size": 26, "n_epochs": 18, "target_kl": 100.0}
    return PPO(networks, sgd(0.05), config), Rollout(envs, networks, total_steps=60, **settings)


def after(learner, source, updates, ranks=None):
    if ranks is not None:
        ranks.join(learner, source)
    for _ in run(learner, source, updates, compile="eager"):
        pass
    return [parameter.detach().clone() for parameter in learner.parameters()]


def largest_difference(first, second):
    return max(float((a - b).detach().abs().max()) for a, b in zip(first, second, strict=True))


def refusal(function, *arguments, **settings):
    try:
        function(*arguments, **settings)
    except ValueError as error:
        return str(error)
    return "nothing was refused"


def draws_noise(kind):
    """Whether an update draws random numbers, which are each process's own."""
    learner, source = kind.tiny()
    source.advance()
    learner.before_update(source.clock)
    source.fill_ticks(source.clock)
    with torch.random.fork_rng():
        batch = source.sample()
        before = torch.get_rng_state()
        learner.update(batch)
        return not torch.equal(before, torch.get_rng_state())


def first_norm(learner, source):
    return next(float(update.metrics["grad_norm"]) for _, update in run(learner, source, 1, compile="eager"))


def tiny_learners(ranks):
    """Of each learner that can be shared: the gradient's norm by the whole batch and by its parts, and the digest."""
    found = {}
    kinds: Any = dict.fromkeys(recipe_of(name).learner for name in LEARNERS)
    for kind in kinds:
        learner, source = kind.tiny()
        if not learner.is_mean_over_samples:
            continue
        norm = first_norm(*kind.tiny())
        ranks.join(learner, source)
        found[kind.__name__] = {"is_exact": not draws_noise(kind), "norms": (first_norm(learner, source), norm)}
        after(learner, source, 2)
        found[kind.__name__]["digest"] = digest(learner)
    return found


def trained(folder):
    """A run, one that was stopped and resumed, and one with priorities, whose feedback is of the whole batch."""
    settings = {"steps": 400, "progress": False, "data_parallel": True, "threads": 1, **SETTINGS}
    whole = agentlib.train("dqn", env=IDENTITY, eval_every=100, out=folder / "whole", prioritized=True, **settings)
    counts = iter(range(100))
    stop = agentlib.train(
        "dqn", env=IDENTITY, out=folder / "part", prioritized=True, callback=lambda *_: next(counts) < 20, **settings
    )
    resumed = agentlib.train(resume=folder / "part", progress=False, data_parallel=True)
    agents: dict[str, Any] = {"whole": whole, "stopped": stop, "resumed": resumed}
    return {name: digest(agent.policy) for name, agent in agents.items()}


def main():
    warnings.simplefilter("error")
    folder = Path(sys.argv[1])
    found: dict = {"before": distributed.is_initialized()}
    ranks = Ranks.of_torchrun()
    assert ranks is not None
    found["in_double"] = {}
    makers: Any = (in_double, mixed_in_double, bc_in_double, ppo_in_double)
    for made in makers:
        learner, source = made()
        alone = after(learner, source, 50)
        learner, source = made()
        difference = largest_difference(after(learner, source, 50, ranks), alone)
        moved = largest_difference(list(made()[0].parameters()), alone)
        found["in_double"][made.__name__] = {"difference": difference, "moved": moved, "digest": digest(learner)}
    found["learners"] = tiny_learners(ranks)
    found["initialized"] = distributed.is_initialized()
    found["simclr"] = refusal(agentlib.train, "simclr", data="digits", steps=2, batch_size=8, data_parallel=True)
    found["odd"] = refusal(agentlib.train, "classifier", data="digits", steps=2, batch_size=9, data_parallel=True)
    found["trained"] = trained(folder)
    other, batches = in_double(seed=ranks.rank)
    found["other"] = refusal(ranks.join, other, batches)
    (folder / f"rank_{ranks.rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
