"""A small GPT on any text, then text of its own; it takes one to two minutes: a transformer learns.

python examples/train_gpt.py [--data FILE] [--steps 1000] [--prompt TEXT]

Without a file it learns from a part of Python's library, down to a test loss of about 2.0 nats per character, where the
frequencies of characters alone leave 3.1. What it writes then has the look of Python, and a few of its words.

Needs no extra, and writes no file.
"""

import argparse
import sysconfig
from itertools import islice
from pathlib import Path

import agentlib
from agentlib.data import text_of
from agentlib.data.text import Windows
from agentlib.learners import GPT, GPTConfig, run
from agentlib.learners.language.language_model import LanguageModel


def one_call(data: str | list[str], steps: int, prompt: str) -> None:
    """The last tenth of the text is held out; a loss of ln V would be that of a model that knows nothing."""
    result = agentlib.train("gpt", data=data, steps=steps, seed=0, threads="auto")
    assert isinstance(result, agentlib.Result)
    print(result)
    assert isinstance(result.model, LanguageModel)
    for piece in result.model.generate(prompt, 300, temperature=0.8):
        print(piece, end="", flush=True)
    print()


def the_parts(data: str | list[str]) -> None:
    """The same by hand: a text as tokens, a network, and a loop that is yours."""
    text = text_of(data, tokenizer="characters")
    config = GPTConfig(context_length=32, embed_dim=64, n_layers=2)
    model = LanguageModel(GPT.network(config, text.tokenizer.size), text.tokenizer.to_json(), context=32)
    learner = GPT(model, config.optimizer(), config)
    for clock, update in run(learner, Windows(text, context=32, batch_size=16), updates=100):
        if clock.updates % 50 == 0:
            print(f"update {clock.updates}: {update.metrics['loss']:.2f} nats per character")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a file of text, or a folder of such files")
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--prompt", default="\n")
    arguments = parser.parse_args()
    library = sorted(Path(sysconfig.get_path("stdlib")).glob("*.py"))
    data = arguments.data or [file.read_text(encoding="ascii", errors="ignore") for file in islice(library, 20)]
    the_parts(data)
    one_call(data, arguments.steps, arguments.prompt)


if __name__ == "__main__":
    main()
