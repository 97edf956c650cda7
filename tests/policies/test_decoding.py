"""Decoding against all sequences that there are, and draws against their probabilities."""

import itertools
from typing import Any

import pytest
import torch

from agentlib.policies.decoding import beam_search, restricted, sampled

V, T, END = 3, 4, 2


class Chain:
    """A model with a memory: the next token depends on the last two, by a table of logits."""

    def __init__(self, batch: int = 2, seed: int = 0, scale: float = 1.5) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.table = scale * torch.randn(batch, V + 1, V + 1, V, generator=generator)
        self.batch = batch

    def start(self) -> tuple[torch.Tensor, Any]:
        last = torch.full((self.batch, 2), V)
        return self.table[:, V, V], {"last": last, "row": torch.arange(self.batch)}

    def step(self, token: torch.Tensor, state: Any) -> tuple[torch.Tensor, Any]:
        last = torch.stack([state["last"][:, 1], token], 1)
        return self.table[state["row"], last[:, 0], last[:, 1]], {"last": last, "row": state["row"]}

    def log_probability(self, row: int, tokens: Any) -> float:
        last, total = (V, V), 0.0
        for token in tokens:
            total += float(self.table[row][last].double().log_softmax(0)[token])
            last = (last[1], token)
        return total


def every_sequence(end: int | None) -> list[tuple[int, ...]]:
    """All that end by `end`, and all of T tokens without it before the last."""
    found = []
    for n in range(1, T + 1):
        for tokens in itertools.product(range(V), repeat=n):
            is_whole = n == T or (end is not None and tokens[-1] == end)
            if is_whole and (end is None or end not in tokens[:-1]):
                found.append(tokens)
    return found


@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize(("penalty", "bonus"), [(0.0, 0.0), (1.0, 0.0), (0.6, 0.5), (-0.5, -0.2), (0.0, 1.0)])
def test_a_wide_beam_equals_the_search_of_all(penalty, bonus, end):
    model = Chain()
    beams = V**T
    found = beam_search(model.step, *model.start(), T, beams=beams, end=end, length_penalty=penalty, word_bonus=bonus)
    for row in range(model.batch):
        scores = {
            tokens: model.log_probability(row, tokens) / len(tokens) ** penalty + bonus * len(tokens)
            for tokens in every_sequence(end)
        }
        expected = sorted(scores, key=lambda tokens: -scores[tokens])
        lengths = found.lengths[row].tolist()
        ours = [tuple(found.tokens[row, k, : lengths[k]].tolist()) for k in range(len(expected))]
        assert ours == expected
        torch.testing.assert_close(found.scores[row, : len(expected)].tolist(), [scores[one] for one in expected])
        assert found.scores[row, len(expected) :].isneginf().all()


@pytest.mark.parametrize("seed", range(5))
def test_greedy_is_a_beam_of_one_and_a_temperature_of_zero(seed):
    model = Chain(seed=seed)
    found = beam_search(model.step, *model.start(), T, beams=1, end=END)
    drawn = torch.stack(list(sampled(model.step, *model.start(), T, end=END, temperature=0.0)), 1)
    assert torch.equal(found.tokens[:, 0, : drawn.shape[1]], drawn)
    for row in range(model.batch):
        state, tokens = (V, V), list[int]()
        while len(tokens) < T and END not in tokens:
            tokens.append(int(model.table[row][state].argmax()))
            state = (state[1], tokens[-1])
        assert drawn[row].tolist()[: len(tokens)] == tokens
        assert int(found.lengths[row, 0]) == len(tokens)


def test_a_beam_of_two_leaves_the_garden_path():
    """The first token of the best sequence is not the best first token."""
    model = Chain(batch=1)
    model.table[:] = 0.0
    model.table[0, V, V] = torch.tensor([0.6, 0.4, 1e-9]).log()
    model.table[0, V, 1] = torch.tensor([1.0, 1e-9, 1e-9]).log()
    greedy, wide = (beam_search(model.step, *model.start(), 2, beams=k).tokens[0, 0].tolist() for k in (1, 2))
    assert (greedy[0], wide) == (0, [1, 0])


def test_a_search_stops_where_nothing_can_get_better():
    model, steps = Chain(batch=1), list[int]()
    model.table[:] = torch.tensor([0.0, 0.0, 9.0])  # the end

    def step(*given):
        steps.append(1)
        return model.step(*given)

    found = beam_search(step, *model.start(), 50, beams=1, end=END)
    assert (int(found.tokens[0, 0, 0]), int(found.lengths[0, 0]), len(steps)) == (END, 1, 0)


def test_what_is_left_to_draw_from():
    logits = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    assert torch.allclose(restricted(logits, top_k=2).softmax(-1), torch.tensor([0.625, 0.375, 0, 0]))
    assert torch.allclose(restricted(logits, top_p=0.7).softmax(-1), torch.tensor([0.625, 0.375, 0, 0]))
    assert torch.allclose(restricted(logits, top_p=0.01).softmax(-1), torch.tensor([1.0, 0, 0, 0]))
    assert torch.allclose(restricted(logits, top_p=1.0, top_k=9).softmax(-1), logits.exp())
    warm = restricted(logits, temperature=0.5).softmax(-1)
    assert torch.allclose(warm, logits.exp() ** 2 / (logits.exp() ** 2).sum())
    assert restricted(logits, temperature=0.0).tolist() == [0.0, *[-torch.inf] * 3]
    for wrong in ({"temperature": -1.0}, {"top_k": 0}, {"top_p": 0.0}, {"top_p": 1.1}):
        with pytest.raises(ValueError, match="temperature is at least 0, top_k at least 1"):
            restricted(logits, **wrong)
    with pytest.raises(ValueError, match="at least 1, not 0 and 3"):
        beam_search(Chain().step, *Chain().start(), 3, beams=0)


@pytest.mark.parametrize("how", [{}, {"temperature": 0.5}, {"top_k": 2}, {"top_p": 0.6}])
def test_sequences_are_drawn_as_often_as_their_probability_says(how):
    model, n = Chain(batch=1), 40_000
    model.table = model.table.expand(n, -1, -1, -1)
    model.batch = n
    generator = torch.Generator().manual_seed(0)
    drawn = torch.stack(list(sampled(model.step, *model.start(), 2, generator=generator, **how)), 1)
    counts = torch.bincount(drawn[:, 0] * V + drawn[:, 1], minlength=V * V) / n
    first = restricted(model.table[0, V, V], **how).softmax(-1)
    second = restricted(model.table[0, V, :V], **how).softmax(-1)
    expected = (first[:, None] * second).flatten()
    assert (counts - expected).abs().max() < 4 * (0.25 / n) ** 0.5
    assert (counts[expected == 0] == 0).all()


def test_a_row_that_has_ended_repeats_its_end_and_all_together_stop():
    model = Chain(batch=2)
    model.table[0] = torch.tensor([0.0, 0.0, 99.0])
    model.table[1] = torch.tensor([99.0, 0.0, 0.0])
    drawn = torch.stack(list(sampled(model.step, *model.start(), T, end=END)), 1)
    assert drawn.tolist() == [[END] * T, [0] * T]
    model.table[1] = model.table[0]
    assert len(list(sampled(model.step, *model.start(), T, end=END))) == 1
