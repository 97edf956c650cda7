"""Several processes share out each batch: parts and sums, refusals, and equality with one process under torchrun."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import agentlib
from agentlib.catalog import LEARNERS, recipe_of
from agentlib.core.learner import Learner, Update, cycle
from agentlib.core.ranks import Ranks, own_gpu, shared_cycle
from agentlib.core.recipe import Problem
from agentlib.learners import run
from agentlib.learners.actor_critic.ppo import normalized
from agentlib.learners.imitation.bc import weighted_mean
from agentlib.runs.folder import RunFolder
from agentlib.runs.plan import job_of
from tests.core.parallel_program import bc_in_double, in_double, largest_difference, ppo_in_double
from tests.tiny import IDENTITY, SETTINGS

ROOT = Path(__file__).parents[2]


def tiny(name):
    kind: Any = recipe_of(name).learner
    return kind.tiny()


class Together:
    """A group and a store of threads, in place of processes."""

    def __init__(self, size):
        self.barrier, self.tensors, self.texts = threading.Barrier(size, timeout=60), {}, {}

    def of(self, rank):
        together = self

        class Group:
            def allreduce(self, tensors):
                together.tensors[rank] = tensors[0].clone()
                together.barrier.wait()
                total = sum(together.tensors[other] for other in sorted(together.tensors))
                together.barrier.wait()
                tensors[0].copy_(total)
                return self

            def wait(self):
                return True

        return Group()

    def set(self, key, text):
        self.texts[key] = text.encode()

    def get(self, key):
        deadline = time.monotonic() + 60
        while key not in self.texts:
            assert time.monotonic() < deadline
            time.sleep(0.001)
        return self.texts[key]


def on_threads(work, size=2):
    """The results of `work(ranks)`, which each thread does for one rank."""
    together, found = Together(size), {}

    def one(rank):
        try:
            found[rank] = work(Ranks(rank, size, together.of(rank), together))
        except Exception as error:
            found[rank] = error
            together.barrier.abort()

    threads = [threading.Thread(target=one, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [found[rank] for rank in range(size)]


def test_sums_means_and_wholes():
    gradients = [torch.arange(6.0).view(2, 3), torch.ones(4)]
    for rank, (mean, whole) in enumerate(
        on_threads(
            lambda ranks: (
                ranks.mean([gradient * (ranks.rank + 1) for gradient in gradients]),
                ranks.whole(torch.full((3,), float(ranks.rank))),
            )
        )
    ):
        assert [torch.equal(one, 1.5 * gradient) for one, gradient in zip(mean, gradients, strict=True)] == [True] * 2
        assert whole.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0], rank


def test_what_couples_samples_is_computed_of_the_whole_batch():
    advantage, weight = torch.randn(8, generator=torch.Generator().manual_seed(0)), torch.full((8,), 1 / 6)
    weight[6:] = 0.0  # which fill up
    learner, _ = tiny("ppo")
    whole = learner.of_whole(normalized, advantage, weight)
    assert torch.equal(whole, normalized(advantage, weight))

    def part(ranks):
        learner, _ = tiny("ppo")
        learner.ranks = ranks
        return learner.of_whole(normalized, ranks.part(advantage), ranks.part(weight))

    assert torch.equal(torch.cat(on_threads(part)), whole)
    assert not torch.allclose(normalized(advantage[:4], weight[:4] * 2), whole[:4])


def test_a_weighted_mean_is_that_of_all_samples():
    values, weight = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([1.0, 0.0, 1.0, 1.0])
    means = on_threads(lambda ranks: weighted_mean(ranks.part(values), ranks.part(weight), ranks))
    assert float(sum(means)) / 2 == pytest.approx(8 / 3) == float(weighted_mean(values, weight))


def learned(learner, source, ranks=None):
    """Parameters after 50 updates, and the rollout's divergence; without the locks of `run`."""
    if ranks is not None:
        ranks.join(learner, source)
    for _ in range(50):
        source.advance()
        source.fill_ticks(source.clock)
        (cycle if ranks is None else shared_cycle)(learner, source)
        source.count_update()
    return [parameter.detach().clone() for parameter in learner.parameters()], float(getattr(source, "divergence", 0))


@pytest.mark.parametrize("made", [bc_in_double, ppo_in_double])
def test_weighted_samples_and_normalized_advantages_learn_as_in_one_process(made):
    alone, divergence = learned(*made())
    pairs: Any = [made(), made()]

    def part(ranks):
        learner, source = pairs[ranks.rank]
        return learned(learner, source, ranks)

    (first, one), (second, other) = on_threads(part)
    assert all(map(torch.equal, first, second))
    assert largest_difference(first, alone) < 1e-12
    assert largest_difference(alone, list(made()[0].parameters())) > 0.1
    assert one == other == pytest.approx(divergence, rel=1e-5)


