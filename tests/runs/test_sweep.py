"""Sweeps: trials, pruning, going on after a kill, the comparison on fresh seeds, and the report."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

import agentlib
from agentlib.backbones import MLP
from agentlib.core import Clock
from agentlib.core.source import Diverged
from agentlib.metrics.intervals import paired_difference
from agentlib.runs import sweep_report, sweep_work
from agentlib.runs.sweep_result import Trial
from agentlib.shell.main import main
from tests.tiny import IDENTITY, SETTINGS, host_generators

optuna = pytest.importorskip("optuna")

IMPORTANCE = sweep_work.Work.importance
SPACE = {"learning_rate": {"low": 1e-4, "high": 1e-1, "log": True}, "batch_size": [8, 16, 32]}


def value_of(learning_rate, batch_size, seed, index=4):
    """A run's evaluation number `index`; the best learning rate is 0.01."""
    return 100.0 - 10.0 * abs(math.log10(learning_rate) + 2.0) - batch_size / 100 + (seed % 7) / 10 + index


class Runs:
    """In place of `train`: notes the runs, and reports four evaluations."""

    def __init__(self):
        self.seen, self.stop_at, self.broken, self.diverge_at, self.logs = [], None, False, (), set()

    def __call__(self, what=None, *, callback, seed=None, resume=None, out=None, **settings):
        folder = resume or out
        self.logs |= {settings["log"]} if "log" in settings else set()
        if resume is None:
            out.mkdir(parents=True)
            names = ("learning_rate", "batch_size")
            (out / "config.json").write_text(json.dumps({"seed": seed} | {name: settings[name] for name in names}))
            (out / "checkpoints").mkdir()
        self.seen.append(("resume" if resume else "new", f"{folder.parent.name}/{folder.name}"))
        if self.broken:
            raise ValueError("no such file:\n the data")
        for index in range(1, 5):
            if self.stop_at == (len(self.seen), index):
                raise KeyboardInterrupt
            if folder.name in self.diverge_at and index == 2:
                raise Diverged("the loss became nan at step 100")
            value = value_of(**json.loads((folder / "config.json").read_text()), index=index)
            callback["evaluation"](Clock(0, 50 * index, 0.0), {"eval/mean_reward": value})


@pytest.fixture
def runs(monkeypatch):
    found = Runs()
    monkeypatch.setattr(sweep_work, "train", found)
    monkeypatch.setattr(sweep_work.Work, "importance", lambda self: {})  # it imports scikit-learn, which takes seconds
    monkeypatch.setattr("agentlib.runs.sweep_report._figures", lambda found, space: {})
    return found


def sweep(out, **changes):
    settings = {"trials": 6, "evaluations": 4, "compare_seeds": 0, "pruner": "none", "space": SPACE, "progress": False}
    return agentlib.sweep("dqn", env=IDENTITY, steps=200, out=out, **{**settings, **changes, "net_arch": (16,)})


def test_the_best_trial_is_compared_on_seeds_that_no_trial_had(runs, tmp_path):
    found = sweep(tmp_path / "sweep", trials=4, seeds=2, compare_seeds=3, seed=5)
    assert [trial.state for trial in found.trials] == ["COMPLETE"] * 4
    assert [trial.seeds for trial in found.trials[:2]] == [(5, 6), (7, 8)]
    for trial in found.trials:
        expected = [
            value_of(trial.settings["learning_rate"], trial.settings["batch_size"], seed) for seed in trial.seeds
        ]
        assert trial.value == pytest.approx(np.mean(expected))
    assert found.best.value == max(trial.value for trial in found.trials)
    fresh = range(500_005, 500_008)
    rate, size = found.best.settings["learning_rate"], found.best.settings["batch_size"]
    best = [value_of(rate, size, seed) for seed in fresh]
    usual = [value_of(1e-4, 32, seed) for seed in fresh]  # DQN's defaults
    assert found.best_scores == pytest.approx(best)
    assert found.default_scores == pytest.approx(usual)
    assert found.difference == paired_difference(best, usual)
    assert len({place for _, place in runs.seen}) == len(runs.seen) == 4 * 2 + 3 * 2
    results = json.loads((found.folder / "results.json").read_text())
    assert results["config"]["learning_rate"] == found.best.settings["learning_rate"]
    assert results["config"]["net_arch"] == [16]
    assert "best minus default on 3 fresh seeds" in str(found)
    assert f"trial {found.best.number}" in (found.folder / "report.html").read_text()
    assert [*found.folder.rglob("checkpoints")] == []


