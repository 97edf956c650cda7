"""Several learners of one structure as one: their tensors lie side by side, and one update is done for all of them.

Each tensor of n learners becomes a part of a tensor with one more axis, `(n, ...)`. The learners go on holding their
parts, so that each acts, is evaluated and is saved as always. Their common update is one learner's own, whose
operations torch.vmap's rules carry over to all n. So each has the numbers that it would have alone, up to rounding: the
gradient of the sum of all losses is each learner's own, and norms are taken of each for itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from agentlib.core.learner import Learner, Update
from agentlib.core.schedules import Clock, at
from agentlib.core.source import Batch, Diverged, Source
from agentlib.core.step import Step, once
from agentlib.core.trees import leaves, mapped
from agentlib.engine.stand_ins import form
from agentlib.engine.tape import INTERNAL
from agentlib.engine.torch_members import Members
from agentlib.engine.torch_private import storage_id

APART = INTERNAL | {"random_state", "cuda_random_state"}
"""Attributes that are left as they are."""


class SideBySide(nn.Module):
    """The tensors of n modules of one structure, which become parts of tensors `(n, ...)`.

    What all of them share, such as one data set, stays so.

    Args:
        members: the modules.
        common: tensors of the first one in whose place all use another one.

    Raises:
        ValueError: the modules are not of one structure; the message says where they differ.
    """

    def __init__(self, members: Sequence[nn.Module], common: Sequence[tuple[Tensor, Tensor]] = ()) -> None:
        super().__init__()
        self.size, self.batched = len(members), list[bool]()
        self.firsts = list[Tensor]()
        """Of the first member, in the order of `tensor_0`, `tensor_1`, ..."""
        in_common = {id(first): used for first, used in common}
        rows = list(zip(*map(_tensors, members), strict=True)) if len({*map(_count, members)}) == 1 else None
        if rows is None:
            raise ValueError(f"one {type(members[0]).__name__} holds more tensors than another")
        moves, memories = list[tuple[Tensor, Tensor, int]](), dict[tuple[Any, ...], Tensor]()
        for row in rows:
            first = row[0]
            if id(first) in in_common:
                self._keep(first, in_common[id(first)], False)
                continue
            if any(
                (*form(tensor), tensor.storage_offset()) != (*form(first), first.storage_offset()) for tensor in row
            ):
                shapes = ", ".join(str(list(tensor.shape)) for tensor in row)
                raise ValueError(f"a tensor of {type(members[0]).__name__} has the shapes {shapes}")
            storages = tuple(map(storage_id, row))
            if len(set(storages)) == 1 or not first.numel():
                self._keep(first, first, False)
                continue
            key = (*storages, first.dtype)
            if key not in memories:
                length = first.untyped_storage().nbytes() // first.itemsize
                memories[key] = torch.stack([tensor.detach().as_strided((length,), (1,), 0) for tensor in row])
            memory = memories[key]  # (n, length)
            length, offset = memory.shape[1], first.storage_offset()
            moves += [(tensor, memory, number) for number, tensor in enumerate(row)]
            whole = memory.as_strided((self.size, *first.shape), (length, *first.stride()), offset)
            self._keep(first, whole.requires_grad_(first.requires_grad), True)
        self.moves = moves
        for tensor, memory, number in moves:
            tensor.data = _part(tensor, memory, number)
        _tell_moved(members)

    def take_apart(self, members: Sequence[nn.Module]) -> None:
        """Gives each member memory of its own again."""
        own = dict[tuple[int, int], Tensor]()
        for tensor, memory, number in self.moves:
            part = own.setdefault((id(memory), number), memory[number].clone())
            offset = tensor.storage_offset() - number * memory.shape[1]
            tensor.data = part.as_strided(tensor.shape, tensor.stride(), offset)
        _tell_moved(members)

    def _keep(self, first: Tensor, used: Tensor, is_batched: bool) -> None:
        self.__dict__[f"tensor_{len(self.firsts)}"] = used  # each by its name, so that a trace finds it quickly
        self.firsts.append(first)
        self.batched.append(is_batched)

    def table(self, level: Members | None) -> dict[int, Tensor]:
        """By the ids of the first member's tensors: what is used in their place, inside `level` as one member's."""
        found = {}
        for number, (first, is_batched) in enumerate(zip(self.firsts, self.batched, strict=True)):
            tensor = getattr(self, f"tensor_{number}")
            found[id(first)] = level.one(tensor) if level is not None and is_batched else tensor
        return found

    @contextmanager
    def inside(self, first: nn.Module) -> Iterator[Members]:
        """Inside, what the first member does with its tensors is done with those of all members.

        Raises:
            ValueError: it holds a tensor that it did not hold before.
        """
        exchanged = list[tuple[dict[str, Any], str, Any, Any]]()
        with Members(self.size) as level:
            one, whole = self.table(level), self.table(None)
            try:
                for module in first.modules():
                    table = whole if isinstance(module, Step) else one
                    for held, name, value in _held(module):
                        if missing := [tensor for tensor in leaves(value) if id(tensor) not in table]:
                            kind = f"{type(module).__name__}.{name}"
                            raise ValueError(f"{kind} has got another tensor of the shape {list(missing[0].shape)}")
                        new = mapped(value, partial(_in_its_place, table))
                        held[name] = new
                        exchanged.append((held, name, value, new))
                    if isinstance(module, Step):
                        together = partial(step_all, level=level)
                        exchanged.append((module.__dict__, "members", module.members, together))
                        module.__dict__["members"] = together
                yield level
                for held, name, _, new in exchanged:
                    if held[name] is not new and isinstance(new, Tensor):  # another was put in its place
                        with torch.no_grad():
                            new.copy_(held[name])
            finally:
                for held, name, value, _ in reversed(exchanged):
                    held[name] = value


def _part(tensor: Tensor, memory: Tensor, number: int) -> Tensor:
    """The place of a member's tensor in a memory `(n, length)`."""
    offset = number * memory.shape[1] + tensor.storage_offset()
    return memory.as_strided(tensor.shape, tensor.stride(), offset)