def test_each_has_an_equal_part():
    ranks = Ranks(1, 2, None, None)
    batch = (torch.arange(6), {"x": torch.arange(12).view(6, 2)}, torch.tensor(3.0), None)
    index, columns, clock, nothing = ranks.part(batch)
    assert index.tolist() == [3, 4, 5]
    assert columns["x"].tolist() == [[6, 7], [8, 9], [10, 11]]
    assert (clock, nothing) == (torch.tensor(3.0), None)
    with pytest.raises(ValueError, match="a batch of 5 samples cannot be shared out among 2 processes"):
        ranks.part(torch.arange(5))
    with pytest.raises(ValueError, match=r"tensors of the lengths \[2, 6\]"):
        ranks.part((torch.arange(6), torch.arange(2)))


def test_a_process_that_does_not_answer_is_said_to_be_the_cause():
    class Gone:
        def get(self, key):
            raise RuntimeError("wait timeout after 1800000ms")

        def allreduce(self, tensors):
            raise RuntimeError("Connection closed by peer")

    ranks = Ranks(1, 2, Gone(), Gone())
    with pytest.raises(RuntimeError, match=r"^rank 1: another of the 2 processes has ended .* \(wait timeout"):
        ranks.from_first(None)
    with pytest.raises(RuntimeError, match=r"^rank 1: another of the 2 processes has ended .* \(Connection closed"):
        ranks.sum(torch.ones(1))


@pytest.mark.parametrize(
    ("device", "local_rank", "n_gpus", "gpu"),
    [
        ("auto", 0, 2, 0),
        ("auto", 1, 2, 1),
        ("cuda", 1, 2, 1),
        (torch.device("cuda"), 3, 4, 3),
        ("cuda", 2, 2, 0),  # shared
        ("cuda:1", 0, 2, None),
        ("cpu", 1, 2, None),
        ("auto", 1, 0, None),
    ],
)
def test_each_process_of_a_machine_has_its_own_gpu(device, local_rank, n_gpus, gpu):
    assert own_gpu(device, local_rank, n_gpus) == gpu


def test_a_run_is_put_together_and_made_on_that_gpu(here, monkeypatch):
    place, seen = list[int](), list[list[int]]()

    @contextmanager
    def device(number):
        place.append(number)
        yield
        place.remove(number)

    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "device", device)
    here.ranks = on_threads(lambda ranks: ranks, 1)[0]
    recipe: Any = recipe_of("classifier")

    def on_data(recipe, problem):
        seen.append(list(place))
        return recipe_of("classifier").family.assemble(recipe, problem)

    own = replace(recipe, name="own", family=replace(recipe.family, assemble=on_data))
    agentlib.train(
        own,
        data="digits",
        steps=2,
        progress=False,
        data_parallel=True,
        callback={"end": lambda *_: seen.append(list(place))},
    )
    assert seen == [[1], [1]]
    assert place == []


def test_noise_is_of_each_rank_and_update():
    _, source = in_double()
    seeds = {Ranks(rank, 2, None, None).seed(source) for rank in range(8)}
    source.updates = 1
    seeds |= {Ranks(rank, 2, None, None).seed(source) for rank in range(8)}
    assert len(seeds) == 16


def test_what_cannot_be_shared_is_refused(monkeypatch):
    learner, source = tiny("simclr")
    with pytest.raises(ValueError, match=r"SimCLR cannot be trained by several processes.*is_mean_over_samples"):
        Ranks(0, 2, None, None).join(learner, source)
    made = job_of("ppo", Problem(env="CartPole-v1", steps=64, backbone="lstm"), n_steps=32, batch_size=32)
    with pytest.raises(ValueError, match="PPO cannot be trained by several processes"):
        Ranks(0, 2, None, None).join(made.learner, made.source)
    made.source.close()
    learner, source = in_double()
    learner.ranks = Ranks(0, 2, None, None)
    with pytest.raises(ValueError, match="compile=True is for one process"):
        next(run(learner, source, 1, compile=True))
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(ValueError, match="data_parallel=True needs torchrun"):
        agentlib.train("dqn", env="CartPole-v1", steps=200, data_parallel=True)


class StepsAlone(Learner):
    """Says that it can be shared, and steps by an optimizer that averages nothing."""

    is_mean_over_samples = True

    def update(self, batch: Any) -> Update:
        return Update({})


def test_gradients_that_are_not_averaged_and_statistics_of_a_batch_are_refused():
    _, source = in_double()
    with pytest.raises(ValueError, match="StepsAlone cannot be trained by several processes: it has no Step"):
        Ranks(0, 2, None, None).join(StepsAlone(), source)
    learner, source = in_double()
    learner.policy.backbone.layers.append(nn.BatchNorm1d(16))
    with pytest.raises(ValueError, match="with BatchNorm, whose statistics are of a whole batch"):
        Ranks(0, 2, None, None).join(learner, source)


