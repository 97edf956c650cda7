"""ELMo: what each direction knows, its losses by hand, the mixture, and the entropy rate in both directions."""

import math
from typing import Any

import pytest
import torch

import agentlib
from agentlib.backbones import LSTM, BidirectionalLSTM
from agentlib.core import Cosine, Warmup
from agentlib.core.recipe import Problem
from agentlib.data.text import MARKOV, entropy_rate, markov, text_of
from agentlib.engine import run
from agentlib.learners.language.elmo import BidirectionalLanguageModel, ELMo, ELMoConfig
from agentlib.runs.models import load_model, save_model
from agentlib.runs.plan import job_of

TEXT = text_of([markov(3_000)])


@pytest.fixture(autouse=True)
def _seeded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


def model() -> BidirectionalLanguageModel:
    return BidirectionalLanguageModel(BidirectionalLSTM(8, 6, 2), TEXT.tokenizer.to_json()).eval()


def test_one_direction_knows_the_past_and_the_other_the_future():
    network, tokens = BidirectionalLSTM(8, 6, 2), torch.randint(8, (1, 7))
    before = network.directions(tokens)
    for place in range(7):
        other = tokens.clone()
        other[0, place] = (tokens[0, place] + 1) % 8
        for past, (now, then) in enumerate(zip(network.directions(other), before, strict=True)):
            for layer in range(1, 3):
                changed = (now[layer] - then[layer]).abs().amax(-1)[0] > 1e-7
                assert changed.tolist() == [one <= place if past else one >= place for one in range(7)]


def test_a_direction_is_torchs_lstm_and_the_upper_layers_add():
    network, tokens = BidirectionalLSTM(8, 6, 2), torch.randint(8, (2, 7))
    for layers, found, turn in zip(
        (network.forwards, network.backwards), network.directions(tokens), (False, True), strict=True
    ):
        h = network.embedding(tokens.flip(1) if turn else tokens)
        for number, layer in enumerate(layers):
            theirs = torch.nn.LSTM(6, 6, batch_first=True)
            theirs.load_state_dict(layer.state_dict())
            h = theirs(h)[0] + (h if number else 0.0)
            torch.testing.assert_close(found[number + 1], h.flip(1) if turn else h)


def test_the_features_are_a_mixture_of_the_layers():
    network, tokens = BidirectionalLSTM(8, 6, 2), torch.randint(8, (2, 7))
    *layers, mixture = network.maps(tokens)
    torch.testing.assert_close(mixture, torch.stack(layers).mean(0))  # before anything was learned
    network.scores.data = torch.tensor([0.0, math.log(2.0), math.log(5.0)])
    network.gamma.data = torch.tensor(3.0)
    *layers, mixture = network.maps(tokens)
    torch.testing.assert_close(mixture, 3.0 / 8.0 * (layers[0] + 2.0 * layers[1] + 5.0 * layers[2]))
    torch.testing.assert_close(network(tokens), mixture.mean(1))


def test_the_losses_are_those_of_the_next_and_of_the_token_before():
    learner = ELMo(model(), ELMoConfig().optimizer())
    tokens = torch.randint(8, (2, 6))
    ahead, behind = (logits.log_softmax(-1) for logits in learner.model(tokens))
    forward, backward = learner.both_losses(tokens)
    for b in range(2):
        for t in range(5):
            torch.testing.assert_close(forward[b, t], -ahead[b, t, tokens[b, t + 1]])
            torch.testing.assert_close(backward[b, t], -behind[b, t + 1, tokens[b, t]])
    torch.testing.assert_close(learner.losses(tokens), (forward + backward) / 2)


def test_files_and_mistakes(tmp_path):
    one, tokens = model(), torch.randint(8, (2, 6))
    save_model(one, tmp_path / "model.safetensors")
    again: Any = load_model(tmp_path)[0]
    assert all(torch.equal(here, there) for here, there in zip(one(tokens), again(tokens), strict=True))
    with pytest.raises(ValueError, match="the network bidirectional_lstm, not a LSTM"):
        BidirectionalLanguageModel(LSTM(8, 6), TEXT.tokenizer.to_json())
    with pytest.raises(ValueError, match="a vocabulary of 7 tokens, and the tokenizer one of 8"):
        BidirectionalLanguageModel(BidirectionalLSTM(7), TEXT.tokenizer.to_json())
    with pytest.raises(ValueError, match="leave out the backbone"):
        agentlib.train("elmo", data="markov", backbone="lstm", steps=1, progress=False)


@pytest.mark.slow
def test_both_directions_reach_the_entropy_rate():
    sizes: Any = {"context_length": 16, "embed_dim": 24, "n_layers": 1, "batch_size": 64, "dropout": 0.0}
    problem = Problem(data=[markov(100_000, seed=1)], steps=600, device="cpu")
    job = job_of("elmo", problem, learning_rate=Warmup(Cosine(1e-2), updates=50), **sizes)
    for _ in run(job.learner, job.source, 600):
        pass
    measures = {measure.name: measure.value for measure in job.judge.finish()}
    assert measures["test/loss"] == pytest.approx(entropy_rate(MARKOV), abs=0.04)
