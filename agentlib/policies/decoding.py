"""Decoding: from a model that gives the next token's logits to whole sequences.

    greedy        argmax_v log p(v | y_<t)
    sampling      v ~ softmax(z / temperature), of the k best tokens, or of the fewest that have the probability p
    beam search   argmax_y log p(y) / |y|^length_penalty + word_bonus |y|       (Sutskever et al. 2014, section 3.2)

Top-k is Fan et al. 2018's (arXiv:1805.04833), top-p Holtzman et al. 2020's (arXiv:1904.09751). |y| counts the end
token. A length penalty of 0 adds log probabilities, which favours short sequences, and 1 takes their mean; the word
bonus adds a number for each token. (Both are usual; Wu et al. 2016, arXiv:1609.08144, divide by another power.) For a
length penalty below 0 and a negative bonus all sequences are followed to their end.

A model is a function `step(token (B,), state) -> (logits (B, V), state)`. Its state is a tree of tensors with the batch
on the first axis, so that beams can change their places in it, such as the keys and values of a transformer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agentlib.core.trees import mapped

NextToken = Callable[[Tensor, Any], tuple[Tensor, Any]]


def restricted(
    logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None
) -> Tensor:
    """Logits `(..., V)` of the distribution that is sampled: -inf for what is never drawn.

    Args:
        logits: `(..., V)`.
        temperature: logits are divided by it; 0 leaves the best token alone.
        top_k: number of tokens that are left, more where several are equal to the last of them.
        top_p: the most probable tokens are left, as few as have this probability together.

    Raises:
        ValueError: a number is out of its range.
    """
    if temperature < 0.0 or (top_k is not None and top_k < 1) or (top_p is not None and not 0.0 < top_p <= 1.0):
        given = f"temperature={temperature}, top_k={top_k}, top_p={top_p}"
        raise ValueError(f"temperature is at least 0, top_k at least 1, top_p above 0 and at most 1, not {given}")
    if temperature == 0.0:
        best = logits.argmax(-1, keepdim=True)
        return torch.full_like(logits, -torch.inf).scatter(-1, best, 0.0)
    logits = logits / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, -1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -torch.inf)
    if top_p is not None and top_p < 1.0:
        ordered, places = logits.sort(-1, descending=True)
        share = ordered.softmax(-1)
        above = share.cumsum(-1) - share  # the probability of all that are better
        out = (above >= top_p).scatter(-1, places, above >= top_p)
        logits = logits.masked_fill(out, -torch.inf)
    return logits


@torch.no_grad()
def sampled(
    step: NextToken,
    logits: Tensor,
    state: Any,
    length: int,
    *,
    end: int | None = None,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Iterator[Tensor]:
    """Yields the tokens `(B,)` one after another, up to `length`; greedily with a temperature of 0.

    Args:
        step: the model.
        logits: `(B, V)` of the first token.
        state: the model's, before it.
        length: tokens, at most; it stops before where all rows have ended.
        end: the token that ends a sequence; a row that has ended repeats it.
        temperature, top_k, top_p: see `restricted`.
        generator: what is drawn from; torch's default generator without it.
    """
    over = torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
    for place in range(length):
        kept = restricted(logits, temperature, top_k, top_p)
        token = kept.argmax(-1)
        if temperature > 0.0:
            token = torch.multinomial(kept.float().softmax(-1), 1, generator=generator)[:, 0]
        if end is not None:
            token = torch.where(over, end, token)
            over = over | (token == end)
        yield token
        if place + 1 == length or bool(over.all()):
            return
        logits, state = step(token, state)


def decoded(
    step: NextToken,
    logits: Tensor,
    state: Any,
    length: int,
    *,
    beams: int = 1,
    end: int | None = None,
    length_penalty: float = 0.0,
    word_bonus: float = 0.0,
    **drawn: Any,
) -> Tensor:
    """One sequence of tokens for each row, `(B, T)`: the best of a beam search, or with one beam that of `sampled`.

    The arguments are those of `beam_search`, and `drawn` those of `sampled`.
    """
    if beams == 1:
        return torch.stack(list(sampled(step, logits, state, length, end=end, **drawn)), 1)
    how: Any = {"length_penalty": length_penalty, "word_bonus": word_bonus}
    return beam_search(step, logits, state, length, beams=beams, end=end, **how).tokens[:, 0]


class Beams(NamedTuple):
    """The best sequences, best first."""

    tokens: Tensor
    """`(B, K, T)`; behind the end of a sequence stands its end token, or -1 without one."""
    lengths: Tensor
    """`(B, K)`: tokens of each, its end token among them."""
    scores: Tensor
    """`(B, K)`: -inf where there are fewer sequences."""


@torch.no_grad()
def beam_search(
    step: NextToken,
    logits: Tensor,
    state: Any,
    length: int,
    *,
    beams: int = 5,
    end: int | None = None,
    length_penalty: float = 0.0,
    word_bonus: float = 0.0,
) -> Beams:
    """The `beams` best sequences that were found for each row; those of `length` tokens count as ended.

    In each step the best `beams` of all continuations that have not ended go on. One that ends is kept if it is among
    the best `beams` of all, and competes by its score until nothing that goes on can surpass it: one beam is greedy,
    as long as length does not count. The arguments are those of `sampled`, and in the module's formula.

    Raises:
        ValueError: no beams, or no length.
    """
    if beams < 1 or length < 1:
        raise ValueError(f"beams and length are at least 1, not {beams} and {length}")
    batch, vocabulary = logits.shape
    filler = -1 if end is None else end
    row = torch.arange(batch, device=logits.device)[:, None]  # (B, 1)
    best = Beams(
        torch.full((batch, beams, length), filler, device=logits.device),
        torch.zeros(batch, beams, dtype=torch.int64, device=logits.device),
        torch.full((batch, beams), -torch.inf, dtype=torch.float64, device=logits.device),
    )
    total = torch.full_like(best.scores, -torch.inf)  # log p of what goes on; at first one empty sequence in each row
    total[:, 0] = 0.0
    history = best.tokens.clone()
    logits = logits.repeat_interleave(beams, 0)  # (B * K, V)
    state = mapped(state, lambda tensor: tensor.repeat_interleave(beams, 0))

    def score(log_probability: Tensor, n: int) -> Tensor:
        return torch.add(log_probability / float(n) ** length_penalty, word_bonus * n)

    for n in range(1, length + 1):
        grown = total[..., None] + logits.double().log_softmax(-1).unflatten(0, (batch, beams))  # (B, K, V)
        if n == length:
            best = _better(best, history, grown, score(grown, n), n)
            break
        if end is not None:
            ending = torch.full_like(grown, -torch.inf)
            least = grown.flatten(1).topk(beams, -1).values[:, -1:]
            ending[..., end] = grown[..., end].where(grown[..., end] >= least, -torch.inf)
            best = _better(best, history, ending, score(ending, n), n)
            grown[..., end] = -torch.inf
        total, chosen = grown.flatten(1).topk(beams, -1)  # (B, K)
        parent, token = chosen // vocabulary, chosen % vocabulary
        history = history[row, parent]
        history[..., n - 1] = token
        ceiling = score(total[:, 0], length)  # of all that goes on
        if min(length_penalty, word_bonus) >= 0.0 and bool((ceiling <= best.scores[:, -1]).all()):
            break
        places = partial(torch.index_select, dim=0, index=(row * beams + parent).flatten())
        logits, state = step(token.flatten(), mapped(state, places))
    return best


def _better(best: Beams, history: Tensor, log_probability: Tensor, score: Tensor, n: int) -> Beams:
    """The best of those that ended before, and of sequences that end now, with `n` tokens.

    Args:
        best: those before.
        history: `(B, K, T)`, the tokens of the beams.
        log_probability: `(B, K, V)` of each beam followed by each token, -inf for what does not end.
        score: `(B, K, V)`.
        n: tokens of each, the last one among them.
    """
    beams, vocabulary = best.scores.shape[1], score.shape[-1]
    row = torch.arange(len(history), device=history.device)[:, None]
    values = torch.where(log_probability.isneginf(), log_probability, score).flatten(1)
    values, chosen = values.topk(beams, -1)  # (B, K)
    tokens = history[row, chosen // vocabulary]
    tokens[..., n - 1] = chosen % vocabulary
    scores, order = torch.cat([best.scores, values], 1).topk(beams, -1)
    lengths = torch.cat([best.lengths, torch.full_like(chosen, n)], 1)
    return Beams(torch.cat([best.tokens, tokens], 1)[row, order], lengths[row, order], scores)
