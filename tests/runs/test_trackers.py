"""Where the numbers of a run go, and that a tracker of the host's stays the host's."""

import csv
import sys
from contextvars import ContextVar
from types import SimpleNamespace
from typing import Any

import pytest

import agentlib

SMALL = {"learning_starts": 20, "train_freq": 5, "gradient_steps": 1, "batch_size": 8, "net_arch": (8,)}


class Mine:
    def __init__(self):
        self.points, self.closed = [], 0

    def log(self, metrics, step):
        self.points.append((step, metrics))

    def close(self):
        self.closed += 1


def trained(steps=100, **options):
    settings = {"env": "CartPole-v1", "steps": steps, "progress": False, "compile": False, **SMALL, **options}
    return agentlib.train("dqn", **settings)


def rows_of(folder):
    with (folder / "progress.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_object_of_ones_own_gets_all_points_and_is_closed():
    mine = Mine()
    trained(log=mine)
    steps = [step for step, _ in mine.points]
    assert steps == sorted(set(steps))
    assert (steps[0], steps[-1], mine.closed) == (25, 100, 1)
    assert {"train/loss", "time/fps", "train/n_updates"} <= set(mine.points[-1][1])
    assert mine.points[-1][1]["train/n_updates"] == 16


def test_what_has_only_the_one_method_is_enough():
    points = []
    trained(log=SimpleNamespace(log=lambda metrics, step: points.append(step)))
    assert points[-1] == 100


def test_a_table_holds_what_the_events_hold_and_goes_on(tmp_path):
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    mine = Mine()
    trained(out=tmp_path / "run", log=("tensorboard", "csv", mine))
    rows = rows_of(tmp_path / "run")
    assert [int(row["step"]) for row in rows] == [step for step, _ in mine.points]
    assert [float(row["train/loss"]) for row in rows] == [metrics["train/loss"] for _, metrics in mine.points]
    found = events.EventAccumulator(str(tmp_path / "run")).Reload().Scalars("train/loss")
    assert [one.value for one in found] == pytest.approx([metrics["train/loss"] for _, metrics in mine.points])
    agentlib.train(resume=tmp_path / "run", steps=150, log="csv", progress=False)
    longer = rows_of(tmp_path / "run")
    assert longer[: len(rows)] == rows
    assert int(longer[-1]["step"]) == 150


def test_a_run_that_is_resumed_keeps_the_trackers_that_have_names(tmp_path):
    trained(out=tmp_path / "run", log=("csv", Mine()))
    agentlib.train(resume=tmp_path / "run", steps=150, progress=False)
    assert int(rows_of(tmp_path / "run")[-1]["step"]) == 150
    assert not list((tmp_path / "run").glob("events*"))


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trained(log=("tensorboard", "csv"))
    assert not any(tmp_path.iterdir())


class Run:
    """A run of Weights & Biases, or of Trackio."""

    def __init__(self, **about):
        self.about, self.points, self.finished = about, [], False

    def log(self, metrics, step):
        self.points.append((step, metrics))

    def finish(self):
        self.finished = True


@pytest.mark.parametrize("package", ["wandb", "trackio"])
@pytest.mark.parametrize("is_the_hosts", [False, True])
def test_the_three_calls_of_wandb(package, is_the_hosts, monkeypatch):
    begun: list[Run] = []
    host = Run() if is_the_hosts else None

    current_run: Any = ContextVar("current_run", default=host)

    def init(**about):
        begun.append(Run(**about))
        current_run.set(begun[-1])  # Trackio's, which `finish` leaves as it is
        return begun[-1]

    module = SimpleNamespace(run=host, init=init, context_vars=SimpleNamespace(current_run=current_run))
    monkeypatch.setitem(sys.modules, package, module)
    trained(log=package)
    run = host or begun[0]
    assert run.points[-1][0] == 100
    assert (len(begun), run.finished) == ((0, False) if is_the_hosts else (1, True))
    if not is_the_hosts:
        assert (run.about["project"], run.about["name"]) == ("agentlib", "dqn-CartPole-v1")
        assert (run.about["config"]["batch_size"], run.about["config"]["learner"]) == (8, "dqn")
        assert current_run.get() is None or package == "wandb"
        trained(log=package)
        assert [(one.points[-1][0], one.finished) for one in begun] == [(100, True)] * 2, "each run has its own"


@pytest.mark.parametrize("is_the_hosts", [False, True])
def test_mlflow_by_a_client_of_its_own(is_the_hosts, monkeypatch):
    calls: list[Any] = []
    run = SimpleNamespace(info=SimpleNamespace(run_id="r1"))

    class Client:
        def get_experiment_by_name(self, name):
            return None

        def create_experiment(self, name):
            return "7"

        def create_run(self, experiment, run_name):
            calls.append(("run", experiment, run_name))
            return run

        def log_param(self, run_id, key, value):
            calls.append(("param", key))

        def log_batch(self, run_id, metrics):
            calls.append(("batch", run_id, metrics[0][3]))

        def set_terminated(self, run_id):
            calls.append(("end", run_id))

    active = run if is_the_hosts else None
    entities = SimpleNamespace(Metric=lambda *values: values)
    module = SimpleNamespace(MlflowClient=Client, entities=entities, active_run=lambda: active)
    monkeypatch.setitem(sys.modules, "mlflow", module)
    trained(log="mlflow")
    assert ("batch", "r1", 100) in calls
    assert (("end", "r1") in calls, ("run", "7", "dqn-CartPole-v1") in calls) == (not is_the_hosts, not is_the_hosts)


@pytest.mark.parametrize("package", ["wandb", "trackio", "mlflow"])
def test_a_package_that_is_not_there(package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=f"pip install {package}"):
        trained(log=package, out=tmp_path / "run")
    assert not (tmp_path / "run").exists(), "the next try may have this folder"


def test_one_that_fails_leaves_no_other_open(monkeypatch):
    def refuse(**about):
        raise RuntimeError("not logged in")

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run=None, init=refuse))
    mine = Mine()
    with pytest.raises(RuntimeError, match="not logged in"):
        trained(log=(mine, "wandb"))
    assert mine.closed == 1
    first, last = Mine(), Mine()
    broken = SimpleNamespace(log=lambda metrics, step: None, close=lambda: refuse())
    with pytest.raises(RuntimeError, match="not logged in"):
        trained(log=(first, broken, last))
    assert (first.closed, last.closed) == (1, 1)
