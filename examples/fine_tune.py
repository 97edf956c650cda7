"""A GPT learns a second text, by all of its weights, a new head or LoRA; and how much of the first one it forgets.

python examples/fine_tune.py [--first FILE] [--second FILE] [--steps 300] [--more 100]

It takes about 40 seconds on letters of two made-up languages, needs no extra, and keeps no file.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import agentlib
from agentlib.data import Text, text_of
from agentlib.data.text import markov
from agentlib.learners.language.gpt import next_token_losses

SIZES: Any = {"tokenizer": "bytes", "context_length": 32, "embed_dim": 64, "n_layers": 2, "seed": 0, "progress": False}


def loss_on(model: Any, text: Text) -> float:
    """Nats per byte in 200 windows."""
    starts = np.linspace(0, len(text) - 33, 200).astype(int)
    tokens = torch.from_numpy(text.tokens[starts[:, None] + np.arange(33)].astype(np.int64))
    with torch.no_grad():
        return float(next_token_losses(model.logits(tokens[:, :-1]), tokens).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", help="a file of text; by default letters of which each depends on the one before")
    parser.add_argument("--second", help="a file of text; by default such letters, read backwards, and in capitals")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--more", type=int, default=100)
    arguments = parser.parse_args()
    first = arguments.first or [markov(50_000)]
    second = arguments.second or [markov(20_000, seed=1)[::-1].upper()]
    held_out = {"first": text_of(first, "bytes").split()[1], "second": text_of(second, "bytes").split()[1]}
    with TemporaryDirectory() as folder:
        model = agentlib.train("gpt", data=first, steps=arguments.steps, out=folder, **SIZES).model  # type: ignore[union-attr]
        print("before     ", {name: round(loss_on(model, text), 3) for name, text in held_out.items()})
        saved = Path(folder) / "backbone.safetensors"
        for tuning, rate in (("full", 1e-3), ("head", 3e-3), ("lora", 3e-3)):
            result: Any = agentlib.train(
                "gpt", data=second, backbone=saved, tuning=tuning, learning_rate=rate, steps=arguments.more, **SIZES
            )
            losses = {name: round(loss_on(result.model, text), 3) for name, text in held_out.items()}
            trained = sum(parameter.numel() for parameter in result.model.parameters() if parameter.requires_grad)
            print(f"after {tuning:<5}", losses, f"by {trained:,} numbers")


if __name__ == "__main__":
    main()
