"""One score per option, whatever kind of policy gives it."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from agentlib.policies.ensemble import EnsemblePolicy
from agentlib.policies.q_policy import QPolicy


def logits_from(policy: Any, output: Any) -> Tensor:
    """Logits `(..., n)` from a policy's output: for attacks, confidences and calibration, which know nothing else.

    Those of a categorical policy are its output; of an ensemble they are the logs of its averaged probabilities; of
    action values they are the values, so that softmax prefers what the policy does. Any other model's output is taken
    for logits, and a pair (output, state) for its first part.

    Raises:
        TypeError: several choices at once, which have no single score per option.
    """
    output = output[0] if isinstance(output, tuple) else output
    if isinstance(policy, QPolicy):
        if policy.is_branched:
            raise TypeError("an action of several components has no single score for each option")
        return policy.values(output)
    if isinstance(policy, EnsemblePolicy):
        return policy.probabilities(output).log()
    logits: Tensor = output
    return logits
