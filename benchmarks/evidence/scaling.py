"""Scaling laws of small language models, and a larger run that they predict."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from agentlib.runs.scale import laws_of, scaling_runs
from benchmarks.evidence.language import FILES
from benchmarks.experiments import Claim, Experiment
from benchmarks.paper_data import path

SETTINGS: Any = {"n_layers": 2, "context_length": 64, "batch_size": 16}
WIDTHS, LENGTHS, LARGER = (16, 24, 32, 48, 64), (250, 500, 1_000, 2_000), (96, 4_000)


def scaling(seed: int) -> dict[str, float]:
    """The exponents, and how far the larger run is from what each law predicts."""
    with TemporaryDirectory() as folder:
        text = path(FILES[0])
        runs = scaling_runs(text, WIDTHS, LENGTHS, out=Path(folder, "small"), seed=seed, **SETTINGS)
        (larger,) = scaling_runs(text, LARGER[:1], LARGER[1:], out=Path(folder, "large"), seed=seed, **SETTINGS)
    found: dict[str, float] = {"larger": larger.loss}
    for name, law in laws_of(runs).items():
        predicted = float(law.loss(larger.parameters, larger.tokens)[0])
        found[f"{name}_off"] = abs(larger.loss / predicted - 1.0)
        for number in law.names:
            value, interval = law.estimate(number)
            found |= {f"{name}_{number}": value, f"{name}_{number}_low": interval.low}
            found[f"{name}_{number}_high"] = interval.high
    return found


EXPERIMENTS = [
    Experiment(
        name="gpt_scaling",
        family="Language",
        data="tiny Shakespeare by characters; 20 runs, widths 16 to 64, 250 to 2,000 updates; the larger one 96, 4,000",
        measure=scaling,
        files=FILES,
        seeds=3,
        first_seed=200,
        claims=(
            Claim("Chinchilla_off", "a larger run, off Chinchilla's law, share of its loss", at_most=0.03),
            Claim("Kaplan_off", "the same of Kaplan's law", at_most=0.03),
            Claim("larger", "its loss, nats per character"),
            Claim("Chinchilla_alpha", "exponent of the parameters, Chinchilla's law", reference=".34, the paper"),
            Claim("Chinchilla_alpha_low", "the low end of its interval, from a bootstrap of the runs"),
            Claim("Chinchilla_alpha_high", "the high end"),
            Claim("Chinchilla_beta", "exponent of the tokens", reference=".28, the paper"),
            Claim("Chinchilla_beta_low", "the low end of its interval"),
            Claim("Chinchilla_beta_high", "the high end"),
            Claim("Kaplan_alpha_N", "exponent of the parameters, Kaplan's law", reference=".076, the paper"),
            Claim("Kaplan_alpha_D", "exponent of the tokens, Kaplan's law", reference=".095, the paper"),
        ),
        note="Nothing was trained before the seeds.",
    ),
]
