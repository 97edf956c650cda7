"""How a model or an agent fares under attack.

    robust accuracy = share of examples that stay right under every attack that was tried

An example counts as robust only if no restart fooled it. An accuracy that stays high while epsilon grows to the whole
range of the data means that the gradients are hidden, not that the model is robust (Athalye et al. 2018,
arXiv:1802.00420).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from agentlib.core.progress import watched
from agentlib.metrics.attacks import attack as pgd
from agentlib.metrics.attacks import loss_name
from agentlib.metrics.auto_attack import auto_attack
from agentlib.metrics.calibration import logits_of
from agentlib.metrics.targets import labels_for

CHUNK = 512
"""Examples that are attacked at once."""


class RobustAccuracy(float):
    """A share of examples, from 0 to 1, and the loss that the attack made large."""

    loss: str
    """"cross_entropy", "margin", "own" for a function, or "auto" for several."""


def robust_accuracy(
    model: nn.Module,
    x: Tensor,
    y: Tensor | NDArray[Any],
    *,
    epsilon: float,
    attack: Literal["pgd", "auto"] = "pgd",
    restarts: int = 1,
    seed: int = 0,
    **settings: Any,
) -> RobustAccuracy:
    """The share of examples `(N, ...)` that a model gets right under attack; with epsilon 0, its plain accuracy.

    Args:
        model: a classifier or policy, attacked in eval mode.
        x: examples, floating-point.
        y: true classes `(N,)`, integers of any dtype.
        epsilon: radius of the ball.
        attack: "pgd", or "auto" for `agentlib.metrics.auto_attack`, which is stronger and takes far longer.
        restarts: an example must survive all of them.
        seed: of the random starts.
        settings: other arguments of `attack` (norm, steps, step_size, bounds, scale and loss) or of `auto_attack`.

    Returns:
        The share, whose `loss` names the loss of the attack.

    Raises:
        ValueError: labels that do not fit or are none of the model's classes, an unknown attack, and what it raises.
    """
    attempt = _attack_of(attack)
    generator = torch.Generator(x.device).manual_seed(seed)
    right = list[Tensor]()
    for points in watched(x.split(CHUNK), "attacking"):
        logits = logits_of(model, points)
        y = labels_for(x.shape[:1], y, logits.shape[1], "y").to(x.device)
        labels = y[CHUNK * len(right) :][: len(points)]
        standing = logits.argmax(1) == labels
        for _ in range(restarts if epsilon > 0.0 else 0):
            changed = attempt(model, points, labels, epsilon=epsilon, generator=generator, **settings)
            standing &= logits_of(model, changed).argmax(1) == labels
        right.append(standing)
    share = RobustAccuracy(torch.cat(right).double().mean())
    share.loss = "auto" if attack == "auto" else loss_name(model, settings.get("loss"))
    return share


def accuracy_curve(
    model: nn.Module, x: Tensor, y: Tensor | NDArray[Any], epsilons: Sequence[float], **settings: Any
) -> dict[float, float]:
    """`robust_accuracy` at each epsilon, with its other arguments as `settings`."""
    return {
        epsilon: robust_accuracy(model, x, y, epsilon=epsilon, **settings) for epsilon in watched(epsilons, "attacking")
    }


def transfer_matrix(
    models: Mapping[str, nn.Module],
    x: Tensor,
    y: Tensor | NDArray[Any],
    *,
    epsilon: float,
    attack: Literal["pgd", "auto"] = "pgd",
    seed: int = 0,
    **settings: Any,
) -> dict[str, dict[str, float]]:
    """The accuracy of each model on the examples that were made for each: `matrix[made_for][judged]`.

    Beside the diagonal is an attacker who does not know the model (Papernot et al. 2016, arXiv:1605.07277). The
    arguments are those of `robust_accuracy`; but of several `restarts`, which are PGD's, the worst for the model that
    they were made for is shown to all. "auto" changes nothing in an example that its model withstands.
    """
    attempt, found = _attack_of(attack), {}
    for made_for, model in watched(list(models.items()), "attacking"):
        generator = torch.Generator(x.device).manual_seed(seed)
        labels = labels_for(x.shape[:1], y, logits_of(model, x[:1]).shape[1], "y").to(x.device)
        parts = zip(x.split(CHUNK), labels.split(CHUNK), strict=True)
        how: Any = {"epsilon": epsilon, "generator": generator, **settings}
        changed = torch.cat([attempt(model, *part, **how) for part in parts]) if epsilon > 0.0 else x
        found[made_for] = {
            name: float((_choices(other, changed) == labels).double().mean()) for name, other in models.items()
        }
    return found


def _attack_of(name: str) -> Any:
    """The function of an attack by its name."""
    if name not in ("pgd", "auto"):
        raise ValueError(f"the attack is pgd or auto, not {name!r}")
    return auto_attack if name == "auto" else pgd


def _choices(model: nn.Module, x: Tensor) -> Tensor:
    return torch.cat([logits_of(model, points).argmax(1) for points in x.split(CHUNK)])
