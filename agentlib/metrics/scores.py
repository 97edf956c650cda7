"""One score per option, whatever kind of policy gives it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def logits_from(policy: Any, output: Any) -> Tensor:
    """Logits `(..., n)` from a policy's output: for attacks, confidences and calibration, which know nothing else.

    A policy whose output is something else says by `as_logits` what they are: an ensemble the logs of its averaged
    probabilities, action values themselves, so that softmax prefers what the policy does. Any other model's output is
    taken for logits, and a pair (output, state) for its first part.

    Raises:
        TypeError: several choices at once, which have no single score per option.
    """
    output = output[0] if isinstance(output, tuple) else output
    logits: Tensor = policy.as_logits(output) if hasattr(policy, "as_logits") else output
    return logits


def checked(logits: Tensor) -> Tensor:
    """The logits `(..., n)`, after a look at them; -inf rules an option out.

    Raises:
        ValueError: some are NaN or inf, or rule out every option.
    """
    bad = ~torch.isfinite(logits.amax(-1))  # NaN is the largest of all
    if bool(bad.any()):
        first = logits[bad][0].tolist()
        count = f"{int(bad.sum())} of {bad.numel()} rows of logits"
        raise ValueError(
            f"{count} give no probabilities, such as {first}: has the model diverged, or was its input NaN?"
        )
    return logits
