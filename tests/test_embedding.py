"""agentlib inside other people's programs: threads, processes, asyncio, odd settings; the host finds all as it was."""

import asyncio
import copy
import multiprocessing
import subprocess
import sys
import threading
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import agentlib
from agentlib import Agent
from agentlib.backbones import MLP
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core.trees import difference
from agentlib.data import Dataset
from agentlib.data.auto_augment import AugMix, AutoAugment
from agentlib.data.domains import on_backgrounds
from agentlib.data.mixing import PixMix
from agentlib.data.sequences import adding, which_first
from agentlib.engine import run
from agentlib.learners import Diffusion
from agentlib.learners.generative.denoising_autoencoder import masked
from tests.tiny import IDENTITY, tiny_run

ROOT = Path(__file__).parents[1]
OBSERVATIONS = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)


@pytest.fixture(scope="module")
def agent():
    return tiny_run(env="CartPole-v1", steps=60)


def fresh(code, *arguments, **how):
    """Runs a program in a process of its own, from the repository's root."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=500, check=False, **how,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


LEFT_ALONE = """
import sys
from pathlib import Path
import matplotlib
import agentlib
from tests.host import changes, host_state
from tests.tiny import tiny_run

folder = Path(sys.argv[1])
made = {}
uses = {
    "train": lambda: made.update(agent=tiny_run(out=folder / "run", steps=100)),
    "train on data": lambda: agentlib.train("classifier", data="digits", steps=5, progress=False, out=folder / "data"),
    "act": lambda: made["agent"].act(0),
    "predict": lambda: made["agent"].predict(0),
    "evaluate": lambda: agentlib.evaluate(made["agent"], "agentlib/Identity-v0", episodes=2),
    "save": lambda: made["agent"].save(folder / "agent"),
    "load": lambda: agentlib.Agent.load(folder / "agent"),
    "compare": lambda: agentlib.compare(
        "dqn", env="CartPole-v1", steps=1500, seeds=1, episodes=2, out=folder / "compared", progress=False
    ),
}
# Importing other libraries adds filters for warnings of their own, and variables that only they read.
THEIRS = {"warnings", "environment"}
for name, use in uses.items():
    before = host_state()
    use()
    changed = set(changes(before, host_state()))
    assert changed <= (THEIRS if name in ("train on data", "compare") else set()), (name, changed)
"""


@pytest.mark.slow
def test_the_host_finds_everything_as_it_was(tmp_path):
    fresh(LEFT_ALONE, tmp_path)


def test_acting_in_threads(agent):
    wanted = agent.act(OBSERVATIONS)
    wrong = []

    def act():
        for _ in range(50):
            single = [agent.act(observation) for observation in OBSERVATIONS[:8]]
            if not np.array_equal(agent.act(OBSERVATIONS), wanted) or single != wanted[:8].tolist():
                wrong.append(1)

    threads = [threading.Thread(target=act) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def child(agent, queue):
    queue.put(np.asarray(agent.act(OBSERVATIONS)).tolist())


@pytest.mark.slow
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_acting_in_a_child_process(agent, method):
    context = multiprocessing.get_context(method)
    queue = context.Queue()
    process = context.Process(target=child, args=(agent, queue))
    process.start()
    assert queue.get(timeout=200) == agent.act(OBSERVATIONS).tolist()
    process.join()


FORK = """
import os, sys, numpy, torch
from agentlib.core import modes, randomness
from tests.tiny import tiny_run
agent = tiny_run(steps=40)
modes._LOCK.acquire()  # another thread is acting, and another training, at the moment of the fork
modes._ACTING[agent.policy] = 1, list(agent.policy.modules())
import threading
taken = threading.Event()
threading.Thread(target=lambda: (randomness.generator_lock().acquire(), taken.set()), daemon=True).start()
taken.wait()
pid = os.fork()
if pid == 0:
    agent.act(numpy.zeros(3, int))
    tiny_run(steps=40)
    os._exit(0)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
