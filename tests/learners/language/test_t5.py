"""T5: what its runs leave, going on from them with a prompt or with LoRA, and filling in."""

import math
from typing import Any

import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import EncoderDecoder, TransformerDecoder, ViT
from agentlib.core import Cosine, Warmup
from agentlib.core.recipe import Problem
from agentlib.data.parallel import SPECIAL, ParallelParts, encoded, padded, parallel_text, word_tasks
from agentlib.data.spans import FIRST, WITH_SENTINELS
from agentlib.data.tokens import Characters
from agentlib.engine import run
from agentlib.learners.language.seq2seq import Seq2Seq, Seq2SeqConfig
from agentlib.learners.language.translator import Translator
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of
from agentlib.shell.main import main

SMALL: Any = {"embed_dim": 16, "n_layers": 1, "n_heads": 2, "dropout": 0.0}
FEW = parallel_text([("ab", "ba"), ("abc", "cba"), ("ca", "ac"), ("bb", "bb")])
PAIRS = ParallelParts(FEW, FEW, FEW)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def translator(name: str = "transformer", prompt_length: int = 3, special: tuple[str, ...] = SPECIAL) -> Translator:
    tokenizer = Characters("abcdef", special)
    network = Seq2Seq.network(Seq2SeqConfig(**SMALL, max_length=24), tokenizer.size, name)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return Translator(network, tokenizer.to_json(), 24, prompt_length=prompt_length).eval()


def test_at_the_start_it_knows_nothing():
    job = job_of("t5", Problem(data="markov", steps=1), **SMALL, max_length=24)
    ((_, update),) = run(job.learner, job.source, 1, compile="eager")
    size = job.judge.held_out.tokenizer.size  # type: ignore[attr-defined]
    assert size == len(WITH_SENTINELS) + 8
    assert float(update.metrics["loss"]) == pytest.approx(math.log(size), rel=0.15)


@pytest.mark.parametrize("name", ["transformer", "lstm"])
def test_a_prompt_of_embeddings_is_read_as_their_tokens_are(name, tmp_path):
    model = translator(name)
    source, target = (padded(encoded(["abcd", "fe"], model.text, start=start)) for start in (False, True))
    assert model.prompt is not None
    chosen = torch.tensor([5, 8, 6])
    model.prompt.data = model.backbone.source_embedding.weight.detach()[chosen].clone()
    with torch.no_grad():
        found = model(source, target[:, :-1])
        plain = Translator(model.backbone, model.tokenizer, 24).eval()
        expected = plain(torch.cat([chosen.expand(2, -1), source], 1), target[:, :-1])
        torch.testing.assert_close(found, expected)
        logits, _ = model.begin(source)
        shifted = found[:, 0] - found[:, 0, 2:3]
        torch.testing.assert_close((logits - logits[:, 2:3])[:, 2:], shifted[:, 2:], rtol=1e-4, atol=1e-5)
    save_model(model, tmp_path / "model.safetensors")
    again: Any = load_model(tmp_path)[0]
    assert torch.equal(again.prompt, model.prompt)
    assert again.translate(["abcd"]) == model.translate(["abcd"])


@pytest.mark.parametrize(("tuning", "trained"), [("prompt", "prompt"), ("lora", "parametrizations")])
def test_all_else_is_frozen(tuning, trained):
    more: Any = {"max_length": 12, "batch_size": 4, "learning_rate": 0.03, "label_smoothing": 0.0}
    problem = Problem(data=PAIRS, steps=40, device="cpu")
    job: Any = job_of("seq2seq", problem, tuning=tuning, lora_rank=2, prompt_length=4, **SMALL, **more)
    before = {name: value.clone() for name, value in job.learner.model.state_dict().items()}
    loss = job.judge.evaluate()["eval/loss"]
    for _ in run(job.learner, job.source, 40, compile=False):
        pass
    assert job.judge.evaluate()["eval/loss"] < loss
    for name, value in job.learner.model.state_dict().items():
        is_trained = trained in name and "original" not in name
        assert torch.equal(value, before[name]) != is_trained, name


