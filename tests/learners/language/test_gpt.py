"""GPT: exact values of its loss, its dependence on the past alone, its cache, and GPT-2's sizes and weights."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import agentlib
from agentlib.backbones import LSTM, OneHot, WithMemory
from agentlib.core.recipe import Problem
from agentlib.core.trees import mapped
from agentlib.data.text import MARKOV, entropy_rate, markov, text_of
from agentlib.data.tokens import Bytes, Characters
from agentlib.engine import run
from agentlib.families import texts
from agentlib.families.texts import unigram_loss
from agentlib.learners.language import gpt2
from agentlib.learners.language.gpt import GPT, GPTConfig, next_token_losses
from agentlib.learners.language.gpt2 import gpt2_network, load_gpt2
from agentlib.learners.language.language_model import LanguageModel
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of
from agentlib.shell.main import main

TEXT = text_of(["abcdefgh" * 4])


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def small(**changes: Any) -> LanguageModel:
    sizes: dict[str, Any] = {"context_length": 8, "embed_dim": 16, "n_layers": 2, "n_heads": 2, **changes}
    network = GPT.network(GPTConfig(**sizes), TEXT.tokenizer.size)
    for parameter in network.parameters():  # else all is nearly uniform
        nn.init.normal_(parameter, std=0.5)
    return LanguageModel(network, TEXT.tokenizer.to_json(), sizes["context_length"]).eval()


def recurrent() -> LanguageModel:
    return LanguageModel(WithMemory(OneHot((8,)), LSTM(8, 12)), TEXT.tokenizer.to_json(), tied=False).eval()


def test_each_token_is_predicted_from_those_before():
    logits, tokens = torch.randn(2, 3, 5), torch.tensor([[4, 1, 2, 3], [0, 0, 1, 4]])
    expected = [[-logits[b, t].log_softmax(0)[tokens[b, t + 1]] for t in range(3)] for b in range(2)]
    torch.testing.assert_close(next_token_losses(logits, tokens), torch.tensor(expected))


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary():
    result: Any = agentlib.train("gpt", data="markov", steps=1, learning_rate=0.0, embed_dim=8, progress=False)
    model = result.model
    with torch.no_grad():
        model.backbone.embedding.content.weight.zero_()
    losses = next_token_losses(model.logits(torch.zeros(1, 5, dtype=torch.int64)), torch.arange(6)[None])
    torch.testing.assert_close(losses.exp(), torch.full((1, 5), 8.0))
    assert result.measures["test/loss"] == pytest.approx(math.log(8), rel=0.05)  # at the start, too


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal", "none"])
def test_the_future_is_not_seen(positions):
    model = small(positions=positions)
    tokens = torch.randint(8, (1, 8))
    before = model.logits(tokens)
    for place in range(8):
        other = tokens.clone()
        other[0, place] = (tokens[0, place] + 1) % 8
        changed = (model.logits(other) - before).abs().amax(-1)[0] > 1e-6
        assert not changed[:place].any()
        assert changed[place]
    torch.testing.assert_close(model(tokens)[0], before)  # with a state and without


@pytest.mark.parametrize("make", [small, lambda: small(positions="rotary"), recurrent])
def test_reading_step_by_step_equals_reading_again(make):
    """Far beyond the context, where the model goes on from a half of it."""
    model = make()
    tokens = torch.randint(8, (3, 30))
    with torch.no_grad():
        cached, again = model.read(tokens[:, :2]), model.read(tokens[:, :2], cache=False)
        for place in range(2, 30):
            torch.testing.assert_close(cached[0], again[0])
            cached, again = (model.step(tokens[:, place], state) for _, state in (cached, again))
        rows = mapped(cached[1], lambda tensor: tensor[[2, 0]])  # as beams change their places
        torch.testing.assert_close(
            model.step(tokens[[2, 0], 0], rows)[0], model.step(tokens[:, 0], cached[1])[0][[2, 0]]
        )
    generator = [torch.Generator().manual_seed(1) for _ in range(2)]
    texts = [
        "".join(model.generate("abc", 40, generator=g, cache=c)) for g, c in zip(generator, (True, False), strict=True)
    ]
    assert texts[0] == texts[1]
    assert len(texts[0]) == 40
    assert "".join(model.generate("abc", 5, temperature=0.0)) == "".join(model.generate("abc", 5, top_k=1))
    assert len("".join(model.generate("abc", 5, beams=3))) == 5


def test_between_two_pieces_the_modes_of_the_caller_stay():
    model = small().train()
    pieces: Any = model.generate("abc", 5)
    next(pieces)
    assert torch.is_grad_enabled()
    assert model.training
    with torch.no_grad():
        next(pieces)
    pieces.close()
    assert torch.is_grad_enabled()
    assert model.training


def test_mistakes():
    with pytest.raises(ValueError, match="beams are at least 1, not 0"):
        list(small().generate("abc", beams=0))
    with pytest.raises(ValueError, match="no token for 'z'"):
        list(small().generate("abz"))
    with pytest.raises(ValueError, match="a prompt of at least one token"):
        list(small().generate(""))
    with pytest.raises(ValueError, match="a vocabulary of 9 tokens, and the tokenizer one of 8"):
        LanguageModel(GPT.network(GPTConfig(embed_dim=8), 9), TEXT.tokenizer.to_json())
    with pytest.raises(ValueError, match="context must be a whole number from 1, not 'many'"):
        LanguageModel(GPT.network(GPTConfig(embed_dim=8), 8), TEXT.tokenizer.to_json(), context="many")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give tied=False"):
        LanguageModel(WithMemory(OneHot((8,)), LSTM(8, 12)), TEXT.tokenizer.to_json())
    with pytest.raises(ValueError, match="too few for a context_length of 64"):
        agentlib.train("gpt", data=["too short"], steps=1, progress=False)


def test_a_model_is_saved_with_its_tokenizer(tmp_path):
    model = small()
    save_model(model, tmp_path / "model.safetensors")
    again: Any = load_model(tmp_path)[0]
    tokens = torch.randint(8, (2, 5))
    assert torch.equal(again.logits(tokens), model.logits(tokens))
    assert again.text.decode([0, 1]) == "ab"
    other = text_of(["hgfe" * 8], tokenizer=str(tmp_path))  # its tokens, and not those of the text
    assert other.tokens[:4].tolist() == [7, 6, 5, 4]


def test_a_model_of_bytes_goes_on_with_any_file(tmp_path):
    sizes: Any = {"context_length": 4, "embed_dim": 8, "n_layers": 1, "n_heads": 1}
    model = LanguageModel(GPT.network(GPTConfig(**sizes), 256), Bytes().to_json(), 4)
    save_model(model, tmp_path / "model.safetensors")
    (tmp_path / "file").write_bytes(b"a\xff\xfe")  # no UTF-8
    assert text_of(tmp_path / "file", tokenizer=str(tmp_path)).tokens.tolist() == [97, 255, 254]


def test_each_part_of_a_held_out_text_has_a_window(monkeypatch):
    """Also where the logits of one window are more than are computed at once."""
    sizes: Any = {"context_length": 4, "embed_dim": 8, "n_layers": 1, "n_heads": 1}
    job: Any = job_of("gpt", Problem(data=text_of(["abcdefgh" * 20]), steps=1), **sizes)
    expected, losses, seen = job.judge.evaluate(), job.learner.losses, list[int]()

    def seen_losses(tokens):
        seen.append(len(tokens))
        return losses(tokens)

    monkeypatch.setattr(texts, "AT_ONCE", 1)
    monkeypatch.setattr(job.learner, "losses", seen_losses)
    assert job.judge.evaluate() == pytest.approx(expected)
    assert seen == [1, 1, 1]


def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "words.txt").write_text("to be or not to be\n" * 40)
    sizes = ["--embed-dim", "8", "--n-layers", "1", "--n-heads", "1", "--context-length", "16"]
    run_flags = ["--data", "words.txt", "--steps", "3", "--out", "run", "--progress", "none"]
    assert main(["train", "gpt", *run_flags, *sizes]) == 0
    printed = capsys.readouterr().out
    assert "agentlib sample run, or agentlib.runs.models.load_model(path)" in " ".join(printed.split())
    for file in ("run", "run/backbone.safetensors"):  # a state comes with what they give
        assert main(["predict", file, "digits", "--out", "made.npz"]) == 2
        assert "takes no examples" in capsys.readouterr().err
    assert main(["sample", "run", "--prompt", "to be", "--length", "20"]) == 0
    first = capsys.readouterr().out
    assert first.startswith("to be")
    assert len(first) == len("to be") + 20 + 1
    assert main(["sample", "run", "--prompt", "to be", "--length", "20"]) == 0
    assert capsys.readouterr().out == first
    assert main(["sample", "run", "--prompt", "to be", "--beams", "2", "--length", "3"]) == 0
    assert main(["sample", "run", "--prompt", "xyz"]) == 1
    assert "no token for 'x'" in capsys.readouterr().err
    assert main(["sample", "run", "--out", "text.npz"]) == 2


def test_a_terminal_acts_on_no_character_of_a_text(tmp_path, capsys):
    """Such as those of an escape sequence that cleared the screen, in a model that somebody else has trained."""
    tokenizer = Characters("ab\x1b\n\r")
    network = GPT.network(GPTConfig(context_length=8, embed_dim=8, n_layers=1, n_heads=1), 5)
    save_model(LanguageModel(network, tokenizer.to_json(), 8), tmp_path / "model.safetensors")
    assert main(["sample", str(tmp_path), "--prompt", "a", "--length", "60", "--n", "3"]) == 0
    printed = capsys.readouterr().out
    assert printed.replace("\n", "").isprintable()
    assert r"\x1b" in printed
    assert r"\r" in printed
    texts = re.split(r"--- text \d of 3\n", printed)
    assert len(set(texts)) == 4  # nothing stands before the first
    assert main(["sample", str(tmp_path), "--n", "0"]) == 2


@pytest.mark.parametrize("backbone", ["lstm", "gru"])
def test_other_networks_with_memory(backbone):
    result: Any = agentlib.train("gpt", data="markov", backbone=backbone, steps=2, context_length=8, progress=False)
    assert result.model.context is None
    assert len("".join(result.model.generate("a", 20))) == 20


def test_the_floor_is_the_entropy_of_frequencies():
    train, held_out = text_of(["aabc" * 100]).split(0.5)
    entropy = -(0.5 * math.log(0.5) + 0.5 * math.log(0.25))
    assert unigram_loss(train, held_out) == pytest.approx(entropy, abs=1e-3)


@pytest.mark.slow
def test_a_markov_source_is_learned_to_its_entropy_rate():
    """Within 0.01 nat of what the true probabilities give on the same letters; below it would be a leak."""
    letters = markov(400_000, seed=1)
    sizes: dict[str, Any] = {"context_length": 16, "embed_dim": 32, "n_layers": 1, "n_heads": 2, "batch_size": 64}
    result: Any = agentlib.train(
        "gpt", data=[letters], steps=600, learning_rate=3e-3, weight_decay=0.0, progress=False, threads=1, **sizes
    )
    numbers = np.frombuffer(letters.encode(), np.uint8) - ord("a")
    held_out = numbers[-40_000:]
    truth = -np.log(MARKOV[held_out[:-1], held_out[1:]]).mean()
    assert truth == pytest.approx(entropy_rate(MARKOV), abs=0.01)
    assert truth - 1e-3 < result.measures["test/loss"] < truth + 0.01


def test_gpt2_has_its_number_of_parameters():
    with torch.device("meta"):
        model = LanguageModel(gpt2_network())
    assert sum(parameter.numel() for parameter in model.parameters()) == 124_439_808


@pytest.mark.slow
def test_gpt2_is_updated():
    """Three updates of 124 million numbers; the loss of the same windows falls."""
    text = text_of(["the cat sat on the mat. " * 40], "bytes")
    job = job_of(
        "gpt", Problem(data=text, steps=3), context_length=8, batch_size=1, embed_dim=768, n_layers=12, n_heads=12,
        learning_rate=1e-4,
    )  # fmt: skip
    small_vocabulary = sum(parameter.numel() for parameter in job.learner.parameters())
    assert small_vocabulary == 124_439_808 - (50_257 - 256 + 1024 - 8) * 768
    losses = [float(update.metrics["loss"]) for _, update in run(job.learner, job.source, 3, compile="eager")]
    assert losses[0] == pytest.approx(math.log(256), rel=0.1)
    assert losses[2] < losses[0]


@pytest.mark.slow  # its import takes seconds
@pytest.mark.parametrize("head", [False, True])
def test_gpt2_by_hugging_faces_names(tmp_path, head):
    transformers = pytest.importorskip("transformers")
    config = transformers.GPT2Config(n_embd=32, n_layer=3, n_head=4, n_positions=16, vocab_size=50)
    theirs = (transformers.GPT2LMHeadModel if head else transformers.GPT2Model)(config).eval()
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    theirs.save_pretrained(tmp_path)
    ours = load_gpt2(tmp_path, heads=4)
    tokens = torch.randint(50, (2, 12))
    with torch.no_grad():
        expected = theirs(tokens)[0]
        expected = expected if head else expected @ theirs.wte.weight.T
        torch.testing.assert_close(ours.logits(tokens), expected, rtol=1e-4, atol=1e-4)
        if head:
            found = ours.read(tokens[:, :4])
            state, drawn = found[1], [found[0].argmax(-1)]
            for _ in range(5):
                logits, state = ours.step(drawn[-1], state)
                drawn.append(logits.argmax(-1))
            hers = theirs.generate(tokens[:, :4], max_new_tokens=6, do_sample=False, attention_mask=torch.ones(2, 4))
            assert torch.equal(torch.stack(drawn, 1), hers[:, 4:])
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in theirs.parameters())


def test_files_that_are_no_gpt2(tmp_path):
    from safetensors.torch import save_file

    with pytest.raises(FileNotFoundError, match=r"no file .*model.safetensors"):
        load_gpt2(tmp_path)
    save_file({"x": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"lacks wte.weight or wpe.weight"):
        load_gpt2(tmp_path)
    save_file({"wte.weight": torch.zeros(5, 4), "wpe.weight": torch.zeros(3, 4)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"at least one layer|is missing"):
        load_gpt2(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"no")
    with pytest.raises(ValueError, match="no safetensors file"):
        load_gpt2(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wte.weight": torch.zeros(5)}, "are no matrices"),
        ({f"h.{number}.x": torch.zeros(0) for number in range(3)}, r"h.0.attn.c_attn.weight is missing"),
        ({"h.0.attn.c_attn.weight": torch.zeros(4, 8)}, r"not of the shape \(4, 12\)"),
        ({"lm_head.weight": torch.ones(5, 4)}, "lm_head.weight is another matrix than wte.weight"),
    ],
)
def test_no_memory_is_taken_for_layers_that_a_file_lacks(tmp_path, monkeypatch, changes, message):
    from safetensors.torch import save_file

    tensors = {"wte.weight": torch.zeros(5, 4), "wpe.weight": torch.zeros(3, 4), **changes}
    save_file(tensors, tmp_path / "model.safetensors")
    monkeypatch.setattr(gpt2, "gpt2_network", None)  # it is not called
    with pytest.raises(ValueError, match=message):
        load_gpt2(tmp_path)


@pytest.mark.parametrize("tuning", ["head", "lora"])
@pytest.mark.parametrize("name", ["transformer", pytest.param("lstm", marks=pytest.mark.slow)])
def test_a_saved_network_learns_with_few_of_its_weights(tuning, name):
    """It begins with the losses that it had; its own weights stay, but for a new head or changes of low rank."""
    sizes: dict[str, Any] = {"context_length": 8, "embed_dim": 16, "n_layers": 1, "n_heads": 2, "learning_rate": 1e-2}
    problem = Problem(data="markov", steps=60, backbone=name, device="cpu")
    first: Any = job_of("gpt", problem, **sizes)
    for _ in run(first.learner, first.source, 60, compile=False):
        pass
    tokens = first.source.tokens.clone()
    before = first.learner.losses(tokens).detach()
    network = first.product.backbone
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    again = Problem(data="markov", steps=60, backbone=network, device="cpu", seed=1)
    job: Any = job_of("gpt", again, tuning=tuning, lora_rank=2, **sizes)
    if name == "transformer":  # whose head is known: it is the embedding
        assert torch.equal(job.learner.losses(tokens), before)
    losses = [float(update.metrics["loss"]) for _, update in run(job.learner, job.source, 60, compile=False)]
    assert np.mean(losses[-10:]) < np.mean(losses[:5])
    after = {key.replace("parametrizations.", "").replace(".original", ""): value
             for key, value in network.state_dict().items()}  # fmt: skip
    for key, value in weights.items():
        assert torch.equal(after[key], value), key
    trained = [key for key, value in job.product.named_parameters() if value.requires_grad]
    assert trained
    assert all(key == "head.weight" or "parametrizations" in key for key in trained)
    assert any("parametrizations" in key for key in trained) == (tuning == "lora")


@pytest.mark.parametrize("steps", [2, 4])
def test_the_parts_of_a_batch_make_the_same_update(steps):
    """Within rounding; of 10 windows in 4 parts the last has one."""
    found = []
    for number in (1, steps):
        sizes: dict[str, Any] = {"context_length": 8, "embed_dim": 16, "n_layers": 1, "n_heads": 2, "batch_size": 10}
        problem = Problem(data=TEXT, steps=3, device="cpu")
        job: Any = job_of("gpt", problem, gradient_accumulation_steps=number, **sizes)
        updates = [update for _, update in run(job.learner, job.source, 3, compile=False)]
        found.append((job.learner.model.state_dict(), updates))
    (weights, updates), (others, again) = found
    for name, weight in weights.items():
        torch.testing.assert_close(others[name], weight, rtol=1e-4, atol=1e-5)
    for one, other in zip(updates, again, strict=True):
        torch.testing.assert_close(other.metrics, one.metrics)
        torch.testing.assert_close(other.per_sample, one.per_sample)


@pytest.mark.parametrize(("name", "context", "reach"), [("gpt", 9, 8), ("bert", 13, 11)])
def test_a_saved_window_that_is_shorter_than_the_context_is_refused_early(name, context, reach):
    """In place of an error at the first update, or of a window that a position lacks."""
    sizes: dict[str, Any] = {"embed_dim": 16, "n_layers": 1, "n_heads": 2}
    first: Any = job_of(name, Problem(data="markov", steps=1), context_length=reach, **sizes)
    again = Problem(data="markov", steps=1, backbone=first.product.backbone)
    with pytest.raises(ValueError, match=rf"reads {reach} steps at once, .*give context_length={reach}, or another"):
        job_of(name, again, context_length=context, **sizes)
    job: Any = job_of(name, again, context_length=reach, **sizes)
    next(run(job.learner, job.source, 1))
