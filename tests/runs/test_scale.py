"""Sweeps over sizes and lengths: what is counted, what is kept, and what is said of the next run."""

import json
import re
from typing import Any

import pytest

from agentlib.backbones import TransformerDecoder
from agentlib.runs import scale
from agentlib.runs.lock import locked
from agentlib.runs.scale import ScalingRun, compute_of, report, scaling_runs
from agentlib.shell.main import main

SMALL: Any = {"n_layers": 1, "context_length": 8, "batch_size": 4}


def made(width: int, steps: int) -> ScalingRun:
    """A run that follows Chinchilla's law exactly."""
    n, d = 12 * width**2, 64 * steps
    return ScalingRun(width, steps, n, d, 1.4 + 8.0 / n**0.5 + 30.0 / d**0.4)


RUNS = [made(width, steps) for width in (8, 16, 32, 64) for steps in (100, 300, 1_000, 3_000)]


def test_a_report_predicts_the_largest_run_and_the_best_one():
    compute = 1e9
    text = report(RUNS, compute)
    assert "16 runs" in text
    assert "Chinchilla" in text
    assert "Kaplan" in text
    largest = made(64, 3_000)
    assert f"the largest run, predicted by the others: {largest.loss:.4f} nats; it has {largest.loss:.4f}" in text
    # The closed form of the paper, equation 4.
    n = (0.5 * 8.0 / (0.4 * 30.0)) ** (1 / 0.9) * (compute / 6) ** (0.4 / 0.9)
    width, steps = (n / 12) ** 0.5, compute / 6 / n / 64
    found = re.search(r"best for 1e\+09 operations: .* \(width (\d+)\) .* \(([\d,]+) updates\)", text)
    assert found
    assert int(found[1]) == pytest.approx(width, abs=1)
    assert int(found[2].replace(",", "")) == pytest.approx(steps, rel=0.01)


@pytest.mark.slow
def test_runs_are_counted_kept_and_gone_on_with(tmp_path, monkeypatch):
    runs = scaling_runs("markov", (4, 8), (1, 2), out=tmp_path, **SMALL)
    assert [(run.embed_dim, run.steps, run.tokens) for run in runs] == [(4, 1, 32), (4, 2, 64), (8, 1, 32), (8, 2, 64)]
    network = TransformerDecoder(None, 8, 1, 4, vocabulary=8)
    assert runs[2].parameters == sum(parameter.numel() for parameter in network.stack.parameters())
    assert json.loads((tmp_path / "runs.json").read_text())["runs"][0]["loss"] == runs[0].loss
    trained, train = list[int](), vars(scale)["train"]

    def counted(*what: Any, **how: Any) -> Any:
        trained.append(how["steps"])
        return train(*what, **how)

    monkeypatch.setattr(scale, "train", counted)
    assert scaling_runs("markov", (4, 8), (1, 2), out=tmp_path, **SMALL) == runs
    assert len(scaling_runs("markov", (4, 8), (2, 3), out=tmp_path, **SMALL)) == 4
    assert trained == [3, 3]
    with pytest.raises(ValueError, match="give another folder"):
        scaling_runs("markov", (4,), (1,), out=tmp_path, seed=1, **SMALL)


def test_one_process_at_a_time_is_at_work_in_a_folder(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match="another run is at work in"):
        scaling_runs("markov", (4,), (1,), out=tmp_path, **SMALL)


@pytest.mark.slow
def test_from_the_shell(tmp_path, capsys):
    (tmp_path / "runs").mkdir()
    about = {"data": "markov", "seed": 0, "n_layers": 1}
    (tmp_path / "runs" / "runs.json").write_text(json.dumps({"about": about, "runs": [run._asdict() for run in RUNS]}))
    flags = ["--data", "markov", "--out", str(tmp_path / "runs"), "--settings", "n_layers=1", "--progress", "none"]
    assert main(["scale", "gpt", *flags, "--widths", "8", "16", "32", "64", "--steps", "100", "300", "1e3", "3e3"]) == 0
    shown = capsys.readouterr().out
    assert "width 64" in shown
    assert "Chinchilla: " in shown
    assert f"best for {10 * compute_of(made(64, 3_000)):.3g} operations" in shown
    assert (tmp_path / "runs" / "scaling.png").is_file()
    assert main(["scale", "gpt", *flags[:4], "--settings", "n_layers"]) == 2
    assert "--settings takes NAME=VALUE" in capsys.readouterr().err
    assert main(["scale", "gpt", *flags[:4], "--widths", "8", "8", "--steps", "1", "2", "3", "4"]) == 2
    assert "two --widths" in capsys.readouterr().err