@pytest.fixture
def here(monkeypatch):
    """What `ranks` of it is, `train` takes for torchrun's, in each thread."""
    place: Any = threading.local()
    monkeypatch.setattr(Ranks, "of_torchrun", staticmethod(lambda: place.ranks))
    return place


def trained_in(here, ranks, **options):
    here.ranks = ranks
    stop = {"start": lambda clock, metrics: False}
    return agentlib.train(**options, progress=False, data_parallel=True, callback=stop)


def test_all_end_where_the_first_one_is_told_to_end_before_its_first_update(here):
    run: Any = {"what": "dqn", "env": IDENTITY, "steps": 200, **SETTINGS}
    for agent in on_threads(lambda ranks: trained_in(here, ranks, **run)):
        assert isinstance(agent, agentlib.Agent), agent


def test_the_first_one_puts_a_folder_in_order_before_others_read_it(here, tmp_path, monkeypatch):
    agentlib.train("dqn", env=IDENTITY, steps=100, out=tmp_path / "run", progress=False, **SETTINGS)
    calls = list[tuple[str, int]]()
    for name in ("sweep", "load", "lengthen"):
        real = getattr(RunFolder, name)

        def noted(folder, *arguments, name=name, real=real):
            calls.append((name, here.ranks.rank))
            return real(folder, *arguments)

        monkeypatch.setattr(RunFolder, name, noted)
    run: Any = {"resume": tmp_path / "run", "steps": 200}
    for agent in on_threads(lambda ranks: trained_in(here, ranks, **run)):
        assert isinstance(agent, agentlib.Agent), agent
    assert calls == [("sweep", 0), ("load", 0), ("lengthen", 0), ("load", 1)]


def test_ranks_with_other_weights_are_found():
    first, second = on_threads(lambda ranks: ranks.join(*in_double(seed=ranks.rank)))
    assert first is None
    assert str(second) == "rank 1 has other weights than rank 0: all processes need the same run"


def test_one_process_under_torchrun_is_as_without(monkeypatch):
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert Ranks.of_torchrun() is None, "so that nothing differs"


@pytest.mark.slow
def test_the_page_names_those_that_can_be_shared():
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    listed = page.split("**Learners**")[1].split("Others are")[0]
    shared = {name for name in LEARNERS if tiny(name)[0].is_mean_over_samples}
    assert set(re.findall(r"`(\w+)`", listed)) == shared - {"crossq", "td3_bc"}  # of the same classes


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("sac", {"critic_norm": "batch_renorm", "target_networks": False}),
        ("td3", {"bc_alpha": 2.5}),
        ("regressor", {"balance": "surgery"}),
    ],
)
def test_options_that_couple_samples_are_refused(name, config):
    learner, _ = tiny(name)
    learner.config = replace(learner.config, **config)
    assert not learner.is_mean_over_samples


@pytest.mark.slow
def test_two_processes_equal_one(tmp_path):
    """Under torchrun, with gloo: parameters, every learner that can be shared, runs, refusals, the host's group."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [*line, str(Path(__file__).with_name("parallel_program.py")), str(tmp_path)], env=environment, check=True
    )
    first, second = (json.loads((tmp_path / f"rank_{rank}.json").read_text()) for rank in (0, 1))
    for name, found in first["in_double"].items():
        assert found["difference"] < 1e-12 < 0.1 < found["moved"], f"50 updates of {name} in float64"
        assert found["digest"] == second["in_double"][name]["digest"]
    for name, found in first["learners"].items():
        assert found["digest"] == second["learners"][name]["digest"], name
        if found["is_exact"]:
            assert found["norms"][0] == pytest.approx(found["norms"][1], rel=1e-4), name
    assert sum(found["is_exact"] for found in first["learners"].values()) >= 5
    assert first["trained"] == second["trained"]
    assert first["trained"]["resumed"] == first["trained"]["whole"] != first["trained"]["stopped"]
    assert (tmp_path / "whole" / "results.json").exists()
    assert not first["before"]
    assert not first["initialized"], "the default group is the host's"
    assert second["other"] == "rank 1 has other weights than rank 0: all processes need the same run"
    assert first["odd"].startswith("a batch of 9 samples cannot be shared out among 2 processes")
    assert first["simclr"].startswith("SimCLR cannot be trained by several processes")


@pytest.mark.slow
def test_the_script_for_torchrun_runs_and_goes_on(tmp_path):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = ["sh", str(ROOT / "examples" / "scale" / "torchrun.sh"), "40", "60"]
    done = subprocess.run(script, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    folder = tmp_path / "runs" / "digits"
    assert json.loads((folder / "results.json").read_text())["steps"] == 60
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["digits"], "one process writes"
    assert done.stdout.count("The run is in runs/digits") == 2, "one process prints"


def test_the_script_for_slurm_is_one():
    subprocess.run(["sh", "-n", str(ROOT / "examples" / "scale" / "slurm.sh")], check=True)
