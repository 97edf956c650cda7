"""What `test_ranks.py` has torchrun start twice: each process writes what it found as JSON."""

import hashlib
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import distributed

import agentlib
from agentlib.backbones import MLP, sgd
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core.ranks import Ranks
from agentlib.data import Batches, Dataset
from agentlib.learners import Classifier, ClassifierConfig, run
from agentlib.policies import CategoricalPolicy
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
    learner, source = in_double()
    alone = after(learner, source, 50)
    learner, source = in_double()
    found["difference"] = largest_difference(after(learner, source, 50, ranks), alone)
    found["moved"] = largest_difference(list(in_double()[0].parameters()), alone)
    found["digest"] = digest(learner)
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
