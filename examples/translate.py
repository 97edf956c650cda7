"""A translator from pairs of sentences: with attention and without, on files of yours or on small made-up ones.

python examples/translate.py [--data train#en-de] [--backbone transformer|lstm] [--steps 400] [--text TEXT ...]

--data takes PATH#en-de for PATH.en and PATH.de, a .tsv or a .jsonl. On real languages give --tokenizer bpe,
which needs pip install 'agentlib-rl[text]'. It takes about 20 seconds, needs no extra, and writes no file.
"""

import argparse
import itertools
from typing import Any

import agentlib
from agentlib.data import ParallelText

SUBJECTS = {"the cat": "die Katze", "a dog": "ein Hund", "my friend": "mein Freund", "the king": "der König"}
VERBS = {"sees": "sieht", "hears": "hört", "finds": "findet", "wants": "will", "buys": "kauft"}
OBJECTS = {"a house": "ein Haus", "the book": "das Buch", "the horse": "das Pferd", "a letter": "einen Brief"}
TIMES = {"today": "heute", "now": "jetzt", "often": "oft", "in the evening": "am Abend"}


def made_up() -> ParallelText:
    """Sentences of four parts; in German the time comes first, and the verb second."""
    found = list(itertools.product(SUBJECTS, VERBS, OBJECTS, TIMES))
    english = [f"{subject} {verb} {thing} {time}" for subject, verb, thing, time in found]
    german = [
        f"{TIMES[time]} {VERBS[verb]} {SUBJECTS[subject]} {OBJECTS[thing]}" for subject, verb, thing, time in found
    ]
    return ParallelText(english, german)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="PATH#en-de, FILE.tsv or FILE.jsonl; by default made-up sentences")
    parser.add_argument("--backbone", default="transformer", choices=["transformer", "lstm", "gru"])
    parser.add_argument("--attention", default="general", choices=["none", "dot", "general", "concat"])
    parser.add_argument("--tokenizer", default="characters")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--text", nargs="+", default=["my friend finds the book in the evening"])
    arguments = parser.parse_args()
    sizes: Any = {"embed_dim": 64, "n_layers": 1, "batch_size": 32, "learning_rate": 3e-3, "dropout": 0.0}
    result = agentlib.train(
        "seq2seq",
        data=arguments.data or made_up(),
        backbone=arguments.backbone,
        attention=arguments.attention,
        tokenizer=arguments.tokenizer,
        steps=arguments.steps,
        seed=0,
        **({} if arguments.data else sizes),
    )
    assert isinstance(result, agentlib.Result)
    print(result)
    model: Any = result.model
    for text, translation in zip(arguments.text, model.translate(arguments.text, beams=5), strict=True):
        print(f"{text} -> {translation}")


if __name__ == "__main__":
    main()
