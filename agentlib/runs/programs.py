"""Programs that a model of language draws, kept or thrown away by running them (Chen et al. 2021; Li et al. 2022).

pass@k        one of k drawn programs is right, without bias (`agentlib.metrics.answers`)
filtered@k    the same of the k programs drawn most often among those that agree with the examples of the task
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from agentlib.core.modes import in_eval_mode
from agentlib.data.programs import ProgramTask
from agentlib.metrics.answers import pass_at_k, picked
from agentlib.policies.decoding import sampled
from agentlib.runs.sandbox import Limits, run_function


def drawn_programs(
    model: Any,
    prompt: str,
    n: int,
    *,
    length: int = 120,
    temperature: float = 0.8,
    generator: torch.Generator | None = None,
) -> list[str]:
    """Programs that begin with a prompt, and end before the next comment.

    Args:
        model: a `LanguageModel`.
        prompt: the text before.
        n: number of programs.
        length: tokens of each, at most.
        temperature: see `agentlib.policies.decoding.restricted`.
        generator: of the draws.
    """
    device = next(model.parameters()).device
    tokens = torch.from_numpy(model.text.encode(prompt).astype("int64")).to(device).expand(n, -1)
    with in_eval_mode(model):
        logits, state = model.read(tokens)
        rows = torch.stack(
            [*sampled(model.step, logits, state, length, temperature=temperature, generator=generator)], 1
        )
    return [prompt + model.text.decode(row).split("#")[0] for row in rows.cpu().numpy()]


def solve_rates(
    model: Any,
    tasks: Sequence[ProgramTask],
    *,
    draws: int = 20,
    ks: Sequence[int] = (1, 10),
    seed: int = 0,
    run_generated_code: bool = False,
    limits: Limits = Limits(),
    **how: Any,
) -> dict[str, float]:
    """pass@k and filtered@k of a model on tasks; `how` are arguments of `drawn_programs`.

    Raises:
        PermissionError: `run_generated_code` is False.
        SandboxError: the system does not allow what the sandbox is made of.
        ValueError: a k is larger than the number of draws.
    """
    generator = torch.Generator(next(model.parameters()).device).manual_seed(seed)
    counts, filtered = list[int](), list[list[bool]]()
    for task in tasks:
        programs = drawn_programs(model, task.prompt, draws, generator=generator, **how)
        examples = [*task.visible, *task.hidden]
        given, true = [[one] for one, _ in examples], [made for _, made in examples]
        shown, agree, right = len(task.visible), set[str](), set[str]()
        for program in dict.fromkeys(programs):
            found = run_function(program, "f", given, run_generated_code=run_generated_code, limits=limits).values
            if found is not None and found[:shown] == true[:shown]:
                agree.add(program)
            if found is not None and found[shown:] == true[shown:]:
                right.add(program)
        counts.append(sum(program in right for program in programs))
        filtered.append([any(one in right for one in picked(programs, agree.__contains__, k)) for k in ks])
    rates = {f"pass@{k}": pass_at_k(draws, counts, k) for k in ks}
    return rates | {f"filtered@{k}": float(np.mean([each[place] for each in filtered])) for place, k in enumerate(ks)}
