"""Tracing an update leaves no trace: what it writes is put back, through whichever view it is written."""

import contextlib
import copy

import pytest
import torch
from torch import nn

from agentlib.backbones import adamw
from agentlib.core import Learner, Step, Update
from agentlib.core.source import Source
from agentlib.core.trees import copied, difference, leaves
from agentlib.engine import loop, run
from agentlib.engine.captured import replayed
from agentlib.engine.compiled import compiler_found
from agentlib.engine.tape import INTERNAL, CannotCompile, Tape
from agentlib.engine.traced import CHECK_EVERY, traced
from agentlib.learners import DQN, GAN, Regressor
from tests.test_contract import Line, each_learner

aten = torch.ops.aten
needs_compiler = pytest.mark.skipif(not compiler_found(), reason="no C++ compiler")


def parts_of(whole):
    """Views that exist before: two halves, and the middle that overlaps both."""
    return whole[:4], whole[4:], whole[2:6]


def first_and_second_half(whole, halves):
    halves[0].add_(1.0)
    halves[1].mul_(2.0)


def overlapping_parts(whole, parts):
    parts[0].add_(1.0)
    parts[2].mul_(3.0)
    parts[1].sub_(1.0)
    parts[0].mul_(2.0)


def part_then_whole(whole, parts):
    parts[1].add_(1.0)
    whole.mul_(2.0)


def whole_then_part(whole, parts):
    whole.mul_(2.0)
    parts[1].add_(1.0)


def a_view_made_inside_and_then_another_input(whole, parts):
    whole[3:5].add_(1.0)
    parts[1].mul_(parts[0])


def out(whole, parts):
    parts[0].fill_(1e-38)
    aten.hardshrink.out(parts[1], 3.0, out=parts[1])
    torch.add(parts[0], 1.0, out=parts[0])


def lists(whole, parts):
    torch._foreach_mul_([parts[0], parts[1]], 2.0)
    torch._foreach_add_([parts[1]], [parts[0]])


def rows(whole, parts):
    parts[1].index_put_((torch.tensor([1, 2]),), torch.tensor([7.0, 8.0]))
    parts[0].view(2, 2)[:, 1] = 5.0


def bits(whole, parts):
    parts[1].view(torch.int32).bitwise_not_()


def other_order(whole, parts):
    parts[1].view(2, 2).t().copy_(torch.zeros(2, 2))
    whole.as_strided((4,), (2,)).add_(1.0)


WRITES = [
    first_and_second_half,
    overlapping_parts,
    part_then_whole,
    whole_then_part,
    a_view_made_inside_and_then_another_input,
    out,
    lists,
    rows,
    bits,
    other_order,
]


@pytest.mark.parametrize("work", WRITES, ids=lambda work: work.__name__)
def test_what_is_written_through_any_view_is_undone(work):
    whole = torch.linspace(-1.0, 6.0, 8)
    parts, before, tape = parts_of(whole), whole.clone(), Tape()
    with tape:
        work(whole, parts)
    assert not torch.equal(whole, before)
    tape.undo()
    assert torch.equal(whole, before)
    assert not tape.has_other_forms


def resized(tensor):
    tensor.resize_(20).fill_(3.0)


def set_to_other_memory(tensor):
    tensor.set_(torch.ones(3))


def given_other_memory(tensor):
    tensor.data = torch.ones(8)


def transposed(tensor):
    tensor.unsqueeze_(0).t_()


def given_a_gradient(tensor):
    (tensor.detach().requires_grad_() * 2.0).sum().backward()
    tensor.grad = torch.ones(8)


@pytest.mark.parametrize("work", [resized, set_to_other_memory, given_other_memory, transposed, given_a_gradient])
def test_another_size_other_memory_and_a_gradient_are_undone(work):
    tensor = torch.linspace(-1.0, 6.0, 8)
    before, address, tape = tensor.clone(), tensor.data_ptr(), Tape([tensor])
    with tape:
        work(tensor)
    tape.undo()
    assert torch.equal(tensor, before)
    assert tensor.stride() == (1,)
    assert tensor.grad is None
    assert work is resized or tensor.data_ptr() == address
    assert tape.has_other_forms


