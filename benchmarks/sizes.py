"""Updates of networks of the sizes that people train, each side in a process of its own:

    python benchmarks/sizes.py NAME ours|interpreted|plain|compiled '{"seed": 0, "threads": 2}'

prints one JSON object: seconds of one update (the median of several) and the most memory that the process had. "plain"
is PyTorch as it is usually written: `backward()`, clipping, torch.optim's fused Adam. "compiled" is the same with
`torch.compile` on each of the learner's networks. "ours" is `run` on the same learner with `compile=True`, and
"interpreted" with `compile=False`.
"""

import json
import resource
import sys
import time
from functools import partial

import numpy as np
import torch

from agentlib.backbones import CNN, LSTM, ResNet
from agentlib.backbones.base import Backbone
from agentlib.core import Step
from agentlib.core.recipe import Problem
from agentlib.data import Dataset, Domains, Text, shape_scenes
from agentlib.data.tokens import Characters
from agentlib.engine import run
from agentlib.envs.experts import expert_for
from agentlib.experience import record_episodes
from agentlib.runs.plan import job_of

UPDATES, WARM_UP = 8, 3


def pictures(channels, size, classes=10, n=2_000):
    x = torch.rand(n, channels, size, size, generator=torch.Generator().manual_seed(0))
    return Dataset(x, torch.arange(n) % classes, tuple(map(str, range(classes))))


def resnet18(steps):
    backbone = ResNet((3, 32, 32), blocks=(2, 2, 2, 2))
    return job_of("classifier", Problem(data=pictures(3, 32), backbone=backbone, steps=steps), batch_size=128)


def lstm(steps):
    problem = Problem(env="CartPole-v1", backbone=LSTM(4, 256), steps=2_000 + 16 * steps)
    return job_of("recurrent_dqn", problem, batch_size=32, learning_starts=1_000)


def decision_transformer(steps):
    demos = record_episodes(expert_for("CartPole-v1"), "CartPole-v1", episodes=20, seed=0)
    sizes = {"embed_dim": 384, "n_layers": 6, "n_heads": 6, "context_length": 64, "batch_size": 16}
    return job_of("decision_transformer", Problem(demos=demos, steps=steps), **sizes)


def unet(steps):
    return job_of("diffusion", Problem(data=pictures(1, 28), steps=steps), batch_size=64)


def simclr(steps):
    return job_of("simclr", Problem(data=pictures(1, 28), steps=steps), batch_size=256)


def maml(steps):
    data = pictures(1, 28, classes=40)
    sizes = {"ways": 5, "shots": 1, "queries": 15, "inner_steps": 5, "batch_size": 4, "loss": "cross_entropy"}
    return job_of("maml", Problem(data=data, steps=steps), **sizes)


def gpt(steps, **sizes):
    letters = np.random.default_rng(0).integers(65, size=200_000)
    text = Text(letters, Characters(map(chr, range(65, 130))))
    return job_of("gpt", Problem(data=text, steps=steps), **sizes)


def scenes(name, steps, most=4):
    return job_of(name, Problem(data=shape_scenes(n=300, most=most, seed=0), steps=steps))


def domains(method, steps):
    """The network and the batches of Rotated MNIST's row."""
    apart = {str(number): pictures(1, 28, n=2_000) for number in range(5)}
    data = Domains({**apart, "target": pictures(1, 28)}, ("target",))
    backbone = CNN((1, 28, 28), (16, "max", 32, "max", 32))
    return job_of("domains", Problem(data=data, backbone=backbone, steps=steps), method=method, batch_size=160)


def classifier(steps, **options):
    return job_of("classifier", Problem(data=pictures(3, 32), backbone="cnn", steps=steps), batch_size=128, **options)


WORKS = {
    "gpt_1m": (
        partial(gpt, n_layers=5, embed_dim=128, context_length=128, batch_size=16),
        "GPT, 1.0 million weights, 16 times 128 characters",
    ),
    "gpt_10m": (
        partial(gpt, n_layers=6, n_heads=6, embed_dim=384, context_length=256, batch_size=8),
        "GPT, 10.8 million weights, 8 times 256 characters",
    ),
    "resnet18": (resnet18, "Classifier, ResNet-18, 3x32x32, batch 128"),
    "lstm": (lstm, "recurrent DQN, LSTM 256, 32 sequences of 40"),
    "decision_transformer": (
        decision_transformer,
        "decision transformer, 10.7 million weights, 16 times 192 tokens",
    ),
    "unet": (unet, "diffusion, U-Net, 1x28x28, batch 64"),
    "simclr": (simclr, "SimCLR with its views, 1x28x28, batch 256"),
    "maml": (maml, "MAML, CNN, 5-way 1-shot, 5 inner steps, batch 4"),
    "segmentation": (partial(scenes, "segmentation"), "segmentation, 3x64x64, batch 16"),
    "depth": (partial(scenes, "depth"), "depth, 3x64x64, batch 16"),
    "detection": (partial(scenes, "detection"), "detection, four shapes, 3x64x64, batch 16"),
    "localization": (partial(scenes, "localization", most=1), "localization, one shape, 3x64x64, batch 32"),
    **{
        f"domains_{method}": (partial(domains, method), f"domains by {title}, CNN, 1x28x28, batch 160")
        for method, title in {
            **{"erm": "ERM", "importance": "importance weights", "dann": "DANN", "coral": "CORAL", "mmd": "MMD"},
            **{"irm": "IRM", "group_dro": "group DRO", "mixup": "Mixup", "arm": "ARM", "ttt": "turns"},
        }.items()
    },
    "augmix": (
        partial(classifier, augment="augmix", consistency=12.0),
        "Classifier with AugMix and its consistency, CNN, 3x32x32, batch 128",
    ),
    "pixmix": (partial(classifier, augment="pixmix"), "Classifier with PixMix, CNN, 3x32x32, batch 128"),
}
PEERS = {
    "gpt_10m": ("transformers", "transformers_gpt.py"),
    "resnet18": ("lightning", "lightning_classifier.py"),
    "decision_transformer": ("transformers", "transformers_decision.py"),
}
"""The trainers that people use: an environment and a script of `benchmarks/peers`."""


def usual(learner):
    """The learner with the steps that one usually writes: `backward()`, clipping, fused Adam of torch.optim."""

    def forward(step, optimizer, loss, clock):
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(step.parameter_list, step.max_grad_norm or 1e9)
        optimizer.step()
        return norm.detach()

    for step in [module for module in learner.modules() if isinstance(module, Step)]:
        step.forward = partial(forward, step, torch.optim.Adam(step.parameter_list, lr=1e-4, fused=True))
    return learner


def seconds(work, side):
    """Seconds of each update after the first ones."""
    job = WORKS[work][0](UPDATES + WARM_UP)
    if side in ("ours", "interpreted"):
        updates = run(job.learner, job.source, UPDATES + WARM_UP, compile=side == "ours")
    else:
        usual(job.learner)
        if side == "compiled":
            for module in list(job.learner.modules()):
                if isinstance(module, Backbone):
                    module.compile()
        updates = run(job.learner, job.source, UPDATES + WARM_UP, compile="eager")
    found, last = [], time.perf_counter()
    for _ in updates:
        found.append(time.perf_counter() - last)
        last = time.perf_counter()
    job.source.close()
    return found[WARM_UP:]


if __name__ == "__main__":
    given = json.loads(sys.argv[3])
    torch.set_num_threads(given["threads"])
    torch.manual_seed(given["seed"])
    found = seconds(sys.argv[1], sys.argv[2])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": float(np.median(found)), "bytes": peak}))
