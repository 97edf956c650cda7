"""The rules of optimizers, and the only place in the library that turns a loss into new parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.core.schedules import Clock, Schedule, at

Rate = float | Tensor
"""A learning rate; a 0-dim tensor if it follows a schedule."""
Numbers = Callable[[dict[str, Tensor], Rate], tuple[Rate, ...]]
"""(scalars, learning rate) -> what one step uses for all parameters. The scalars are updated in place."""
Change = Callable[..., Any]
"""(gradient (N,), slots (N,) by name, *numbers) -> change (N,), element by element. The slots are updated in place.

Of a rule that is not elementwise: (gradients, slots by name, parameters, *numbers) -> changes, each a list with one
tensor per parameter, in its own shape.
"""


@dataclass(frozen=True)
class Rule:
    """How a gradient becomes a change of the parameters."""

    learning_rate: Schedule
    """A number or a schedule."""
    slots: tuple[str, ...]
    """Names of the vectors that the rule remembers from step to step."""
    change: Change
    """The rule itself. The change is proportional to the learning rate, so that modules can have rates of their own."""
    scalars: Mapping[str, float] = field(default_factory=dict)
    """Names and first values of the 0-dim float64 numbers that the rule remembers."""
    numbers: Numbers = lambda scalars, rate: (rate,)
    """Computes the numbers that are the same for all parameters, once in a step; the learning rate by default."""
    weight_decay: float = 0.0
    """Strength of the decay of matrices and filters; biases and gains (one dimension) are left alone."""
    decoupled: bool = False
    """True: parameters shrink by `learning_rate * weight_decay` (AdamW). False: the gradient gets an L2 term."""
    elementwise: bool = True
    """Whether each number changes by its own gradient alone: such rules see parameters joined to vectors."""

    def decayed_change(
        self,
        gradient: Tensor,
        slots: dict[str, Tensor],
        weights: Tensor | None,
        decayed: Tensor | None,
        rate: Rate,
        numbers: tuple[Any, ...],
    ) -> Tensor:
        """The change `(..., N)` by an elementwise rule, with the decay of the weights `(..., N)`.

        `decayed (..., N)` is 1 where a number decays; both are None without decay.
        """
        if weights is None or decayed is None:
            return self.change(gradient, slots, *numbers)  # type: ignore[no-any-return]
        shrink = weights * (self.weight_decay * decayed)
        if self.decoupled:
            return self.change(gradient, slots, *numbers) - rate * shrink  # type: ignore[no-any-return]
        return self.change(gradient + shrink, slots, *numbers)  # type: ignore[no-any-return]


Trained = nn.Module | nn.Parameter
"""A module or a parameter."""
Modules = Trained | tuple[Trained, float] | Iterable[Trained | tuple[Trained, float]]
"""The modules that a step trains, one or several; in a pair with a number, that times the learning rate."""
Optimizer = Rule | Callable[[list[nn.Parameter]], torch.optim.Optimizer]
"""A rule of `agentlib.backbones`, or a factory such as `partial(torch.optim.Adam, lr=1e-3)`, which runs eager only."""


def once(tensor: Tensor) -> Tensor:
    """A contiguous tensor that a compiler computes before it is used, and not again wherever it is read."""
    return tensor.as_strided(tensor.shape, tensor.stride())


def parameters_of(modules: Modules) -> list[nn.Parameter]:
    """The trainable parameters, each once, however often a module is shared."""
    return list(learning_rate_factors(modules))


def learning_rate_factors(modules: Modules) -> dict[nn.Parameter, float]:
    """The trainable parameters, each once, and what each one's learning rate is multiplied by.

    That is 1, or the number in a pair `(module, number)`, or a module's attribute `learning_rate_factor`, which also
    holds for what is inside it; where there are several, their product.

    Raises:
        ValueError: a factor is not positive, or a shared parameter would get two.
    """
    factors: dict[nn.Parameter, float] = {}

    def visit(item: Any, factor: float) -> None:
        if isinstance(item, tuple):
            item, share = item
            factor *= share
        factor *= getattr(item, "learning_rate_factor", 1.0)
        if not factor > 0.0:
            raise ValueError(f"a learning rate's factor is positive, not {factor}; requires_grad_(False) freezes")
        if isinstance(item, nn.Parameter):
            if item.requires_grad and factors.setdefault(item, factor) != factor:
                raise ValueError(
                    f"a shared parameter would get the learning rate's factors {factors[item]} and {factor}"
                )
            return
        for parameter in item.parameters(recurse=False):
            visit(parameter, factor)
        for child in item.children():
            visit(child, factor)

    pair = isinstance(modules, tuple) and len(modules) == 2 and isinstance(modules[1], float | int)
    for item in [modules] if pair or isinstance(modules, nn.Module | nn.Parameter) else modules:
        visit(item, 1.0)
    return factors


def unrounded(like: Tensor) -> AbstractContextManager[object]:
    """Inside, nothing is computed in bfloat16, though the loss before may have been; for gradients on a device."""
    device = like.device.type
    is_mixed = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    return torch.autocast(device, enabled=False) if is_mixed else nullcontext()


class Step(nn.Module):
    """Gradients, clipping, and the optimizer's rule: `step(loss, clock)`.

    Args:
        modules: what is trained: a module, a parameter, or several; frozen parameters are left out. A pair
            `(backbone, 0.1)` has a tenth of the learning rate; so has a module with `learning_rate_factor = 0.1`.
        rule: how a gradient changes the parameters.
        max_grad_norm: the gradient's global norm is cut to this; None switches it off.

    Raises:
        ValueError: nothing to train, parameters of several dtypes or devices, or factors with a torch.optim factory.
        TypeError: the rule is none.
    """

    count: Tensor
    ranks: Any = None
    """The processes that average their gradients, an `agentlib.core.ranks.Ranks`; None for one alone."""

    def __init__(
        self,
        modules: Modules,
        rule: Optimizer,
        max_grad_norm: float | None = None,
    ) -> None:
        super().__init__()
        self.members: Any = None
        """Where the learners of an `agentlib.engine.stacked.Stack` step at once, what steps for all; else None."""
        factors = learning_rate_factors(modules)
        self.parameter_list = list(factors)  # a plain list: the parameters belong to the networks
        self.factors = list(factors.values())
        if not self.parameter_list:
            raise ValueError("nothing to train: no parameter requires a gradient")
        if len({(parameter.dtype, parameter.device) for parameter in self.parameter_list}) > 1:
            raise ValueError("one step trains parameters of one dtype on one device; make a Step for each")
        if not isinstance(rule, Rule) and not callable(rule):
            raise TypeError(
                "an optimizer is a rule of agentlib.backbones, such as adam(1e-3), or a function of the parameters "
                f"that makes one of torch.optim, not {type(rule).__name__}; a config's optimizer() returns it"
            )
        if not isinstance(rule, Rule) and set(self.factors) != {1.0}:
            raise ValueError("a module's own learning rate needs a rule of agentlib.backbones, such as adam")
        self.sizes = [parameter.numel() for parameter in self.parameter_list]
        self.max_grad_norm = max_grad_norm
        self.rule = rule if isinstance(rule, Rule) else None
        joins = self.rule is None or self.rule.elementwise
        self.groups = _groups(self.sizes) if joins else [slice(i, i + 1) for i in range(len(self.sizes))]
        self.optimizer = None if isinstance(rule, Rule) else rule(self.parameter_list)
        like = self.parameter_list[0].detach()
        self.register_buffer("count", torch.zeros((), dtype=torch.float64, device=like.device))
        if self.rule is not None:
            for slot in self.rule.slots:
                self.register_buffer(slot, like.new_zeros(sum(self.sizes)))
            for name, value in self.rule.scalars.items():
                self.register_buffer(name, torch.tensor(value, dtype=torch.float64, device=like.device))
            if self.rule.weight_decay:
                decayed = [like.new_full((p.numel(),), float(p.dim() > 1)) for p in self.parameter_list]
                self.register_buffer("decayed", torch.cat(decayed), persistent=False)
            self._divide()

    def forward(self, loss: Tensor | Iterable[Tensor], clock: Clock) -> Tensor:
        """One step downhill on a 0-dim loss; returns the gradient's global norm before clipping, 0-dim, detached.

        Of several losses the sum counts. They may be computed as they are asked for, so that what one of them needs is
        in memory alone.
        """
        if self.members is not None:
            norm_of_each: Tensor = self.members(self, loss, clock)
            return norm_of_each
        plain = partial(unrounded, self.count)
        gradients: Any = ()
        for part in (loss,) if isinstance(loss, Tensor) else loss:
            with plain():
                found = torch.autograd.grad(part, self.parameter_list, allow_unused=True, materialize_grads=True)
                gradients = tuple(map(torch.add, gradients, found)) if gradients else found
        with plain(), torch.no_grad():
            if self.ranks is not None:
                gradients = self.ranks.mean(gradients)
            # The norm of the pieces' norms, as torch's own clipping rounds it.
            norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
            norm: Tensor = torch.linalg.vector_norm(norms)
            limit = self.max_grad_norm
            share = None if limit is None else once((limit / (norm + 1e-6)).clamp(max=1.0))
            self.count += 1
            if self.rule is None:
                self._torch_step(gradients, share)
            else:
                self._follow_rule(self.rule, gradients, share, clock)
        return norm

    def _divide(self) -> None:
        """Views of the slots, for each group its own, as attributes `mean_0`, `mean_1`, ...

        A compiler changes whole tensors in place, but copies one of which only a part is changed.
        """
        assert self.rule is not None
        for name in (*self.rule.slots, *["decayed"] * bool(self.rule.weight_decay)):
            lengths = [sum(self.sizes[group]) for group in self.groups]
            for number, part in enumerate(getattr(self, name).split(lengths)):
                setattr(self, f"{name}_{number}", part)

    def _apply(self, *arguments: Any, **settings: Any) -> Step:
        super()._apply(*arguments, **settings)  # type: ignore[no-untyped-call]
        if self.rule is not None:
            self._divide()  # the slots are other tensors now
        return self

    def _follow_rule(self, rule: Rule, gradients: Sequence[Tensor], share: Tensor | None, clock: Clock) -> None:
        rate = at(rule.learning_rate, clock)
        numbers = rule.numbers({name: getattr(self, name) for name in rule.scalars}, rate)
        if not rule.elementwise:
            return self._follow_list_rule(rule, gradients, share, numbers)
        for number, group in enumerate(self.groups):
            gradient = _joined(gradients[group])  # (n,)
            if share is not None:
                gradient = gradient * share
            slots = {name: getattr(self, f"{name}_{number}") for name in rule.slots}
            weights = _joined(self.parameter_list[group]) if rule.weight_decay else None
            decayed = getattr(self, f"decayed_{number}") if rule.weight_decay else None
            change = rule.decayed_change(gradient, slots, weights, decayed, rate, numbers)
            pieces = change.split(self.sizes[group])
            for parameter, piece, factor in zip(self.parameter_list[group], pieces, self.factors[group], strict=True):
                parameter.add_(piece.view_as(parameter), alpha=factor)

    def _follow_list_rule(
        self, rule: Rule, gradients: Sequence[Tensor], share: Tensor | None, numbers: tuple[Any, ...]
    ) -> None:
        """The step of a rule that looks at whole parameters, such as at their norms."""
        parameters = self.parameter_list
        scaled = list(gradients) if share is None else [gradient * share for gradient in gradients]
        slots = {
            name: [getattr(self, f"{name}_{i}").view_as(parameter) for i, parameter in enumerate(parameters)]
            for name in rule.slots
        }
        changes = rule.change(scaled, slots, parameters, *numbers)
        for parameter, change, factor in zip(parameters, changes, self.factors, strict=True):
            parameter.add_(change, alpha=factor)

    def _torch_step(self, gradients: Sequence[Tensor], share: Tensor | None) -> None:
        assert self.optimizer is not None
        for parameter, gradient in zip(self.parameter_list, gradients, strict=True):
            parameter.grad = gradient.clone() if share is None else gradient * share  # no part of another's
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def get_extra_state(self) -> dict[str, Any]:
        """The state of a `torch.optim` optimizer, if one is used."""
        return {} if self.optimizer is None else self.optimizer.state_dict()

    def set_extra_state(self, state: dict[str, Any]) -> None:
        """Puts back what `get_extra_state` gave."""
        if self.optimizer is not None:
            self.optimizer.load_state_dict(state)


LARGE = 1 << 16
"""A parameter with at least this many numbers is updated on its own, not joined with others."""


def _groups(sizes: Sequence[int]) -> list[slice]:
    """Parameters that are joined to one vector: small ones in a row, so that operations are few, and large ones alone.

    Joining costs reading and writing all numbers once more, which counts where they do not fit into a cache.
    """
    edges = {0, len(sizes)}
    for i, size in enumerate(sizes):
        if size >= LARGE:
            edges |= {i, i + 1}
    return [slice(start, stop) for start, stop in pairwise(sorted(edges))]


def _joined(tensors: Sequence[Tensor]) -> Tensor:
    if len(tensors) == 1:
        return tensors[0].reshape(-1)
    return torch.cat([tensor.reshape(-1) for tensor in tensors])