def test_a_sweep_that_was_stopped_goes_on_as_if_it_had_not_been(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep_work, "STARTUP_TRIALS", 2)
    whole = sweep(tmp_path / "whole", trials=6)
    runs.seen, runs.stop_at = [], (4, 3)  # in the third evaluation of the fourth trial, which TPE chose
    with pytest.raises(KeyboardInterrupt):
        sweep(tmp_path / "stopped", trials=5)
    runs.stop_at = None
    found = agentlib.sweep(resume=tmp_path / "stopped", trials=6, progress=False)
    assert runs.seen[4:] == [("resume", "0003/seed_3"), ("new", "0004/seed_4"), ("new", "0005/seed_5")]
    assert found.trials == whole.trials
    assert len({str(trial.settings) for trial in whole.trials}) == 6, "each trial draws its own"
    again = agentlib.sweep(resume=tmp_path / "stopped", progress=False)
    assert len(runs.seen) == 7, "nothing is done twice"
    assert again.trials == whole.trials


def test_a_longer_sweep_compares_the_settings_that_are_its_own_best(runs, tmp_path):
    first = sweep(tmp_path / "sweep", trials=1, compare_seeds=2)
    found = agentlib.sweep(resume=tmp_path / "sweep", trials=8, progress=False)
    assert found.best.number > first.best.number == 0
    rate, size = found.best.settings["learning_rate"], found.best.settings["batch_size"]
    assert found.best_scores == pytest.approx([value_of(rate, size, seed) for seed in (500_000, 500_001)])
    assert found.default_scores == first.default_scores


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compare_seeds": 9}, "own settings: compare_seeds cannot be changed"),
        ({"pruner": "halving", "space": {"gamma": [0.9]}, "seeds": 2}, "own settings: seeds, pruner, space cannot"),
        ({"evaluations": 5, "net_arch": (8,)}, "own settings: net_arch, evaluations cannot be changed"),
        ({"what": "ppo"}, "the run was of 'dqn', and not of ppo"),
    ],
)
def test_what_a_sweep_that_goes_on_cannot_change(runs, tmp_path, changes, message):
    sweep(tmp_path / "sweep", trials=1)
    with pytest.raises(ValueError, match=message):
        agentlib.sweep(resume=tmp_path / "sweep", progress=False, **changes)


def test_each_run_has_the_trackers_that_were_asked_for(runs, tmp_path):
    sweep(tmp_path / "one", trials=1, log="csv")
    sweep(tmp_path / "two", trials=1, log=("csv", "tensorboard"))
    assert runs.logs == {("csv",), ("csv", "tensorboard")}


@pytest.mark.parametrize("progress", [True, False])
def test_other_processes_write_lines_if_this_one_does(runs, tmp_path, monkeypatch, capsys, progress):
    lines = []

    def start(line, env):
        lines.append(line)
        return SimpleNamespace(wait=lambda: 0, terminate=lambda: None)

    monkeypatch.setattr("subprocess.Popen", start)
    sweep(tmp_path / "sweep", trials=1, jobs=2, progress=progress)
    assert len(capsys.readouterr().err.splitlines()) == progress
    sweep_work.SweepFolder(tmp_path / "sweep").lengthen(2)
    assert main(lines[0][3:]) == 0
    assert len(capsys.readouterr().err.splitlines()) == progress