os._exit(0)
"""


@pytest.mark.slow
def test_acting_and_training_after_a_fork_in_the_midst_of_both():
    fresh(FORK)


def test_a_copy_is_an_agent_of_its_own(agent):
    twin = copy.deepcopy(agent)
    assert twin.act(OBSERVATIONS[0]) == agent.act(OBSERVATIONS[0])
    before = [agent.act(observation) for observation in OBSERVATIONS]
    twin.policy.head.bias.data += torch.tensor([1e3, 0.0])
    assert {twin.act(observation) for observation in OBSERVATIONS} == {0}
    assert [agent.act(observation) for observation in OBSERVATIONS] == before


def test_many_agents_in_one_process(tmp_path):
    agents = [tiny_run(env="CartPole-v1", steps=40, seed=seed) for seed in range(4)]
    paths = [agent.save(tmp_path / f"{seed}") for seed, agent in enumerate(agents)]
    loaded = [Agent.load(path) for path in paths for _ in range(5)]
    for i, agent in enumerate(loaded):
        np.testing.assert_array_equal(agent.act(OBSERVATIONS), agents[i // 5].act(OBSERVATIONS))


def test_inside_asyncio(agent):
    async def serve():
        alone = [agent.act(observation) for observation in OBSERVATIONS[:8]]
        there = await asyncio.gather(*(asyncio.to_thread(agent.act, observation) for observation in OBSERVATIONS[:8]))
        assert there == alone
        return await asyncio.to_thread(tiny_run, steps=60)

    assert asyncio.run(serve()).act(0) in range(4)


def test_runs_in_several_threads_equal_runs_alone():
    """And the host's generator, which both need in between, is as it was."""
    alone = [tiny_run(steps=150, seed=seed).policy.state_dict() for seed in range(3)]
    found = {}
    torch.default_generator.manual_seed(5)
    before = torch.get_rng_state()
    threads = [
        threading.Thread(target=lambda seed=seed: found.update({seed: tiny_run(steps=150, seed=seed)}))
        for seed in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert torch.equal(torch.get_rng_state(), before)
    for seed in range(3):
        assert difference(dict(found[seed].policy.state_dict()), dict(alone[seed])) is None


QUICK: dict[str, Any] = {"env": IDENTITY, "steps": 60, "net_arch": (8,), "learning_starts": 20}
RUNS: dict[str, dict[str, Any]] = {
    "dqn": QUICK | {"eval_every": 20},
    "dqn, all options": QUICK | {"noisy": True, "prioritized": True, "distributional": "c51", "dueling": True},
    "recurrent_dqn": {"env": IDENTITY, "steps": 80, "learning_starts": 20},
    "classifier": {"data": "digits", "steps": 5},
    "regressor": {"data": "diabetes", "steps": 5},
    "vae": {"data": "digits", "steps": 5},
    "diffusion": {"data": "digits", "steps": 2},
    "wgan": {"data": "digits", "steps": 2},
    "simclr": {"data": "digits", "steps": 2},
    "maml": {"data": "sinusoids", "steps": 5},
    "dagger": {"env": IDENTITY, "expert": "scripted", "rounds": 2},
    "sac": {
        "env": "Pendulum-v1",
        "steps": 60,
        "net_arch": (8,),
        "learning_starts": 20,
        "n_critics": 4,
        "target_subset": 2,
    },
}


@contextmanager
def double():
    torch.set_default_dtype(torch.float64)
    try:
        yield
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


HOSTS: dict[str, Any] = {
    "float64": double,
    "inference": torch.inference_mode,
    "autocast": partial(torch.autocast, "cpu", dtype=torch.bfloat16),
    "meta": partial(torch.device, "meta"),
}
"""What a program may have set around its use of agentlib."""


def weights_of(result):
    return dict((result.policy if isinstance(result, Agent) else result.model).state_dict())


def trained(what):
    return agentlib.train(what.partition(",")[0], progress=False, **RUNS[what])


@pytest.fixture(scope="module")
def plain_weights():
    """The weights of each run in a program with torch's defaults."""
    return {}


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("what", ["dqn, all options", *(pytest.param(run, marks=pytest.mark.slow) for run in RUNS)])
def test_a_seed_gives_the_same_weights_in_every_program(what, host, plain_weights):
    if what not in plain_weights:
        plain_weights[what] = weights_of(trained(what))
    with HOSTS[host]():
        result = trained(what)
        if isinstance(result, Agent):
            observation = result.observation_space.sample()
            action = result.act(observation)
    assert difference(weights_of(result), plain_weights[what]) is None
    assert not any(weight.is_inference() for weight in weights_of(result).values())
    if isinstance(result, Agent):
        result.reset()
        np.testing.assert_array_equal(action, result.act(observation))


@pytest.mark.parametrize("host", ["float64", "meta"])
@pytest.mark.parametrize("name", LEARNERS)
def test_a_learners_updates_are_the_same_in_every_program(name, host):
    """Also where no `train` is around them: no draw and no constant takes the host's default dtype or device."""
    states, learner_class = list[Any](), recipe_of(name).learner
    for program in (nullcontext, HOSTS[host]):
        learner, source = learner_class.tiny()  # type: ignore[attr-defined]
        with program():
            for _ in run(learner, source, 3, compile=False):
                pass
        states.append(learner.state_dict())
    assert difference(states[0], states[1]) is None


@pytest.mark.parametrize("name", LEARNERS)
def test_a_learner_updates_where_products_are_bfloat16(name):
    learner, source = recipe_of(name).learner.tiny()  # type: ignore[attr-defined]
    for _ in run(learner, source, 2, compile="eager", precision="bfloat16"):
        pass
    assert torch.bfloat16 not in {tensor.dtype for tensor in learner.state_dict().values() if torch.is_tensor(tensor)}


IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DIGITS = Dataset(IMAGES.repeat(5, 1, 1, 1), torch.arange(80) % 10, tuple("0123456789"))
DRAWS: dict[str, Any] = {
    "autoaugment": lambda: AutoAugment("svhn")(IMAGES),
    "augmix": lambda: AugMix()(IMAGES),
    "pixmix": lambda: PixMix()(IMAGES),
    "masks": lambda: masked(IMAGES, 0.5, 2),
    "sequences": lambda: which_first(50).x,
    "numbers": lambda: adding(50).x,
    "backgrounds": lambda: on_backgrounds(DIGITS).parts["test odd"].x,
}
"""Draws that no learner's smallest run has."""


@pytest.mark.parametrize("name", DRAWS)
def test_changes_of_examples_are_the_same_in_every_program(name):
    found = []
    for program in (nullcontext, double):
        with torch.random.fork_rng(devices=[]), program():
            torch.random.manual_seed(0)
            found.append(DRAWS[name]())
    assert found[0].dtype == found[1].dtype
    assert torch.equal(*found)


def test_labels_are_hidden_alike_in_every_program():
    states = []
    for program in (nullcontext, double):
        learner, source = Diffusion.tiny()
        learner.config = replace(learner.config, condition_dropout=0.5)
        with program():
            for _ in run(learner, source, 2, compile=False):
                pass
        states.append(learner.state_dict())
    assert difference(*states) is None


@pytest.mark.parametrize("host", HOSTS)
def test_files_are_read_in_every_program(host, agent, tmp_path):
    path = agent.save(tmp_path / "agent")
    with HOSTS[host]():
        again = Agent.load(path)
        actions = again.act(OBSERVATIONS)
    assert difference(dict(again.policy.state_dict()), dict(agent.policy.state_dict())) is None
    np.testing.assert_array_equal(actions, agent.act(OBSERVATIONS))


def test_data_and_a_backbone_that_were_made_in_inference_mode():
    def parts():
        with torch.random.fork_rng(devices=[]):
            torch.random.manual_seed(0)
            return Dataset(torch.randn(60, 3), torch.arange(60) % 2, ("a", "b")), MLP(3, (8,))

    results = []
    for host in (nullcontext, torch.inference_mode):
        with host():
            data, backbone = parts()
            results.append(agentlib.train("classifier", data=data, backbone=backbone, steps=5, progress=False))
    assert difference(weights_of(results[0]), weights_of(results[1])) is None


SILENT = """
import os, sys
for number in range(3):
    os.close(number)
sys.stdin = sys.stdout = sys.stderr = None
import agentlib
for progress in (True, "table"):
    agent = agentlib.train("dqn", env="agentlib/Identity-v0", steps=60, net_arch=(8,), learning_starts=20,
                           progress=progress, out=sys.argv[1] + str(progress))
    agent.act(0)
"""


@pytest.mark.slow
def test_without_a_terminal(tmp_path):
    fresh(SILENT, tmp_path / "run")
    assert agentlib.Agent.load(tmp_path / "runTrue").act(0) in range(4)