def _tell_moved(members: Sequence[nn.Module]) -> None:
    """Tells the modules that look at their tensors by numpy."""
    for module in (module for member in members for module in member.modules()):
        moved: Any = getattr(module, "moved", None)
        if moved is not None:
            moved()


def _in_its_place(table: dict[int, Tensor], tensor: Tensor) -> Tensor:
    return table[id(tensor)]


def _held(module: nn.Module) -> Iterator[tuple[dict[str, Any], str, Any]]:
    """Where a module holds tensors, or trees of them."""
    for held in (module._parameters, module._buffers, module.__dict__):
        for name, value in list(held.items()):
            if name not in APART and leaves(value):
                yield held, name, value


def _tensors(root: nn.Module) -> list[Tensor]:
    """The tensors of a module and of those inside it, each once, in a fixed order."""
    found = [tensor for module in root.modules() for _, _, value in _held(module) for tensor in leaves(value)]
    return list({id(tensor): tensor for tensor in found}.values())


def _count(root: nn.Module) -> int:
    return len(_tensors(root))


class Stack(Learner):
    """Several learners of one structure, such as those of several seeds, whose updates are done as one.

    The metrics of an update are `(n,)`, one number for each learner.

    Args:
        learners: they are of one structure; each stays what it was, its tensors now next to those of the others.

    Raises:
        ValueError: learners that cannot be stacked; the message says why.
    """

    def __init__(self, learners: Sequence[Learner]) -> None:
        super().__init__()
        if not learners[0].can_be_stacked:
            reason = "that its updates are the same then has not been shown"
            raise ValueError(_refusal(learners[0], reason))
        for step in (module for learner in learners for module in learner.modules() if isinstance(module, Step)):
            if step.rule is None or not step.rule.elementwise:
                kind = "torch.optim" if step.rule is None else "a rule that looks at whole parameters, such as lars"
                raise ValueError(_refusal(learners[0], f"it steps by {kind}"))
        self.learners = nn.ModuleList(learners)
        self.n_members = len(learners)
        try:
            self.tensors = SideBySide(learners)
        except ValueError as error:
            raise ValueError(_refusal(learners[0], str(error))) from None

    @property
    def phase(self) -> Any:  # type: ignore[override]
        """Of all of them: their clocks are the same."""
        first: Any = self.learners[0]
        return first.phase

    def update(self, batch: Any) -> Update:
        """Learns from a batch for each learner, `(n, B, ...)`.

        Raises:
            ValueError: what the learners do in an update cannot be carried over to several; the message says why.
        """
        first: Any = self.learners[0]
        try:
            with self.tensors.inside(first) as level:
                update: Update = first.update(level.inside(batch))
                found: Update = level.outside(update)
                each = {
                    name: value if value.dim() else value.expand(level.size) for name, value in found.metrics.items()
                }
                return Update(each, found.per_sample)
        except (RuntimeError, ValueError, NotImplementedError) as error:
            if _is_want_of_memory(error):
                error.add_note(f"{self.n_members} seeds at once need that many times the memory of one: take fewer")
                raise
            raise ValueError(_refusal(first, str(error).splitlines()[0])) from error

    def take_apart(self) -> None:
        """Gives each learner memory of its own again, as it had before."""
        self.tensors.take_apart(list(self.learners))

    def before_update(self, clock: Clock) -> None:
        """That of each."""
        for learner in self.learners:
            learner.before_update(clock)  # type: ignore[operator]


