"""Sequence to sequence: attention by its formulas, padding that is not seen, caches, searches, and a trained result."""

import itertools
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import agentlib
from agentlib.backbones import (
    EncoderDecoder,
    LuongAttention,
    RecurrentEncoderDecoder,
    TransformerDecoder,
    TransformerEncoder,
)
from agentlib.core import Cosine, Warmup
from agentlib.core.recipe import Problem
from agentlib.data.parallel import END, PAD, SPECIAL, ParallelParts, encoded, padded, parallel_text, reversal
from agentlib.data.tokens import Characters
from agentlib.engine import run
from agentlib.learners.language.seq2seq import Seq2Seq, Seq2SeqConfig, token_losses
from agentlib.learners.language.translator import Translator
from agentlib.policies.decoding import beam_search, sampled
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of
from agentlib.shell.main import main

NETWORKS = [
    ("transformer", "none"),
    ("gru", "none"),
    *(("lstm", score) for score in ("none", "dot", "general", "concat")),
]
each_network = pytest.mark.parametrize(("name", "attention"), NETWORKS)


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def translator(name: str = "transformer", attention: Any = "general", letters: str = "abcdef") -> Translator:
    """Weights so large that it is sure of some tokens."""
    config = Seq2SeqConfig(embed_dim=16, n_layers=2, n_heads=2, dropout=0.0, attention=attention, max_length=16)
    tokenizer = Characters(letters, SPECIAL)
    network = Seq2Seq.network(config, tokenizer.size, name)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.5)
    return Translator(network, tokenizer.to_json(), 16).eval()


def pairs(model: Translator, *words: tuple[str, str]) -> tuple[torch.Tensor, torch.Tensor]:
    source, target = zip(*words, strict=True)
    return padded(encoded(source, model.text)), padded(encoded(target, model.text, start=True))


@pytest.mark.parametrize("score", ["dot", "general", "concat"])
def test_attention_is_that_of_the_paper(score):
    attention: Any = LuongAttention(4, score)
    query, memory = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    mask = torch.tensor([[True] * 5, [True, True, True, False, False]])
    features, weights = attention(query, memory, mask)
    for row, (b, t) in itertools.product([0], itertools.product(range(2), range(3))):
        h, found = query[b, t], []
        for m in memory[b, : 5 - 2 * b]:
            if score == "dot":
                found.append(h @ m)
            elif score == "general":
                found.append(h @ (attention.inner.weight @ m))
            else:
                joined = torch.cat([attention.query.weight, attention.key.weight], 1) @ torch.cat([h, m])
                found.append(attention.weight.weight[row] @ joined.tanh())
        share = torch.stack(found).softmax(0)
        context = (share[:, None] * memory[b, : len(share)]).sum(0)
        torch.testing.assert_close(weights[b, t, : len(share)], share)
        assert not weights[b, t, len(share) :].any()
        expected = (attention.output.weight @ torch.cat([context, h])).tanh()
        torch.testing.assert_close(features[b, t], expected)
    if score == "dot":
        context = functional.scaled_dot_product_attention(query, memory, memory, mask[:, None], scale=1.0)
        torch.testing.assert_close(features, attention.output(torch.cat([context, query], -1)).tanh())


def test_the_loss_is_torchs_without_padding():
    logits, tokens = torch.randn(2, 4, 7), torch.tensor([[5, 4, 6, END], [6, END, PAD, PAD]])
    losses, there = token_losses(logits, tokens, 0.1), tokens != PAD
    assert not losses[~there].any()
    expected = functional.cross_entropy(logits[there], tokens[there], label_smoothing=0.1)
    torch.testing.assert_close(losses.sum() / there.sum(), expected)
    logs = logits.log_softmax(-1)
    one = -(0.9 * logs[0, 0, 5] + 0.1 * logs[0, 0].mean())  # (1 - e) of the true token, and e / V of each
    torch.testing.assert_close(losses[0, 0], one)


@each_network
def test_padding_is_not_seen_and_no_token_sees_the_next(name, attention):
    model = translator(name, attention)
    source, target = pairs(model, ("abcd", "dcba"), ("ab", "ba"))
    logits = model(source, target[:, :-1])
    wider = functional.pad(source, (0, 3)), functional.pad(target, (0, 2))
    torch.testing.assert_close(model(wider[0], wider[1][:, :-1])[:, : logits.shape[1]], logits)
    alone = pairs(model, ("ab", "ba"))
    torch.testing.assert_close(model(alone[0], alone[1][:, :-1])[0], logits[1, :3])
    for place in range(1, 5):
        other = target[:1, :-1].clone()
        other[0, place] = 4 + (other[0, place] - 3) % 6
        changed = (model(source[:1], other) - logits[:1]).abs().amax(-1)[0] > 1e-6
        assert not changed[:place].any()
        assert changed[place]


