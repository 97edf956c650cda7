"""Models of text that go on from one another: text to text, learned prompts, LoRA, and what is forgotten."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

import agentlib
from agentlib.core import Cosine, Warmup
from agentlib.data import Text, parallel_text, text_of
from agentlib.data.parallel import WORD_TASKS, ParallelParts, ParallelText, reversal, word_tasks
from agentlib.learners.language.gpt import next_token_losses
from benchmarks.evidence.language import FILES, MULTI30K
from benchmarks.experiments import Claim, Experiment
from benchmarks.paper_data import path

PLAIN: Any = {"label_smoothing": 0.0, "progress": False}


def exact(model: Any, pairs: ParallelText, name: str = "") -> float:
    """The share of targets that are written without a mistake, with a name before each source."""
    found = model.translate([name + source for source in pairs.source], beams=1)
    return float(np.mean([one == true for one, true in zip(found, pairs.target, strict=True)]))


# Tasks of words, and a prompt for another one ------------------------------------------------------------------------


def tasks(seed: int) -> dict[str, float]:
    """Three tasks by name with all weights; then, with a prompt alone, letters sorted from the last to the first."""
    sizes: Any = {"embed_dim": 128, "n_layers": 2, "dropout": 0.0, "max_length": 32, "batch_size": 64, **PLAIN}
    pairs = word_tasks(9_000, seed=seed)
    with TemporaryDirectory() as folder:
        trained: Any = agentlib.train(
            "seq2seq", data=parallel_text([*zip(pairs.source, pairs.target, strict=True)]), steps=4_000, seed=seed,
            learning_rate=Warmup(Cosine(2e-3, 1e-5), updates=200), out=folder, **sizes,
        )  # fmt: skip
        known = {source.split(" ")[1] for source in pairs.source}
        fresh = [word for word in reversal(4_500, seed=1_000 + seed).source if word not in known][-1_500:]
        tests = {name: ParallelText([f"{name} {word}" for word in fresh[:500]], [*map(task, fresh[:500])])
                 for name, task in WORD_TASKS.items()}  # fmt: skip
        found = {name: exact(trained.model, test) for name, test in tests.items()}
        downwards = ParallelText(fresh, ["".join(sorted(word, reverse=True)) for word in fresh])
        parts = ParallelParts(*(downwards.take(range(*rows)) for rows in ((0, 900), (900, 1_000), (1_000, 1_500))))
        fixed = [exact(trained.model, parts.test, name) for name in ("", *(f"{name} " for name in WORD_TASKS))]
        saved = {"backbone": f"{folder}/backbone.safetensors", "tokenizer": folder}
        prompt: Any = agentlib.train(
            "seq2seq", data=parts, tuning="prompt", steps=2_000, seed=seed, learning_rate=Cosine(0.1, 1e-3), **saved,
            **sizes,
        )  # fmt: skip
    learned = exact(prompt.model, parts.test)
    return found | {"prompt": learned, "fixed": max(fixed), "above_fixed": learned - max(fixed)}


# Spans of plays, and vowels that are put back ------------------------------------------------------------------------


def spans(seed: int) -> dict[str, float]:
    """Spans cut out of plays; then vowels put back into 1,000 lines, from that network, and from a fresh one."""
    sizes: Any = {"embed_dim": 128, "n_layers": 2, "dropout": 0.1, "max_length": 128, "progress": False, "seed": seed}
    text = Path(path(FILES[0])).read_text()
    lines = [line for line in dict.fromkeys(text.splitlines()) if 20 <= len(line) <= 60]
    chosen = np.random.default_rng(seed).permutation(len(lines))[:2_000]
    bare = str.maketrans("", "", "aeiouAEIOU")
    vowels = ParallelText([lines[row].translate(bare) for row in chosen], [lines[row] for row in chosen])
    parts = ParallelParts(*(vowels.take(range(*rows)) for rows in ((0, 1_000), (1_000, 1_500), (1_500, 2_000))))
    others = set(vowels.target)
    plays = ["\n".join(line for line in text.splitlines() if line not in others)]
    with TemporaryDirectory() as folder:
        first: Any = agentlib.train("t5", data=plays, steps=4_000, out=folder, **sizes)
        saved = {"backbone": f"{folder}/backbone.safetensors", "tokenizer": folder}
        rate = Warmup(Cosine(1e-3, 1e-5), updates=100)
        tuned: Any = agentlib.train("seq2seq", data=parts, steps=1_000, learning_rate=rate, **saved, **sizes)
        fresh: Any = agentlib.train("seq2seq", data=parts, steps=1_000, learning_rate=rate, tokenizer=folder, **sizes)
    found = {"spans": first.measures["test/loss"], "spans_exact": first.measures["test/exact"]}
    for name, result in (("tuned", tuned), ("fresh", fresh)):
        found |= {f"{name}_loss": result.measures["test/loss"], f"{name}_exact": result.measures["test/exact"]}
    return found | {"gain": found["fresh_loss"] - found["tuned_loss"]}


# What is forgotten ---------------------------------------------------------------------------------------------------


def nats(model: Any, text: Text) -> float:
    """Nats per byte in windows of 64."""
    rows = (len(text) - 1) // 64
    tokens = text.tokens[np.arange(rows)[:, None] * 64 + np.arange(65)].astype(np.int64)
    with torch.no_grad():
        parts = torch.from_numpy(tokens).split(256)
        return float(torch.cat([next_token_losses(model.logits(part[:, :-1]), part) for part in parts]).mean())


def forgetting(seed: int) -> dict[str, float]:
    """A GPT of plays learns German from 2,000 captions: by all weights, a new head, or LoRA; and a fresh one does."""
    sizes: Any = {"tokenizer": "bytes", "progress": False, "seed": seed}
    plays, german = path(FILES[0]), ["\n".join(Path(path(MULTI30K[1])).read_text().splitlines()[:2_000])]
    old, new = (text_of(data, "bytes").split()[1] for data in (plays, german))
    with TemporaryDirectory() as folder:
        first: Any = agentlib.train("gpt", data=plays, out=folder, **sizes)
        found = {"old_before": nats(first.model, old), "new_before": nats(first.model, new)}
        saved = f"{folder}/backbone.safetensors"
        ways: dict[str, Any] = {name: {"tuning": name, "backbone": saved} for name in ("full", "head", "lora")}
        for name, way in (ways | {"fresh": {}}).items():
            rate = Warmup(Cosine(1e-3 if name in ("full", "fresh") else 3e-3, 1e-4), updates=50)
            result: Any = agentlib.train("gpt", data=german, steps=500, learning_rate=rate, **way, **sizes)
            found |= {f"new_{name}": nats(result.model, new), f"old_{name}": nats(result.model, old)}
    found |= {f"forgot_{name}": found[f"old_{name}"] - found["old_before"] for name in ways}
    return found | {
        "gain": found["new_fresh"] - found["new_full"],
        "spared": found["forgot_full"] - found["forgot_lora"],
    }


EXPERIMENTS = [
    Experiment(
        name="word_tasks",
        family="Language",
        data="9,000 pairs of three tasks of words, 4,000 updates; then 900 of another, 2,000 updates of a prompt of 8",
        measure=tasks,
        seeds=5,
        first_seed=200,
        claims=(
            Claim("reverse", "one network, words spelled backwards, exact", at_least=0.9),
            Claim("sort", "their letters sorted, exact", at_least=0.9),
            Claim("shift", "the next letter of each, exact", at_least=0.9),
            Claim("prompt", "letters sorted downwards: a learned prompt before the frozen network, exact"),
            Claim("fixed", "the best of the names, and of none, as a prompt, exact"),
            Claim("above_fixed", "the first less the second", statistic="mean", at_least=0.0, of="interval"),
        ),
        note="Nothing was trained before the seeds.",
    ),
    Experiment(
        name="t5_shakespeare",
        family="Language",
        data="tiny Shakespeare by characters, spans cut out, 4,000 updates; then vowels put back, 1,000 lines",
        measure=spans,
        files=FILES,
        seeds=3,
        first_seed=200,
        claims=(
            Claim("spans", "T5, nats per character of spans in the last tenth"),
            Claim("spans_exact", "spans that are filled in exactly"),
            Claim("tuned_loss", "vowels put back after that, nats per character"),
            Claim("fresh_loss", "the same by a fresh network"),
            Claim("gain", "the second less the first", statistic="mean", at_least=0.0, of="interval"),
            Claim("tuned_exact", "whole lines that are exact after that"),
            Claim("fresh_exact", "the same by a fresh network"),
        ),
        note="Nothing was trained before the seeds.",
    ),
    Experiment(
        name="gpt_fine_tuning",
        family="Language",
        data="GPT of tiny Shakespeare by bytes, 2,000 updates; then 2,000 German captions of Multi30k, 500 updates",
        measure=forgetting,
        files=(*FILES, MULTI30K[1]),
        seeds=3,
        first_seed=200,
        claims=(
            Claim("new_full", "German with all weights, nats per byte"),
            Claim("new_head", "German with a new head alone"),
            Claim("new_lora", "German with LoRA of rank 8"),
            Claim("new_fresh", "German by a fresh network"),
            Claim("new_before", "German before"),
            Claim("gain", "fresh less all weights", statistic="mean", at_least=0.0, of="interval"),
            Claim("forgot_full", "forgotten of the plays with all weights, nats per byte"),
            Claim("forgot_head", "with a new head alone"),
            Claim("forgot_lora", "with LoRA"),
            Claim("spared", "all weights less LoRA", statistic="mean", at_least=0.0, of="interval"),
        ),
        note="Nothing was trained before the seeds, and no rate was tuned.",
    ),
]