def _is_want_of_memory(error: Exception) -> bool:
    """Whether an error of torch says that no memory was left; that of a processor has no type of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _refusal(learner: Learner, reason: str) -> str:
    return f"{type(learner).__name__} cannot be trained for several seeds at once: {reason}"


class Sources(Source):
    """The sources of several learners of one structure, whose batches are drawn as one, `(n, B, ...)`.

    Each advances by itself, with its own generators. `sample` and `feedback` draw from one state for all.

    Args:
        members: they are of one structure, and have the same clock at all times.
        seed: of what `sample` and `feedback` draw.

    Raises:
        ValueError: sources that cannot be stacked; the message says why.
    """

    def __init__(self, members: Sequence[Source], seed: int = 0) -> None:
        super().__init__(seed)
        self.members = nn.ModuleList(members)
        self.to(members[0].ticks.device)
        self.tensors = SideBySide(members, [(members[0].ticks, self.ticks)])
        self.wants_feedback = members[0].wants_feedback

    @property
    def first(self) -> Any:
        """The first member."""
        return self.members[0]

    @property
    def phase(self) -> Any:  # type: ignore[override]
        """Of all of them."""
        return self.first.phase

    @property
    def clock(self) -> Clock:
        """Of all of them."""
        clock: Clock = self.first.clock
        return clock

    @property
    def finished(self) -> bool:
        """Whether there is no more to learn from."""
        return bool(self.first.finished)

    def advance(self) -> None:
        """Gets the next update's data of each ready.

        Raises:
            ValueError: they are no longer at the same step.
        """
        for number, member in enumerate(self.members):
            member.updates, member.planned_updates = self.updates, self.planned_updates  # type: ignore[assignment]
            try:
                member.advance()  # type: ignore[operator]
            except Diverged as error:
                error.member = number
                raise
        if any(member.clock != self.clock for member in self.members):
            raise ValueError("several seeds at once need steps in lock-step, which these environments do not make")

    def count_update(self) -> None:
        """One more update is done, by each."""
        super().count_update()
        for member in self.members:
            member.updates = self.updates  # type: ignore[assignment]

    def sample(self) -> Batch:
        """A batch of each, `(n, B, ...)`."""
        with self.tensors.inside(self.first) as level:
            return level.outside(self.first.sample())

    def feedback(self, batch: Batch, per_sample: Tensor | None) -> None:
        """Gives each the values of its samples `(n, B)`."""
        with self.tensors.inside(self.first) as level:
            self.first.feedback(level.inside(batch), None if per_sample is None else level.one(per_sample))

    def take_apart(self) -> None:
        """Gives each memory of its own again, as it had before."""
        self.tensors.take_apart(list(self.members))

    def close(self) -> None:
        """Closes each."""
        for member in self.members:
            member.close()  # type: ignore[operator]


def step_all(step: Step, loss: Any, clock: Clock, level: Members) -> Tensor:
    """`Step.forward` for all members: its parameters and slots are `(n, ...)`, the loss is each member's own."""
    rule, parameters = step.rule, step.parameter_list
    assert rule is not None
    gradients: Any = ()
    for part in (loss,) if isinstance(loss, Tensor) else loss:
        total = level.outside(part).sum()  # whose gradient is that of each member's loss
        found = torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)
        gradients = tuple(map(torch.add, gradients, found)) if gradients else found
    with torch.no_grad():
        gradients = [gradient.reshape(level.size, -1) for gradient in gradients]
        norms = torch.stack([torch.linalg.vector_norm(gradient, dim=1) for gradient in gradients])  # (k, n)
        norm = torch.linalg.vector_norm(norms, dim=0)  # (n,)
        limit = step.max_grad_norm
        share = None if limit is None else once((limit / (norm + 1e-6)).clamp(max=1.0))[:, None]  # (n, 1)
        step.count += 1
        rate = at(rule.learning_rate, clock)
        # The same for all, as all have made the same number of steps; 0-dim, as the rule has them of one.
        scalars = {name: getattr(step, name)[0] for name in rule.scalars}
        numbers = rule.numbers(scalars, rate)
        for name, value in scalars.items():
            getattr(step, name)[1:] = value
        for number, group in enumerate(step.groups):
            gradient = torch.cat(gradients[group], 1)  # (n, N)
            gradient = gradient if share is None else gradient * share
            slots = {name: getattr(step, f"{name}_{number}") for name in rule.slots}
            weights = decayed = None
            if rule.weight_decay:
                weights = torch.cat([parameter.reshape(level.size, -1) for parameter in parameters[group]], 1)
                decayed = getattr(step, f"decayed_{number}")
            change = rule.decayed_change(gradient, slots, weights, decayed, rate, numbers)
            pieces = change.split(step.sizes[group], 1)
            for parameter, piece, factor in zip(parameters[group], pieces, step.factors[group], strict=True):
                parameter.add_(piece.reshape(parameter.shape), alpha=factor)
    return level.one(norm)
