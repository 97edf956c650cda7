"""Models of language, on a text that papers and courses use."""

from typing import Any

import agentlib
from benchmarks.experiments import Claim, Experiment
from benchmarks.paper_data import path

FILES = ("tinyshakespeare.txt",)


def gpt(seed: int, **settings: Any) -> dict[str, float]:
    """nanoGPT's run on a processor: its sizes, rates and length are gpt's defaults."""
    result = agentlib.train("gpt", data=path(FILES[0]), seed=seed, progress=False, **settings)
    assert isinstance(result, agentlib.Result)
    measures = {name.removeprefix("test/"): value for name, value in result.measures.items()}
    return measures | {"frequencies": result.references["test/loss"]}


EXPERIMENTS = [
    Experiment(
        name="gpt_shakespeare",
        family="Language",
        data="tiny Shakespeare by characters; 4 layers, 4 heads, width 128, context 64, batch 12, 2,000 updates",
        measure=gpt,
        files=FILES,
        seeds=3,
        first_seed=200,
        claims=(
            Claim("loss", "GPT, nats per character of the last tenth", at_most=1.90, reference="1.88, nanoGPT"),
            Claim("perplexity", "its perplexity"),
            Claim("bits_per_character", "bits per character", reference="2.635, bzip2 on the last tenth alone"),
            Claim("frequencies", "nats by how often each character is there, and no more"),
        ),
    ),
]
