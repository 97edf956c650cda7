"""The interface of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Self

from torch import Tensor, nn

from agentlib.core.schedules import Clock
from agentlib.core.source import Source


class Update(NamedTuple):
    """The report of an update."""

    metrics: dict[str, Tensor]
    """0-dim, detached tensors. Only the caller of `run` turns them into floats, and not often."""
    per_sample: Tensor | None = None
    """`(B,)`, what the source may want back: TD errors for priorities."""


class Learner(nn.Module, ABC):
    """One algorithm: its networks, optimizers and counters, all of them inside `state_dict()`.

    A learner receives built networks, an optimizer (a rule such as `adam(learning_rate=1e-3)`), and its config. It
    never builds a backbone, knows an environment, logs, evaluates, prints or saves. No algorithm inherits from another.
    """

    @classmethod
    def build(cls, backbone: nn.Module, config: Any, facts: Any) -> Self:
        """A learner on a backbone: adds the heads and the optimizer, `config.optimizer()`.

        Args:
            backbone: a network with a `feature_dim`; or a whole policy of the learner's kind, which is taken as it is.
            config: the algorithm's config.
            facts: what the family knows of the problem, such as the spaces of an environment.
        """
        raise NotImplementedError(f"{cls.__name__} has no class method build(backbone, config, facts)")

    @staticmethod
    def layers(config: Any) -> dict[str, Any]:
        """The layers of an MLP that is built for the learner by name, as `MLP` takes them: activation, norm ..."""
        return {}

    @abstractmethod
    def update(self, batch: Any) -> Update:
        """Learns from one batch.

        Pure tensor work on fixed shapes: no `.item()`, no Python branch on a tensor's value, no forward hooks, so that
        it can be compiled or captured.
        """

    def predict(self, x: Any) -> Any:
        """The outputs by which the learner is judged, for a batch: logits, values, codes or samples."""
        raise NotImplementedError(f"{type(self).__name__} has no method predict(x), by which its family judges it")

    def before_update(self, clock: Clock) -> None:
        """Work that is due every N updates or steps, outside the captured part.

        Called between two updates, once the source has advanced: `clock.updates` updates were done, and
        `clock.steps` steps lie behind the coming one.
        """


def cycle(learner: Learner, source: Source) -> Update:
    """Sample, update, feedback: one update, which can be compiled as one graph.

    Raises:
        TypeError: the learner's `update` returned something else than an `Update`.
    """
    batch = source.sample()
    update = learner.update(batch)
    if not isinstance(update, Update):
        name, found = type(learner).__name__, type(update).__name__
        raise TypeError(f"{name}.update returned a {found}, and not an Update of its metrics")
    source.feedback(batch, update.per_sample)
    return update