def test_other_processes_that_fail_are_not_passed_over(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("subprocess.Popen", lambda line, env: SimpleNamespace(wait=lambda: 2, terminate=lambda: None))
    with pytest.warns(UserWarning, match=r"2 of 2 other processes ended with an error \(exit code 2\)"):
        sweep(tmp_path / "sweep", trials=1, jobs=3)


def test_a_line_that_another_process_is_writing_is_left_whole(runs, tmp_path):
    sweep(tmp_path / "sweep", trials=1)
    folder = sweep_work.SweepFolder(tmp_path / "sweep")
    file = folder.path / "journal.log"
    before = file.read_bytes()
    lock = optuna.storages.journal.JournalFileOpenLock(str(file))
    lock.acquire()
    file.write_bytes(before[:-5])
    other = threading.Thread(target=folder.storage)
    other.start()
    other.join(0.2)
    assert file.read_bytes() == before[:-5], "it waits"
    file.write_bytes(before)
    lock.release()
    other.join()
    assert file.read_bytes() == before


@pytest.mark.slow
def test_settings_are_chosen_by_the_results(runs, tmp_path):
    found = sweep(tmp_path / "tpe", trials=30)
    rates = [trial.settings["learning_rate"] for trial in found.trials]
    miss = np.abs(np.log10(rates) + 2.0)
    assert np.median(miss[15:]) < 0.6 * np.median(miss[:10])
    work = sweep_work.Work(sweep_work.SweepFolder(found.folder), None, {}, progress=False)
    importance = IMPORTANCE(work)  # of the learning rate, as the batch size hardly counts
    assert importance["learning_rate"] > 0.8
    assert sum(importance.values()) == pytest.approx(1.0)


@pytest.mark.parametrize("pruner", ["median", "halving"])
def test_bad_trials_are_ended_early(runs, tmp_path, pruner):
    found = sweep(tmp_path / pruner, trials=12, pruner=pruner, sampler="random")
    states = [trial.state for trial in found.trials]
    assert states.count("PRUNED") >= 2
    assert found.best.value == max(trial.value for trial in found.trials)
    pruned = next(trial for trial in found.trials if trial.state == "PRUNED")
    done = json.loads((found.folder / "trials" / f"{pruned.number:04}" / f"seed_{pruned.number}.json").read_text())
    assert len(done["evaluations"]) < 4 or pruner == "median"


def test_trials_that_all_fail_end_the_sweep(runs, tmp_path):
    runs.broken = True
    with pytest.raises(ValueError, match=r"^all 5 trials failed; the first one: ValueError: no such file: the data$"):
        sweep(tmp_path / "sweep", trials=50)
    assert len(runs.seen) == 5


def test_a_run_of_the_comparison_that_diverges_has_ended_and_is_counted(runs, tmp_path):
    """A run diverges again with the same seed: the sweep ends with the others, and does not train it at each resume."""
    runs.diverge_at = ("seed_500001",)
    found = sweep(tmp_path / "sweep", trials=1, compare_seeds=3)
    trained = len(runs.seen)
    assert trained == 1 + 2 * 3
    for scores in (found.best_scores, found.default_scores):
        assert [math.isnan(score) for score in scores] == [False, True, False]
    both = [[scores[0], scores[2]] for scores in (found.best_scores, found.default_scores)]
    assert found.difference == paired_difference(*both)
    assert "1 of 3 runs of the best settings diverged; 1 of 3 runs of the default settings diverged" in str(found)
    page = (found.folder / "report.html").read_text()
    assert page.count("<td>diverged</td>") == page.count("runs of the best settings diverged") * 2 == 2
    assert str(agentlib.sweep(resume=found.folder, progress=False)) == str(found)
    assert len(runs.seen) == trained
    runs.diverge_at = ("seed_500000", "seed_500001", "seed_500002")
    found = sweep(tmp_path / "all", trials=1, compare_seeds=3)
    assert found.difference is None
    assert "fresh seeds: unknown; 3 of 3" in str(found)


def test_a_journal_that_a_kill_has_cut_is_read(runs, tmp_path):
    sweep(tmp_path / "sweep", trials=2)
    with (tmp_path / "sweep" / "journal.log").open("ab") as journal:
        journal.write(b'{"op_code": 4, "wor')
    assert len(agentlib.sweep(resume=tmp_path / "sweep", trials=3, progress=False).trials) == 3


def test_pieces_that_others_work_on_are_left_to_them(runs, tmp_path):
    sweep(tmp_path / "sweep", trials=2)
    folder = sweep_work.SweepFolder(tmp_path / "sweep")
    folder.lengthen(4)
    first, second = (sweep_work.Work(folder, None, {}, progress=False) for _ in range(2))
    claims = [first._claim_trial(), second._claim_trial()]
    assert first._claim_trial() is True, "both are taken"
    for claim in claims:
        assert not isinstance(claim, bool)
        with claim.lock:
            claim.do()
    assert first._claim_trial() is False
    assert runs.seen[2:] == [("new", "0002/seed_2"), ("new", "0003/seed_3")]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"out": None}, "a sweep keeps its trials in a folder: give out="),
        ({"trials": 0}, "trials must be a whole number from 1, not 0"),
        ({"space": {"gama": [0.9]}}, "dqn has no hyperparameter 'gama'"),
        ({"pruner": "none at all"}, "Search.pruner is 'none at all'"),
        ({"eval_every": 10}, "eval_every is no option of a sweep"),
        ({"backbone": MLP(4, (8,))}, "each trial needs a backbone of its own"),
        ({"log": SimpleNamespace(log=print)}, "each run needs a tracker of its own"),
        ({"gama": 0.9}, "dqn has no hyperparameter 'gama'"),
        ({"env": lambda: gymnasium.make(IDENTITY), "jobs": 2}, "env was given as an object: take jobs=1"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_runs(runs, tmp_path, changes, message):
    settings: dict[str, Any] = {"env": IDENTITY, "steps": 200, "out": tmp_path / "sweep", **changes}
    with pytest.raises(ValueError, match=message):
        agentlib.sweep("dqn", **settings)
    assert not (tmp_path / "sweep").exists()


def test_the_best_settings_are_shown_as_python():
    trial = Trial(3, "COMPLETE", 1.0, {"double": True, "net_arch": [64], "loss": "huber"}, (3,), "")
    assert "train(..., seed=3, double=True, net_arch=[64], loss='huber')" in sweep_report._how(trial)


def test_a_folder_without_a_sweep(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"it has no sweep\.json"):
        agentlib.sweep(resume=tmp_path)


def test_each_trial_has_an_environment_of_its_own(tmp_path):
    with pytest.raises(ValueError, match="give an id, or a function"), gymnasium.make(IDENTITY) as env:
        agentlib.sweep("dqn", env=env, steps=200, out=tmp_path / "sweep")


@pytest.mark.slow
def test_what_is_not_evaluated_is_not_searched(tmp_path):
    with pytest.raises(ValueError, match="simclr is not evaluated while it trains"):
        agentlib.sweep("simclr", data="digits", steps=4, batch_size=8, out=tmp_path / "sweep")


def test_optunas_logger_and_the_hosts_generators_stay_as_they_are(runs, tmp_path, capfd):
    before = [state.copy() for state in host_generators()]
    sweep(tmp_path / "sweep", trials=3)
    assert all((now == state).all() for now, state in zip(host_generators(), before, strict=True))
    assert capfd.readouterr() == ("", "")


def processes_in(folder):
    return {lock.read_text() for lock in folder.glob("trials/*/.lock")} - {""}


@pytest.mark.slow
def test_real_trials_in_two_processes_and_a_kill(tmp_path):
    """The best one is trained again by `train` alone, bit for bit."""
    folder = tmp_path / "sweep"
    flags = ["--net-arch", "16", "--buffer-size", "1000", "--learning-starts", "20", "--threads", "1"]
    (tmp_path / "space.json").write_text(json.dumps(SPACE))
    line = f"sweep dqn --env {IDENTITY} --steps 4000 --trials 6 --jobs 2 --compare-seeds 1 --pruner none"
    command = [sys.executable, "-m", "agentlib", *line.split(), "--space", str(tmp_path / "space.json")]
    process = subprocess.Popen([*command, *flags, "--out", str(folder)], start_new_session=True)
    deadline = time.monotonic() + 240
    while min(len([*folder.glob("trials/*/seed_*.json")]) - 1, len(processes_in(folder))) < 2:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.killpg(process.pid, signal.SIGKILL)  # itself and its worker
    process.wait()
    done = {path: path.read_text() for path in folder.glob("trials/*/seed_*.json") if "score" in path.read_text()}
    found = agentlib.sweep(resume=folder, progress=False)
    assert [trial.state for trial in found.trials] == ["COMPLETE"] * 6
    assert {path: path.read_text() for path in done} == done
    assert all((folder / f"{name}.png").stat().st_size > 10_000 for name in ("history", "parallel_coordinates"))
    settings: Any = {**SETTINGS, **found.best.settings}
    again: Any = agentlib.train(
        "dqn", env=IDENTITY, steps=4000, seed=found.best.seeds[0], threads=1, progress=False, **settings
    )
    kept = agentlib.Agent.load(
        folder / "trials" / f"{found.best.number:04}" / f"seed_{found.best.seeds[0]}" / "agent.safetensors"
    )
    for name, value in again.policy.state_dict().items():
        assert (value == kept.policy.state_dict()[name]).all(), name


@pytest.mark.slow
def test_learners_from_data_are_searched_by_their_losses(tmp_path):
    space = {"learning_rate": [1e-5, 1e-2]}
    found = agentlib.sweep(
        "classifier",
        data="digits",
        steps=60,
        trials=4,
        compare_seeds=2,
        space=space,
        out=tmp_path / "s",
        progress=False,
    )
    assert (found.objective, found.lower_is_better) == ("eval/loss", True)
    assert found.best.settings == {"learning_rate": 1e-2}
    assert found.best.value == min(trial.value or 9.0 for trial in found.trials)
    assert found.importance == {}, "too few trials"
