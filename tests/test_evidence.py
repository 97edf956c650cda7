"""How results are judged and kept: benchmarks/experiments.py and benchmarks/beside_sb3.py."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from agentlib.metrics import bootstrap_interval, t_interval
from benchmarks import experiments, paper_data, results_page
from benchmarks.beside_sb3 import mean_return, power
from benchmarks.evidence.pretrained import over_time
from benchmarks.experiments import Claim, Experiment, judged, keep, load, noted

VALUES = [1.0, 2.0, 4.0, 8.0, 16.0]


def of(*claims: Claim) -> Experiment:
    return Experiment("one", "family", "data", lambda seed: {"n": float(seed)}, claims)


@pytest.mark.parametrize("statistic", ["mean", "median"])
def test_means_have_students_interval_and_all_else_the_bootstraps(statistic):
    claim = Claim("n", "a number", statistic=statistic)
    found = judged(claim, [{"n": value} for value in VALUES], of(claim))
    expected = t_interval(VALUES) if statistic == "mean" else bootstrap_interval(VALUES, np.median)
    assert (found["low"], found["high"]) == expected


@pytest.mark.parametrize(("bound", "met"), [(-1.38, True), (-1.37, False)])
def test_an_interval_is_met_by_its_whole_length(bound, met):
    """Mean 6.2, deviation 6.099, t 2.776: the interval begins at -1.373."""
    claim = Claim("n", "a number", statistic="mean", at_least=bound, of="interval")
    assert judged(claim, [{"n": value} for value in VALUES], of(claim))["met"] is met


@pytest.mark.parametrize("name", ["programs", "suites"])
def test_a_gain_of_a_model_that_has_learned_nothing_is_not_met(name):
    """One that solves nothing, or gives the most frequent answer, differs in nothing from what it is compared with."""
    experiment = experiments.experiments()[name]
    gains = [claim for claim in experiment.claims if claim.at_least is not None]
    assert gains
    assert not any(judged(claim, [{claim.number: 0.0}] * 3, of(claim))["met"] for claim in gains)


@pytest.mark.parametrize(("margin", "seeds"), [(1.0, 5), (2.0, 3), (1.0, 12)])
def test_power_is_the_share_of_simulated_experiments_that_meet_the_margin(margin, seeds):
    samples = np.random.default_rng(0).normal(0.0, 1.3, size=(10_000, seeds))
    met = np.mean([t_interval(sample).low > -margin for sample in samples])
    assert power(margin, 1.3, seeds) == pytest.approx(met, abs=0.015)


def test_the_mean_return_of_a_run_is_one_over_its_steps():
    """Three episodes of 1, 2 and 5 steps with returns 10, 20 and 80: (10 + 2 * 20 + 5 * 80) / 8."""
    log = SimpleNamespace(episode_steps=[1, 3, 8], episode_returns=[10.0, 20.0, 80.0])
    assert mean_return(SimpleNamespace(log=log)) == 56.25  # type: ignore[arg-type]


def test_a_file_says_by_what_each_seed_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(experiments, "RESULTS", tmp_path)
    claim, measured = Claim("n", "a number"), list[dict[str, Any]]()
    for seed, commit in (("0", "a"), ("1", "a"), ("2", "b")):
        noted(measured, seed, {"commit": commit, "versions": {"torch": "2"}, "machine": {"cores": 2}}, seconds=1.5)
    keep(of(claim), {str(seed): {"n": float(seed)} for seed in range(3)}, measured)
    first, second = load("one")["measured"]
    assert (first["seeds"], first["commit"], first["seconds"]) == (["0", "1"], "a", 3.0)
    assert (second["seeds"], second["commit"], second["versions"]) == (["2"], "b", {"torch": "2"})
    assert first["first"] <= first["last"] <= second["first"]
    keep(of(claim), {"2": {"n": 2.0}}, measured)
    assert [group["seeds"] for group in load("one")["measured"]] == [["2"]]


def test_data_of_papers_is_the_file_that_is_meant_or_the_row_says_why_not(tmp_path, monkeypatch):
    monkeypatch.delenv("AGENTLIB_DATA", raising=False)
    assert paper_data.missing(()) is None
    assert (
        paper_data.missing(("mnist.npz",))
        == "it needs mnist.npz in the folder that AGENTLIB_DATA names, which is unset"
    )
    monkeypatch.setenv("AGENTLIB_DATA", str(tmp_path))
    assert "has none" in str(paper_data.missing(("mnist.npz",)))
    (tmp_path / "mnist.npz").write_bytes(b"abc")
    assert "another file than the one that is meant" in str(paper_data.missing(("mnist.npz",)))
    abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of FIPS 180-2
    monkeypatch.setitem(paper_data.FILES, "mnist.npz", abc)
    assert paper_data.path("mnist.npz") == str(tmp_path / "mnist.npz")


def test_the_page_shows_each_number_with_its_verdict_and_the_unmet_ones_first(tmp_path, monkeypatch):
    for module in (experiments, results_page):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    monkeypatch.setattr(results_page, "FIRST", (("one", "m"),))
    experiment = Experiment(
        "one",
        "family",
        "data",
        lambda seed: {},
        (Claim("n", "too small", at_least=3.0), Claim("m", "large enough", at_least=3.0)),
        seeds=4,
        note="A note.",
    )
    measured = [{"seeds": ["0", "1", "2"], "seconds": 360.0}]
    keep(experiment, {str(seed): {"n": float(seed), "m": 9.0} for seed in range(3)}, measured)
    first, unmet, family = results_page.page({"one": experiment}).split("\n## ")[1:]
    assert "| large enough | data; 3 of 4 seeds |  | 9.00 [9.00, 9.00] | at least 3: met |" in first
    assert "too small" not in first
    assert "too small" in unmet
    assert "large enough" not in unmet
    assert "3 of 4 planned seeds, 2.0 minutes of one core each: `python benchmarks/results.py one --seeds 3`" in family
    assert "| too small |  | 1.00 [0.000, 2.00] | median of 0.000, 1.00, 2.00 | at least 3: **not met** |" in family
    assert "A note." in family
    assert results_page.line("a|b") == "| a\\|b |"


def test_files_of_rows_are_known_and_the_readme_says_what_they_are():
    lines = (experiments.EVIDENCE / "README.md").read_text().splitlines()
    for name, digest in paper_data.FILES.items():
        assert any(f"`{name}`" in line and digest in line for line in lines), name
    assert {file for one in experiments.experiments().values() for file in one.files} <= set(paper_data.FILES)


def test_the_rows_that_matter_most_exist():
    found = experiments.experiments()
    for name, number in results_page.FIRST:
        assert number in {claim.number for claim in found[name].claims}


def test_all_frames_of_random_play_count():
    """Of an episode of 12 frames nine windows of four are made."""
    windows = 30
    _, played = over_time("simclr", seed=0, updates=1, windows=windows)
    assert played > windows + 3
