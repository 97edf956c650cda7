"""Seconds to write 200 characters by a GPT of 10 million weights, with keys and values kept and without, by turns:

    python benchmarks/decoding.py [--pairs 3]

prints one JSON object: the medians, and the median of the ratios.
"""

import argparse
import json
import time

import numpy as np
import torch

from agentlib.data.tokens import Characters
from agentlib.learners.language.gpt import GPT, GPTConfig
from agentlib.learners.language.language_model import LanguageModel

LENGTH = 200


def seconds(model: LanguageModel, cache: bool) -> float:
    began = time.perf_counter()
    for _ in model.generate("A", LENGTH, generator=torch.Generator().manual_seed(0), cache=cache):
        pass
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3)
    pairs = parser.parse_args().pairs
    torch.set_num_threads(1)
    tokenizer = Characters(map(chr, range(65, 130)))
    config = GPTConfig(n_layers=6, n_heads=6, embed_dim=384, context_length=256)
    model = LanguageModel(GPT.network(config, tokenizer.size), tokenizer.to_json(), config.context_length).eval()
    found = np.array([[seconds(model, cache) for cache in (True, False)] for _ in range(pairs)])
    cached, read_again = np.median(found, 0).tolist()
    ratio = float(np.median(found[:, 1] / found[:, 0]))
    print(json.dumps({"cached": cached, "read_again": read_again, "ratio": ratio, "characters": LENGTH}))


if __name__ == "__main__":
    main()
