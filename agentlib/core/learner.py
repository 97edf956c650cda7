"""The interface of an algorithm."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
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

    phase: Hashable = None
    """The kind of the next update, of learners that do not do the same work each time, such as TD3, whose actor learns
    in every second update. It is set in `before_update`, from the clock; each kind has a trace of its own."""

    ranks: Any = None
    """The processes that share its batches, an `agentlib.core.ranks.Ranks`; None for one alone."""

    can_be_stacked = False
    """Whether the updates of several learners of this class, such as those of several seeds, can be done as one, by an
    `agentlib.engine.stacked.Stack`; tests compare them for those that say so. Its `update` reads weights from its
    networks: the lists of a `Step` hold those of all learners."""

    n_members: int | None = None
    """Learners that it stands for, where its updates are those of several at once: each number that an update reports
    has an axis of them in front."""

    @property
    def is_mean_over_samples(self) -> bool:
        """Whether its loss is the mean over the samples of a batch, the first dimension of its tensors, and no sample's
        loss depends on another sample: then several processes can share out the batch. So they can where it sees to the
        whole batch itself, by `of_whole` and by weights.
        """
        return False

    def of_whole(self, function: Callable[..., Tensor], *values: Tensor) -> Tensor:
        """`function` of values `(B,)`, where it couples samples: this process's part of that of the whole batch."""
        ranks = self.ranks
        return function(*values) if ranks is None else ranks.part(function(*map(ranks.whole, values)))

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
        TypeError: the learner's `update` returned something else than an `Update`, or one that does not hold what it
            should; the message says what.
    """
    batch = source.sample()
    update = learner.update(batch)
    if wrong := _wrong_with(update, learner.n_members):
        raise TypeError(f"{type(learner).__name__}.update returned {wrong}")
    source.feedback(batch, update.per_sample)
    return update


def _wrong_with(update: Any, n_members: int | None) -> str | None:
    """What an update returned in place of an `Update`, in words; None if nothing is wrong."""
    count, axes = (1, 1) if n_members is None else (n_members, 2)
    if not isinstance(update, Update):
        return f"a {type(update).__name__}, and not an Update of its metrics"
    if not isinstance(update.metrics, dict):
        return f"an Update of a {type(update.metrics).__name__}, and not of a dictionary of its metrics"
    for name, value in update.metrics.items():
        if not isinstance(value, Tensor):
            return f"the metric {name!r} as a {type(value).__name__}, and not as a 0-dim tensor"
        if value.is_complex() or value.numel() != count:
            kind = "complex numbers" if value.is_complex() else f"the shape {tuple(value.shape)}"
            return f"the metric {name!r} with {kind}, and not as one real number in a 0-dim tensor"
    values = update.per_sample
    if values is not None and (not isinstance(values, Tensor) or values.dim() != axes or values.is_complex()):
        found = f"the shape {tuple(values.shape)}" if isinstance(values, Tensor) else f"a {type(values).__name__}"
        return f"per_sample with {found}, and not as real numbers (B,), one for each sample of the batch"
    return None