@each_network
def test_step_by_step_equals_all_at_once(name, attention):
    model = translator(name, attention)
    source, target = pairs(model, ("abcd", "dcbaa"), ("ab", "bacde"))
    with torch.no_grad():
        whole = model(source, target[:, :-1]).log_softmax(-1)
        logits, state = model.begin(source)
        for place in range(1, target.shape[1]):
            shifted = logits.log_softmax(-1) - logits.log_softmax(-1)[:, END:][:, :1]
            expected = whole[:, place - 1] - whole[:, place - 1, END:][:, :1]
            torch.testing.assert_close(shifted[:, END:], expected[:, END:], rtol=1e-4, atol=1e-5)
            assert logits[:, :END].isneginf().all()  # padding and the start are never next
            logits, state = model.step(target[:, place], state)


@each_network
def test_one_beam_is_greedy(name, attention):
    model = translator(name, attention)
    source, _ = pairs(model, ("abcd", ""), ("ab", ""), ("f", ""))
    with torch.no_grad():
        begun = model.begin(source)
        greedy = torch.stack(list(sampled(model.step, *begun, 10, end=END, temperature=0.0)), 1)
        found = beam_search(model.step, *begun, 10, beams=1, end=END)
    for row, length in enumerate(found.lengths[:, 0].tolist()):
        assert found.tokens[row, 0, :length].tolist() == greedy[row, :length].tolist()
    assert model.translate(["abcd", "ab"], beams=1) == [
        model.translate([text], beams=1, temperature=1.0, top_k=1)[0] for text in ("abcd", "ab")
    ]


@pytest.mark.parametrize(("name", "attention"), [("transformer", "none"), ("lstm", "general")])
@pytest.mark.parametrize("length_penalty", [0.0, 1.0])
def test_enough_beams_are_all_sequences(name, attention, length_penalty):
    """Of up to 3 tokens, each scored by itself, all its tokens at once."""
    model = translator(name, attention, "ab")
    source, _ = pairs(model, ("abba", ""))
    real = range(END, model.text.size)  # the end, the unknown, a and b
    best, scores = None, dict[tuple[int, ...], float]()
    for length in (1, 2, 3):
        for tokens in itertools.product(real, repeat=length):
            ended = tokens[-1] == END
            if END in tokens[:-1] or (length < 3 and not ended):
                continue
            with torch.no_grad():
                logits = model(source, torch.tensor([[1, *tokens]]))[0, :-1]
            logs = logits[:, END:].log_softmax(-1)
            total = sum(float(logs[place, token - END]) for place, token in enumerate(tokens))
            scores[tokens] = total / length**length_penalty
    best = sorted(scores, key=lambda tokens: -scores[tokens])[:3]
    with torch.no_grad():
        found = beam_search(model.step, *model.begin(source), 3, beams=64, end=END, length_penalty=length_penalty)
    for beam, tokens in enumerate(best):
        assert tuple(found.tokens[0, beam, : len(tokens)].tolist()) == tokens
        assert float(found.scores[0, beam]) == pytest.approx(scores[tokens], abs=1e-4)


def test_a_translation_does_not_depend_on_the_others(tmp_path):
    model = translator("lstm", "dot")
    words = ["abcd", "f", "", "abcdefabcdef", "ba"]
    together = model.translate(words)
    assert together == [model.translate([word])[0] for word in words]
    save_model(model, tmp_path / "model.safetensors")
    again: Any = load_model(tmp_path)[0]
    assert again.translate(words) == together
    assert model.translate([]) == []


def test_mistakes():
    with pytest.raises(ValueError, match="text 2 has 17 tokens, more than the 16 that are read"):
        translator().translate(["a", "a" * 16])
    with pytest.raises(TypeError, match="takes a list of texts"):
        translator().translate("abc")
    with pytest.raises(ValueError, match="length"):
        translator().translate(["abc"], beams=1, length=0)
    with pytest.raises(ValueError, match="the network knows 9 tokens, and the tokenizer has 10"):
        Translator(RecurrentEncoderDecoder(9, 8), Characters("abcdef", SPECIAL).to_json())
    with pytest.raises(ValueError, match=r"begins with <pad> <s> </s> <unk>"):
        Translator(RecurrentEncoderDecoder(9, 8), Characters("abcdef").to_json())
    with pytest.raises(ValueError, match="such as encoder_decoder, not a Linear"):
        Translator(nn.Linear(1, 1), Characters("abcdef", SPECIAL).to_json())
    with pytest.raises(ValueError, match="which must be even, not 7"):
        RecurrentEncoderDecoder(9, 7)
    with pytest.raises(ValueError, match="unknown attention 'dots'; close matches: dot"):
        RecurrentEncoderDecoder(9, 8, attention="dots")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown backbone 'lstmm'"):
        agentlib.train("seq2seq", data="reversal", backbone="lstmm", steps=1, progress=False)
    with pytest.raises(ValueError, match=r"pair \d+ has \d+ tokens on a side, more than max_length=9"):
        agentlib.train("seq2seq", data="reversal", max_length=9, steps=1, progress=False)


