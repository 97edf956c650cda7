"""Runs of a language model of several sizes and lengths, the laws that they follow, and what to train next."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from itertools import cycle, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from agentlib.backbones.files import replacing
from agentlib.core.names import readable
from agentlib.core.progress import watched
from agentlib.metrics.scaling import ScalingLaw, chinchilla, kaplan
from agentlib.plots import pictures
from agentlib.runs.lock import locked
from agentlib.runs.plan import settings_of
from agentlib.runs.result import Result
from agentlib.runs.train import train

RUNS = "runs.json"


class ScalingRun(NamedTuple):
    """One run of a sweep over sizes and lengths."""

    embed_dim: int
    steps: int
    parameters: int
    """N, without embeddings."""
    tokens: int
    """D, that were read, again and again where the text is short."""
    loss: float
    """Nats per token of the held-out end."""


def scaling_runs(
    data: Any, widths: Sequence[int], lengths: Sequence[int], *, out: str | Path, seed: int = 0, **settings: Any
) -> list[ScalingRun]:
    """Trains a GPT of each width for each number of updates; those that the folder has already are not trained again.

    Args:
        data: the text, as `agentlib.train` takes it.
        widths: values of `embed_dim`.
        lengths: values of `steps`; each run's learning rate comes to its end.
        out: the folder, which keeps the runs' numbers.
        seed: of all runs.
        settings: of all runs, such as `n_layers`, `batch_size` and `context_length`.

    Raises:
        ValueError: another process is at work in the folder, or it has runs of other data or settings; or what
            `agentlib.train` raises.
    """
    with locked(Path(out)):
        return _runs(data, widths, lengths, Path(out), seed, settings)


def _runs(
    data: Any, widths: Sequence[int], lengths: Sequence[int], out: Path, seed: int, settings: dict[str, Any]
) -> list[ScalingRun]:
    path, about = out / RUNS, json.loads(json.dumps({"data": str(data), "seed": seed, **settings}, default=str))
    kept = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"about": about, "runs": []}
    if kept["about"] != about:
        raise ValueError(f"{path} has runs of {kept['about']}, and not of {about}: give another folder")
    found = [ScalingRun(**run) for run in kept["runs"]]
    done = {(run.embed_dim, run.steps) for run in found}
    for width, steps in watched([pair for pair in dict.fromkeys(product(widths, lengths)) if pair not in done], "runs"):
        sizes: Any = {"n_heads": math.gcd(width, 4), **settings, "embed_dim": width}
        config: Any = settings_of("gpt", None, sizes).config
        result = train("gpt", data=data, steps=steps, seed=seed, progress=False, **sizes)
        assert isinstance(result, Result)
        network: Any = result.backbone
        parameters = sum(parameter.numel() for parameter in network.stack.parameters())
        tokens = steps * config.batch_size * config.context_length
        found.append(ScalingRun(width, steps, parameters, tokens, result.measures["test/loss"]))
        with replacing(path) as temporary:
            temporary.write_text(json.dumps({"about": about, "runs": [run._asdict() for run in found]}, indent=1))
    return [run for run in found if run.embed_dim in widths and run.steps in lengths]


def compute_of(run: ScalingRun) -> float:
    """6 N D, the operations of its training, about."""
    return 6.0 * run.parameters * run.tokens


def laws_of(runs: Sequence[ScalingRun], resamples: int = 200) -> dict[str, ScalingLaw]:
    """Chinchilla's and Kaplan's law of runs, with intervals from that many resampled fits.

    Raises:
        ValueError: there are too few; see `agentlib.metrics.scaling`.
    """
    columns = [[getattr(run, name) for run in runs] for name in ("parameters", "tokens", "loss")]
    laws = {"Chinchilla": chinchilla, "Kaplan": kaplan}
    return {name: law(*columns, resamples=resamples) for name, law in laws.items()}


def report(runs: Sequence[ScalingRun], compute: float | None = None) -> str:
    """The laws of runs with intervals, how well the largest is predicted by the others, and the best size for a budget.

    Args:
        runs: seven of them at least.
        compute: of the next run; by default ten times that of the largest.
    """
    *others, largest = sorted(runs, key=compute_of)
    compute = 10.0 * compute_of(largest) if compute is None else compute
    lines = [f"{len(runs)} runs; the loss of N parameters (without embeddings) that have read D tokens:"]
    before = laws_of(others, resamples=1)
    for name, law in laws_of(runs).items():
        numbers = ", ".join(f"{one} {law.estimate(one)}" for one in law.names)
        predicted = float(before[name].loss(largest.parameters, largest.tokens)[0])
        n, d = law.best(compute)
        width, steps = largest.embed_dim * math.sqrt(n / largest.parameters), largest.steps * d / largest.tokens
        lines += [
            f"{name}: {numbers}",
            f"  the largest run, predicted by the others: {predicted:.4f} nats; it has {largest.loss:.4f}, "
            f"{100.0 * (largest.loss / predicted - 1.0):+.1f}%",
            f"  best for {compute:.3g} operations: {readable(n)} parameters (width {width:.0f}) and {readable(d)} "
            f"tokens ({steps:,.0f} updates), {float(law.loss(n, d)[0]):.4f} nats",
        ]
    return "\n".join(lines)


def draw(runs: Sequence[ScalingRun], path: Path) -> Path:
    """The losses of each size over the operations of their training, and Chinchilla's law, as a picture; its path."""
    law, (figure, axes) = laws_of(runs, resamples=1)["Chinchilla"], pictures.new_figure((7, 4))
    sizes = sorted({run.parameters for run in runs})
    for size, (colour, _) in zip(sizes, cycle(pictures.STYLES), strict=False):
        compute, loss = zip(*sorted((compute_of(run), run.loss) for run in runs if run.parameters == size), strict=True)
        axes.plot(compute, loss, "o", color=colour)
        grid = np.geomspace(compute[0], compute[-1], 50)
        axes.plot(grid, law.loss(size, grid / (6.0 * size)), color=colour, label=f"{readable(size)} parameters")
    axes.set(title="Loss by compute, and Chinchilla's law", xlabel="Operations, 6 N D", ylabel="Nats per token")
    axes.set(xscale="log", yscale="log")
    pictures.legend(axes)
    return pictures.save(figure, path)