def test_filling_in_puts_each_span_into_its_place():
    model = translator(special=WITH_SENTINELS, prompt_length=0)
    size = model.text.size
    answer = [FIRST + 1, *model.text.encode("de").tolist(), FIRST, *model.text.encode("b").tolist(), 2]

    def step(token: Any, state: Any) -> Any:
        place, *rest = state
        logits = torch.full((len(token), size), -9.0)
        logits[:, answer[min(int(place[0]), len(answer) - 1)]] = 9.0
        return logits, (place + 1, *rest)

    model.begin = lambda source: step(source[:, 0], (torch.zeros(len(source), dtype=torch.int64),))  # type: ignore[method-assign]
    model.step = step  # type: ignore[method-assign]
    assert model.fill(["a___c___f"]) == ["abcdef"]
    assert next(model.generate("a___c")) == "abc"
    with pytest.raises(TypeError, match="fill takes a list"):
        model.fill("a___c")
    with pytest.raises(ValueError, match="has not learned to fill in"):
        translator().fill(["a___c"])


def test_mistakes():
    decoder = TransformerDecoder(None, 8, 1, 2, vocabulary=10, cross=True)
    pictures = EncoderDecoder(ViT((1, 8, 8), patch=4, dim=8, layers=1, heads=2), decoder)
    with pytest.raises(ValueError, match="a prompt stands before a source of tokens"):
        Translator(pictures, Characters("abcdef", SPECIAL).to_json(), prompt_length=2)
    with pytest.raises(ValueError, match="the text has 20 tokens, and a piece"):
        agentlib.train("t5", data=["ab" * 100], steps=1, progress=False)


def test_word_tasks():
    pairs = word_tasks(6)
    for number, (source, target) in enumerate(zip(pairs.source, pairs.target, strict=True)):
        name, word = source.split(" ")
        by_hand = [word[::-1], "".join(sorted(word)), "".join("bcdefghijk"["abcdefghij".index(one)] for one in word)]
        assert (name, target) == (["reverse", "sort", "shift"][number % 3], by_hand[number % 3])


@pytest.mark.slow
def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    flags = ["--progress", "none", "--embed-dim", "8", "--n-layers", "1", "--n-heads", "1", "--max-length", "32"]
    assert main(["train", "t5", "--data", "markov", "--steps", "3", "--out", "first", *flags]) == 0
    assert main(["sample", "first", "--prompt", "abc___fg"]) == 0
    saved = ["--tokenizer", "first", "--backbone", "first/backbone.safetensors", "--steps", "3", "--progress", "none"]
    capsys.readouterr()
    for tuning in ("prompt", "lora"):
        assert main(["train", "seq2seq", "--data", "reversal", "--tuning", tuning, *saved, "--out", tuning]) == 0
        assert main(["sample", tuning, "--prompt", "abc", "--beams", "2"]) == 0
    before, after = (load_model(folder)[0].state_dict() for folder in ("first", "prompt"))
    assert set(after) == {*before, "prompt"}
    assert all(torch.equal(after[name], value) for name, value in before.items())


@pytest.mark.slow
def test_a_learned_prompt_finds_the_task_that_was_not_named(tmp_path):
    """The frozen network knows two tasks by their names; without a name it can only guess, and a prompt is learned.

    The prompt is as long as the name, so that words stand at the places that the network knows.
    """
    pairs = word_tasks(12_000)
    known = [(one, two) for one, two in zip(pairs.source, pairs.target, strict=True) if not one.startswith("sort")]
    sizes: Any = {"embed_dim": 64, "n_layers": 1, "dropout": 0.0, "label_smoothing": 0.0, "max_length": 32}
    problem = Problem(data=known, steps=500, device="cpu")
    first = job_of("seq2seq", problem, learning_rate=Warmup(Cosine(5e-3), updates=50), **sizes)
    for _ in run(first.learner, first.source, 500):
        pass
    save_model(first.product, tmp_path / "model.safetensors")
    unnamed = [(source.split(" ")[1], target) for source, target in known if source.startswith("shift")][:1_000]
    how: Any = {"tuning": "prompt", "prompt_length": len("shift "), "learning_rate": Cosine(0.1)}
    exact = {}
    for updates in (0, 200):
        again = Problem(data=unnamed, steps=200, device="cpu", backbone=first.product.backbone)
        job = job_of("seq2seq", again, tokenizer=str(tmp_path), **how, **sizes)
        for _ in run(job.learner, job.source, updates):
            pass
        test = job.judge.parts.test  # type: ignore[attr-defined]
        found = job.product.translate(test.source, beams=1)
        exact[updates] = sum(one == true for one, true in zip(found, test.target, strict=True)) / len(test)
    assert exact[200] >= max(0.5, exact[0] + 0.3)