@pytest.mark.parametrize("part", ["validation", "test"])
@pytest.mark.parametrize("pair", [("ab", "ba" * 5), ("ab" * 5, "ba")])
def test_long_pairs_of_any_part_are_refused_before_the_run(part, pair):
    short = parallel_text([("ab", "ba")] * 4)
    parts = ParallelParts(short, short, short)._replace(**{part: parallel_text([("ab", "ba"), pair])})
    with pytest.raises(ValueError, match=f"pair 2 of the {part} part has 11 tokens on a side, more than max_length=8"):
        job_of("seq2seq", Problem(data=parts, steps=1, device="cpu"), max_length=8)


@pytest.mark.parametrize("part", ["train", "validation", "test"])
@pytest.mark.parametrize(("window", "positions"), [(8, "sinusoidal"), (32, "learned")])
def test_a_backbone_that_cannot_read_a_pair_is_refused_before_the_run(part, window, positions):
    """A window of the decoder, or a table of positions on either side, is the limit, below that of the settings."""
    short = parallel_text([("ab", "ba")] * 4)
    parts = ParallelParts(short, short, short)._replace(**{part: parallel_text([("ab", "ba"), ("ab" * 5, "ba")])})
    known: Any = {"vocabulary": 6, "positions": positions, "max_length": 8}
    encoder = TransformerEncoder(None, 8, 1, 2, **known)
    network = EncoderDecoder(encoder, TransformerDecoder(None, 8, 1, 2, window=window, cross=True, **known))
    problem = Problem(data=parts, steps=1, device="cpu", backbone=network)
    with pytest.raises(ValueError, match=r"pair 2 .*has 11 tokens on a side, more than the window of the backbone, 8"):
        job_of("seq2seq", problem, max_length=16)
    fits = ParallelParts(short, short, short)
    assert job_of("seq2seq", Problem(data=fits, steps=1, device="cpu", backbone=network)).product.max_length == 8
    if positions == "learned":
        with pytest.raises(ValueError, match="beside a prompt must be a whole number from 1, not 0"):
            Translator(network, Characters("ab", SPECIAL).to_json(), prompt_length=8)


@pytest.mark.slow
def test_from_the_shell(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = [f"{word}\t{word[::-1]}" for word in reversal(60).source]
    (tmp_path / "words.tsv").write_text("\n".join(words) + "\n")
    flags = ["--data", "words.tsv", "--steps", "3", "--out", "run", "--progress", "none", "--embed-dim", "8"]
    assert main(["train", "seq2seq", *flags, "--n-layers", "1", "--n-heads", "1"]) == 0
    assert "agentlib sample run" in " ".join(capsys.readouterr().out.split())
    assert main(["sample", "run", "--prompt", "abc", "--beams", "2"]) == 0
    assert capsys.readouterr().out.startswith("abc\n")
    more = ["--backbone", "run/backbone.safetensors", "--tokenizer", "run"]
    assert main(["train", "seq2seq", *flags[:4], *more, "--progress", "none", "--out", "again"]) == 0


@pytest.mark.slow
def test_attention_spells_backwards_where_one_state_is_too_small():
    """The same network, data and updates; on one test word in two the plain one is wrong by then."""
    exact = {}
    for attention in ("none", "dot"):
        problem = Problem(data="reversal", steps=200, backbone="lstm", device="cpu")
        sizes: Any = {"embed_dim": 64, "n_layers": 1, "dropout": 0.0, "max_length": 32, "label_smoothing": 0.0}
        job = job_of("seq2seq", problem, attention=attention, learning_rate=Warmup(Cosine(1e-2), updates=50), **sizes)
        for _ in run(job.learner, job.source, 200):
            pass
        test = job.judge.parts.test  # type: ignore[attr-defined]
        found = job.product.translate(test.source)
        exact[attention] = sum(one == true for one, true in zip(found, test.target, strict=True)) / len(test)
    assert exact["dot"] >= 0.9
    assert exact["none"] <= exact["dot"] - 0.2
