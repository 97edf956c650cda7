"""Back-translation: texts of the target's language alone become pairs (Sennrich et al. 2016, arXiv:1511.06709).

    x' ~ q(x | y)   for each y that has no source,         L = -E log p(y | x) - E log p(y | x')

q is a translator in the other direction, learned from the true pairs; p learns from true and from made ones, whose
targets are all true. Sources are drawn as q gives them (Edunov et al. 2018, arXiv:1808.09381), not searched for: the
most probable ones are too alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from agentlib.core.numbers import whole
from agentlib.data.parallel import ParallelText
from agentlib.learners.language.translator import Translator


def back_translated(
    model: Translator,
    texts: Sequence[str],
    *,
    true: ParallelText | None = None,
    repeat: int = 1,
    temperature: float = 1.0,
    seed: int = 0,
) -> ParallelText:
    """Pairs to learn from: true ones, and made ones, whose sources a model of the other direction has drawn.

    Args:
        model: translates from the target's language to the source's.
        texts: in the target's language; those whose made source is empty are left out.
        true: pairs that are put before the made ones.
        repeat: how often, so that they are not lost among many made ones.
        temperature: of the draws; 0 takes the best token each time.
        seed: of the draws.

    Raises:
        ValueError: a text is longer than the model reads, or nothing is left.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(whole("seed", seed))
    length = model.max_length - 1  # with its end a source is no longer than the other model reads
    made = model.translate(texts, beams=1, length=length, temperature=temperature, generator=generator)
    pairs = [pair for pair in zip(made, texts, strict=True) if pair[0]]
    if true is not None:
        pairs = [*zip(true.source, true.target, strict=True)] * whole("repeat", repeat, 1) + pairs
    return ParallelText([source for source, _ in pairs], [target for _, target in pairs])
