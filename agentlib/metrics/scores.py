"""One score per option, whatever kind of policy gives it."""

from __future__ import annotations

from typing import Any

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