def test_running_statistics_are_undone():
    """Torch's schema does not say that they are written."""
    norm, tape = nn.BatchNorm1d(3), Tape()
    before = copied(norm)
    with tape:
        norm(torch.randn(4, 3)).sum().backward()
    assert difference(before, copied(norm)) == "running_mean"
    tape.undo()
    assert difference(before, copied(norm)) is None
    assert all(parameter.grad is None for parameter in norm.parameters())


def test_a_row_that_is_written_costs_no_copy_of_its_buffer():
    buffer, tape = torch.zeros(1_000, 4), Tape()
    with tape:
        for _ in range(3):
            buffer[7].add_(1.0)
    assert [value.numel() for _, value in tape._saved.values()] == [4]


@pytest.mark.parametrize("transposed", [False, True])
def test_random_numbers_are_those_that_are_drawn_without_a_tape(transposed):
    def work(x):
        like = (x.t() if transposed else x) * 1.0
        filled = [like.clone().uniform_(), torch.empty_like(like).bernoulli_(0.3), torch.zeros_like(like).normal_()]
        likes = [torch.rand_like(like), torch.randn_like(like, dtype=torch.float64), nn.functional.dropout(like)]
        whole = torch.zeros(2, 7, 6)
        whole[1].exponential_()
        return [*filled, *likes, whole, torch.randint_like(like, 9).random_(5), torch.rand(3)]

    x, results = torch.randn(7, 6), []
    for tape in (Tape(), contextlib.nullcontext()):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            with tape:
                results.append(work(x))
    assert difference(*results) is None
    assert [one.stride() for one in results[0]] == [one.stride() for one in results[1]]


# Whole updates -------------------------------------------------------------------------------------------------------


def everything_of(*modules):
    """All tensors that modules hold, saved or not, and torch's random state."""
    found = [torch.get_rng_state()]
    for module in (inner for outer in modules for inner in outer.modules()):
        for held in (module._parameters, module._buffers, module.__dict__):
            for tensor in leaves({name: value for name, value in held.items() if name not in INTERNAL}):
                found += [tensor.detach().clone(), *([tensor.grad.clone()] if tensor.grad is not None else [])]
    return found


def ready(learner, source):
    for _ in run(learner, source, 3, compile=False):
        pass
    source.planned_updates = 10
    source.advance()
    learner.before_update(source.clock)
    source.fill_ticks(source.clock)
    return learner, source


@pytest.fixture
def many_groups(monkeypatch):
    monkeypatch.setattr("agentlib.core.step.LARGE", 8)


def test_there_are_many_groups(many_groups):
    assert [len(module.groups) for module in DQN.tiny(seed=0)[0].modules() if isinstance(module, Step)] > [3]


@each_learner
def test_tracing_any_learner_changes_nothing(learner_class, many_groups):
    """Bit for bit, with several groups of parameters, whose slots are views of one vector."""
    learner, source = ready(*learner_class.tiny(seed=0))
    before = everything_of(learner, source)
    first = traced(learner, source)
    assert difference(before, everything_of(learner, source)) is None
    assert first.difference(traced(learner, source)) is None
    assert difference(before, everything_of(learner, source)) is None


class Replayed:
    """What is compiled, but by torch's operations, one by one."""

    def __init__(self, trace):
        self.trace = trace

    def run(self, inputs):
        return [output.clone() for output in replayed(self.trace, inputs)]


