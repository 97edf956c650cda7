"""BERT: which tokens are hidden and how, exact losses, the entropy of hidden letters, and fine-tuning."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional

import agentlib
from agentlib.core import Linear, Warmup
from agentlib.core.recipe import Problem
from agentlib.data import Batches, Dataset
from agentlib.data.masking import MaskedWindows, masked, segment_pairs
from agentlib.data.text import MARKOV, markov, text_of
from agentlib.engine import run
from agentlib.learners import Classifier, ClassifierConfig
from agentlib.learners.language.bert import BERT, BERTConfig, masked_losses
from agentlib.learners.language.masked_model import MaskedLanguageModel
from agentlib.policies import CategoricalPolicy
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of

TEXT = text_of([markov(3_000)])


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def test_of_fifteen_percent_eighty_are_masked_ten_random_and_ten_themselves():
    """So that of all tokens 12% are masked; of the random ones a V-th is what it was."""
    vocabulary, n = 20, 400_000
    tokens = torch.randint(vocabulary + 3, (4, n // 4))
    inputs, chosen = masked(tokens, vocabulary)
    ordinary = tokens < vocabulary
    assert not chosen[~ordinary].any()
    assert torch.equal(inputs[~chosen], tokens[~chosen])
    share = {
        0.15: chosen,
        0.12: chosen & (inputs == vocabulary + 2),
        0.015 * (1 - 1 / vocabulary): chosen & (inputs != tokens) & (inputs < vocabulary),
        0.015 * (1 + 1 / vocabulary): chosen & (inputs == tokens),
    }
    count = int(ordinary.sum())
    for expected, which in share.items():
        deviation = math.sqrt(expected * (1 - expected) / count)
        assert float(which.sum()) / count == pytest.approx(expected, abs=5 * deviation)
    assert (inputs[chosen & (inputs != tokens)] != vocabulary).all()  # no <cls>, and no <sep>
    assert (inputs[chosen & (inputs != tokens)] != vocabulary + 1).all()


def test_a_pair_is_two_pieces_and_half_of_them_follow_each_other():
    tokens, is_next = segment_pairs(TEXT, 2_000, 12, np.random.default_rng(0))
    letters, size = TEXT.tokenizer.decode(TEXT.tokens), TEXT.tokenizer.size
    assert tokens.shape == (2_000, 27)
    for place, special in ((0, size), (13, size + 1), (26, size + 1)):
        assert (tokens[:, place] == special).all()
    follows = [TEXT.tokenizer.decode(torch.cat([row[1:13], row[14:26]])) in letters for row in tokens]
    assert all(np.array(follows)[is_next.bool().numpy()])
    assert np.array(follows)[~is_next.bool().numpy()].mean() < 0.01
    assert float(is_next.double().mean()) == pytest.approx(0.5, abs=0.05)
    with pytest.raises(ValueError, match="3000 tokens, too few for two pieces of 1500"):
        MaskedWindows(TEXT, 1_500, 4)


def test_only_hidden_tokens_count():
    logits, tokens = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    chosen = torch.tensor([[True, False, False, True, False], [False, True, False, False, False]])
    losses = masked_losses(logits, tokens, chosen)
    assert not losses[~chosen].any()
    torch.testing.assert_close(
        losses[chosen], functional.cross_entropy(logits[chosen], tokens[chosen], reduction="none")
    )
    torch.testing.assert_close(
        masked_losses(torch.zeros(2, 5, 7), tokens, chosen)[chosen], torch.full((3,), math.log(7))
    )


def test_at_the_start_it_knows_nothing():
    job = job_of("bert", Problem(data=TEXT, steps=1), dropout=0.0, context_length=27)
    ((_, update),) = run(job.learner, job.source, 1, compile="eager")
    assert float(update.metrics["masked_loss"]) == pytest.approx(math.log(8), rel=0.05)
    assert float(update.metrics["next_loss"]) == pytest.approx(math.log(2), rel=0.05)


def test_mistakes_and_files(tmp_path):
    sizes: Any = {"embed_dim": 8, "n_layers": 1, "n_heads": 1, "context_length": 11}
    network = BERT.network(BERTConfig(**sizes), TEXT.tokenizer.size)
    model = MaskedLanguageModel(network, TEXT.tokenizer.to_json()).eval()
    save_model(model, tmp_path / "model.safetensors")
    tokens = torch.randint(11, (2, 11))
    for here, there in zip(model(tokens), load_model(tmp_path)[0](tokens), strict=True):
        assert torch.equal(here, there)
    with pytest.raises(ValueError, match="a vocabulary of 11 tokens, and the tokenizer one of 2, to which 3 are added"):
        MaskedLanguageModel(network, text_of(["abab"]).tokenizer.to_json())
    with pytest.raises(ValueError, match="such as transformer_encoder, not a Linear"):
        MaskedLanguageModel(torch.nn.Linear(1, 1), TEXT.tokenizer.to_json())
    with pytest.raises(ValueError, match="a context_length of 5, not 4"):
        agentlib.train("bert", data="markov", context_length=4, steps=1, progress=False)
    with pytest.raises(ValueError, match="auto, the transformer, or a saved encoder's file, not 'lstm'"):
        agentlib.train("bert", data="markov", backbone="lstm", steps=1, progress=False)
    with pytest.raises(ValueError, match="the text has 30 tokens, too few for two pieces of 32"):
        agentlib.train("bert", data=[markov(300)], steps=1, progress=False)


@pytest.mark.slow
def test_a_hidden_letter_is_known_from_its_neighbours():
    """-log p(x_t | x_{t-1}, x_{t+1}) of the true chain, less than its entropy rate; fine-tuned, `<cls>` tells texts."""
    sizes: Any = {"context_length": 19, "embed_dim": 32, "n_layers": 2, "n_heads": 2, "batch_size": 64, "dropout": 0.0}
    problem = Problem(data=[markov(200_000, seed=1)], steps=1_000, device="cpu")
    job = job_of("bert", problem, learning_rate=Warmup(Linear(4e-3, 0.0), updates=50), next_weight=0.1, **sizes)
    for _ in run(job.learner, job.source, 1_000):
        pass
    judge: Any = job.judge
    tokens, _ = segment_pairs(judge.held_out, 4_000, 8, np.random.default_rng(5))
    a, x, b = tokens[:, 4], tokens[:, 5], tokens[:, 6]
    joint = torch.from_numpy(MARKOV)[a] * torch.from_numpy(MARKOV).T[b]  # (n, 8): p(x | a) p(b | x)
    truth = -(joint / joint.sum(1, keepdim=True)).log().gather(1, x[:, None]).mean()
    hidden = tokens.clone()
    hidden[:, 5] = 10
    with torch.no_grad():
        found = functional.cross_entropy(job.learner.eval().model(hidden)[0][:, 5], x)  # type: ignore[operator]
    assert float(truth) < 1.2  # the entropy rate is 1.424
    assert float(truth) - 0.01 < float(found) < float(truth) + 0.05

    rows, labels = torch.randint(8, (200, 19)), torch.arange(200) % 2
    rows[:, 0], rows[labels == 1] = 8, tokens[:100]
    rows = rows.where(torch.arange(19) > 0, 8)
    policy = CategoricalPolicy(job.product.backbone, 2)
    config = ClassifierConfig(learning_rate=1e-3, batch_size=50)
    learner = Classifier(policy, config.optimizer(), config)
    for _ in run(learner, Batches(Dataset(rows[:100], labels[:100]), 50), 60):
        pass
    with torch.no_grad():
        assert float((learner.eval().predict(rows[100:]).argmax(1) == labels[100:]).double().mean()) >= 0.9