class Large(Learner):
    """Two layers large enough to be groups of their own, by the number that `Step` has."""

    def __init__(self, width=256, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            layers = [nn.Linear(3, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, width)]
            self.network = nn.Sequential(*layers, nn.Tanh(), nn.Linear(width, 1))
        self.step = Step(self.network, adamw(1e-4, weight_decay=0.1), max_grad_norm=1.0)
        self.scale = 1.0

    def update(self, batch):
        loss = (self.scale * self.network(batch.x)[:, 0] - batch.y).square().mean()
        return Update({"loss": loss.detach(), "norm": self.step(loss, batch.clock)})


def test_updates_with_several_groups_are_counted_once(monkeypatch):
    """Bit for bit; a number changes in mid-run, so that it is traced again."""
    monkeypatch.setattr(loop, "library", Replayed)
    states = [state for state, _ in (trained_with_a_change(way) for way in (True, "eager"))]
    for updates, (one, other) in enumerate(zip(*states, strict=True), start=1):
        assert difference(one, other) is None, updates


def trained_with_a_change(compile, updates=2 * CHECK_EVERY + 2):
    learner, source = Large(), Line(0)
    assert len(learner.step.groups) > 3
    states = []
    for clock, _ in run(learner, source, updates, compile=compile):
        states.append(copied(dict(learner.state_dict())))
        if clock.updates == CHECK_EVERY:
            learner.scale = 2.0
    return states, learner


@pytest.mark.slow
@needs_compiler
def test_compiled_equals_plain_with_several_groups():
    """From the first update to the hundredth; a number changes in mid-run."""
    states = [trained_with_a_change(way, 100)[0] for way in (True, "eager")]
    for updates in (1, 2, 3, CHECK_EVERY, CHECK_EVERY + 1, CHECK_EVERY + 2, 100):
        one, other = (state[updates - 1] for state in states)
        for name, value in one.items():
            torch.testing.assert_close(value, other[name], rtol=1e-4, atol=1e-5, msg=f"{name} after {updates}")


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize("learner_class", [DQN, GAN, Regressor], ids=lambda one: one.__name__)
def test_a_compiled_learner_with_several_groups_equals_the_plain_one(learner_class, many_groups):
    start = learner_class.tiny(seed=0)
    states = []
    for way in (True, "eager"):
        learner, source = copy.deepcopy(start)
        for _ in run(learner, source, 20, compile=way):
            pass
        states.append(learner.state_dict())
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-4, atol=1e-5, msg=name)


class Normalized(Learner):
    """Its network writes running statistics."""

    def __init__(self):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.network = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.step = Step(self.network, adamw(1e-2))

    def update(self, batch):
        loss = (self.network(batch.x)[:, 0] - batch.y).square().mean()
        self.step(loss, batch.clock)
        return Update({"loss": loss.detach()})


@pytest.mark.parametrize("way", ["replayed", pytest.param("compiled", marks=[pytest.mark.slow, needs_compiler])])
def test_running_statistics_move_once_in_each_update(way, monkeypatch):
    if way == "replayed":
        monkeypatch.setattr(loop, "library", Replayed)
    states = []
    for compile in (True, "eager"):
        learner = Normalized()
        for _ in run(learner, Line(0), 5, compile=compile):
            pass
        states.append(learner.state_dict())
    assert states[0]["network.1.num_batches_tracked"] == 5
    for name, value in states[0].items():
        torch.testing.assert_close(value, states[1][name], rtol=1e-5, atol=1e-6, msg=name)


class LeavesGradients(Large):
    def update(self, batch):
        self.network(batch.x).sum().backward()
        return super().update(batch)


class Swaps(Large):
    def update(self, batch):
        update = super().update(batch)
        bias = self.network.get_parameter("0.bias")
        bias.data = bias.detach() * 0.5
        return update


@pytest.mark.parametrize("learner_class", [LeavesGradients, Swaps])
def test_what_is_changed_beside_the_numbers_cannot_be_compiled(learner_class):
    learner, source = learner_class(width=4), Line(0)
    source.advance()
    before, addresses = everything_of(learner, source), [p.data_ptr() for p in learner.parameters()]
    with pytest.raises(CannotCompile, match="`grad`, another size or other memory"):
        traced(learner, source)
    assert difference(before, everything_of(learner, source)) is None
    assert addresses == [p.data_ptr() for p in learner.parameters()]


def test_sparse_tensors_cannot_be_compiled():
    class Sparse(Source):
        def sample(self):
            return torch.eye(3).to_sparse() @ torch.ones(3, 1)

    with pytest.raises(CannotCompile, match=r"layout torch\.sparse"):
        traced(Large(), Sparse(0))
